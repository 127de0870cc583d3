"""Tools for those who work on relayd; none of them is installed."""
