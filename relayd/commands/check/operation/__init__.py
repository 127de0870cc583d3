"""What operators work with: the control socket, the state directory, what they have asked for."""
