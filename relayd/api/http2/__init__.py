"""HTTP/2 for the front door, loaded when a client negotiates it."""
