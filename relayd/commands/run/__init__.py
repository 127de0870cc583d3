"""`relayd run NODE…`: starts agents through the running relayd, and follows their runs."""
