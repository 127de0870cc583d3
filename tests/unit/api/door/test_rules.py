"""Which path leads where, and who may follow it."""

import pytest

from relayd.api.door.rules import Client, Place, find_route, is_allowed

API = b"/rudder/relay-api"
BASE = b"/rudder/relay-api/1"


@pytest.mark.parametrize(
    ("raw", "place", "path", "name"),
    [
        (b"/reports/a@b.log.gz", Place.REPORTS, b"", "a@b.log.gz"),
        (b"/reports/a%2Bb%40c", Place.REPORTS, b"", "a+b@c"),
        (b"/%72eports//x", Place.REPORTS, b"", "x"),
        (b"/inventories/x.ocs", Place.INVENTORIES, b"", "x.ocs"),
        (b"/inventory-updates/x.ocs.sign", Place.UPDATES, b"", "x.ocs.sign"),
        (b"/uuid", Place.NODE_ID, b"/uuid", ""),
        (b"/common/a/b", Place.COMMON, b"/common/a/b", ""),
        (b"/policies/n1/rules/a%20b", Place.POLICIES, b"/policies/n1/rules/a%20b", "n1"),
        (API + b"/remote-run/all", Place.REMOTE_RUN, BASE + b"/remote-run/all", ""),
        (API + b"/remote-run/nodes/", Place.REMOTE_RUN, BASE + b"/remote-run/nodes/", ""),
        (API + b"/remote-run/nodes/x", Place.REMOTE_RUN, BASE + b"/remote-run/nodes/x", ""),
        (API + b"/remote-run/status/x", Place.REMOTE_RUN, BASE + b"/remote-run/status/x", ""),
        (API + b"/shared-folder/a//b", Place.SHARED_FOLDER, BASE + b"/shared-folder/a/b", ""),
        (API + b"/shared-files/a/b/c", Place.SHARED_FILES, BASE + b"/shared-files/a/b/c", ""),
        (b"//relay-api/shared-files/a/b/c", Place.SHARED_FILES, BASE + b"/shared-files/a/b/c", ""),
    ],
)
def test_path_leads_somewhere(raw: bytes, place: Place, path: bytes, name: str) -> None:
    """A path is decoded once, and passed on as it was sent, below the version of the API."""
    route = find_route(raw)
    assert route is not None
    assert (route.place, route.path, route.name) == (place, path, name)


@pytest.mark.fault("D.2.1", "D.2.5", "D.2.6")
@pytest.mark.parametrize(
    "raw",
    [
        *(b"/", b"", b"*", b"/metrics", b"/system/info", b"/reports", b"/reports/", b"/common"),
        *(b"/reports/.x", b"/reports/%2ex", b"/reports/a/b", b"/reports/a%2fb", b"/reports/x/"),
        *(b"/reports/..", b"/reports/%2e%2e", b"/reports/a%00", b"/reports/%zz", b"/reports/%ff"),
        *(b"/reports/a%5cb", b"/uuid/", b"/uuid/x", b"/policies/n1", b"/policies/common/x"),
        *(b"/policies/n1/../n2/x", b"/policies/n1/%2e%2e/n2/x", b"/common/%2e%2e/n1/x"),
        *(API + b"/system/info", API + b"/1/system/info", API + b"/openapi.json", API),
        *(API + b"/remote-run", API + b"/remote-run/other", API + b"/remote-run/nodes/a/b"),
        *(API + b"/remote-run/status", API + b"/remote-run/status/a/b"),
        *(API + b"/shared-folder/", API + b"/shared-files/a/b", API + b"/shared-files/a/b/c/"),
        *(API + b"/shared-files/a/../../system/info", b"/relay-api/remote-run/all"),
    ],
)
def test_path_is_denied_to_everybody(raw: bytes) -> None:
    """What the rules do not name leads nowhere, and neither does a path that climbs."""
    assert find_route(raw) is None


@pytest.mark.fault("D.2.2", "D.2.3", "D.2.4")
@pytest.mark.parametrize(
    ("raw", "allowed"),
    [
        (b"/uuid", {"stranger", "network", "node", "policy server"}),
        (b"/common/x", {"network", "node"}),
        (b"/reports/x", {"network", "node"}),
        (b"/policies/n1/x", {"node"}),
        (b"/policies/n2/x", set()),
        (API + b"/shared-folder/x", {"node"}),
        (API + b"/shared-files/a/b/c", {"network", "node"}),
        (API + b"/remote-run/all", {"policy server"}),
        (API + b"/remote-run/status/x", {"policy server"}),
    ],
)
def test_rules_are_those_of_rudder(raw: bytes, allowed: set[str]) -> None:
    """Networks, policy servers and certificates decide as in Rudder's Apache configuration."""
    clients = {
        "stranger": Client(None, in_networks=False, policy_server=False),
        "network": Client(None, in_networks=True, policy_server=False),
        "node": Client("n1", in_networks=True, policy_server=False),
        "node elsewhere": Client("n1", in_networks=False, policy_server=False),
        "policy server": Client(None, in_networks=False, policy_server=True),
    }
    route = find_route(raw)
    assert route is not None
    expected = allowed | ({"node elsewhere"} if raw == b"/uuid" else set())
    assert {name for name, client in clients.items() if is_allowed(route, client)} == expected
