"""`python -m relayd` is the `relayd` command."""

from relayd.commands.entry import relayd

if __name__ == "__main__":
    relayd()
