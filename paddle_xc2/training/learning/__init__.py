"""What learns: parts of the model, LoRA, rows of tokens."""
