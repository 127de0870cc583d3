"""The simulated nodes: keys, run logs, uploads."""
