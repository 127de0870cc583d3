"""The overview: what `relayd status --json` and `GET /status` of the control socket show.

Points in time are Unix times, in JSON RFC 3339 in UTC; other times are seconds, sizes bytes. None
stands for a value that is not known.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

#: `keeping_up`, `behind` (files wait, the output takes them), `waiting` (for the output, or for the
#: nodes list), `silent` (nothing arrives any more), `paused`, `not_running`; `unknown` if a relayd
#: runs that cannot be asked.
State = Literal["keeping_up", "behind", "waiting", "silent", "paused", "not_running", "unknown"]

#: What can be paused: the pipelines by what they process.
Kind = Literal["reporting", "inventories"]
#: What the files are called.
KIND_NAMES: Final[Mapping[Kind, str]] = {"reporting": "run logs", "inventories": "inventories"}


#: What a server is in its fleet.
Role = Literal["root", "relay"]


def named(kinds: Iterable[Kind]) -> str:
    """Return what some kinds of files are called."""
    return " and ".join(KIND_NAMES[kind] for kind in kinds)


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the overview."""


class Flow(_Part, frozen=True, kw_only=True):
    """Run logs a minute, on average of the last minutes.

    Attributes:
        arrived: taken up for the first time.
        done: stored or forwarded.
        refused: moved to `failed`.
        usual: that arrive a minute at other times; None before enough is known.
        last_arrival: when the last run log arrived; None before the first.
    """

    arrived: float = 0.0
    done: float = 0.0
    refused: float = 0.0
    usual: float | None = None
    last_arrival: float | None = None


class Backlog(_Part, frozen=True, kw_only=True):
    """Files that wait in the spools.

    Attributes:
        files: how many.
        oldest_s: for how long the oldest waits.
        drained_per_s: how many leave the spool each second; None while they wait for an output,
            the nodes list or an operator, or if none leave.
        drained_in_s: when there are none at this rate, if no further ones arrive.
        grows: whether there are more and more.
    """

    files: int = 0
    oldest_s: float | None = None
    drained_per_s: float | None = None
    drained_in_s: float | None = None
    grows: bool = False


class Lag(_Part, frozen=True, kw_only=True):
    """Seconds that the last run logs took.

    Attributes:
        here: from their arrival to the end of their output, median.
        here_p99: the same, which 99 % do not exceed.
        whole: from the start of the agent's run, median.
        whole_p99: the same, which 99 % do not exceed.
    """

    here: float | None = None
    here_p99: float | None = None
    whole: float | None = None
    whole_p99: float | None = None


class OutputState(_Part, frozen=True, kw_only=True):
    """An output.

    Attributes:
        name: "database" or "upstream".
        server: its address.
        role: of a database server, "primary" or "standby".
        up: whether it takes files, as far as is known.
        since: when that began to be so.
        trouble: why it does not.
        last_done: when it took the last file.
    """

    name: str
    server: str = ""
    role: str | None = None
    up: bool | None = None
    since: float | None = None
    trouble: str | None = None
    last_done: float | None = None


class NodesState(_Part, frozen=True, kw_only=True):
    """The nodes below this server.

    Attributes:
        known: in the nodes list, without this server.
        silent: of which no run log has come for `silent_after_s`.
        silent_after_s: seconds.
        observed_s: for how long arrivals are known; silence cannot be longer.
        trouble: why the nodes list could not be loaded.
    """

    known: int = 0
    silent: int | None = None
    silent_after_s: float = 900.0
    observed_s: float = 0.0
    trouble: str | None = None


class FailedState(_Part, frozen=True, kw_only=True):
    """Refused files.

    Attributes:
        files: how many lie in the directories `failed`.
        bytes: their size.
        reasons: how many for each reason, the most frequent first.
    """

    files: int = 0
    bytes: int = 0
    reasons: dict[str, int] = {}


class Pause(_Part, frozen=True, kw_only=True):
    """An operator has stopped the taking of files.

    Attributes:
        kinds: of what.
        by: the user.
        since: when that was.
        until: when it ends by itself; None if it does not.
    """

    kinds: tuple[Kind, ...]
    by: str
    since: float
    until: float | None = None


class Warned(_Part, frozen=True, kw_only=True):
    """Warnings and errors in the log since the start.

    Attributes:
        count: how many.
        last: the last ones, oldest first.
    """

    count: int = 0
    last: tuple["LoggedLine", ...] = ()


class LoggedLine(_Part, frozen=True, kw_only=True):
    """One line of the log.

    Attributes:
        at: when.
        level: "warning" or "error".
        component: of relayd.
        text: event and fields, printable, at most some hundred characters.
    """

    at: float
    level: str
    component: str
    text: str


class Overview(_Part, frozen=True, kw_only=True):
    """The whole.

    Attributes:
        at: when it was made.
        state: see `State`.
        sentence: the same in words.
        advice: the next command, or "".
        version: of relayd.
        role: of this server in its fleet.
        node_id: of this server.
        hostname: of this server, as in the nodes list, else its id.
        pid: of the daemon.
        started: when it started.
        kinds: of files that this relayd processes.
        flow: None if relayd cannot be asked, like `lag` and `warned`.
        backlog: what waits.
        lag: how long run logs take.
        outputs: in use.
        nodes: below this server.
        failed: refused files.
        held: files that operators have put on hold.
        nodes_on_hold: nodes of which all that arrives is put on hold.
        pause: None if nothing is paused.
        warned: what the log says.
    """

    at: float
    state: State = "not_running"
    sentence: str = ""
    advice: str = ""
    version: str
    role: Role
    node_id: str
    hostname: str = ""
    pid: int | None = None
    started: float | None = None
    kinds: tuple[Kind, ...] = ()
    flow: Flow | None = None
    backlog: Backlog = Backlog()
    lag: Lag | None = None
    outputs: tuple[OutputState, ...] = ()
    nodes: NodesState = NodesState()
    failed: FailedState = FailedState()
    held: int = 0
    nodes_on_hold: int = 0
    pause: Pause | None = None
    warned: Warned | None = None
