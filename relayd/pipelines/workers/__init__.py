"""From spool file to parsed run log: the CPU-bound work, in a thread or in worker processes."""
