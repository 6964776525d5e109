"""Prompts to text: sampling, beams, conversations, and scores of answers."""
