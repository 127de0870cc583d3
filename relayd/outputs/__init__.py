"""Where accepted files go: the database, or the upstream policy server."""
