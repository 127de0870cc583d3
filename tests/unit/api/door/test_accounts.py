"""Accounts of htpasswd files."""

import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
import trio
import trio.testing

from relayd.api.door import accounts as door_accounts
from relayd.api.door.accounts import Accounts, BusyError
from relayd.api.fair_limiter import Bounds, FairLimiter


def header(user: str, password: str) -> bytes:
    """Return the header for an account."""
    return b"Basic " + b64encode(f"{user}:{password}".encode())


def htpasswd(option: str, password: str = "secret") -> str:
    """Return the line that htpasswd writes."""
    command = ["htpasswd", "-nb", option, "rudder", password]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Counted:
    """Counts how often a password is checked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._verify = door_accounts._verify
        monkeypatch.setattr(door_accounts, "_verify", self)

    def __call__(self, *args: object) -> bool:
        """Check it."""
        self.count += 1
        return self._verify(*args)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with one account."""
    path = tmp_path / "htpasswd"
    path.write_text(f"# comment\n\nother:x\n{htpasswd('-m')}\n{htpasswd('-s', 'second')}\n")
    return path


def accounts_of(path: Path) -> Accounts:
    """Return the accounts of a file."""
    return Accounts(path, FairLimiter(door_accounts.CHECKS))


@pytest.mark.parametrize("option", ["-m", "-B", "-s", "-2", "-5"])
async def test_each_kind_of_htpasswd(tmp_path: Path, option: str) -> None:
    """The right password is admitted, another or another user is not."""
    path = tmp_path / "htpasswd"
    path.write_text(f"{htpasswd(option)}\n")
    accounts = accounts_of(path)
    assert await accounts.admit(header("rudder", "secret"), "client")
    for user, password in (("rudder", "Secret"), ("rudder", ""), ("Rudder", "secret"), ("", "")):
        assert not await accounts.admit(header(user, password), "client")


@pytest.mark.parametrize(
    "value",
    [b"", b"Basic", b"Basic !", b"Basic cnVkZGVy", b"Bearer cnVkZGVyOnNlY3JldA==", b"\xff \xfe"],
)
async def test_other_headers_admit_nobody(file: Path, value: bytes) -> None:
    """A header that is no user and password is that of a stranger."""
    assert not await accounts_of(file).admit(value, "client")


@pytest.mark.parametrize("stored", ["secret", "", "$apr1$broken", "$2y$99$x", "rqXexS6ZhobKA"])
async def test_hash_that_is_not_supported_admits_nobody(tmp_path: Path, stored: str) -> None:
    """A password in plain text, a broken hash and DES are never right."""
    path = tmp_path / "htpasswd"
    path.write_text(f"rudder:{stored}\n")
    for password in ("secret", stored, "myPassword"):
        assert not await accounts_of(path).admit(header("rudder", password), "client")


async def test_password_is_checked_once_until_the_file_changes(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right one is remembered, a wrong one is not, and a change ends it all."""
    counted, accounts = Counted(monkeypatch), accounts_of(file)
    for _ in range(3):
        assert await accounts.admit(header("rudder", "secret"), "client")
    assert counted.count == 1
    for _ in range(2):
        assert not await accounts.admit(header("rudder", "wrong"), "client")
    assert counted.count == 3
    file.write_text(f"{htpasswd('-s', 'changed')}\n")
    await accounts.look(now=True)
    assert not await accounts.admit(header("rudder", "secret"), "client")
    assert await accounts.admit(header("rudder", "changed"), "client")
    file.unlink()
    await accounts.look(now=True)
    assert not await accounts.admit(header("rudder", "changed"), "client")


async def test_checks_at_once_are_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lets many passwords be checked waits, then is refused; a right one needs no check."""
    accounts = Accounts(file, FairLimiter(Bounds(total=1, each=1, waiting=1, wait_s=60)))
    assert await accounts.admit(header("rudder", "secret"), "client")
    asked, gate = trio.Event(), trio.Event()

    async def slow(*_args: object, **_options: object) -> bool:
        asked.set()
        await gate.wait()
        return False

    monkeypatch.setattr(door_accounts, "in_thread", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accounts.admit, header("rudder", "a"), "client")
        await asked.wait()
        nursery.start_soon(accounts.admit, header("rudder", "b"), "client")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BusyError):
            await accounts.admit(header("rudder", "c"), "client")
        assert await accounts.admit(header("rudder", "secret"), "client")
        gate.set()


def test_nothing_is_loaded_without_need() -> None:
    """A relay without a front door loads none of it, and one with it no library for passwords."""
    code = """
import sys, relayd.service.tree
print([name for name in ("relayd.api.door", "passlib", "bcrypt") if name in sys.modules])
import relayd.api.door.door
print([name for name in ("passlib", "bcrypt", "cryptography") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"[]\n[]\n"
