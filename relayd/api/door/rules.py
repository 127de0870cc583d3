"""Who may do what at the front door, decided by path, address and certificate alone.

The rules are those of Rudder's Apache configuration for a relay. Every path that they do not name
is denied; in particular, nothing of `/system` and `/metrics` can be reached.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from relayd.fleet.peers.urls import API
from relayd.shared.paths import PathError, decoded_names


class Place(Enum):
    """What a path leads to."""

    REPORTS = auto()
    INVENTORIES = auto()
    UPDATES = auto()
    REMOTE_RUN = auto()
    SHARED_FOLDER = auto()
    SHARED_FILES = auto()
    POLICIES = auto()
    COMMON = auto()
    NODE_ID = auto()


UPLOADS: Final = frozenset({Place.REPORTS, Place.INVENTORIES, Place.UPDATES})
STATIC: Final = frozenset({Place.POLICIES, Place.COMMON, Place.NODE_ID})

_UPLOAD_PLACES: Final = {
    "reports": Place.REPORTS,
    "inventories": Place.INVENTORIES,
    "inventory-updates": Place.UPDATES,
}
_API: Final = ["rudder", "relay-api"]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes.

    Attributes:
        place: what it is about.
        path: the path for the application that answers it, as it was sent.
        name: name of the uploaded file, or id of the node whose policies are read; else "".
    """

    place: Place
    path: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """What decides about the requests of a client.

    Attributes:
        node: id of the node whose certificate it has; None without a known one.
        in_networks: whether its address is in the networks of the nodes.
        policy_server: whether it is one of those of the policy servers.
    """

    node: str | None
    in_networks: bool
    policy_server: bool


def find_route(raw: bytes) -> Route | None:
    """Return where a path leads; None if it is denied to everybody.

    Args:
        raw: as it was sent, percent-encoded, without the query.
    """
    sent = raw.removeprefix(b"/").split(b"/")
    try:
        names = decoded_names(raw.removeprefix(b"/"))
    except PathError:
        return None
    last = len(names) - 1
    # As web servers do, `//` is read as `/`, and a slash at the end is kept.
    kept = [
        at for at, name in enumerate(names) if name not in ("", ".") or (not name and at == last)
    ]
    return _route([names[at] for at in kept], [sent[at] for at in kept])


def _route(names: list[str], sent: list[bytes]) -> Route | None:
    if names == ["uuid"]:
        return Route(Place.NODE_ID, b"/uuid")
    if len(names) == 2 and names[0] in _UPLOAD_PLACES:
        named = names[1] and not names[1].startswith(".")
        return Route(_UPLOAD_PLACES[names[0]], b"", names[1]) if named else None
    if names[:2] == _API:
        return _api_route(names[2:], sent[2:])
    if names[:2] == ["relay-api", "shared-files"]:
        return _api_route(names[1:], sent[1:])
    if names[:1] == ["common"] and len(names) > 1:
        return Route(Place.COMMON, b"/common/" + b"/".join(sent[1:]))
    if names[:1] == ["policies"] and len(names) > 2 and names[1] != "common":
        return Route(Place.POLICIES, b"/policies/" + b"/".join(sent[1:]), names[1])
    return None


def _api_route(names: list[str], sent: list[bytes]) -> Route | None:
    """Return the route to a part of relayd's HTTP API; its own version is not in these paths."""
    place = None
    match names:
        case ["remote-run", "all" | "nodes"] | ["remote-run", "all" | "nodes", ""]:
            place = Place.REMOTE_RUN
        case ["remote-run", "nodes" | "status", _] | ["remote-run", "nodes" | "status", _, ""]:
            place = Place.REMOTE_RUN
        case ["shared-folder", _, *_] if names[1]:
            place = Place.SHARED_FOLDER
        case ["shared-files", _, _, file] if file:
            place = Place.SHARED_FILES
    if place is None:
        return None
    path = b"/".join([API.encode(), names[0].encode(), *sent[1:]])
    return Route(place, path)


def is_allowed(route: Route, client: Client) -> bool:
    """Return whether a client may use a route; uploads need a password or a certificate as well."""
    match route.place:
        case Place.NODE_ID:
            return True
        case Place.REMOTE_RUN:
            return client.policy_server
        case Place.SHARED_FOLDER:
            return client.in_networks and client.node is not None
        case Place.POLICIES:
            return client.in_networks and client.node == route.name
        case _:
            return client.in_networks
