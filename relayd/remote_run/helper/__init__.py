"""The helper that starts agents as root, and nothing else that runs as root."""
