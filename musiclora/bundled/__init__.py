"""Files that ship with the package: the base model and the public-domain tunes."""
