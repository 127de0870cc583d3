"""What an operator does with waiting files: see them, set them aside, bring them back, drop them.

`entries` finds them, `choose` picks some, `shape` counts them by age, `act` moves them, `rules`
keeps the nodes whose files are set aside as they arrive, and `queue` puts it together. All of it
blocks: the daemon calls it in a thread, a command on the spool of a stopped daemon.
"""
