"""Settings that are valid each for itself, but make no sense, or not together."""
