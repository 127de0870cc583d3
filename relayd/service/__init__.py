"""The daemon: its tree of tasks, and what it says to the service manager."""
