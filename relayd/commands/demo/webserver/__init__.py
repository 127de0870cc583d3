"""The small web server in front of each simulated policy server's relayd."""
