"""`relayd queue`: lists waiting files, sets them aside, brings them back, drops or retries them."""
