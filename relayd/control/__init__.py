"""The control socket: what an operator on this machine may ask of a running relayd.

`server` accepts callers, `callers` decides who may, `app` answers them, `client` asks. Nothing here
is imported by an idle relayd but `server`; a command imports `client` alone.
"""
