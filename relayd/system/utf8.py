"""UTF-8 whatever the locale says.

File names, host names and requests are UTF-8 everywhere in relayd. In another locale Python would
convert them to its encoding on the way to the system: files would not be found, and commands would
get other names, or none.
"""

import os
import sys
from contextlib import suppress
from typing import Final

#: Options of the interpreter with which it ignores the locale, PEP 540.
OPTIONS: Final = ("-X", "utf8")


def ensure_utf8() -> None:
    """Start this program again in UTF-8 mode, in this process, unless it uses UTF-8 already."""
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8":
        return
    # If that fails, relayd is of some use all the same.
    with suppress(OSError):
        os.execv(sys.executable, [sys.executable, *OPTIONS, *sys.orig_argv[1:]])  # noqa: S606
