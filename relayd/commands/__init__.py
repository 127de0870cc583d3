"""The commands of the command line, each in a package of its own; all exit codes are in `cli`."""
