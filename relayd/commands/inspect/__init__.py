"""`relayd inspect`: what relayd would do with a run-log file, without doing it."""
