"""The policy server above a relay, as the place where files go."""
