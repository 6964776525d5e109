"""Data looked at before it costs hours: findings, reports, mends."""
