"""What the name of a run-log file decides."""

import pytest

from relayd.errors import Reason, Refused
from relayd.fleet.admission import Admitted, Origin, admit
from tests.support.pipeline import make_nodes, name_of


def test_file_of_a_known_node_is_admitted() -> None:
    """Its name gives node, date, archive and a trust token; the nodes give its keys."""
    nodes = make_nodes("node1", "node2")
    admission = admit(f"{name_of(7)}.gz", nodes)
    token = nodes.trust_token("node1")
    assert admission.decision == Admitted("gz", nodes.certificates("node1"))
    assert admission.origin == Origin("node1", "2026-03-01T00:07:00+00:00", token)
    assert token != nodes.trust_token("node2")


@pytest.mark.parametrize(
    ("name", "reason", "node_id"),
    [
        ("bob.log", Reason.BAD_NAME, None),
        (name_of(0, "stranger"), Reason.UNKNOWN_NODE, "stranger"),
        (name_of(0, "bare"), Reason.NO_CERTIFICATE, "bare"),
    ],
)
def test_other_files_are_refused(name: str, reason: Reason, node_id: str | None) -> None:
    """Each with its reason; node and date are kept where the name gives them."""
    admission = admit(name, make_nodes("node1", others=["bare"]))
    assert isinstance(admission.decision, Refused)
    assert admission.decision.reason is reason
    assert (admission.origin and admission.origin.node_id) == node_id
