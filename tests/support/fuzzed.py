"""Hostile values for everything that relayd reads: the same seed and number give the same value.

A value is made from a good one of its kind, in which words, numbers or bytes are replaced by such
on which programs have stumbled.
"""

import base64
import json
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from tests.support.raw_http import CHUNKS, EXCESS, ODD, SMUGGLING, get

API: Final = b"/rudder/relay-api/1"

HOSTS: Final = (
    "",
    ".",
    "..",
    "a..b",
    ".a",
    "a.",
    "a..",
    "-",
    "-x",
    "_",
    "*",
    "a_b.test",
    "x" * 63,
    "x" * 64,
    "x" * 300,
    "x." * 126 + "x",
    "x." * 127,
    "é" * 63,
    "é" * 300,
    "bücher.test",
    "faß.test",
    "xn--",
    "xn--a",
    "xn--\u00e9",
    "\u5927\u2488",
    "\u3002",
    "a\u3002b",
    "\u200d",
    "\u0661.test",
    "\u202ea.test",
    "a\ufe0f.test",
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "0177.0.0.1",
    "0",
    "127.0.0.1:443",
    "127.0.0.1:99999",
    "256.256.256.256",
    "1.2.3.4.5",
    "::1",
    "[::1]",
    "[::1]:443",
    "[::1",
    "::1]",
    "[]",
    "::",
    ":::",
    "::ffff:127.0.0.1",
    "fe80::1%lo",
    "fe80::1%nowhere",
    "fe80::1%",
    "fe80::1%25lo",
    "[fe80::1%lo\u00e9]",
    "[v1.fe]",
    "host:443",
    "https://host",
    "https://u:p@host:443/x?y#z",
    "//host",
    "/var/run/x",
    "host/x",
    "host?x",
    "host#x",
    "u@host",
    "a b",
    " a",
    "a\t",
    "a\n",
    "a\r\nX: y",
    "a\x00b",
    "\x1b[2J",
    "%00",
    "%2e%2e",
    "\ud800",
    "\udc80a",
    "\U0010ffff",
    "a,b",
    "$(id)",
    "localhost.",
)
WORDS: Final = (
    *HOSTS,
    "root",
    "Root",
    "relay",
    "true",
    "null",
    "-1",
    "0",
    "1.5h",
    "10 20s",
    "1" * 30 + "y",
    "\u00b5s",
    "9" * 400,
    "1e999",
    "NaN",
    "(upstream)",
    "__proto__",
    "../../etc/passwd",
    "sha256:",
    "sha256//" + "A" * 43 + "=",
    "A" * 5000,
    "postgres://",
    "postgres://u:p@[::1",
    "postgres://a..b/x",
    "postgres://h:99999/x?sslmode=required",
    "postgres:///x?host=%2Fnowhere&port=x",
    "postgres://%ff@h,h2:1/d?options=-c%20x%3Dy",
    "unix:/" + "x" * 200,
    "[::1]:0",
    "cert_validation",
    "/nonexistent",
    "\u0665",
)
NUMBERS: Final = (
    0,
    -1,
    1,
    65_535,
    65_536,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    1.5,
    -0.0,
    1e300,
)
#: Bytes to insert anywhere.
TOKENS: Final = (
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"%00",
    b"%",
    b"%zz",
    b"%ed%a0%80",
    b"..",
    b"//",
    b'"',
    b"'",
    b"{",
    b"[",
    b"[" * 3000,
    b'{"a":' * 2000,
    b"\\ud800",
    b"-1",
    b"9" * 25,
    b"9" * 5000,
    b"0x" + b"f" * 4000,
    b"1e999",
    b": ",
    b"=",
    b"&" * 100,
    b";" * 50,
    b"a" * 20_000,
    "é大\u202e".encode(),
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 30,
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
)


class Fuzzer:
    """Makes hostile values; each has a number, and is the same for the same seed and number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def source(self, kind: str, number: int) -> Random:
        """Return the source of randomness of one value."""
        return Random(f"{self.seed} {kind} {number}")

    def hostile(self, rng: Random, depth: int = 0) -> Any:
        """Return a value of JSON or TOML."""
        choice = rng.random()
        if choice < 0.6:
            return rng.choice(WORDS)
        if choice < 0.8:
            return rng.choice(NUMBERS)
        if choice < 0.9 or depth > 3:
            return rng.choice((None, True, False, [], {}, ""))
        if choice < 0.95:
            return [self.hostile(rng, depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice(WORDS): self.hostile(rng, depth + 1) for _ in range(rng.randrange(4))}

    def mutated(self, rng: Random, data: bytes) -> bytes:
        """Return bytes with one to four changes."""
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = self._changed(rng, data)
        return data

    def _changed(self, rng: Random, data: bytes) -> bytes:
        begin = rng.randrange(len(data) + 1)
        end = min(len(data), begin + rng.choice((0, 1, 1, 2, 4, 16, 100)))
        middle = data[begin:end]
        change = rng.randrange(7)
        if change == 0:
            middle = b""
        elif change == 1:
            middle = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
        elif change == 2:
            middle *= rng.choice((2, 3, 50))
        elif change == 3 and begin < len(data):
            return data[:begin] + bytes([data[begin] ^ 1 << rng.randrange(8)]) + data[begin + 1 :]
        elif change == 4:
            return data[:begin]
        else:
            middle = rng.choice(TOKENS)
        return data[:begin] + middle + data[end:]

    def entries(self, numbers: Sequence[int], relays: Sequence[str]) -> dict[str, object]:
        """Return entries of a nodes list, one for each number.

        Args:
            numbers: of the values.
            relays: node ids of policy servers that the nodes may have.
        """
        found: dict[str, object] = {}
        for number in numbers:
            rng = self.source("node", number)
            node_id = f"n{number}" if rng.random() < 0.9 else rng.choice(WORDS) + str(number)
            server = rng.choice((*relays, f"n{rng.choice(numbers)}", rng.choice(WORDS)))
            entry: dict[str, object] = {
                "hostname": rng.choice(HOSTS),
                "policy-server": server,
                "key-hash": rng.choice(WORDS),
            }
            if rng.random() < 0.3:
                entry[rng.choice([*entry])] = self.hostile(rng)
            found[node_id] = entry if rng.random() < 0.95 else self.hostile(rng)
        return found

    def pem(self, number: int, good: bytes) -> bytes:
        """Return a certificate of a certificates file: its armour or its DER is changed."""
        rng = self.source("pem", number)
        if rng.random() < 0.5:
            return self.mutated(rng, good)
        lines = good.strip().split(b"\n")
        body = bytearray(base64.b64decode(b"".join(lines[1:-1])))
        for _ in range(rng.choice((1, 1, 2, 5))):
            body[rng.randrange(len(body))] = rng.choice(
                (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
            )
        return lines[0] + b"\n" + base64.encodebytes(bytes(body)) + lines[-1] + b"\n"

    def toml(self, number: int, keys: Sequence[str], good: str) -> bytes:
        """Return a configuration file: a good line, hostile values, and perhaps changed bytes."""
        rng = self.source("toml", number)
        lines = [good]
        for _ in range(rng.choice((1, 1, 2, 5))):
            key = rng.choice(keys)
            if rng.random() < 0.15:
                key = self.mutated(rng, key.encode()).decode("utf-8", "replace")
            lines.append(f"{key} = {_toml_value(self.hostile(rng))}")
        rng.shuffle(lines)
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
        return self.mutated(rng, data) if rng.random() < 0.4 else data

    def logging(self, number: int) -> bytes:
        """Return a `logging.conf`."""
        rng = self.source("logging", number)
        good = (
            b'general.filter = "[node{node_id=\\"x\\"}]=trace,[report{queue_id=AB}]=debug,relayd"',
            b'[general]\nlevel = "info"\nfilter = "database=trace,[api]=off"\nformat = "json"',
        )
        return self.mutated(rng, rng.choice(good))

    def request(self, number: int) -> bytes:
        """Return what a client of the HTTP API sends."""
        rng = self.source("request", number)
        return self.mutated(rng, rng.choice(_REQUESTS))

    def answer(self, number: int) -> bytes:
        """Return what another policy server answers to a request."""
        rng = self.source("answer", number)
        return self.mutated(rng, rng.choice(_ANSWERS))

    def events(self, number: int, nodes: Sequence[str]) -> bytes:
        """Return what a sub-relay answers to a remote run."""
        rng = self.source("events", number)
        lines = [self._event(rng, nodes) for _ in range(rng.randrange(1, 8))]
        body = b"\n".join(lines) + rng.choice((b"\n", b"", b"\r\n"))
        if rng.random() < 0.3:
            body = self.mutated(rng, body)
        kind = rng.choice((b"application/x-ndjson", b"application/x-ndjson; x=y", b"text/plain"))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n"
        if rng.random() < 0.5:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            head += b"Transfer-Encoding: chunked\r\n\r\n"
        else:
            head += b"Content-Length: %d\r\n\r\n" % len(body)
        return self.mutated(rng, head + body) if rng.random() < 0.3 else head + body

    def _event(self, rng: Random, nodes: Sequence[str]) -> bytes:
        kinds = ("queued", "started", "output", "exit", "unreachable", "hop_error")
        event: dict[str, object] = {
            "event": rng.choice(kinds),
            "relay": "sub",
            "node": rng.choice(nodes),
            "output": rng.choice(WORDS),
            "code": rng.choice((0, 1, 255, *NUMBERS)),
            "nodes": 1,
            "detail": rng.choice(WORDS),
        }
        for _ in range(rng.choice((0, 0, 1, 2))):
            event[rng.choice([*event, "x"])] = self.hostile(rng)
        data = json.dumps(event).encode()
        return self.mutated(rng, data) if rng.random() < 0.2 else data


def _toml_value(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    return str(value).lower()


def _request(method: bytes, path: bytes, *lines: bytes, body: bytes | None = None) -> bytes:
    if body is not None:
        lines = (*lines, b"Content-Length: %d" % len(body))
    head = b"\r\n".join((method + b" " + API + path + b" HTTP/1.1", b"Host: relay", *lines))
    return head + b"\r\n\r\n" + (body or b"")


_FORM = b"Content-Type: application/x-www-form-urlencoded"
_METADATA = (
    b"header=rudder-signature-v1\nalgorithm=sha256\ndigest=00ff\nhash_value="
    + b"ab" * 32
    + b"\nshort_pubkey=MIIBCgKCAQEAwIDAQAB\nhostname=h\nkeydate=d\nkeyid=k\n\ncontent"
)
_REQUESTS: Final = (
    *SMUGGLING.values(),
    *(post for post, _ in EXCESS.values()),
    *ODD.values(),
    *(
        b"POST /nope HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk
        for chunk in CHUNKS.values()
    ),
    *(
        request
        for _ in range(6)  # the ones that reach a handler are the more interesting ones
        for request in (
            get(target=b"/metrics"),
            _request(b"GET", b"/system/info"),
            _request(b"GET", b"/system/status"),
            _request(b"GET", b"/openapi.json"),
            _request(b"POST", b"/remote-run/nodes/n1", _FORM, body=b"asynchronous=true"),
            _request(
                b"POST",
                b"/remote-run/nodes",
                _FORM,
                b"Accept: application/x-ndjson",
                b"Rudder-Relay-Hops: 1",
                body=b"nodes=n1,n2,root&conditions=a,b&keep_output=true&asynchronous=true",
            ),
            _request(b"HEAD", b"/shared-folder/a/b?hash=00ff&hash_type=sha256"),
            _request(
                b"GET", b"/shared-folder/file.txt", b"Range: bytes=0-1,-5", b'If-None-Match: "x"'
            ),
            _request(b"HEAD", b"/shared-files/n1/n2/file?hash=ab"),
            _request(b"PUT", b"/shared-files/n1/n2/file?ttl=1d+2h", body=_METADATA),
        )
    ),
)

_OK = b"HTTP/1.1 200 OK\r\n"
_ANSWERS: Final = (
    _OK + b"Content-Length: 0\r\n\r\n",
    _OK + b"Content-Length: 2\r\nContent-Type: text/plain\r\n\r\nok",
    _OK + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX: y\r\n\r\n",
    _OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n\x1f\x8bxx",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + _OK + b"\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\x00\x01",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nLocation: https://[::1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 404 NOT FOUND\r\nContent-Length: 9\r\n\r\nNOT FOUND",
    b"HTTP/1.1 429 Slow\r\nRetry-After: Fri, 31 Feb 9999 99:99:99 GMT\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
)
