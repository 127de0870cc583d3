"""The first stage: which files are ready, from events and from listings."""
