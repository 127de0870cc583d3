"""relayd's own HTTPS server: in this process in front of any application, or in a whole relayd."""

import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from relayd.api.door.door import Door
from relayd.config.main_conf import (
    GeneralSettings,
    InventorySettings,
    Listen,
    ProcessingSettings,
    ReportingSettings,
    ServerSettings,
    Settings,
)
from relayd.fleet.current_nodes import CurrentNodes
from relayd.telemetry.metrics import Metrics
from tests.support.curl import NODE, POLICY_SERVER
from tests.support.http import Client
from tests.support.signing import SigningNode

if TYPE_CHECKING:
    from tests.support.webserver import Web

#: Seconds after which a test is stuck; nothing is measured with it.
_WATCHDOG_S: Final = 120.0


def write_door(web: "Web") -> None:
    """Write what the front door reads, apart from what all web servers read."""
    own = web.own
    (own / "networks").write_text(f"Require ip {NODE}\nRequire ip {POLICY_SERVER}\n")
    (own / "policy-servers").write_text(f"Require ip {POLICY_SERVER}\n")
    (own / "share").mkdir()
    nodes = {
        node_id: {"hostname": f"{node_id}.test", "policy-server": "root"}
        for node_id in ("root", *web.nodes)
    }
    (own / "nodeslist.json").write_text(json.dumps(nodes))


def server_table(web: "Web") -> str:
    """Return the table `server` of main.conf."""
    own = web.own
    return f"""
        listen = ["{web.host}:{web.port}"]
        certificate_file = "{own}/front.cert"
        key_file = "{own}/front.priv"
        passwords_file = "{own}/known"
        initial_passwords_file = "{own}/initial"
        networks_file = "{own}/networks"
        policy_servers_file = "{own}/policy-servers"
        share_directory = "{own}/share"
    """


def settings_of(web: "Web", **more: Any) -> Settings:
    """Return the settings for a front door in this process."""
    own = web.own
    return Settings(
        general=GeneralSettings(
            node_id="root",
            nodes_list_file=own / "nodeslist.json",
            nodes_certs_file=own / "nodes.pem",
        ),
        processing=ProcessingSettings(
            reporting=ReportingSettings(directory=web.root / "reports"),
            inventory=InventorySettings(directory=web.root / "inventories"),
        ),
        server=msgspec.structs.replace(
            ServerSettings(
                listen=(Listen(host=web.host, port=web.port),),
                certificate_file=own / "front.cert",
                key_file=own / "front.priv",
                passwords_file=own / "known",
                initial_passwords_file=own / "initial",
                networks_file=own / "networks",
                policy_servers_file=own / "policy-servers",
                share_directory=own / "share",
            ),
            **more,
        ),
    )


@asynccontextmanager
async def open_door(
    web: "Web",
    api: Any = None,
    *,
    grace: float = 0.1,
    watchdog: float = _WATCHDOG_S,
    **settings: Any,
) -> AsyncIterator[Door]:
    """Run a front door in this process until the block ends.

    Args:
        web: what it serves.
        api: the application in place of relayd's API.
        grace: seconds that requests may take at the end.
        watchdog: seconds after which the test is stuck.
        settings: of the table `server`.
    """
    conf = settings_of(web, **settings)
    general, metrics = conf.general, Metrics()
    trust = CurrentNodes(general.nodes_list_file, general.nodes_certs_file, "root", metrics)
    await trust.load()
    door = Door(conf, trust, metrics, api)
    stop = trio.Event()
    with trio.fail_after(watchdog):
        async with trio.open_nursery() as nursery:
            await nursery.start(door.run, stop, grace)
            yield door
            stop.set()


def client_context(web: "Web", node: SigningNode | None = None) -> ssl.SSLContext:
    """Return the context of a client, with the certificate of a node."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if node is not None:
        context.load_cert_chain(*node.write(web.own))
    return context


@asynccontextmanager
async def open_client(
    web: "Web", node: SigningNode | None = None, source: str = NODE
) -> AsyncIterator[Client]:
    """Yield a new connection to the front door."""
    plain = await trio.open_tcp_stream(web.host, web.port, local_address=source)
    stream = trio.SSLStream(plain, client_context(web, node), https_compatible=True)
    try:
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(plain)


def basic(user: str) -> str:
    """Return the header line with a user and a password."""
    return f"Authorization: Basic {b64encode(user.encode()).decode()}\r\n"
