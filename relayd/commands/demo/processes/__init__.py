"""The processes that the demo starts, their directories and their ports."""
