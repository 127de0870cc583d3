"""Tests of `relayd queue`."""
