"""The record of each node of the fleet, while relayd runs, and across restarts."""
