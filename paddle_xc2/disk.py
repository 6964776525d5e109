"""What stood here stands in messages.py now."""

from paddle_xc2.messages import DISK_ERRORS, disk_message, writing  # noqa: F401
