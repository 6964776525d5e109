"""A weight at rest: files of every kind and what stands in them, without a model."""
