"""The recipe: from an argument file to a trained model."""
