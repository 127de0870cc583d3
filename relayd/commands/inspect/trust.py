"""Trusted certificates that do not come from a configuration."""

from collections.abc import Sequence
from pathlib import Path

from relayd.errors import NodesError
from relayd.fleet.formats import pem_blocks
from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature.certificates import read_certificate
from relayd.system.shortage import words_of


class GivenCertificates:
    """Certificates in place of the nodes list; implements `KnownNodes`. Every node is known.

    Args:
        certificates: each with its node id; a certificate without one is trusted for every node.
    """

    def __init__(self, certificates: Sequence[tuple[str | None, NodeCertificate]]) -> None:
        self._certificates = certificates

    def get(self, node_id: str) -> object | None:
        """Return the node id: there is no nodes list that could lack it."""
        return node_id

    def certificates(self, node_id: str) -> tuple[NodeCertificate, ...]:
        """Return the certificates of a node, including those without a node id."""
        return tuple(
            certificate for owner, certificate in self._certificates if owner in {None, node_id}
        )

    def trust_token(self, node_id: str) -> str:
        """Return an empty token: it is only needed to retry refused files."""
        del node_id
        return ""


def read_given(path: Path) -> tuple[GivenCertificates, list[str]]:
    """Read a PEM file of certificates to trust.

    Returns:
        The certificates, and one line for each that was skipped.

    Raises:
        NodesError: the file cannot be read or is cut off.
    """
    certificates: list[tuple[str | None, NodeCertificate]] = []
    skipped: list[str] = []
    try:
        with path.open("rb") as file:
            for line, block in pem_blocks(file):
                if isinstance(block, str):
                    skipped.append(f"{path}: line {line}: certificate skipped: {block}")
                    continue
                try:
                    owner, certificate, _validity = read_certificate(block)
                except ValueError as error:
                    skipped.append(f"{path}: line {line}: certificate skipped: {error}")
                else:
                    certificates.append((owner, certificate))
    except OSError as error:
        raise NodesError(f"cannot be read: {words_of(error)}", file=path) from error
    except ValueError as error:
        raise NodesError(str(error), file=path) from error
    return GivenCertificates(certificates), skipped
