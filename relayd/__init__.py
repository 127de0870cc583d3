"""relayd: the relay daemon of a Rudder fleet, in Python on Trio."""

__version__ = "0.1.0"
