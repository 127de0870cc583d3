"""Is it well? The state of a relayd in one value, for the commands and the page.

`model` is the value, `sentence` puts it into words, `collect` makes it in a running relayd.
"""
