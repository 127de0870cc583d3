"""The machines of the fleet: nodes, their certificates, and other policy servers."""
