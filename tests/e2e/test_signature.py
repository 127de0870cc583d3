"""Who may write what: forged and foreign run logs before a real relayd, and expired pins."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.daemon import START, Site, open_daemon
from tests.support.openssl import OpenSSL
from tests.support.postgres import Database
from tests.support.runlogs import make_runlog
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.stored import check_stored

VICTIM, ATTACKER = "victim", "attacker"


pytestmark = pytest.mark.site(nodes=[VICTIM, ATTACKER])


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSSL:
    """Return the agents' command."""
    directory = tmp_path / "openssl"
    directory.mkdir()
    return OpenSSL(directory)


async def outcome(site: Site, name: str, message: bytes) -> str:
    """Upload a message between two good run logs of the attacker; why it was refused."""
    async with open_daemon(site) as daemon:
        site.send(ATTACKER, 1)
        site.upload(name, message)
        site.send(ATTACKER, 2)
        await daemon.settled()
        reason = site.refused()[name]
        line = await daemon.saw(rf"WARN  disposal: refused, moved to failed reason={reason}")
        assert "queue_id=" in line
        assert await daemon.metric("rudder_relayd_reports_total", status="error") == 1
        assert await daemon.metric("rudder_relayd_refused_total", reason=reason) == 1
    return reason


@pytest.mark.fault("C1")
@pytest.mark.parametrize("place", ["text", "signature"])
async def test_changed_byte(site: Site, database: Database, openssl: OpenSSL, place: str) -> None:
    """A run log of which one byte was changed is refused, and none of its reports is stored."""
    message = bytearray(openssl.sign(make_runlog(VICTIM, START), site.nodes[VICTIM]))
    changed = message.index(b"result_success") if place == "text" else message.rindex(b"A")
    message[changed] ^= 1
    reason = await outcome(site, site.name(VICTIM), bytes(message))
    assert reason in {"signature", "mime"}
    check_stored(database.query, {(ATTACKER, 1), (ATTACKER, 2)})


@pytest.mark.fault("C2")
async def test_signed_by_another_node(site: Site, database: Database, openssl: OpenSSL) -> None:
    """A node cannot sign for another one, neither by file name nor by what the reports say."""
    message = openssl.sign(make_runlog(VICTIM, START), site.nodes[ATTACKER])
    assert await outcome(site, site.name(VICTIM), message) == "unknown_signer"
    check_stored(database.query, {(ATTACKER, 1), (ATTACKER, 2)})


@pytest.mark.fault("P9")
async def test_reports_of_another_node(site: Site, database: Database, openssl: OpenSSL) -> None:
    """A run log with a single report of another node than its name's is refused as a whole."""
    own, foreign = (make_runlog(node, START, 6).splitlines(True) for node in (ATTACKER, VICTIM))
    text = b"".join([*own[:3], foreign[3], *own[4:]])
    message = openssl.sign(text, site.nodes[ATTACKER])
    assert await outcome(site, site.name(ATTACKER), message) == "node_mismatch"
    check_stored(database.query, {(ATTACKER, 1), (ATTACKER, 2)})


@pytest.mark.fault("C3")
async def test_certificate_inside_the_message(
    site: Site, database: Database, openssl: OpenSSL
) -> None:
    """A certificate that travels in the message, with the victim's name too, is not believed."""
    forger = make_key_and_cert(VICTIM, key=make_key_and_cert(ATTACKER).key)
    message = openssl.sign(make_runlog(VICTIM, START), forger, "-text", "-md", "sha256")
    assert await outcome(site, site.name(VICTIM), message) == "unknown_signer"
    check_stored(database.query, {(ATTACKER, 1), (ATTACKER, 2)})


def valid_between(node: SigningNode, begin: datetime, end: datetime) -> bytes:
    """PEM of a certificate like the node's, of other validity."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(node.x509.subject)
        .issuer_name(node.x509.issuer)
        .public_key(node.key.public_key())
        .serial_number(node.x509.serial_number)
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    return builder.sign(node.key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.fault("C19")
async def test_certificates_outside_of_their_time(site: Site, database: Database) -> None:
    """Pinned certificates that are over, or not valid yet, count; both show."""
    now, year = datetime.now(UTC), timedelta(days=365)
    over = valid_between(site.nodes[VICTIM], now - 2 * year, now - year)
    future = valid_between(site.nodes[ATTACKER], now + year, now + 2 * year)
    site.certificates.write_bytes(over + future)
    async with open_daemon(site) as daemon:
        line = await daemon.saw("WARN  nodes: expired node certificates")
        assert "certificates=1" in line
        assert await daemon.metric("rudder_relayd_certificate_expired") == 1
        line = await daemon.saw("WARN  nodes: node certificates that are not yet valid")
        assert "certificates=1" in line
        assert await daemon.metric("rudder_relayd_certificate_not_yet_valid") == 1
        site.send(VICTIM, 0)
        site.send(ATTACKER, 0)
        await daemon.settled()
    check_stored(database.query, {(VICTIM, 0), (ATTACKER, 0)})
    assert site.refused() == {}
