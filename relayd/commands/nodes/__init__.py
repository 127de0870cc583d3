"""The commands `relayd nodes` and `relayd node`."""
