"""The programs that the demo starts, their directory and their ports."""
