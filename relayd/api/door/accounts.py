"""Accounts for uploads, from files that htpasswd writes.

A password costs up to a second of CPU time to check (bcrypt), and relays send each file with it:
what was right once is remembered until the file changes. Wrong passwords are checked each time, a
few at once and one for each client.
"""

import binascii
import hashlib
import secrets
from base64 import b64decode
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from relayd.api.door.watched import WatchedFile
from relayd.api.fair_limiter import Bounds, FairLimiter
from relayd.system.threads import in_thread

#: Passwords that are checked at once. They wait in a thread, and most kinds hold the interpreter.
CHECKS: Final = Bounds(total=2, each=1, waiting=128, wait_s=10.0)
#: Right passwords that are remembered; one takes 0.1 kB. There is one for each relay at most.
_REMEMBERED: Final = 1024
#: Longer ones are refused unseen; bcrypt itself takes no more than 72 bytes into account.
_MAX_PASSWORD: Final = 256
_SCHEMES: Final = ("apr_md5_crypt", "bcrypt", "ldap_sha1", "sha256_crypt", "sha512_crypt")

Entries = dict[bytes, str]


class BusyError(Exception):
    """Too many passwords are being checked."""


class Accounts:
    """The accounts of one file.

    Args:
        path: the file.
        checks: shared by all files.
    """

    def __init__(self, path: Path, checks: FairLimiter) -> None:
        self._file = WatchedFile(path, read_entries)
        self._checks = checks
        self._secret = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()

    async def look(self, *, now: bool = False) -> None:
        """See `WatchedFile.look`."""
        await self._file.look(now=now)

    async def admit(self, header: bytes, client: str) -> bool:
        """Return whether a header `Authorization` has the password of an account.

        Args:
            header: its value.
            client: whose passwords are checked one after the other.

        Raises:
            BusyError: this client, or all of them, have too many passwords checked.
        """
        await self.look()
        credentials = parse_basic(header)
        if credentials is None or not self._file.content:
            return False
        key = self._key(*credentials)
        if key in self._right:
            self._right.move_to_end(key)
            return True
        async with self._checks.admit(client) as admitted:
            if not admitted:
                raise BusyError
            if not await in_thread(_verify, self._file.content, *credentials):
                return False
        self._right[key] = None
        if len(self._right) > _REMEMBERED:
            self._right.popitem(last=False)
        return True

    def _key(self, user: bytes, password: bytes) -> bytes:
        """Return what stands for a password in memory; it is different once the file changes."""
        text = repr((user, password, self._file.version)).encode()
        return hashlib.blake2b(text, key=self._secret, digest_size=32).digest()


def parse_basic(header: bytes) -> tuple[bytes, bytes] | None:
    """Return user and password of a header (RFC 7617); None for anything else."""
    scheme, _, encoded = header.strip().partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    if not colon or len(password) > _MAX_PASSWORD or b"\0" in password:
        return None
    return user, password


def read_entries(text: str) -> Entries:
    """Return the hashes of a file by user; the first of several counts, as in Apache."""
    entries: Entries = {}
    for line in text.splitlines():
        user, colon, stored = line.strip().partition(":")
        if colon and not user.startswith("#"):
            entries.setdefault(user.encode("utf-8", "surrogateescape"), stored.partition(":")[0])
    return entries


def _verify(entries: Entries, user: bytes, password: bytes) -> bool:
    """Compare in constant time; an unknown user takes as long as a known one. Blocks."""
    stored = entries.get(user)
    right = _matches(stored or next(iter(entries.values())), password)
    return right and stored is not None


def _matches(stored: str, password: bytes) -> bool:
    context = _context()
    if context.identify(stored) is None:
        return False
    try:
        return bool(context.verify(password, stored))
    except (ValueError, TypeError):  # a broken hash, or a password that its kind does not take
        return False


def _context() -> Any:
    # 1.5 MB, of which a relay whose nodes show certificates needs nothing.
    from passlib.context import CryptContext

    return CryptContext(_SCHEMES)
