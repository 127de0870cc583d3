"""Old releases of OpenSSL are reported."""

import ssl
from typing import cast

import pytest

from relayd.commands.check.checks import openssl
from relayd.commands.check.checks.openssl import is_old, judge
from relayd.commands.check.model import Level, Site


@pytest.mark.fault("D.5.4")
@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("OpenSSL 1.1.1w  11 Sep 2023", True),
        ("OpenSSL 3.0.20 1 Jan 2026", True),
        ("OpenSSL 3.0.21 1 Jan 2026", False),
        ("OpenSSL 3.4.9 1 Jan 2026", True),
        ("OpenSSL 3.5.6 1 Jan 2026", True),
        ("OpenSSL 3.5.17 1 Jan 2026", False),
        ("OpenSSL 3.6.2", True),
        ("OpenSSL 3.6.3", False),
        ("OpenSSL 3.7.0", False),
        ("OpenSSL 4.0.3 29 Sep 2026", False),
        ("LibreSSL 2.8.3", False),
    ],
)
def test_each_branch_has_its_floor(text: str, old: bool) -> None:
    """A release is old by the floor of its own branch; branches without one by their age."""
    assert is_old(text) is old


@pytest.mark.fault("D.5.4")
@pytest.mark.parametrize(
    ("tls", "signatures", "expected"),
    [
        ("OpenSSL 3.0.19 27 Jan 2026", "OpenSSL 3.5.7", ["OpenSSL 3.0.19 27 Jan 2026 (TLS)"]),
        ("OpenSSL 3.0.21", "OpenSSL 3.5.6 1 Jan 2026", ["OpenSSL 3.5.6 1 Jan 2026 (signatures)"]),
        ("OpenSSL 3.0.1", "OpenSSL 3.0.2", ["OpenSSL 3.0.1 (TLS)", "OpenSSL 3.0.2 (signatures)"]),
        ("OpenSSL 3.0.21", "OpenSSL 3.5.7", []),
    ],
)
def test_each_library_has_a_finding_of_its_own(
    tls: str, signatures: str, expected: list[str]
) -> None:
    """The library for TLS and the one for signatures may differ; each old one is a warning."""
    found = judge(tls=tls, signatures=signatures)
    assert [finding.where for finding in found] == expected
    assert {(finding.level, finding.code) for finding in found} <= {(Level.WARNING, "openssl.old")}


@pytest.mark.fault("D.5.4")
async def test_the_libraries_in_use_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads the version of the interpreter's own library."""
    monkeypatch.setattr(ssl, "OPENSSL_VERSION", "OpenSSL 1.1.1w  11 Sep 2023")
    found = await openssl.check(cast("Site", None))
    assert found[0].where == "OpenSSL 1.1.1w  11 Sep 2023 (TLS)"
