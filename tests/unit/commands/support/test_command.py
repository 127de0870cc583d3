"""The command `relayd support`: what is in its archive, and what is not."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relayd.commands.check.surroundings import units
from relayd.commands.support import archive, parts
from relayd.commands.support.archive import MANIFEST, run_part
from relayd.commands.support.command import command
from relayd.commands.support.configuration import load
from relayd.commands.support.masking import Masker, mask_unit
from relayd.commands.support.parts import MOST_ENTRIES, make_parts
from tests.support.canaries import forms, read_archive
from tests.support.daemon import NOWHERE, Site, make_site
from tests.support.signing import make_key_and_cert

#: Where each is: a secret of its own, so that whatever leaks says where it comes from.
SECRETS = {
    "database": "cAnary.database&=%41 x",
    "url": "cAnaryInUrl",
    "upstream": "cAnary.upstream:/@ \\u00e4",
    "default": "cAnary.default?# x",
    "proxy": "cAnaryProxy",
    "variable": "cAnary variable",
    "unit": "cAnaryUnit",
    "comment": "cAnaryComment",
    "unknown": "cAnaryUnknown",
    "hash": "$apr1$cAnary$hAsHhAsHhAsHhAsHhAsHhA",
    "passfile": "cAnaryPassfile",
}
UNIT = f"""
[Service]
ExecStart=/usr/bin/rudder-relayd
Environment=LANG=C \\
    "PGPASSWORD={SECRETS["unit"]} and more"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An installation with a secret wherever there can be one; relayd does not run."""
    site = make_site(tmp_path, NOWHERE, {})
    (site.root / "key").write_bytes(make_key_and_cert("root").key_pem)
    (site.root / "htpasswd").write_text(f"rudder:{SECRETS['hash']}\n")
    (site.root / "pgpass").write_text(f"*:*:*:*:{SECRETS['passfile']}\n")
    site.extra = {
        "general": f'https_proxy = "http://me:{SECRETS["proxy"]}@proxy.test:3128"',
        "output.database": f"""
            url = "postgres://rudder:{SECRETS["url"]}@127.0.0.1:1/rudder"
            password = {json.dumps(SECRETS["database"])}
            passwort = "{SECRETS["unknown"]}"
            # password = "{SECRETS["comment"]}"
        """,
        "output.upstream": f"""
            password = {json.dumps(SECRETS["upstream"])}
            default_password = {json.dumps(SECRETS["default"])}
        """,
        "server": f"""
            key_file = "{site.root}/key"
            passwords_file = "{site.root}/htpasswd"
            initial_passwords_file = "{site.root}/htpasswd"
        """,
    }
    site.write_conf()
    monkeypatch.setenv("PGPASSWORD", SECRETS["variable"])
    monkeypatch.setenv("PGPASSFILE", f"{site.root}/pgpass")
    _fake_systemd(site, monkeypatch)
    return site


def _fake_systemd(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a unit be installed, and the journal have each secret in each form."""
    directory = site.root / "units"
    directory.mkdir()
    (directory / "relayd.service").write_text(UNIT)
    monkeypatch.setattr(units, "DIRECTORIES", (directory,))
    said = [form for secret in SECRETS.values() for form in forms(secret)]
    said += [(site.root / "key").read_text(), *(site.root / "key").read_text().splitlines()]
    (site.root / "said").write_text("".join(f"2026-03-01 relayd[1]: {one}\n" for one in said))
    programs = site.root / "bin"
    programs.mkdir()
    (programs / "journalctl").write_text(f"#!/bin/sh\nexec cat '{site.root}/said'\n")
    (programs / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def collect(site: Site) -> Result:
    return CliRunner().invoke(command, ["-c", str(site.conf), "-o", str(site.root / "x.tar.gz")])


def test_no_secret_of_an_installation_is_in_any_file(site: Site) -> None:
    """Passwords in every form, hashes and private keys are starred, also in logs and units."""
    result = collect(site)
    assert result.exit_code == 0, result.output
    path = site.root / "x.tar.gz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = read_archive(path)
    whole = "\n".join(found.values()) + result.output
    leaks = {name for name, one in SECRETS.items() if any(form in whole for form in forms(one))}
    assert leaks == set()
    assert "cAnary" not in whole
    lines = (site.root / "key").read_text().splitlines()
    assert [line for line in lines if len(line) > 30 and line in whole] == []
    assert "* output.database.password = ***" in found["configuration.txt"]
    assert "postgres://rudder@127.0.0.1:1/rudder" in found["configuration.txt"]
    assert "relayd[1]: ***" in found["log.txt"]
    assert "PGPASSWORD=***" in found["units.txt"]
    assert "/usr/bin/rudder-relayd" in found["units.txt"]
    assert json.loads(found["check.json"])


def test_what_is_missing_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With relayd down, the manifest and the command say which parts there are not, and why."""
    monkeypatch.setattr(parts, "_CHECK_S", 0.01)
    result = collect(site)
    found = read_archive(site.root / "x.tar.gz")
    manifest = found.pop(MANIFEST)
    for name in (
        "status.json",
        "checks.json",
        "tasks.json",
        "metrics.txt",
        "process.txt",
        "check.json",
    ):
        assert name not in found
        assert any(line.startswith(name) and "missing: " in line for line in manifest.splitlines())
        assert f"without {name}: " in result.output
    assert {"versions.txt", "configuration.txt", "spool.txt", "log.txt"} <= found.keys()
    again = collect(site)
    assert (again.exit_code, "exists; choose another" in again.output) == (3, True)


def test_a_part_that_fails_or_hangs_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result says so; a long text is cut at the begin of a line."""

    def broken() -> str:
        raise ZeroDivisionError("no password=cAnary here")

    def hanging() -> str:
        os.read(reader, 1)
        return ""

    reader, writer = os.pipe()
    mask = Masker()
    assert run_part("x", broken, mask).missing == "ZeroDivisionError: no password=*** here"
    assert run_part("x", hanging, mask, 0.05).missing == "not finished within 0.05 s"
    os.close(writer)
    monkeypatch.setattr(archive, "MOST_CHARS", 10)
    cut = run_part("x", lambda: "first\nsecond\nthird\n", mask)
    assert (cut.text, cut.note) == ("third\n", "the last 6 of 19 characters")


def test_large_directories_are_counted(site: Site) -> None:
    """Of more files than can be read by a person, the number is given."""
    for number in range(MOST_ENTRIES + 1):
        (site.incoming / f"{number}.log").touch()
    (site.root / "reports" / "failed").mkdir(exist_ok=True)
    (site.failed / "a\nb.log").touch()
    text = make_parts(site.conf, load(site.conf))["spool.txt"]()
    assert f"incoming: {MOST_ENTRIES + 1:,} entries" in text
    assert "9999.log" not in text
    assert "a\\nb.log" in text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgres://me:x y@h", "postgres://me:x y@h"),
        ("postgres://me:xy@h/db", "postgres://***@h/db"),
        ('{"password": "a\\"b", "x": 1}', '{"password": "***", "x": 1}'),
        ("Authorization: Basic cnVkZGVyOng=", "Authorization: ***"),
        ("PGPASSWORD=abc next", "PGPASSWORD=*** next"),
        ("sslpassword='a b' next", "sslpassword='***' next"),
        ("passwords_file = /etc/x", "passwords_file = /etc/x"),
        ("rudder:$2y$05$abcdef.GHI/jkl next", "rudder:*** next"),
        ("rudder:{SHA}W6ph5Mm5Pz8= next", "rudder:*** next"),
        ("password authentication failed", "password authentication failed"),
        ("a pw1 b xpw1 pw12", "a *** b xpw1 pw12"),
        ("rudder-relayd of rudder", "rudder-relayd of rudder"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc", "***"),
    ],
)
def test_what_looks_like_a_secret_is_starred(text: str, masked: str) -> None:
    """Unknown secrets go by their surroundings, and the rest of the text stays."""
    assert Masker(["pw1", "rudder"])(text) == masked


def test_values_of_the_environment_of_a_unit_are_starred() -> None:
    """The names stay; a line that no one can split has nothing left."""
    text = "Environment=A=b \\\n  'C=d e'\nEnvironment='open\nSetCredential=pw:geheim\nUser=x\n"
    assert (
        mask_unit(text)
        == "Environment=A=*** C=***\nEnvironment=***\nSetCredential=pw:***\nUser=x\n"
    )
