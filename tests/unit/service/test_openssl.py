"""Old versions of OpenSSL are told."""

import ssl

import pytest

from relayd.service import openssl


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
    assert openssl.is_old(text) is old


@pytest.mark.fault("D.5.4")
def test_both_libraries_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library for TLS and the one for signatures may differ; each is told for itself."""
    monkeypatch.setattr(openssl, "is_old", lambda _text: True)
    lines = openssl.warnings()
    assert len(lines) == 2
    assert ssl.OPENSSL_VERSION in lines[0]
    assert "signatures" in lines[1]
