"""`relayd check`: find faults in an installation and say how to fix them; change nothing."""
