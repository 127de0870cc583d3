"""The request for a run, parsed from a client's form; pure functions only.

The parameters are those of Rudder's relay API: `asynchronous`, `keep_output`, `conditions` (or
`classes`, its old name) and `nodes`. Others are ignored.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from relayd.errors import RelaydError
from relayd.system.printable import printable

#: Characters of one condition.
MAX_CONDITION: Final = 1024
#: Bytes of all conditions: they become one argument of a command.
MAX_CONDITIONS: Final = 100_000
#: Fields of a form. The API knows five, and clients may send others; parsing these takes 10 ms.
MAX_FIELDS: Final = 10_000

_CONDITION: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_]*", re.ASCII)
_SHOULD_MATCH: Final = "should match ^[a-zA-Z0-9][a-zA-Z0-9_]*$"
#: Characters of an invalid value that the error message repeats.
_SHOWN: Final = 60
_BOOLEANS: Final = {"true": True, "false": False}


class RequestError(RelaydError):
    """A parameter is not valid; the text is for the client."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The request for one remote run.

    Attributes:
        nodes: the node ids, each once, known or not; None for all nodes.
        conditions: as given, each valid.
        asynchronous: whether output is sent as it is printed, instead of at the end.
        keep_output: whether output is sent at all.
        events: whether the answer consists of events instead of plain output.
        hops: number of relays that have passed the request on.
    """

    nodes: tuple[str, ...] | None
    conditions: tuple[str, ...] = ()
    asynchronous: bool = False
    keep_output: bool = False
    events: bool = False
    hops: int = 0

    def form(self, share: tuple[str, ...] | None) -> bytes:
        """Return the same request as a form for a sub-relay.

        Args:
            share: ids of the nodes that it is responsible for; None for all of its nodes.
        """
        fields = {
            "asynchronous": str(self.asynchronous).lower(),
            "keep_output": str(self.keep_output).lower(),
        }
        if self.conditions:  # older relays refuse an empty value
            fields["classes"] = ",".join(self.conditions)
        if share is not None:
            fields["nodes"] = ",".join(share)
        return urlencode(fields, safe=",").encode("ascii")


def read_form(body: bytes) -> dict[str, str]:
    """Parse `application/x-www-form-urlencoded` text in UTF-8; the last of several values counts.

    Invalid bytes become U+FFFD.

    Raises:
        RequestError: it has too many fields.
    """
    try:
        pairs = parse_qsl(
            body.decode("utf-8", "replace"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise RequestError(f"invalid form: more than {MAX_FIELDS} fields") from None
    return dict(pairs)


def read_run_request(
    fields: dict[str, str], nodes: tuple[str, ...] | None, *, events: bool = False, hops: int = 0
) -> RunRequest:
    """Parse the parameters that all targets have in common.

    Args:
        fields: of the form.
        nodes: the target, see `RunRequest.nodes`.
        events: see `RunRequest.events`.
        hops: see `RunRequest.hops`.

    Raises:
        RequestError: a parameter is invalid.
    """
    return RunRequest(
        nodes,
        read_conditions(fields),
        asynchronous=_read_boolean(fields, "asynchronous"),
        keep_output=_read_boolean(fields, "keep_output"),
        events=events,
        hops=hops,
    )


def read_nodes(fields: dict[str, str]) -> tuple[str, ...]:
    """Parse `nodes`, ids separated by commas; each is kept once.

    Raises:
        RequestError: there are none.
    """
    nodes = tuple(dict.fromkeys(filter(None, fields.get("nodes", "").split(","))))
    if not nodes:
        raise RequestError("Missing nodes")
    return nodes


def read_conditions(fields: dict[str, str]) -> tuple[str, ...]:
    """Parse `conditions`, or `classes` if that is not given; an empty value means none.

    Raises:
        RequestError: a condition is invalid.
    """
    text = fields.get("conditions", fields.get("classes", ""))
    if len(text) > MAX_CONDITIONS:
        raise RequestError(f"invalid conditions: longer than {MAX_CONDITIONS} characters")
    conditions = tuple(text.split(",")) if text else ()
    for condition in conditions:
        if len(condition) > MAX_CONDITION:
            raise RequestError(
                f"invalid condition: {printable(condition, _SHOWN)}, "
                f"longer than {MAX_CONDITION} characters"
            )
        if _CONDITION.fullmatch(condition) is None:
            raise RequestError(
                f"invalid condition: {printable(condition, _SHOWN)}, {_SHOULD_MATCH}"
            )
    return conditions


def _read_boolean(fields: dict[str, str], name: str) -> bool:
    text = fields.get(name, "false")
    if text not in _BOOLEANS:
        raise RequestError(f"invalid {name}: {printable(text, _SHOWN)}, should be true or false")
    return _BOOLEANS[text]
