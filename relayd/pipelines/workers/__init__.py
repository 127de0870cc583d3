"""Examination of spool files, the CPU-bound work: in a thread or in worker processes."""
