"""What the demo shows: the live display, and the accounts at the end."""
