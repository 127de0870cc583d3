"""The machines of the fleet: nodes and their certificates, policy servers and how to reach them."""
