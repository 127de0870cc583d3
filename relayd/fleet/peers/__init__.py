"""The client to other policy servers: connections, TLS and pins."""
