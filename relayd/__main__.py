"""`python -m relayd` is the `relayd` command."""

from relayd.commands.cli import main

if __name__ == "__main__":
    main()
