"""Authentication of other policy servers: TLS contexts, and a check before the first byte.

Rudder pins certificates: a peer must prove, in the handshake, that it holds the key of the very
certificate that is configured for it. Names, authorities and dates play no part in that.
"""

import codecs
import hmac
import os
import select
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import trio

from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.proxy import ProxyRoute, open_tunnel
from relayd.system.addresses import server_name
from relayd.system.shortage import words_of

Authentication = Literal["cert_pinning", "cert_validation", "dangerous_none"]

#: X509_V_FLAG_NO_CHECK_TIME (X509_VERIFY_PARAM_set_flags(3)), which `ssl` has no name for: a
#: pinned certificate is trusted however old it is.
_NO_CHECK_TIME: Final = 0x200000


def make_context(
    mode: Authentication, pins: Sequence[bytes], ca_path: Path | None = None
) -> ssl.SSLContext:
    """Make the TLS context for one peer: TLS 1.3 or later, HTTP/1.1.

    The environment is ignored, both `SSL_CERT_FILE` and `SSLKEYLOGFILE`.

    Args:
        mode: `cert_pinning` trusts the pins and nothing else; `cert_validation` trusts the
            authorities of `ca_path` or of the system, and checks the host name; `dangerous_none`
            checks nothing.
        pins: certificates of the peer, DER.
        ca_path: PEM file of authorities.

    Raises:
        PeerError: nothing is pinned, or the authorities cannot be loaded.
    """
    # Not create_default_context: it loads the system's authorities, and its strictness differs
    # between Python versions.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = mode == "cert_validation"
    context.verify_mode = ssl.CERT_NONE if mode == "dangerous_none" else ssl.CERT_REQUIRED
    if mode == "cert_pinning":
        _pin(context, pins)
    elif mode == "cert_validation":
        _load_authorities(context, ca_path)
    return context


def _pin(context: ssl.SSLContext, pins: Sequence[bytes]) -> None:
    if not pins:
        raise PeerError("no certificate is pinned for it", "operator", PeerStep.TRUST)
    # An agent's certificate is no authority, and one issued by an authority is pinned as a leaf,
    # so a chain may end at any pinned certificate.
    context.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    try:
        context.load_verify_locations(cadata=b"".join(pins))
    except ssl.SSLError as error:
        detail = f"its pinned certificate cannot be used: {error}"
        raise PeerError(detail, "operator", PeerStep.TRUST) from error


def _load_authorities(context: ssl.SSLContext, ca_path: Path | None) -> None:
    if ca_path is not None:
        places: tuple[Path | str, ...] = (ca_path,)
    else:
        # The compiled-in paths: load_default_certs would let the environment override them.
        paths = ssl.get_default_verify_paths()
        places = (paths.openssl_cafile, paths.openssl_capath)
    loaded = 0
    for place in map(Path, places):
        try:
            if place.is_dir():
                context.load_verify_locations(capath=place)
                loaded += 1
            elif place.exists() or ca_path is not None:
                _load_file(context, place)
                loaded += 1
        except OSError as error:
            detail = f"no certificate authorities: {words_of(error)}"
            raise PeerError(detail, "operator", PeerStep.TRUST, file=place) from error
    if not loaded:
        detail = "this system has no certificate authorities"
        raise PeerError(detail, "operator", PeerStep.TRUST)


def _load_file(context: ssl.SSLContext, path: Path) -> None:
    """Load a PEM file; OpenSSL does not see the first certificate behind a byte order mark."""
    with path.open("rb") as file:
        marked = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        text = file.read().decode("ascii", "ignore") if marked else ""
    if text:
        context.load_verify_locations(cadata=text)
    else:
        context.load_verify_locations(cafile=path)


#: tcp(7): a connection is probed after this many silent seconds, then at intervals, and is broken
#: after some probes without a reply, or once sent data has not been acknowledged for too long. A
#: peer that is gone is noticed without a deadline for its answers.
_TCP_OPTIONS: Final = (
    (trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE, 1),
    (trio.socket.IPPROTO_TCP, trio.socket.TCP_KEEPIDLE, 60),
    (trio.socket.IPPROTO_TCP, trio.socket.TCP_KEEPINTVL, 15),
    (trio.socket.IPPROTO_TCP, trio.socket.TCP_KEEPCNT, 4),
    (trio.socket.IPPROTO_TCP, trio.socket.TCP_USER_TIMEOUT, 300_000),
)

#: A write up to this size is held back until more is written or an answer is awaited.
_HEAD_SIZE: Final = 2048
#: Bytes until the head of an answer is complete, interim answers (1xx) included.
MAX_ANSWER_HEAD: Final = 128 * 1024
#: Bytes of framing (chunk headers, their extensions, trailers) in a body: so many at all, and so
#: many for each byte of content. A chunk of one byte has five more.
_FRAMING: Final = 256 * 1024
_FRAMING_PER_BYTE: Final = 16


#: Bytes read from a socket at once.
_RECEIVE: Final = 64 * 1024
#: The same for the usual answer to an upload: larger buffers take longer to make than to fill.
_ANSWER: Final = 4096


class WriteBrokenError(Exception):
    """The connection broke while a request was written; an answer may have come before."""


class _Tls(trio.abc.Stream):
    """TLS over a connection, for one task at a time.

    `trio.SSLStream` does the same for any transport and for two tasks at once, at twice the cost;
    and it does not show whether bytes beyond an answer were received.
    """

    def __init__(self, plain: trio.SocketStream, context: ssl.SSLContext, name: str | None) -> None:
        self._plain = plain
        self._socket = plain.socket
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def do_handshake(self) -> bytes | None:
        """Make the handshake and return the certificate of the peer, DER.

        Raises:
            trio.BrokenResourceError: it failed, for the reason in `__cause__`.
        """
        while True:
            done = True
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            except (ssl.SSLError, ssl.CertificateError) as error:
                raise trio.BrokenResourceError from error
            await self._flush()
            if done:
                return self._tls.getpeercert(binary_form=True)
            await self._fill()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; a checkpoint only if the socket does not take all of it at once."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise trio.BrokenResourceError from error
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the base class specifies."""
        await self._plain.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive; an end without a close_notify, which HTTP does not need, is an end."""
        size = max_bytes or _RECEIVE
        if not self.has_more():
            await self._fill(size)
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise trio.BrokenResourceError from error
            await self._flush()  # what TLS itself answers
            await self._fill(size)

    def has_more(self) -> bool:
        """Return whether bytes were received that `receive_some` did not return yet."""
        return self._incoming.pending > 0 or self._tls.pending() > 0

    async def _flush(self) -> None:
        if not self._outgoing.pending:
            return
        data = self._outgoing.read()
        try:
            sent = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise trio.BrokenResourceError from error
        if sent < len(data):
            await self._plain.send_all(memoryview(data)[sent:])

    async def _fill(self, size: int = _RECEIVE) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = os.read(self._socket.fileno(), size)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()
            return

    async def aclose(self) -> None:
        """Close without a close_notify."""
        self._socket.close()
        await trio.lowlevel.cancel_shielded_checkpoint()


class PeerStream:
    """A connection: first plain, then TLS once the peer's identity is verified."""

    def __init__(self, socket: trio.SocketStream, owner: "Network") -> None:
        self._socket = socket
        self._stream: trio.abc.Stream = socket
        self._owner = owner
        self._held = b""
        self._allowance = 0
        self._poll: select.poll | None = None
        owner.streams.add(self)

    def begin_body(self) -> None:
        """Note that the head of an answer was read."""
        self._allowance = max(self._allowance, 0) + _FRAMING

    def note_content(self, size: int) -> None:
        """Note that bytes of a body were read, framing not included."""
        self._allowance += _FRAMING_PER_BYTE * size

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Read at most so many bytes, b"" at the end; an answer that never gets on is given up.

        Args:
            max_bytes: at most so many.
            timeout: seconds to wait.

        Raises:
            PeerError: nothing can be read, or nothing came in time.
        """
        if self._allowance <= 0:
            detail = "its answer has too many interim answers or too much framing"
            raise PeerError(detail, "transient", PeerStep.ANSWER)
        try:
            with trio.fail_after(_seconds(timeout)):
                if self._held:
                    await self._send(b"")
                return await self.read_answer(max_bytes)
        except trio.TooSlowError:
            raise PeerError("it did not answer in time", "transient", PeerStep.ANSWER) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _broken(error) from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Write; a head is sent together with the start of its body.

        Raises:
            PeerError: the peer did not take it in time.
            WriteBrokenError: the connection broke.
        """
        if not buffer:
            return
        self._allowance = MAX_ANSWER_HEAD
        if not self._held and len(buffer) <= _HEAD_SIZE:
            self._held = buffer
            await trio.lowlevel.checkpoint()
            return
        try:
            with trio.fail_after(_seconds(timeout)):
                await self._send(buffer)
        except trio.TooSlowError:
            raise PeerError("it stopped accepting data", "transient", PeerStep.ANSWER) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WriteBrokenError(reason_of(error)) from None

    async def send_request(self, request: bytes) -> None:
        """Write a whole request; the caller sets a deadline.

        Raises:
            WriteBrokenError: the connection broke.
        """
        self._allowance = MAX_ANSWER_HEAD
        try:
            await self._stream.send_all(request)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WriteBrokenError(reason_of(error)) from None

    async def read_answer(self, max_bytes: int = _ANSWER) -> bytes:
        """Read some bytes of an answer; the caller sets a deadline.

        Raises:
            PeerError: the connection broke.
        """
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _broken(error) from None
        self._allowance -= len(data)
        return data

    @property
    def is_open(self) -> bool:
        """Whether it was not closed here."""
        return self._socket.socket.fileno() >= 0

    def is_quiet(self) -> bool:
        """Return whether the peer has sent nothing but answers that were read, and no end."""
        stream = self._stream
        if isinstance(stream, _Tls) and stream.has_more():
            return False
        if not self.is_open:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._socket.socket.fileno(), select.POLLIN)
        return not self._poll.poll(0)

    async def _send(self, data: bytes) -> None:
        data, self._held = self._held + data, b""
        await self._stream.send_all(data)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> "PeerStream":
        """Make the handshake and verify the peer; nothing may be written before.

        Raises:
            PeerError: the handshake failed, or the peer is another one. The connection is closed.
        """
        name = None if server_hostname is None else server_name(server_hostname)
        try:
            tls = _Tls(self._socket, ssl_context, name)
            with trio.fail_after(_seconds(timeout)):
                shown = await tls.do_handshake()
            self._owner.check(shown)
        except trio.TooSlowError:
            self.close_now()
            raise PeerError("the TLS handshake timed out", "transient", PeerStep.TLS) from None
        except trio.BrokenResourceError as error:
            self.close_now()
            raise _explain_handshake(error) from None
        except (ValueError, OverflowError) as error:  # a name that `ssl` does not take
            self.close_now()
            raise PeerError(f"no TLS: {reason_of(error)}", "operator", PeerStep.TLS) from None
        except BaseException:
            self.close_now()
            raise
        self._stream = tls
        return self

    async def aclose(self) -> None:
        """Close without a TLS close_notify, which HTTP does not need."""
        self.close_now()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def close_now(self) -> None:
        """Close the socket without waiting."""
        self._owner.streams.discard(self)
        self._socket.socket.close()


def _kept_alive(stream: trio.SocketStream) -> trio.SocketStream:
    for level, option, value in _TCP_OPTIONS:
        stream.setsockopt(level, option, value)
    return stream


class Network:
    """Makes the connections of one client.

    Attributes:
        streams: open connections.

    Args:
        pins: certificates, DER, one of which the peer must present; None to accept any that the
            TLS context accepts.
        route: which connections go through a proxy.
    """

    def __init__(self, pins: Iterable[bytes] | None, route: ProxyRoute) -> None:
        self._pins = None if pins is None else tuple(pins)
        self._route = route
        self.streams: set[PeerStream] = set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> PeerStream:
        """Connect, trying IPv4 and IPv6 addresses in parallel.

        Raises:
            PeerError: there is no connection within `timeout` seconds.
        """
        proxy = self._route.proxy_for(host)
        if proxy is None:
            return PeerStream(await _connect(host, port, timeout, "no connection"), self)
        words = f"no connection to proxy {proxy}"
        stream = await _connect(proxy.host, proxy.port, timeout, words)
        try:
            with trio.fail_after(_seconds(timeout)):
                await open_tunnel(proxy, stream, host, port)
        except trio.TooSlowError:
            detail = f"proxy {proxy} did not answer in time"
            raise PeerError(detail, "transient", PeerStep.CONNECT) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            detail = f"the connection to proxy {proxy} broke: {reason_of(error)}"
            raise PeerError(detail, "transient", PeerStep.CONNECT) from None
        return PeerStream(stream, self)

    def check(self, shown: bytes | None) -> None:
        """Reject a peer whose certificate is not one of the pinned ones.

        A chain that leads to a pinned certificate is not enough: otherwise anyone to whom the
        peer issues a certificate could pass for it.
        """
        if self._pins is None:
            return
        if not any(hmac.compare_digest(shown or b"", pin) for pin in self._pins):
            detail = "its certificate is not the pinned one"
            raise PeerError(detail, "operator", PeerStep.IDENTITY)

    def close_now(self) -> None:
        """Close all connections."""
        for stream in list(self.streams):
            stream.close_now()


async def _connect(
    host: str,
    port: int,
    timeout: float | None,  # noqa: ASYNC109 - given by the library
    words: str,
) -> trio.SocketStream:
    """Connect to one host; `words` begin the text of an error."""
    try:
        with trio.fail_after(_seconds(timeout)):
            return _kept_alive(await trio.open_tcp_stream(host, port))
    except trio.TooSlowError:
        raise PeerError(f"{words} in time", "transient", PeerStep.CONNECT) from None
    except OSError as error:
        detail = f"{words}: {reason_of(error)}"
        raise PeerError(detail, "transient", PeerStep.CONNECT) from None
    except (ValueError, OverflowError) as error:  # no name: UnicodeError; no port
        detail = f"{words}: {reason_of(error)}"
        raise PeerError(detail, "operator", PeerStep.CONNECT) from None


def _seconds(timeout: float | None) -> float:
    return float("inf") if timeout is None else timeout


def _explain_handshake(error: BaseException) -> PeerError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"its certificate is not the expected one: {cause.verify_message}"
            return PeerError(text, "operator", PeerStep.IDENTITY)
        if isinstance(cause, ssl.SSLError):
            kind: Literal["transient", "operator"] = (
                "transient" if isinstance(cause, ssl.SSLEOFError) else "operator"
            )
            text = f"the TLS handshake failed: {cause.reason or cause}"
            return PeerError(text, kind, PeerStep.TLS)
        cause = cause.__cause__ or cause.__context__
    return PeerError(f"the TLS handshake broke: {reason_of(error)}", "transient", PeerStep.TLS)


def _broken(error: Exception) -> PeerError:
    detail = f"the connection broke: {reason_of(error)}"
    return PeerError(detail, "transient", PeerStep.ANSWER)


def reason_of(error: BaseException) -> str:
    """Return the innermost reason of an exception, in one line; libraries wrap without a text."""
    if isinstance(error, BaseExceptionGroup):
        return reason_of(error.exceptions[0])
    cause = error.__cause__ or error.__context__
    if cause is not None and not isinstance(error, ssl.SSLError):
        return reason_of(cause)
    text = words_of(error) if isinstance(error, OSError) else str(error)
    return " ".join((text or type(error).__name__).split())[:200]
