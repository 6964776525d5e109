"""Files of records, in every format, to conversations and back."""
