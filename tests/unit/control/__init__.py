"""Tests of relayd.control."""
