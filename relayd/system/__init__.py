"""What the operating system and the interpreter offer, and nothing of relayd's own subject."""
