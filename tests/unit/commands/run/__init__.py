"""Tests of `relayd run`."""
