"""Refused files: moving them to `failed` with their reason, and back."""
