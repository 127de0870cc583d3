"""Keys of the simulated fleet."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from relayd.commands.demo.fleet.keys import cache_directory, obtain_keys

BITS = 2048


def numbers(keys: list[RSAPrivateKey]) -> list[int]:
    return [key.public_key().public_numbers().n for key in keys]


async def test_keys_are_generated_once(tmp_path: Path) -> None:
    """The second time, keys come from the cache, and only missing ones are generated."""
    ready: list[int] = []
    cache = tmp_path / "cache"
    first = await obtain_keys(3, BITS, cache, ready.append)
    assert [key.key_size for key in first] == [BITS] * 3
    assert (ready[0], ready[-1]) == (0, 3)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in cache.iterdir()] == [0o600]

    second = await obtain_keys(4, BITS, cache, ready.append)
    assert numbers(second)[:3] == numbers(first)
    assert numbers(await obtain_keys(2, BITS, cache, ready.append)) == numbers(first)[:2]


async def test_a_cache_that_others_may_enter_is_not_used(tmp_path: Path) -> None:
    """Keys from a directory that others can enter are not trusted."""
    first = await obtain_keys(1, BITS, tmp_path / "cache", lambda _: None)
    (tmp_path / "cache").chmod(0o755)
    second = await obtain_keys(1, BITS, tmp_path / "cache", lambda _: None)
    assert numbers(first) != numbers(second)


async def test_keys_are_generated_without_a_usable_cache(tmp_path: Path) -> None:
    """A cache that cannot be written only costs time."""
    (tmp_path / "file").touch()
    keys = await obtain_keys(1, BITS, tmp_path / "file" / "cache", lambda _: None)
    assert len(keys) == 1


def test_cache_follows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME wins over the home directory."""
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == Path("/somewhere/.cache/relayd-demo")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_directory() == Path("/elsewhere/relayd-demo")
