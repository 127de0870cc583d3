"""Properties of a database, for `relayd check`."""
