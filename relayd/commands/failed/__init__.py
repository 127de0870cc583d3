"""`relayd failed`: lists the refused files, moves them back, removes them."""
