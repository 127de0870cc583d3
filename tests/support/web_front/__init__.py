"""A small web server in front of a relayd, in the place of Apache or nginx."""
