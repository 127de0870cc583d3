"""SCRAM-SHA-256 with channel binding, which asyncpg has not (RFC 5802, RFC 5929, RFC 7677)."""

import base64
import hashlib
import hmac
import secrets
import ssl
import stringprep
import unicodedata
from typing import Final

#: The only kind of channel binding of PostgreSQL.
BINDING: Final = "tls-server-end-point"
#: More than any server asks for; each costs a microsecond of the event loop.
_MAX_ROUNDS: Final = 1_000_000
_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class Scram:
    """One exchange.

    Attributes:
        verified: whether the server has proved that it knows the password.
    """

    def __init__(self, password: str, binding: str, end_point: bytes, nonce: str = "") -> None:
        """Prepare an exchange.

        Args:
            password: in plain text.
            binding: the kind of channel binding.
            end_point: its data.
            nonce: the client's; a random one if empty.
        """
        self.verified = False
        self._password = _prepared(password)
        self._header = f"p={binding},,".encode()
        self._end_point = end_point
        self._first = f"n=,r={nonce or secrets.token_urlsafe(18)}".encode()
        self._signature = b""

    def first(self) -> bytes:
        """Return the client's first message."""
        return self._header + self._first

    def final(self, answer: bytes) -> bytes:
        """Return the client's final message.

        Args:
            answer: the server's first message.

        Raises:
            ValueError: it is not valid.
        """
        fields = _fields(answer)
        nonce, rounds = fields.get(b"r", b""), int(fields.get(b"i", b"0"))
        if not nonce.startswith(self._first[5:]) or nonce == self._first[5:]:
            raise ValueError("the server's nonce is not valid")
        if not 0 < rounds <= _MAX_ROUNDS:
            raise ValueError("the server's number of rounds is not valid")
        salt = base64.b64decode(fields.get(b"s", b""), validate=True)
        bound = b"c=" + base64.b64encode(self._header + self._end_point) + b",r=" + nonce
        everything = b",".join([self._first, answer, bound])
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, rounds)
        key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(key).digest(), everything)
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        self._signature = _hmac(_hmac(salted, b"Server Key"), everything)
        return bound + b",p=" + base64.b64encode(proof)

    def verify(self, answer: bytes) -> None:
        """Check the server's final message.

        Raises:
            ValueError: the server does not know the password.
        """
        given = base64.b64decode(_fields(answer).get(b"v", b""), validate=True)
        if not self._signature or not hmac.compare_digest(given, self._signature):
            raise ValueError("the server does not know the password")
        self.verified = True


def server_end_point(connection: ssl.SSLObject) -> bytes | None:
    """Return what identifies the server's certificate; None if its signature names no hash."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    der = connection.getpeercert(binary_form=True)
    if der is None:
        return None
    try:
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in {"md5", "sha1"} else algorithm.name
    return hashlib.new(name, der).digest()


def _prepared(password: str) -> bytes:
    """Return a password as SASLprep (RFC 4013) makes it; as it is where that forbids it."""
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.normalize("NFKC", mapped)
    if not normal or any(forbids(char) for char in normal for forbids in _PROHIBITED):
        return password.encode()
    return password.encode() if _mixes_directions(normal) else normal.encode()


def _mixes_directions(text: str) -> bool:
    right = [stringprep.in_table_d1(char) for char in text]
    if not any(right):
        return False
    return any(map(stringprep.in_table_d2, text)) or not (right[0] and right[-1])


def _fields(message: bytes) -> dict[bytes, bytes]:
    pairs = [field.partition(b"=") for field in message.split(b",")]
    return {key: value for key, _, value in pairs}


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
