"""How fast relayd is, next to a floor and a limit that are measured in the same run."""
