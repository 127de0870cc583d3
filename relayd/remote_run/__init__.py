"""Remote run: agents are started on demand, here and on the relays below, and tell how it went."""
