"""The spool: files that arrive, that are in flight, and that leave."""
