"""Campaigns of damaged messages against the openssl command."""

import random
from base64 import b64decode
from collections.abc import Sequence

import pytest

from relayd.commands.demo.fleet.signing import wrap
from relayd.runlog.model import Verified
from relayd.runlog.signature.smime import verify
from tests.support.openssl import OpenSSL
from tests.support.signing import make_key_and_cert, sign_runlog

NODE = make_key_and_cert("mutants-node")
OTHER = make_key_and_cert("mutants-other")
TEXT = b"R: @@what the node said\r\nsecond line\r\n"
BOUNDARY = "----0123456789ABCDEF0123456789ABCDEF"


class Mutator:
    """Damages messages at random, the same way for the same seed."""

    def __init__(self, seed: int, sources: Sequence[bytes]) -> None:
        self._sources = sources
        self._random = random.Random(seed)
        self._edits = (
            self._flip, self._flip, self._insert, self._delete, self._copy_line, self._drop_line,
            self._swap_lines, self._line_end, self._splice, self._der, self._der,
        )  # fmt: skip

    def mutant(self) -> bytes:
        """Return a signed message with one to three edits."""
        message = self._random.choice(self._sources)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            message = self._random.choice(self._edits)(message)
        return message

    def _place(self, message: bytes) -> int:
        return self._random.randrange(len(message) + 1)

    def _flip(self, message: bytes) -> bytes:
        at = self._place(message[:-1])
        return (
            message[:at]
            + bytes((message[at] ^ 1 << self._random.randrange(8),))
            + message[at + 1 :]
        )

    def _insert(self, message: bytes) -> bytes:
        at = self._place(message)
        new = self._random.choice(
            (b"\r", b"\n", b"\r\n", b" ", b"\0", b"=", b"-", b"--" + BOUNDARY.encode(), b"\x80")
        )
        return message[:at] + new + message[at:]

    def _delete(self, message: bytes) -> bytes:
        at = self._place(message)
        return message[:at] + message[at + self._random.choice((1, 1, 2, 10)) :]

    def _lines(self, message: bytes) -> tuple[list[bytes], int, int]:
        lines = message.splitlines(keepends=True) or [b""]
        return lines, self._random.randrange(len(lines)), self._random.randrange(len(lines))

    def _copy_line(self, message: bytes) -> bytes:
        lines, one, other = self._lines(message)
        return b"".join([*lines[:one], lines[other], *lines[one:]])

    def _drop_line(self, message: bytes) -> bytes:
        lines, one, _ = self._lines(message)
        return b"".join(lines[:one] + lines[one + 1 :])

    def _swap_lines(self, message: bytes) -> bytes:
        lines, one, other = self._lines(message)
        lines[one], lines[other] = lines[other], lines[one]
        return b"".join(lines)

    def _line_end(self, message: bytes) -> bytes:
        lines, one, _ = self._lines(message)
        end = self._random.choice((b"\n", b"\r\n", b"\r\r\n", b"\r", b" \n", b"\n\n", b""))
        lines[one] = lines[one].rstrip(b"\r\n") + end
        return b"".join(lines)

    def _splice(self, message: bytes) -> bytes:
        other = self._random.choice(self._sources)
        return message[: self._place(message)] + other[self._place(other) :]

    def _der(self, message: bytes) -> bytes:
        """Edit the decoded signature, where one can be found."""
        head, found, rest = message.partition(b'filename="smime.p7s"')
        body = b"".join(rest.split(b"\n--")[0].split())
        try:
            signature = b64decode(body, validate=True)
        except ValueError:
            return message
        if not found or not signature:
            return message
        edit = self._random.choice((self._flip, self._flip, self._insert, self._delete, self._move))
        text = head.split(b"\n--")[1].split(b"\n", 1)[-1] if head.count(b"\n--") > 1 else b""
        return wrap(text, edit(signature), "sha-256", BOUNDARY)

    def _move(self, signature: bytes) -> bytes:
        start, end, to = sorted(self._place(signature) for _ in range(3))
        return signature[:start] + signature[end:to] + signature[start:end] + signature[to:]


def campaign(openssl: OpenSSL, seed: int, mutants: int, asked: int) -> int:
    """Compare mutants with openssl; return the number that passed.

    Each must be accepted by openssl with the same bytes, and be signed by the node. openssl is
    asked about some of them, spread evenly.
    """
    sources = [
        sign_runlog(TEXT, NODE),
        openssl.sign(b"R: @@another run\n" * 3, NODE),
        sign_runlog(b"R: @@what another node said\n", OTHER),
    ]
    texts = {accepted(message) for message in sources} - {None}
    mutator = Mutator(seed, sources)
    passed: dict[bytes, bytes] = {}
    for _ in range(mutants):
        mutant = mutator.mutant()
        text = accepted(mutant)
        if text is not None:
            assert text in texts
            passed[mutant] = text
    for mutant, text in list(passed.items())[:: len(passed) // asked + 1]:
        assert openssl.verify(mutant, NODE) == text
    return len(passed)


def accepted(message: bytes) -> bytes | None:
    verdict = verify(message, [NODE.certificate])
    return verdict.content if isinstance(verdict, Verified) else None


def test_mutants_never_pass_where_openssl_refuses(openssl: OpenSSL) -> None:
    """Of thousands of damaged messages, those that pass have a text the node signed."""
    assert campaign(openssl, seed=1, mutants=10_000, asked=100)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.fault("C27")
def test_campaign_of_mutants(openssl: OpenSSL) -> None:
    """Of 100,000 damaged messages, those that pass have a text the node signed."""
    assert campaign(openssl, seed=2, mutants=100_000, asked=10_000)
