"""Libraries that could replace relayd's own code, compared with it: answers, time and memory.

    python -m benchmarks.libraries

Each library is used in the way relayd would use it. Answers are compared on damaged inputs: those
answered differently are counted, and those accepted by the library alone.
"""

import argparse
import contextlib
import io
import os
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from werkzeug.datastructures import Headers
from werkzeug.http import parse_date, parse_etags, parse_if_range_header, parse_range_header

from benchmarks.measure import Rounds, median, ratio, say, seconds_per_call, take_turns
from benchmarks.table import Figure, show
from relayd.api.conditional import Version, precondition, wanted_range
from relayd.errors import Reason, Refused
from relayd.runlog.archive import unpack
from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature import der
from relayd.runlog.signature.certificates import (
    MIN_RSA_BITS,
    MIN_RSA_EXPONENT,
    Validity,
    read_certificate,
)

_CAP: Final = 50 * 2**20
#: Entries of 46 bytes each: a file of 14 MB.
_ENTRIES: Final = 300_000
_TEXT: Final = (
    b"2026-03-01T12:00:05+00:00 R: @@Common@@log_info@@rule@@directive@@0@@part@@..\n" * 250
)

Certificate = tuple[str | None, NodeCertificate, Validity]


def main() -> None:
    """Compare each pair and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.libraries", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="the table gives medians of these")
    parser.add_argument("--mutants", type=int, default=20_000, help="damaged inputs of each kind")
    arguments = parser.parse_args()
    figures = [
        *_compare_zip(arguments.rounds, arguments.mutants),
        *_compare_certificates(arguments.rounds, arguments.mutants),
        *_compare_requests(arguments.rounds),
    ]
    show(f"libraries, load {os.getloadavg()[0]:.1f}", figures)


def unpack_with_zipfile(data: bytes, max_size: int) -> bytes | Refused:
    """Return what `relayd.runlog.archive.unpack` returns for a zip, by `zipfile` alone."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if not members:
                return Refused(Reason.ARCHIVE, "zip without a member")
            if members[0].file_size > max_size:
                return Refused(Reason.TOO_LARGE, "too large")
            with archive.open(members[0]) as member:
                content = member.read(members[0].file_size + 1)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        ValueError,
        EOFError,
        OSError,
        struct.error,
    ) as error:
        return Refused(Reason.ARCHIVE, str(error))
    return content or Refused(Reason.EMPTY, "empty archive member")


def _compare_zip(rounds: int, mutants: int) -> list[Figure]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.log", _TEXT)
    data = file.getvalue()
    say(f"zip: {len(data)} bytes, {len(_TEXT)} unpacked")

    def own(data: bytes) -> bytes | None:
        result = unpack(data, "zip", _CAP)
        return None if isinstance(result, Refused) else result

    def library(data: bytes) -> bytes | None:
        result = unpack_with_zipfile(data, _CAP)
        return None if isinstance(result, Refused) else result

    small = io.BytesIO()
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.log", _TEXT[:200])
    damaged = _mutants(small.getvalue(), mutants)
    timed = take_turns(
        {
            "relayd": lambda: seconds_per_call(lambda: own(data)),
            "zipfile": lambda: seconds_per_call(lambda: library(data)),
        },
        rounds,
    )
    return [
        _figure("zip archive, unpacked", timed, "zipfile"),
        _answers("archives", own, library, damaged),
        Figure(
            f"  peak memory, directory of {_ENTRIES} entries",
            f"{_peak(own) / 1e6:.0f} MB",
            f"zipfile: {_peak(library) / 1e6:.0f} MB",
        ),
    ]


def _peak(read: Callable[[bytes], object]) -> int:
    """Return the memory taken for an archive that is nothing but a directory."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, *([0] * 14))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(entry) * _ENTRIES, 0, 0)
    data = entry * _ENTRIES + end
    tracemalloc.start()
    read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def read_with_x509(data: bytes) -> Certificate:
    """Return what `read_certificate` returns, by `cryptography.x509` alone."""
    certificate = x509.load_der_x509_certificate(data)
    ids = certificate.subject.get_attributes_for_oid(x509.NameOID.USER_ID)
    serial = certificate.serial_number
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    sid = der.encode(
        der.SEQUENCE, certificate.issuer.public_bytes(), der.encode(der.INTEGER, number)
    )
    key = certificate.public_key()
    _check_key(key, certificate.public_key_algorithm_oid)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    validity = Validity(
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )
    node_id = str(ids[0].value) if ids else None
    return node_id, NodeCertificate(sid, spki), validity


def _check_key(key: CertificatePublicKeyTypes, algorithm: x509.ObjectIdentifier) -> None:
    """Check what `load_public_key` checks, without loading the key again."""
    if isinstance(key, RSAPublicKey):
        good = algorithm == x509.PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5
        good = good and key.key_size >= MIN_RSA_BITS
        good = good and key.public_numbers().e >= MIN_RSA_EXPONENT
    elif isinstance(key, EllipticCurvePublicKey):
        good = isinstance(key.curve, (SECP256R1, SECP384R1, SECP521R1))
    else:
        good = isinstance(key, Ed25519PublicKey)
    if not good:
        raise ValueError("unusable key")


def _compare_certificates(rounds: int, mutants: int) -> list[Figure]:
    data = _certificate()
    say(f"certificate: {len(data)} bytes")
    own = _or_refused(read_certificate)
    library = _or_refused(read_with_x509)
    timed = take_turns(
        {
            "relayd": lambda: seconds_per_call(lambda: own(data)),
            "x509": lambda: seconds_per_call(lambda: library(data)),
        },
        rounds,
    )
    return [
        _figure("certificate, key included", timed, "x509"),
        _answers("certificates", own, library, _mutants(data, mutants)),
    ]


def _certificate() -> bytes:
    key = rsa.generate_private_key(65537, 4096)
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.USER_ID, "e3a1b2c4-0d5e-4f60-8a7b-9c8d7e6f5a4b")]
    )
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


_VERSION: Final = Version('"1f-17a-3e8"', 1_700_000_000, 1000)
_AT: Final = "Tue, 14 Nov 2023 22:13:20 GMT"
#: Requests whose answer RFC 9110 (13.1, 14.2) decides, or leaves open.
_REQUESTS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"If-None-Match": '"1f-17a-3e8"'},
    {"If-None-Match": 'W/"1f-17a-3e8"'},
    {"If-None-Match": "1f-17a-3e8"},
    {"If-None-Match": '"a", "b"', "If-Modified-Since": _AT},
    {"If-Match": 'W/"1f-17a-3e8"'},
    {"If-Modified-Since": _AT},
    {"Range": "bytes=10-19"},
    {"Range": "bytes=10-"},
    {"Range": "bytes=-10"},
    {"Range": "bytes=-2000"},
    {"Range": "bytes=-0"},
    {"Range": "bytes=1000-"},
    {"Range": "bytes=1-2,4-5"},
    {"Range": "bytes=1-2", "If-Range": '"1f-17a-3e8"'},
    {"Range": "bytes=1-2", "If-Range": 'W/"1f-17a-3e8"'},
    {"Range": "bytes=1-2", "If-Range": _AT},
)


def answer_with_werkzeug(headers: Headers, version: Version) -> tuple[int, range | None]:
    """Return what `precondition` and `wanted_range` return, by Werkzeug's functions."""
    tag = version.etag.strip('"')
    modified = datetime.fromtimestamp(version.modified, UTC)
    part = _range_with_werkzeug(headers, version)
    if "If-Match" in headers:
        if not parse_etags(headers["If-Match"]).contains(tag):
            return 412, part
    elif (date := parse_date(headers.get("If-Unmodified-Since"))) is not None and modified > date:
        return 412, part
    if "If-None-Match" in headers:
        matches = parse_etags(headers["If-None-Match"]).contains_weak(tag)
        return 304 if matches else 200, part
    date = parse_date(headers.get("If-Modified-Since"))
    return 304 if date is not None and modified <= date else 200, part


def _range_with_werkzeug(headers: Headers, version: Version) -> range | None:
    found = parse_range_header(headers.get("Range"))
    condition = parse_if_range_header(headers.get("If-Range"))
    if found is None or found.units != "bytes" or len(found.ranges) != 1:
        return None
    if condition.etag is not None and condition.etag != version.etag.strip('"'):
        return None
    if condition.date is not None and int(condition.date.timestamp()) != version.modified:
        return None
    part = found.range_for_length(version.size)
    return range(0) if part is None else range(*part)


def _compare_requests(rounds: int) -> list[Figure]:
    requests = [Headers(headers) for headers in _REQUESTS]

    def own(headers: Headers) -> tuple[int, range | None]:
        return precondition(headers, _VERSION), wanted_range(headers, _VERSION)

    def library(headers: Headers) -> tuple[int, range | None]:
        return answer_with_werkzeug(headers, _VERSION)

    for headers in requests:
        if own(headers) != library(headers):
            say(f"{dict(headers)}: relayd {own(headers)}, Werkzeug {library(headers)}")
    different = sum(own(headers) != library(headers) for headers in requests)
    timed = take_turns(
        {
            "relayd": lambda: seconds_per_call(lambda: [own(each) for each in requests]),
            "Werkzeug": lambda: seconds_per_call(lambda: [library(each) for each in requests]),
        },
        rounds,
    )
    return [
        _figure(f"{len(requests)} conditional and range requests", timed, "Werkzeug"),
        Figure("  requests answered differently", f"{different} of {len(requests)}"),
    ]


def _figure(name: str, timed: Rounds, library: str) -> Figure:
    return Figure(
        name,
        f"{median(timed, 'relayd') * 1e6:.1f} µs",
        f"{library}: {median(timed, library) * 1e6:.1f} µs",
        f"{ratio(timed, library, 'relayd'):.2f} x",
    )


def _or_refused(read: Callable[[bytes], Certificate]) -> Callable[[bytes], Certificate | None]:
    """Return `read`, which gives None for what it refuses."""

    def attempt(data: bytes) -> Certificate | None:
        with contextlib.suppress(ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
            return read(data)
        return None

    return attempt


def _mutants(data: bytes, count: int) -> list[bytes]:
    """Return damaged copies: one to three bytes changed, removed or inserted."""
    chance = random.Random(7)
    mutants = []
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(mutant))
            mutant[at : at + chance.randint(0, 1)] = chance.randbytes(chance.randint(0, 1))
        mutants.append(bytes(mutant))
    return mutants


def _answers(
    what: str,
    own: Callable[[bytes], object],
    library: Callable[[bytes], object],
    inputs: list[bytes],
) -> Figure:
    """Return how many inputs get different answers, None being a refusal."""
    answers = [(own(data), library(data)) for data in inputs]
    different = sum(one != other for one, other in answers)
    accepted = sum(one is None and other is not None for one, other in answers)
    return Figure(
        f"  damaged {what} answered differently",
        f"{different} of {len(inputs)}",
        f"accepted by the library alone: {accepted}",
    )


if __name__ == "__main__":
    main()
