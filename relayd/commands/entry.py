"""Where the programs begin: what has to be done before anything else is imported.

Importing the rest takes a few tenths of a second, in which an interrupt ends the program without a
word, as it ends most others.
"""

import signal

from relayd.system.lean import load_when_used
from relayd.system.utf8 import ensure_utf8


def relayd() -> None:
    """Be the program `relayd`."""
    _prepare()
    from relayd.commands.cli import main

    main()


def rudder_relayd() -> None:
    """Be the program `rudder-relayd`."""
    _prepare()
    from relayd.commands.cli import rudder_relayd as program

    program()


def _prepare() -> None:
    ensure_utf8()
    load_when_used("idna")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
