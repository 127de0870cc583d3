"""The front door: the HTTPS server for agents and relays, in place of a web server."""
