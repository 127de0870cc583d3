"""The command `relayd status`: one screen that answers "is it well?"."""
