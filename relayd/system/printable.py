"""Text of unknown origin, made safe for one line of a log or a terminal."""

import os
import re
from typing import Final

ELLIPSIS: Final = "…"

#: The escape of a byte that is not part of ASCII.
_BYTE: Final = re.compile(rb"\\x([89a-f][0-9a-f])")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, limit: int | None = None) -> str:
    r"""Return `text` with everything that is not printable written as an escape.

    That covers line ends, terminal escapes, the C1 controls, bidirectional and zero-width
    characters and lone surrogates (Unicode categories C* and Z*, the plain space excepted).
    A backslash is left as it is.

    Args:
        text: anything, for example a file name or a line of a run log.
        limit: keep at most this many characters of `text` and end with an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[:limit] + ELLIPSIS
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else escape(char) for char in text)


def escape(char: str) -> str:
    r"""Write one character as `\n`, `\x1b`, `\u202e` or `\U000e0001`."""
    short = _SHORT.get(char)
    if short is not None:
        return short
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(name: str) -> str:
    r"""Return a file name as text that any program can read: a byte that is none becomes `\xff`."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def names_of(text: str) -> tuple[str, ...]:
    r"""Return the file names that `shown` may have made `text` of.

    The escape `\xff` may be a byte, or four characters of the name itself.
    """
    try:
        octets = os.fsencode(text)
    except UnicodeEncodeError:  # no file can have this name
        return ()
    name = os.fsdecode(_BYTE.sub(lambda found: bytes.fromhex(found[1].decode()), octets))
    return (text,) if name == text else (text, name)
