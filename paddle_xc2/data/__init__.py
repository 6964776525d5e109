"""The way of a datum: records, conversations, examples, batches."""
