"""TLS of the front door: the context for new connections, and the node behind a certificate.

Trust is by pinning. The certificates of the nodes are the trust anchors, so OpenSSL lets a client
in only with one of them, with one that they have signed, or without any. Comparing the whole
certificate rules out the second kind. Dates do not matter, as everywhere in relayd.
"""

import hashlib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from relayd.errors import StartError, start_error
from relayd.fleet.formats import in_small_steps, pem_blocks
from relayd.fleet.nodes import Nodes
from relayd.runlog.signature.certificates import read_certificate

#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the module `ssl` does not name.
_NO_CHECK_TIME: Final = 0x200000
#: Name of HTTP/2 in a handshake (RFC 9113, 3.1).
HTTP_2: Final = "h2"


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files with the identity of this server, and what it offers.

    Attributes:
        certificate: PEM, possibly with others above it.
        key: PEM, without a passphrase.
        http2: whether clients may choose HTTP/2.
    """

    certificate: Path
    key: Path
    http2: bool = True


@dataclass(frozen=True, slots=True)
class Trusted:
    """What new connections use.

    Attributes:
        context: for their handshake.
        nodes: node ids by the SHA-256 of their certificates.
        identity: a digest of this server's certificate and key.
    """

    context: ssl.SSLContext
    nodes: Mapping[bytes, str]
    identity: bytes


def digest_of(certificate: bytes) -> bytes:
    """Return the SHA-256 of a certificate, DER, by which `Trusted.nodes` has its node."""
    return hashlib.sha256(certificate).digest()


def build_context(files: KeyFiles) -> ssl.SSLContext:
    """Return a context that trusts no client yet. Blocks.

    Raises:
        StartError: certificate or key cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    context.num_tickets = 0  # a session would outlive the certificate that it began with
    context.set_alpn_protocols([HTTP_2, "http/1.1"] if files.http2 else ["http/1.1"])
    for path in (files.certificate, files.key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise start_error(f"cannot read {path}", error, file=path) from error
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise StartError(
            f"certificate {files.certificate} and key {files.key} cannot be used",
            reason=_why(error),
        ) from error
    return context


def _why(error: OSError | ValueError) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    return "not PEM, or the key has a passphrase" if isinstance(error, ssl.SSLError) else reason


def build_trusted(
    files: KeyFiles, certificates: Path, nodes: Nodes, previous: Trusted | None = None
) -> Trusted:
    """Return the context that trusts the nodes that report to this server. Blocks.

    Args:
        files: identity of this server.
        certificates: PEM certificates of nodes; a missing file counts as empty.
        nodes: the nodes list.
        previous: is returned again if nothing has changed, because OpenSSL needs a time for the
            certificates that grows with the square of their number.

    Raises:
        StartError: as of `build_context`, or the certificates cannot be read.
    """
    context = build_context(files)
    try:
        identity = _identity(files)
        known = {digest_of(der): node_id for node_id, der in _certificates(certificates, nodes)}
        if previous is not None and (previous.identity, previous.nodes) == (identity, known):
            return previous
        # One at a time: OpenSSL does not release the interpreter lock while it adds them.
        for _, der in _certificates(certificates, nodes):
            with suppress(ssl.SSLError):  # its node cannot connect with it, all others can
                context.load_verify_locations(cadata=der)
    except (OSError, ValueError) as error:
        problem = f"cannot read {certificates}"
        raise StartError(problem, file=certificates, reason=str(error)) from error
    return Trusted(context, known, identity)


def _identity(files: KeyFiles) -> bytes:
    """Return a digest of certificate and key, which were readable a moment ago."""
    content = b"".join(path.read_bytes() for path in (files.certificate, files.key))
    return hashlib.sha256(content).digest()


def _certificates(path: Path, nodes: Nodes) -> Iterator[tuple[str, bytes]]:
    """Yield node and certificate, DER, of the nodes that report to this server."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        yield from in_small_steps(_of_neighbours(pem_blocks(file), nodes))


def _of_neighbours(
    blocks: Iterator[tuple[int, bytes | str]], nodes: Nodes
) -> Iterator[tuple[str, bytes]]:
    """Yield node and certificate, DER; the load of the nodes has reported what is skipped here."""
    for _, block in blocks:
        if isinstance(block, str):
            continue
        try:
            node_id = read_certificate(block)[0]
        except ValueError:
            continue
        if node_id is not None and nodes.is_neighbour(node_id):
            yield node_id, block


class TlsStream(trio.abc.HalfCloseableStream):
    """The server's side of a TLS connection."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        # As HTTPS has it, neither side waits for the other's goodbye.
        self._tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)

    async def do_handshake(self) -> bytes | None:
        """Do the handshake; return the client's certificate, DER, None without one.

        Raises:
            trio.BrokenResourceError: the client does not speak TLS 1.3, has an unknown certificate,
                or has disconnected.
        """
        await self._tls.do_handshake()
        certificate = self._tls.getpeercert(binary_form=True)
        assert certificate is None or isinstance(certificate, bytes)
        return certificate

    def speaks_http2(self) -> bool:
        """Return whether the client has chosen HTTP/2 in its handshake."""
        return bool(self._tls.selected_alpn_protocol() == HTTP_2)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive as from any stream."""
        return await self._tls.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send as to any stream."""
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as for any stream."""
        await self._tls.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Do nothing: only the end of the whole connection is announced, by `aclose`."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Announce the end and close the connection."""
        await self._tls.aclose()
