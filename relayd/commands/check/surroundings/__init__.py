"""What runs on this machine: the daemon itself, and the web server in front of it."""
