"""What the demo (examples/quickstart.py) is made of: its data, its small checkpoint, its questions and its picture."""
