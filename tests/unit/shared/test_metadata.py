"""Metadata of shared files: the format of the agents, and nothing else."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from relayd.shared.metadata import MetadataError, parse_expires, parse_metadata, parse_ttl
from tests.support.shared import joined, lines, node, spki

CONTENT = b"some content\n"


@pytest.mark.history(43)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_an_agent_writes_is_read(algorithm: str) -> None:
    """Each key has its own value, the algorithm included, and the signature is valid."""
    written = lines(CONTENT, algorithm=algorithm)
    metadata = parse_metadata(joined(written))
    assert {key: getattr(metadata, key) for key in written if key != "header"} == {
        key: value for key, value in written.items() if key != "header"
    }
    assert metadata.expires is None
    assert metadata.spki() == spki(node())
    assert metadata.is_signed(hashlib.new(algorithm, CONTENT).digest())
    assert not metadata.is_signed(hashlib.new(algorithm, CONTENT + b"x").digest())


def test_order_and_last_line_end_do_not_matter() -> None:
    """Keys may be in any order, and the last line may lack its end."""
    written = lines(CONTENT)
    mixed = dict(reversed(written.items()))
    assert parse_metadata(joined(mixed).removesuffix(b"\n")) == parse_metadata(joined(written))


@pytest.mark.fault("F15")
@pytest.mark.parametrize(
    "line",
    [
        b"newkey=a=b",
        b"new-key.2=x",
        b"NewKey=x",
        b"Algorithm=md5",
        b" algorithm=md5",
        b"algorithm =md5",
        b"# algorithm=md5",
        b"; a comment",
        b"no equals sign",
        b"algorithm",
        b"=x",
        b"=",
        b"\t",
        b"\r",
        b"",
        b"k" * 9000 + b"=x",
        b"\xff\xfe=x",
        b"not UTF-8: \xff",
        "schlüssel=x".encode(),
        b"a\0b=c",
        b"newkey=1\nnewkey=2",
    ],
)
def test_what_is_not_known_is_passed_over(line: bytes) -> None:
    """A line with an unknown key or without a key changes nothing, wherever it stands."""
    written = joined(lines(CONTENT))
    expected = parse_metadata(written)
    first, rest = written.split(b"\n", 1)
    for data in (line + b"\n" + written, written + line, first + b"\n" + line + b"\n" + rest):
        found = parse_metadata(data)
        assert found == expected
        assert found.text() == expected.text()


@pytest.mark.fault("F15")
def test_lines_may_end_in_cr_lf() -> None:
    """The line ends of other systems do not belong to the values."""
    written = joined(lines(CONTENT) | {"expires": "1700000000"})
    found = parse_metadata(written.replace(b"\n", b"\r\n"))
    assert found == parse_metadata(written)
    assert b"\r" not in found.text()


@pytest.mark.parametrize(
    ("data", "expires"),
    [
        (joined(lines(CONTENT)), None),
        (joined(lines(CONTENT)) + b"expires=1700000000", 1_700_000_000),
        (b"expires=1700000000\r\n" + joined(lines(CONTENT)), 1_700_000_000),
        (joined({"expires": "5"} | lines(CONTENT)) + b"other", 5),
        (joined(lines(CONTENT) | {"hostname": "expires=7"}), None),
    ],
)
def test_sweeps_read_the_expiry_only(data: bytes, expires: int | None) -> None:
    """The short way to the expiry finds what the long one finds."""
    assert parse_expires(data) == expires == parse_metadata(data).expires


@pytest.mark.parametrize("line", ["", "-1", "1e9", "9" * 5000, "²", "1\nexpires=2"])
def test_an_expiry_that_is_none(line: str) -> None:
    """Neither way accepts a malformed or repeated expiry, so such a file is never removed."""
    data = joined(lines(CONTENT)) + f"expires={line}\n".encode()
    for parse in (parse_expires, parse_metadata):
        with pytest.raises(MetadataError, match="expires"):
            parse(data)
    with pytest.raises(MetadataError, match="header"):
        parse_expires(b"expires=5\n")


@pytest.mark.history(38)
def test_our_time_of_expiry_replaces_what_was_sent() -> None:
    """The stored metadata have a single `expires`, the one set by relayd."""
    sent = lines(CONTENT) | {"expires": "99999999999"}
    kept = parse_metadata(joined(sent)).expiring(1_700_000_000).text()
    assert kept == joined(lines(CONTENT)) + b"expires=1700000000"
    assert parse_metadata(kept).expires == 1_700_000_000


@pytest.mark.parametrize("key", list(lines(CONTENT)))
def test_a_missing_or_doubled_key_is_an_error(key: str) -> None:
    """Every key is required exactly once."""
    written = lines(CONTENT)
    doubled = joined(written) + f"{key}={written[key]}\n".encode()
    del written[key]
    for data in (joined(written), doubled):
        with pytest.raises(MetadataError, match=key):
            parse_metadata(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("header", "rudder-signature-v2"),
        ("header", ""),
        ("algorithm", "sha1"),
        ("algorithm", "SHA512"),
        ("algorithm", "sha512 "),
        ("digest", ""),
        ("digest", "abc"),
        ("digest", "zz"),
        ("digest", "\u0660\u0660"),
        ("digest", "ab" * 5000),
        ("hash_value", "ab"),
        ("hash_value", "g" * 128),
        ("hash_value", "a" * 64),
        ("short_pubkey", ""),
        ("short_pubkey", "!!!!"),
        ("short_pubkey", "QUI"),
        ("short_pubkey", "QU I="),
        ("hostname", "a\x1b[31m"),
        ("hostname", "a\rb"),
        ("keyid", "\u202e"),
        ("expires", ""),
        ("expires", "-1"),
        ("expires", "1e9"),
        ("expires", "9" * 5000),
        ("expires", "²"),
    ],
)
def test_a_malformed_value_is_an_error(key: str, value: str) -> None:
    """An invalid value is reported with its key."""
    with pytest.raises(MetadataError, match=key):
        parse_metadata(joined(lines(CONTENT) | {key: value}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"no equals sign\n",
        joined(lines(CONTENT)).replace(b"\n", b"\r"),
        joined(lines(CONTENT)).replace(b"=", b" = "),
        joined(lines(CONTENT)).replace(b"\n", b"\r\r\n"),
        joined(lines(CONTENT)).replace(b"hostname=", b"hostname=\xff"),
    ],
)
def test_other_text_is_an_error(data: bytes) -> None:
    """Text without all keys and their values is refused."""
    with pytest.raises(MetadataError):
        parse_metadata(data)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Any input results in metadata or `MetadataError`."""
    with pytest.raises(MetadataError):
        parse_metadata(data)


@pytest.mark.parametrize("what", ["weak key", "not a key", "long key", "other key", "cut digest"])
def test_a_bad_key_or_signature_does_not_hold(what: str) -> None:
    """A signature is valid only with a sound key of the right kind."""
    written = lines(CONTENT)
    if what == "weak key":
        weak = rsa.generate_private_key(65537, 1024)
        public = weak.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        written["short_pubkey"] = base64.b64encode(public).decode()
    elif what == "not a key":
        written["short_pubkey"] = base64.b64encode(b"0123456789").decode()
    elif what == "long key":
        written["short_pubkey"] = base64.b64encode(
            base64.b64decode(written["short_pubkey"]) + b"x"
        ).decode()
    elif what == "other key":
        written["short_pubkey"] = lines(CONTENT, node("other"))["short_pubkey"]
    else:
        written["digest"] = written["digest"][:-2]
    assert not parse_metadata(joined(written)).is_signed(hashlib.sha512(CONTENT).digest())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("3600", 3600), ("1d", 86400), ("1h 7s", 3607), ("30min 20s", 1820)],
)
def test_ttl_is_seconds_or_a_duration(text: str, seconds: float) -> None:
    """A plain number means seconds."""
    assert parse_ttl(text) == seconds


@pytest.mark.fault("A11")
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+5",
        "9e9",
        "1.5",
        "²",
        "\u0663",
        "5 ",
        "x",
        "1y1",
        "9" * 5000,
        "101y",
        pytest.param("18446744073709551615", marks=pytest.mark.history(41)),
        pytest.param("18446744073709551616", marks=pytest.mark.history(41)),
        "99999999999999999999y",
    ],
)
def test_a_senseless_ttl_is_refused(text: str) -> None:
    """An invalid duration, or one longer than a hundred years, raises ValueError only."""
    with pytest.raises(ValueError):  # noqa: PT011 - the text is not shown to anybody
        parse_ttl(text)
