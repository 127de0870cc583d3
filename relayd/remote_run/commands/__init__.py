"""The commands that start agents on neighbours: how they are run, and for how long."""
