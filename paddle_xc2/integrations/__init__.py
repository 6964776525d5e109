"""Other libraries that know this model."""
