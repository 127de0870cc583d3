"""The metadata of a shared file, signed by its sender, in `key=value` lines.

The format is that of Rudder's agents, `rudder-signature-v1`. All functions here are pure.
"""

import binascii
import re
from collections.abc import Callable
from typing import Final

import msgspec

from relayd.config.durations import parse_duration
from relayd.runlog.signature import der

#: Bytes of metadata; with an RSA key of 4096 bits it has 2 KiB.
MAX_SIZE: Final = 16 * 1024
#: Seconds, a hundred years: keeps the sum with the current time a sensible number.
MAX_TTL: Final = 36_525 * 86_400.0

#: Hash algorithm → bytes of its digests.
HASHES: Final = {"sha256": 32, "sha512": 64}

_HEADER: Final = "rudder-signature-v1"
_HEXADECIMAL: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){1,4096}")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_HEADER_BYTES: Final = _HEADER.encode()
_EXPIRES: Final = b"\nexpires="


#: AlgorithmIdentifier of RSA keys (RFC 3279, 2.3.1), DER.
_RSA_ENCRYPTION: Final = bytes.fromhex("300d06092a864886f70d0101010500")


class MetadataError(ValueError):
    """The metadata do not follow the format; the text says why, in one line."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a shared file.

    Attributes:
        algorithm: `sha256` or `sha512`, for `digest` and `hash_value`.
        digest: RSA signature (PKCS #1 v1.5) of the content, hexadecimal.
        hash_value: hash of the content, hexadecimal.
        short_pubkey: key of the source: RSAPublicKey (RFC 8017, A.1.1), DER in base64.
        hostname: of the source; like the next two informative only, and may be empty.
        keydate: when the key was made.
        keyid: short name of the key.
        expires: Unix time at which the file may be removed; None if not given.
    """

    algorithm: str
    digest: str
    hash_value: str
    short_pubkey: str
    hostname: str
    keydate: str
    keyid: str
    expires: int | None = None

    def spki(self) -> bytes:
        """Return the source's key as SubjectPublicKeyInfo (RFC 5280, 4.1), DER."""
        key = binascii.a2b_base64(self.short_pubkey)
        return der.encode(der.SEQUENCE, _RSA_ENCRYPTION, der.encode(der.BIT_STRING, b"\0", key))

    def is_signed(self, digest: bytes) -> bool:
        """Return whether the signature matches a content and the key in these metadata.

        Args:
            digest: hash of the content with `algorithm`.
        """
        from relayd.runlog.signature.keys import is_rsa_signature

        signature = bytes.fromhex(self.digest)
        return is_rsa_signature(self.spki(), signature, digest, self.algorithm)

    def expiring(self, expires: int) -> "Metadata":
        """Return the same metadata with another expiry, Unix time in seconds."""
        return msgspec.structs.replace(self, expires=expires)

    def text(self) -> bytes:
        """Return the content of the metadata file."""
        lines = [f"header={_HEADER}"]
        lines += [f"{key}={getattr(self, key)}" for key in _CHECKS if key != "header"]
        if self.expires is not None:
            lines.append(f"expires={self.expires}")
        return "\n".join(lines).encode()


def parse_metadata(data: bytes) -> Metadata:
    """Parse metadata; lines with an unknown key, or that are not `key=value`, are passed over.

    Args:
        data: lines, each ended by a line feed or by CR LF; the last one need not be.

    Raises:
        MetadataError: a key is missing, repeated, or has an invalid value.
    """
    values: dict[str, str] = {}
    for line in data.split(b"\n"):
        name, separator, value = line.removesuffix(b"\r").partition(b"=")
        key = _KNOWN.get(name) if separator else None
        if key is None:
            continue
        if key in values:
            raise MetadataError(f"{key} is repeated")
        values[key] = _decoded(key, value)
    return _build(values)


def parse_expires(data: bytes) -> int | None:
    """Return the expiry in the metadata of a stored file; None if it has none.

    A fraction of the work of `parse_metadata`, for sweeps over many files.

    Raises:
        MetadataError: these are not metadata, or the expiry is repeated or malformed.
    """
    if _HEADER_BYTES not in data:
        raise MetadataError("header is missing")
    data = b"\n" + data
    at = data.find(_EXPIRES)
    if at < 0:
        return None
    if data.find(_EXPIRES, at + 1) >= 0:
        raise MetadataError("expires is repeated")
    value = data[at + len(_EXPIRES) : at + len(_EXPIRES) + 30].partition(b"\n")[0]
    text = value.removesuffix(b"\r").decode("ascii", "replace")
    if _NUMBER.fullmatch(text) is None:
        raise MetadataError("expires is malformed")
    return int(text)


def _decoded(key: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MetadataError(f"{key} is not UTF-8") from None


def _build(values: dict[str, str]) -> Metadata:
    for key, is_good in _CHECKS.items():
        if key not in values:
            raise MetadataError(f"{key} is missing")
        if not is_good(values[key]):
            raise MetadataError(f"{key} is malformed")
    expires = values.get("expires")
    if expires is not None and _NUMBER.fullmatch(expires) is None:
        raise MetadataError("expires is malformed")
    if len(values["hash_value"]) != 2 * HASHES[values["algorithm"]]:
        raise MetadataError("hash_value is malformed")
    fields = {key: values[key] for key in _CHECKS if key != "header"}
    return Metadata(**fields, expires=None if expires is None else int(expires))


def _is_hexadecimal(text: str) -> bool:
    return _HEXADECIMAL.fullmatch(text) is not None


def _is_key(text: str) -> bool:
    try:
        return bool(binascii.a2b_base64(text, strict_mode=True))
    except ValueError:
        return False


#: All required keys, in the order in which agents write them.
_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "header": _HEADER.__eq__,
    "algorithm": HASHES.__contains__,
    "digest": _is_hexadecimal,
    "hash_value": _is_hexadecimal,
    "short_pubkey": _is_key,
    "hostname": str.isprintable,
    "keydate": str.isprintable,
    "keyid": str.isprintable,
}


_KNOWN: Final = {key.encode(): key for key in (*_CHECKS, "expires")}


def parse_ttl(text: str) -> float:
    """Parse a time to live: a whole number of seconds, or a duration such as `1day` or `1d+2h`.

    A `+` stands for a blank, also where a proxy has encoded it once more.

    Returns:
        Seconds.

    Raises:
        ValueError: it is neither, or longer than `MAX_TTL`.
    """
    ttl = parse_duration(int(text) if _NUMBER.fullmatch(text) else text.replace("+", " "))
    if ttl > MAX_TTL:
        raise ValueError("longer than a hundred years")
    return ttl
