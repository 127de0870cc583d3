"""The spool: what arrives, what is in flight, what leaves and how."""
