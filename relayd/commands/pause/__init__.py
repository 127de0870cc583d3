"""The commands `relayd pause` and `relayd resume`."""
