"""Refused files: moved to `failed` with their reason, and back."""
