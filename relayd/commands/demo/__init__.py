"""A fleet in one command: embedded PostgreSQL, simulated agents, live display."""
