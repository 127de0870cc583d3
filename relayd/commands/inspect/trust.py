"""Whom an inspection believes: the nodes of a configuration, or certificates given by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from relayd.errors import NodesError, Reason, Refused
from relayd.fleet.formats import pem_blocks
from relayd.fleet.nodes import Nodes
from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature.certificates import read_certificate
from relayd.system.printable import printable


class Trust(Protocol):
    """Tells which certificates a node may sign with."""

    def certificates(self, node_id: str | None) -> Sequence[NodeCertificate] | Refused:
        """Return the certificates of a node, or why a run log of it is refused.

        Args:
            node_id: None when the name of the file does not tell it.
        """


class ConfiguredTrust:
    """The nodes list and the certificates that the daemon would use."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def certificates(self, node_id: str | None) -> Sequence[NodeCertificate] | Refused:
        """Return a known node's certificates."""
        if node_id is None:
            return Refused(Reason.UNKNOWN_NODE, "the name does not tell the node")
        if self._nodes.get(node_id) is None:
            return Refused(
                Reason.UNKNOWN_NODE, f"{printable(node_id, 80)} is not in the nodes list"
            )
        return self._nodes.certificates(node_id) or Refused(
            Reason.NO_CERTIFICATE, f"node {printable(node_id, 80)} has no certificate"
        )


class GivenTrust:
    """Certificates of a PEM file; one without a UID speaks for every node."""

    def __init__(self, certificates: Sequence[tuple[str | None, NodeCertificate]]) -> None:
        self._certificates = certificates

    def certificates(self, node_id: str | None) -> Sequence[NodeCertificate] | Refused:
        """Return the certificates of a node, or all of them for a node that is not known."""
        fitting = [
            certificate
            for owner, certificate in self._certificates
            if node_id is None or owner in {None, node_id}
        ]
        return fitting or Refused(
            Reason.NO_CERTIFICATE, f"no certificate for node {printable(node_id or '', 80)}"
        )


class NoTrust:
    """Neither a configuration nor certificates: a signature can only be shown."""

    def certificates(self, node_id: str | None) -> Sequence[NodeCertificate] | Refused:
        """Refuses."""
        del node_id
        return Refused(Reason.NO_CERTIFICATE, "no certificates to check with: give -c or --certs")


def read_given(path: Path) -> tuple[GivenTrust, list[str]]:
    """Read a PEM file of certificates to trust.

    Returns:
        The trust, and what was skipped, one line each.

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
        raise NodesError(f"cannot be read: {error.strerror}", file=path) from error
    except ValueError as error:
        raise NodesError(str(error), file=path) from error
    return GivenTrust(certificates), skipped
