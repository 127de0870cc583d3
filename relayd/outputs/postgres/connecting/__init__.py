"""How relayd reaches a server: what libpq does with options, environment, files, and hosts."""
