"""`counted` stands in messages.py now."""

from paddle_xc2.messages import counted  # noqa: F401
