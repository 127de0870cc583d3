"""Where the programs begin: what has to be done before anything else is imported.

Importing the rest takes a few tenths of a second. In that time an interrupt ends the program
without a word, as it ends most others, and a hangup waits until it is known whether it asks for a
reload.
"""

import os
import signal
import sys
from collections.abc import Sequence


def relayd() -> None:
    """Be the program `relayd`."""
    _prepare()
    # An environment variable may name the configuration: see `relayd.commands.daemon`.
    if sys.argv[1:2] == ["run"] and (sys.argv[2:] or "RELAYD_CONFIG" not in os.environ):
        _run_plainly(sys.argv[2:])
    from relayd.commands.cli import main

    main()


def rudder_relayd() -> None:
    """Be the program `rudder-relayd`."""
    _prepare()
    _run_plainly(sys.argv[1:])
    from relayd.commands.cli import rudder_relayd as program

    program()


def _run_plainly(options: Sequence[str]) -> None:
    """Be the daemon if the options are those of a unit; return for all others.

    What parses the others, and completes them for a shell, takes a twentieth of the start.
    """
    named = len(options) == 2 and options[0] in ("-c", "--config") and options[1][:1] != "-"
    if (options and not named) or any(name.endswith("_COMPLETE") for name in os.environ):
        return
    from functools import partial
    from pathlib import Path

    from relayd.commands.daemon import DEFAULT_DIRECTORY, exit_code, run_daemon

    directory = Path(options[1]) if options else DEFAULT_DIRECTORY
    sys.exit(exit_code(partial(run_daemon, directory)))


def _prepare() -> None:
    """Take the signals, then the standard streams, then the locale, then the imports.

    SIGINT keeps the system's action unless a command waits for it: Python's own, an exception
    wherever the program is, ends in a traceback. SIGHUP is blocked, so that the kernel keeps it
    even if the program starts again; see `relayd.service.signals` for the rest.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    _open_missing_streams()
    from relayd.system.lean import load_lean, load_when_used
    from relayd.system.utf8 import ensure_utf8

    ensure_utf8()
    load_when_used("idna")
    load_lean("msgspec")


def _open_missing_streams() -> None:
    """Open standard streams that were closed before the start, as by `>&-` in a shell.

    Otherwise the next file or socket that is opened gets the number of one, and with it what is
    meant for that stream; and Python has no object for it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode))
