"""The syntax of requests, received in any pieces."""

import itertools
from contextlib import suppress

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.api.server.limits import Limits
from relayd.api.server.strict import StrictConnection, check_head, check_unfinished
from tests.support.raw_http import CHUNKS, EXCESS, LEGAL, SMUGGLING, get, post

GOOD = {
    "get": get(),
    "get with many headers": get(*(b"X%d: y" % n for n in range(90))),
    "post": post(b"Content-Length: 5", rest=b"12345"),
    "chunked": post(b"Transfer-Encoding: Chunked", rest=b"5\r\n12345\r\n0\r\n\r\n"),
    "no space after colon": get(b"X:y"),
    "empty value": get(b"X:"),
    "bytes in a value": get(b"X: \xe9"),
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
}
ALL = {**GOOD, **SMUGGLING, **{name: data for name, (data, _) in (EXCESS | LEGAL).items()}} | {
    f"chunks: {name}": post(b"Transfer-Encoding: chunked", rest=data)
    for name, data in CHUNKS.items()
}


def verdict(pieces: list[bytes]) -> tuple[bytes, bytes, int]:
    """Target and body of the request, or the status that refuses it."""
    connection = StrictConnection(Limits())
    target, body = b"", b""
    for piece in filter(None, pieces):
        connection.receive_data(piece)
        try:
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    target = event.target
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return target, body, 200
        except h11.RemoteProtocolError as error:
            return b"", b"", error.error_status_hint
    return target, body, 0


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_an_ordinary_request_passes(data: bytes) -> None:
    """Requests of ordinary clients and proxies pass, including their bodies."""
    target, body, status = verdict([data])
    assert status == 200
    assert target in (b"/", b"/nope", b"/rudder/relay-api/1/system/info")
    assert body in (b"", b"12345")


@given(
    data=st.sampled_from(list(ALL.values())),
    cuts=st.lists(st.integers(0, 600), max_size=8, unique=True),
)
def test_the_verdict_does_not_depend_on_the_pieces(data: bytes, cuts: list[int]) -> None:
    """A request split anywhere is read or refused like an unsplit one."""
    data = data[:600] if len(data) > 20_000 else data
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[low:high] for low, high in itertools.pairwise(edges)]
    whole = verdict([data])
    if whole[2]:
        assert verdict(pieces) == whole


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """Any bytes are a request, a part of one, or refused with that error only."""
    for check in (check_head, check_unfinished):
        with suppress(h11.RemoteProtocolError):
            check(data + b"\r\n\r\n", Limits())
    assert verdict([data])[2] in (0, 200, 400, 414, 431, 501, 505)


@pytest.mark.fault("A5")
@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /" + b"a" * 8192, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 16384, 431),
        (b"GET / HTTP/3.0\r\n", 505),
        (b"GET / HTTP/1.1\r\nX: a\n", 400),
    ],
)
def test_a_bad_head_is_refused_before_its_end(start: bytes, status: int) -> None:
    """A head that can only be refused is refused before its end arrives."""
    with pytest.raises(h11.RemoteProtocolError) as caught:
        check_unfinished(start, Limits())
    assert caught.value.error_status_hint == status
