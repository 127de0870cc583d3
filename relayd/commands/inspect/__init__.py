"""`relayd inspect`: shows what relayd would do with a run-log file."""
