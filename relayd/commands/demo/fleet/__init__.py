"""The simulated nodes: their keys, their run logs, their uploads."""
