"""Files that the server offers to nodes, and that nodes send to each other."""
