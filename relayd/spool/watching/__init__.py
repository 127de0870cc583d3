"""The first stage: finding files that are ready, by events and listings."""
