"""Conditional and range requests, as RFC 9110 defines them."""

import pytest
from werkzeug.datastructures import Headers

from relayd.api.conditional import Version, precondition, wanted_range

#: 2023-11-14T22:13:20Z.
VERSION = Version('"tag"', 1_700_000_000, 1000)
AT = "Tue, 14 Nov 2023 22:13:20 GMT"
BEFORE = "Tue, 14 Nov 2023 22:13:19 GMT"
AFTER = "Tue, 14 Nov 2023 22:13:21 GMT"


def test_last_modified_is_an_http_date() -> None:
    """The date has the only form that RFC 9110 allows servers to send."""
    assert VERSION.last_modified == AT


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"If-None-Match": '"tag"'}, 304),
        ({"If-None-Match": 'W/"tag"'}, 304),
        ({"If-None-Match": '"a", "tag"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": "tag"}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": AFTER}, 200),
        ({"If-Modified-Since": AT}, 304),
        ({"If-Modified-Since": AFTER}, 304),
        ({"If-Modified-Since": BEFORE}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Match": '"tag"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": 'W/"tag"'}, 412),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": '"tag"', "If-Unmodified-Since": BEFORE}, 200),
        ({"If-Unmodified-Since": AT}, 200),
        ({"If-Unmodified-Since": BEFORE}, 412),
        ({"If-Unmodified-Since": "never"}, 200),
        ({"If-Match": '"tag"', "If-None-Match": '"tag"'}, 304),
    ],
)
def test_preconditions(headers: dict[str, str], status: int) -> None:
    """Conditions are evaluated in the order of RFC 9110, 13.2.2."""
    assert precondition(Headers(headers), VERSION) == status


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-", range(1000)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=999-", range(999, 1000)),
        ("bytes=990-2000", range(990, 1000)),
        ("bytes=-10", range(990, 1000)),
        ("bytes=-2000", range(1000)),
        ("Bytes=1-2", range(1, 3)),
        ("bytes=20-10", None),
        ("bytes=1-2,4-5", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=\u0661-2", None),
        ("lines=1-2", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("", None),
    ],
)
def test_ranges(text: str, part: range | None) -> None:
    """A single range is served; anything else is ignored."""
    assert wanted_range(Headers({"Range": text}), VERSION) == part


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_ranges_without_a_byte(text: str) -> None:
    """A range beyond the end has no bytes."""
    part = wanted_range(Headers({"Range": text}), VERSION)
    assert part is not None
    assert not part


@pytest.mark.parametrize(
    ("condition", "served"),
    [('"tag"', True), (AT, True), ('W/"tag"', False), ('"other"', False), (AFTER, False)],
)
def test_a_range_of_another_version_is_ignored(condition: str, served: bool) -> None:
    """With `If-Range`, a part is sent only of exactly that version, else the whole file."""
    headers = Headers({"Range": "bytes=1-2", "If-Range": condition})
    assert (wanted_range(headers, VERSION) is not None) == served
