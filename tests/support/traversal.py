"""Paths that try to leave a directory, in every spelling."""

from itertools import product
from typing import Final

_DOTS: Final = (
    "..",
    "%2e%2e",
    "%2E%2e",
    ".%2e",
    "%2e.",
    "%252e%252e",
    "%25252e%25252e",
    "%c0%ae%c0%ae",
    "%e0%80%ae%e0%80%ae",
    "%uff0e%uff0e",
    "..%00",
    "..%20",
    "..;",
    "...",
    "....",
    "%ef%bc%8e%ef%bc%8e",
)
_SLASHES: Final = ("/", "%2f", "%2F", "%5c", "\\", "%252f", "%c0%af", "//", "/./", "%00/")
_SECRETS: Final = ("secret", "etc/passwd")

_SINGLE: Final = (
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "%2e",
    ".",
    "./secret",
    "a/",
    "a//b",
    "a/./b",
    "a/../../secret",
    "a/..",
    "a%00",
    "a%00.txt",
    "a%0a",
    "a%0d%0aX:%20y",
    "a%1b[2J",
    "%",
    "%2",
    "%zz",
    "a%",
    "%ff%fe",
    "%80",
    "b" * 256,
    "b/" * 1500 + "b",
    "%41" * 1000,
    "C:%5cWindows%5cwin.ini",
    "%5c%5chost%5cshare",
    "file:%2f%2f%2fetc%2fpasswd",
    "~root/.ssh/id_rsa",
    "proc/self/environ",
    "..%c1%9csecret",
    "..%u2215secret",
    "%2e%2e%5csecret",
    "a%2f..%2f..%2fsecret",
    "%00",
    "%7f",
    "link-out",
    "link-up/secret",
    "link-proc/environ",
    "link-loop",
    "fifo",
)


def traversals() -> list[str]:
    """More than 300 request paths below one prefix; none names a file that may be served."""
    climbing = [
        (dots + slash) * depth + secret
        for dots, slash, depth, secret in product(_DOTS, _SLASHES, (1, 8), _SECRETS)
        if depth == 1 or secret == "etc/passwd"
    ]
    return [path for path in (*_SINGLE, *climbing) if len(path) < 7000]
