"""Remote run: agents started on demand, by this relay and the relays below it."""
