"""Benchmarks of relayd, compared with a simple implementation and a limit in the same run."""
