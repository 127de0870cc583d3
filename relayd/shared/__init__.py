"""Files that the server gives to nodes, and that nodes give to each other."""
