"""What a model is: its facts, settings and special tokens. Reads no files."""
