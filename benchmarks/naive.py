"""A straightforward implementation, without any thought about speed.

It parses line by line, with a regular expression and `strptime` for each report, uses a generic
ASN.1 decoder, and one transaction for each file. It is only correct for the benchmark's run logs.
As a program (`python -m benchmarks.naive DIRECTORY CERTIFICATES < parameters.json`) it processes a
spool and prints the time it took.
"""

import asyncio
import base64
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.x509.oid import NameOID

from relayd.runlog.model import COLUMNS

STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)) ")
LOG: Final = re.compile(
    r"(?:rudder )?(?P<warn>CRITICAL|   error| warning)|(?:rudder )?(?P<info>  notice|    info)"
    r"|(?P<debug> verbose|   debug)"
)
REPORT: Final = re.compile(
    r"R: @@(.*?)@@(.*?)@@(.*?)@@(.*?)@@(.*?)@@(.*?)@@(.*?)"
    r"@@(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ?[+-]\d\d:\d\d)##(.*?)@#(.*)",
    re.DOTALL,
)

Row = tuple[datetime, str, str, str, str, str, str, str, str, str, datetime]


def parse(text: bytes) -> list[Row]:
    """Return the reports of a run log in the order of `COLUMNS`; log entries are skipped."""
    return [row for stamp, entry in _entries(text.decode()) if (row := _row(stamp, entry))]


def _entries(text: str) -> Iterator[tuple[str, str]]:
    stamp, entry = "", ""
    for line in text.splitlines():
        found = STAMP.match(line)
        rest = line[found.end() :] if found else line
        if rest.startswith("R: ") or LOG.match(rest):
            if entry:
                yield stamp, entry
            stamp, entry = found.group(1) if found else "", rest
        elif entry:
            entry += "\n" + rest
    if entry:
        yield stamp, entry


def _row(stamp: str, entry: str) -> Row | None:
    found = REPORT.fullmatch(entry)
    if found is None:
        return None
    policy, kind, rule, directive, report, component, key, start, node, message = found.groups()
    return (
        datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S%z"),
        node,
        directive,
        rule,
        report or "0",
        component,
        key or "None",
        kind,
        message,
        policy,
        datetime.strptime(start.replace(" +", "+"), "%Y-%m-%d %H:%M:%S%z"),
    )


@dataclass
class Element:
    """An element of DER: its tag byte, its whole encoding, its content, and its inner elements."""

    tag: int
    encoding: bytes
    content: bytes
    inner: list["Element"]


def decode(data: bytes) -> list[Element]:
    """Decode any definite-length BER into a tree (X.690, 8.1)."""
    elements = []
    at = 0
    while at < len(data):
        tag, length, begin = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[begin : begin + size], "big")
            begin += size
        content = data[begin : begin + length]
        inner = decode(content) if tag & 0x20 else []
        elements.append(Element(tag, data[at : begin + length], content, inner))
        at = begin + length
    return elements


_DIGESTS: Final = {
    bytes.fromhex("608648016503040201"): ("sha256", SHA256()),
    bytes.fromhex("608648016503040202"): ("sha384", SHA384()),
    bytes.fromhex("608648016503040203"): ("sha512", SHA512()),
}
_MESSAGE_DIGEST: Final = bytes.fromhex("2a864886f70d010904")


def verify(message: bytes, certificates: list[x509.Certificate]) -> bytes:
    """Return the signed text of an S/MIME message.

    Raises:
        ValueError: structure or digest is wrong.
        InvalidSignature: the signature is wrong.
    """
    content, signature = _parts(message)
    signer = decode(signature)[0].inner[1].inner[0].inner[-1].inner[0].inner
    _, issuer_and_serial, algorithm, attributes, _, value = signer[:6]
    name, digest = _DIGESTS[algorithm.inner[0].content]
    digests = [
        attribute.inner[1].inner[0].content
        for attribute in attributes.inner
        if attribute.inner[0].content == _MESSAGE_DIGEST
    ]
    if digests != [hashlib.new(name, content).digest()]:
        raise ValueError("the digest differs")
    serial = int.from_bytes(issuer_and_serial.inner[1].content, "big")
    issuer = issuer_and_serial.inner[0].encoding
    for certificate in certificates:
        if certificate.serial_number == serial and certificate.issuer.public_bytes() == issuer:
            key = certificate.public_key()
            if not isinstance(key, rsa.RSAPublicKey):
                raise ValueError("not RSA")
            signed = b"\x31" + attributes.encoding[1:]
            key.verify(value.content, signed, padding.PKCS1v15(), digest)
            return content.partition(b"\r\n\r\n")[2]
    raise ValueError("no such signer")


def _parts(message: bytes) -> tuple[bytes, bytes]:
    """Return the signed part in canonical form, and the DER of the signature."""
    found = re.search(rb'boundary="([^"]+)"', message)
    if found is None:
        raise ValueError("not signed")
    _, first, second, _ = message.split(b"--" + found.group(1))
    content = re.sub(rb"\r*\n", b"\r\n", first.split(b"\n", 1)[1])
    body = re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1]
    return content.removesuffix(b"\r\n"), base64.b64decode(body)


def _insertion(rows: int) -> str:
    width = len(COLUMNS)
    places = ", ".join(
        "(" + ", ".join(f"${row * width + column + 1}" for column in range(width)) + ")"
        for row in range(rows)
    )
    return f"INSERT INTO ruddersysevents ({', '.join(COLUMNS)}) VALUES {places} RETURNING id"


async def insert(connection: Any, rows: list[Row]) -> None:
    """Store a run log in one transaction: duplicate check, reports in one INSERT, execution."""
    first = rows[0]
    async with connection.transaction():
        if await connection.fetchval(
            "SELECT count(*) FROM ruddersysevents WHERE nodeid = $1 AND executiontimestamp = $2"
            " AND component = $3 AND msg = $4 AND executiondate = $5",
            *(first[1], first[10], first[5], first[8], first[0]),
        ):
            return
        ids = await connection.fetch(
            _insertion(len(rows)), *[value for row in rows for value in row]
        )
        config_id = next((row[6] for row in rows if row[7] == "control"), None)
        await connection.execute(
            "INSERT INTO reportsexecution (nodeid, date, nodeconfigid, insertionid)"
            " VALUES ($1, $2, $3, $4)",
            *(first[1], first[10], config_id, ids[0]["id"]),
        )


async def empty_spool(
    directory: Path, certificates: dict[str, list[x509.Certificate]], parameters: dict[str, Any]
) -> None:
    """Process file after file: read, verify, parse, insert, unlink."""
    connection = await asyncpg.connect(**parameters)
    for path in sorted(directory.iterdir()):  # noqa: ASYNC240 - one file after the other
        node = path.name.partition("@")[2].removesuffix(".log")
        rows = parse(verify(path.read_bytes(), certificates[node]))
        await insert(connection, rows)
        path.unlink()
    await connection.close()


def load_certificates(path: Path) -> dict[str, list[x509.Certificate]]:
    """Return the certificates of each node, by node id."""
    found: dict[str, list[x509.Certificate]] = {}
    for certificate in x509.load_pem_x509_certificates(path.read_bytes()):
        user = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)[0].value
        found.setdefault(str(user), []).append(certificate)
    return found


def main() -> None:
    """Process the spool given on the command line; print seconds and CPU seconds as JSON."""
    directory, certificates = Path(sys.argv[1]), load_certificates(Path(sys.argv[2]))
    parameters = json.load(sys.stdin)
    begin, used = time.perf_counter(), time.process_time()
    asyncio.run(empty_spool(directory, certificates, parameters))
    json.dump(
        {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - used}, sys.stdout
    )


if __name__ == "__main__":
    main()
