"""relayd behind a real web server with the shipped configuration."""
