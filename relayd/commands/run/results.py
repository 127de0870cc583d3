"""What became of each node of a run, from its events."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

#: Events that end the run of a node.
VERDICTS: Final = ("exit", "unreachable", "hop_error")


@dataclass(slots=True)
class NodeResult:
    """The run of one node.

    Attributes:
        verdict: `ok`, `failed`, `killed`, `unreachable`, `relay_failed`, or `unknown`: there is no
            verdict, or one without an exit code.
        code: exit code, or minus the number of a signal; None if there is none.
        relay: node id of the policy server that reports it.
        seconds: from its start to its end; None if it has not begun.
        detail: what went wrong, "" if nothing did.
    """

    verdict: str = "unknown"
    code: int | None = None
    relay: str = ""
    seconds: float | None = None
    detail: str = "no verdict: relayd stopped answering"
    began: float | None = None


@dataclass
class Results:
    """All nodes of a run.

    Attributes:
        names: node id → host name, as far as it has one.
        me: node id of this policy server.
        nodes: by node id.
    """

    names: dict[str, str] = field(default_factory=dict)
    me: str = ""
    nodes: dict[str, NodeResult] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        """Note one event."""
        kind, node = event.get("event"), event.get("node")
        if not isinstance(node, str):
            return
        if kind == "node":
            self.me = self.me or node
            self.names[node] = str(event.get("hostname") or node)
        elif kind in {"queued", "started"}:
            result = self.nodes.setdefault(node, NodeResult())
            result.relay = str(event.get("relay", ""))
            result.began = event["at"]
        elif kind in VERDICTS:
            _judge(self.nodes.setdefault(node, NodeResult()), event)

    def name(self, node_id: str | None) -> str:
        """Return what to call a node."""
        return "" if node_id is None else self.names.get(node_id, node_id)

    @property
    def verdicts(self) -> Counter[str]:
        """Number of nodes by verdict."""
        return Counter(result.verdict for result in self.nodes.values())


def _judge(result: NodeResult, event: dict[str, Any]) -> None:
    """Take over the verdict that an event has."""
    result.relay = str(event.get("relay", ""))
    result.detail = str(event.get("detail", ""))
    if event["event"] != "exit":
        result.verdict = "unreachable" if event["event"] == "unreachable" else "relay_failed"
        return
    if result.began is not None:
        result.seconds = event["at"] - result.began
    code = event.get("code")
    if isinstance(code, int):
        result.code = code
        result.verdict = "ok" if code == 0 else "failed" if code > 0 else "killed"
