"""Computation: tensors in, tensors out."""
