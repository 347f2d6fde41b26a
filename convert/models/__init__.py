"""Model architectures: configuration, tensor shapes and names in every container."""
