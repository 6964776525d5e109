"""Where a model is: a name or directory, and what its JSON files say."""
