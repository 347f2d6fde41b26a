"""The offline demos of both families, their data and reports."""
