"""Raw bytes that no well-behaved client sends, by what is odd about them."""

_SWITCH = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
_KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
_INFO = b"/rudder/relay-api/1/system/info"


def get(*lines: bytes, target: bytes = _INFO, rest: bytes = b"") -> bytes:
    """Return a GET with further header lines, and what follows it."""
    head = b"\r\n".join((b"GET " + target + b" HTTP/1.1", b"Host: relay", *lines))
    return head + b"\r\n\r\n" + rest


def post(*lines: bytes, rest: bytes = b"") -> bytes:
    """Return a POST with further header lines, and what follows it."""
    head = b"\r\n".join((b"POST /nope HTTP/1.1", b"Host: relay", *lines))
    return head + b"\r\n\r\n" + rest


_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: relay\r\n\r\n"
_LENGTH, _CHUNKED = b"Content-Length: 5", b"Transfer-Encoding: chunked"

#: Two readers could disagree where these end: each is answered by 400 and the end.
SMUGGLING = {
    "length and chunked": post(_LENGTH, _CHUNKED, rest=b"0\r\n\r\n" + _SMUGGLED),
    "chunked and length": post(_CHUNKED, _LENGTH, rest=b"0\r\n\r\n" + _SMUGGLED),
    "two lengths": post(_LENGTH, b"Content-Length: 6", rest=b"123456" + _SMUGGLED),
    "same length twice": post(_LENGTH, _LENGTH, rest=b"12345" + _SMUGGLED),
    "length list": post(b"Content-Length: 5, 5", rest=b"12345" + _SMUGGLED),
    "length with sign": post(b"Content-Length: +5", rest=b"12345" + _SMUGGLED),
    "negative length": post(b"Content-Length: -1", rest=_SMUGGLED),
    "hexadecimal length": post(b"Content-Length: 0x5", rest=b"12345" + _SMUGGLED),
    "length with space": post(b"Content-Length: 5 5", rest=b"12345" + _SMUGGLED),
    "length with underscore": post(b"Content-Length: 1_0", rest=b"1234567890" + _SMUGGLED),
    "unicode digits": post("Content-Length: \u0665".encode(), rest=b"12345" + _SMUGGLED),
    "empty length": post(b"Content-Length:", rest=_SMUGGLED),
    "huge length": post(b"Content-Length: 99999999999999999999", rest=_SMUGGLED),
    "x-chunked": post(b"Transfer-Encoding: xchunked", rest=b"0\r\n\r\n" + _SMUGGLED),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity", rest=b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity", rest=_SMUGGLED),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", rest=b"0\r\n\r\n"),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"', rest=b"0\r\n\r\n"),
    "chunked twice": post(_CHUNKED, _CHUNKED, rest=b"0\r\n\r\n" + _SMUGGLED),
    "vertical tab before chunked": post(b"Transfer-Encoding: \x0bchunked", rest=b"0\r\n\r\n"),
    "empty coding": post(b"Transfer-Encoding:", rest=_SMUGGLED),
    "space before colon": post(b"Transfer-Encoding : chunked", rest=b"0\r\n\r\n"),
    "tab before colon": post(b"Content-Length\t: 5", rest=b"12345"),
    "space before name": post(b"X: y", b" Content-Length: 5", rest=b"12345"),
    "folded header": get(b"X: a", b"\tb"),
    "folded coding": post(b"Transfer-Encoding:", b" chunked", rest=b"0\r\n\r\n"),
    "bare LF in head": b"POST /nope HTTP/1.1\nHost: relay\n\n" + _SMUGGLED,
    "bare LF before a length": post(b"X: y\nContent-Length: 5", rest=b"12345"),
    "bare LF ends the head": b"POST /nope HTTP/1.1\r\nHost: relay\r\n\n" + _SMUGGLED,
    "bare CR in a header": get(b"X: a\rContent-Length: 5"),
    "NUL in a header": get(b"X: a\x00b"),
    "NUL in a name": get(b"X\x00: a"),
    "no colon": get(b"Content-Length 5"),
    "empty name": get(b": 5"),
    "chunked in HTTP/1.0": post(_CHUNKED, rest=b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "two hosts": get(b"Host: other"),
    "no host": b"GET /metrics HTTP/1.1\r\n\r\n",
    "two spaces": b"GET  /metrics HTTP/1.1\r\nHost: relay\r\n\r\n",
    "tab as space": b"GET\t/metrics\tHTTP/1.1\r\nHost: relay\r\n\r\n",
    "space in the target": get(target=b"/a b"),
    "space at the end": b"GET /metrics HTTP/1.1 \r\nHost: relay\r\n\r\n",
    "lower-case version": b"GET /metrics http/1.1\r\nHost: relay\r\n\r\n",
}

#: The head is fine, where a chunk ends is not clear.
CHUNKS = {
    "endless chunk extension": b"5;a=" + b"b" * 300 + b"\r\n12345\r\n0\r\n\r\n",
    "chunk extension without name": b"5;=b\r\n12345\r\n0\r\n\r\n",
    "open quote in a chunk extension": b'5;a="b\r\n12345\r\n0\r\n\r\n',
    "chunk extension with LF": b"5;a\n\r\n12345\r\n0\r\n\r\n",
    "space after the size": b"5 \r\n12345\r\n0\r\n\r\n",
    "hexadecimal prefix": b"0x5\r\n12345\r\n0\r\n\r\n",
    "sign": b"+5\r\n12345\r\n0\r\n\r\n",
    "no size": b"\r\n12345\r\n0\r\n\r\n",
    "bare LF after the size": b"5\n12345\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\n12345\n0\r\n\r\n",
    "more data than said": b"5\r\n123456789\r\n0\r\n\r\n",
    "huge size": b"fffffffffffffffff\r\n",
    "endless size": b"0" * 100,
    "bare LF at the end": b"5\r\n12345\r\n0\r\n\n",
    "malformed trailer": b"5\r\n12345\r\n0\r\nX y\r\n\r\n",
    "bare LF after a trailer": b"5\r\n12345\r\n0\r\nX: y\n\r\n",
    "coding as trailer": b"5\r\n12345\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "folded trailer": b"5\r\n12345\r\n0\r\nX: y\r\n z\r\n\r\n",
    "length as trailer": b"5\r\n12345\r\n0\r\nContent-Length: 9\r\n\r\n",
}

#: Too much of something, or another protocol, with the status that says so.
EXCESS = {
    "17 KiB header": (get(b"X: " + b"a" * 17 * 1024), 431),
    "60 KiB of headers in one piece": (
        get(*(b"X%d: %s" % (n, b"a" * 990) for n in range(60))),
        431,
    ),
    "endless header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 80_000, 431),
    "300 headers": (get(*(b"X%d: y" % n for n in range(300))), 431),
    "64 KiB URL": (get(target=b"/" + b"a" * 65_536), 414),
    "endless URL": (b"GET /" + b"a" * 80_000, 414),
    "HTTP/0.9": (b"GET /metrics\r\n\r\n", 400),
    "HTTP/0.9 without an end": (b"GET /metrics\r\n", 400),
    "HTTP/2 preface": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        505,
    ),
    "HTTP/2.0": (b"GET /metrics HTTP/2.0\r\nHost: relay\r\n\r\n", 505),
    "HTTP/9.9": (b"GET /metrics HTTP/9.9\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, 400),
    "CONNECT": (b"CONNECT relay:443 HTTP/1.1\r\nHost: relay\r\n\r\n", 501),
    "asterisk for a file": (get(target=b"*"), 400),
    "absolute form without a host": (get(target=b"http:///metrics"), 400),
    "absolute form with a user": (get(target=b"http://user@relay/metrics"), 400),
    "absolute form of another scheme": (get(target=b"ftp://relay/metrics"), 400),
    "absolute form, no Host": (b"GET http://relay/metrics HTTP/1.1\r\n\r\n", 400),
    "query only": (get(target=b"?x"), 400),
    "authority form": (get(target=b"relay:443"), 400),
    "long method": (b"A" * 40 + b" / HTTP/1.1\r\nHost: relay\r\n\r\n", 400),
    "nothing but LF": (b"\n\n\n\n", 400),
}

#: Rare, but legal (RFC 9112): what each is answered with.
LEGAL = {
    "absolute form": (get(target=b"http://relay" + _INFO), 200),
    "absolute form with a port": (get(target=b"http://[::1]:3030" + _INFO + b"?a=b"), 200),
    "absolute form, another case": (get(target=b"HTTPS://relay" + _INFO), 200),
    "absolute form of another host": (get(target=b"http://elsewhere/metrics"), 200),
    "absolute form without a path": (get(target=b"http://relay"), 404),
    "absolute form with a query only": (get(target=b"http://relay?/metrics"), 404),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: relay\r\n\r\n", 404),
    "empty lines first": (b"\r\n\r\n" + get(), 200),
    "lower-case method": (b"get /metrics HTTP/1.1\r\nHost: relay\r\n\r\n", 404),
    "unusual method": (b"M-SEARCH /metrics HTTP/1.1\r\nHost: relay\r\n\r\n", 404),
    "HTTP/1.2": (b"GET /metrics HTTP/1.2\r\nHost: relay\r\n\r\n", 200),
    "HTTP/1.0 without Host": (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
    "byte over 127 in the target": (get(target=b"/\xff\xfe"), 404),
    "body of a GET": (get(_LENGTH, rest=b"12345"), 200),
    "chunk extensions": (
        post(_CHUNKED, rest=b'5;a=b\r\n12345\r\n1 ; x ; y = "q;\\""\r\n6\r\n0;end\r\n\r\n'),
        404,
    ),
    "trailers": (post(_CHUNKED, rest=b"5\r\n12345\r\n0\r\nX: y\r\nZ:\r\n\r\n"), 404),
}

#: Fine or odd, at least one of them ended a stock server: all that is asked is that we live.
ODD = {
    "websocket": get(_SWITCH + _KEY[:-2]),
    "websocket protocol byte": get(_SWITCH + _KEY + b"Sec-WebSocket-Protocol: \xff"),
    "websocket extension byte": get(_SWITCH + _KEY + b"Sec-WebSocket-Extensions: \xe9"),
    "websocket connection byte": get(
        b"Connection: Upgrade, \xff", b"Upgrade: websocket", _KEY[:-2]
    ),
    "websocket and data": get(_SWITCH + _KEY[:-2], rest=b"\x81\x85\x00\x00\x00\x00hello"),
    "websocket without key": get(_SWITCH[:-2]),
    "websocket by POST": post(_SWITCH + _KEY + _LENGTH, rest=b"12345"),
    "h2c": get(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
    ),
    "h2c, bad settings": get(b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: !!!"),
    "h2c, no settings": get(b"Connection: Upgrade", b"Upgrade: h2c"),
    "h2c and data": get(b"Connection: Upgrade", b"Upgrade: h2c", rest=b"PRI * HTTP/2.0\r\n\r\n"),
    "unknown upgrade": get(b"Connection: Upgrade", b"Upgrade: \xff\xfe"),
    "expectation": post(b"Expect: 100-continue", b"Content-Length: 1000000"),
    "other expectation": post(b"Expect: wonders", _LENGTH, rest=b"12345"),
    "cut body": post(b"Content-Length: 1000", rest=b"1"),
    "cut chunk": post(_CHUNKED, rest=b"ff\r\n1"),
    "data after an answer": post(b"Content-Length: 3000000", rest=b"x" * 300_000),
    "data after the request": get(rest=b"garbage\r\n\r\n"),
    "many requests": get() * 50,
    "close, then more": get(b"Connection: close", rest=get() * 5),
    "host with space": b"GET /metrics HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with bracket": b"GET /metrics HTTP/1.1\r\nHost: [\r\n\r\n",
    "host with bytes": b"GET /metrics HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "host with bad port": b"GET /metrics HTTP/1.1\r\nHost: relay:99999999\r\n\r\n",
    "host that is no name": b"GET /metrics HTTP/1.1\r\nHost: " + b"a" * 64 + b"..b\r\n\r\n",
    "empty host": b"GET /metrics HTTP/1.1\r\nHost:\r\n\r\n",
    "HTTP/1.0 without host": b"GET /metrics HTTP/1.0\r\n\r\n",
    "HTTP/1.0 keep-alive": b"GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "HTTP/1.0 body without length": b"POST /nope HTTP/1.0\r\n\r\n12345",
    "latin header": get(b"X: \xe9\xff"),
    "cookie bytes": get(b"Cookie: \xff=\xfe; ;;=;"),
    "bad form type": post(
        b"Content-Type: multipart/form-data; boundary=\xff", _LENGTH, rest=b"12345"
    ),
    "bad charset": post(b"Content-Type: text/plain; charset=nope", _LENGTH, rest=b"12345"),
    "bad range": get(b"Range: bytes=a-b", b"If-Range: x", b"If-Modified-Since: never"),
    "bad authorization": get(b"Authorization: Basic !!!", b"Proxy-Authorization: \xff"),
    "percent without digits": get(target=b"/%zz%"),
    "percent NUL": get(target=b"/%00%0a%0d"),
    "overlong UTF-8": get(target=b"/%c0%ae%c0%ae/"),
    "long query": get(target=_INFO + b"?" + b"a=b&" * 2000),
    "query of odd bytes": get(target=_INFO + b"?%ff=%fe&&&===&[]"),
    "forwarded": get(
        b"X-Forwarded-For: \xff, ::::", b"X-Forwarded-Proto: gopher", b"Forwarded: ;;"
    ),
    "nothing": b"",
    "half a head": b"GET /metrics HTTP/1.1\r\nHo",
}
