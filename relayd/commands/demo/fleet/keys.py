"""RSA keys of the simulated nodes: made by several processes at once, kept between runs.

Run as a program (`python -m relayd.commands.demo.fleet.keys COUNT BITS`), it writes COUNT new keys
to its standard output: making a key holds the interpreter, so threads would not share the work.
"""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from relayd.errors import StartError

_END: Final = b"-----END PRIVATE KEY-----\n"


def cache_directory() -> Path:
    """Return where keys are kept: `relayd-demo` in the user's cache (XDG_CACHE_HOME, ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(base) / "relayd-demo"


async def obtain_keys(
    count: int, bits: int, cache: Path, progress: Callable[[int], None]
) -> list[RSAPrivateKey]:
    """Take keys from the cache, makes the missing ones and adds them to it.

    Args:
        count: how many.
        bits: size of each.
        cache: directory of the cache, created with mode 0700; one that others may enter, or
            that cannot be written, is not used.
        progress: is told how many keys there are, each time one more is ready.

    Raises:
        StartError: a process that makes keys failed.
    """
    path = cache / f"rsa-{bits}.pem"
    pems = _split(_read_private(path))[:count]
    progress(len(pems))
    missing = count - len(pems)
    if missing:
        pems += await _make(missing, bits, lambda made: progress(count - missing + made))
        _write_private(path, pems)
    return await trio.to_thread.run_sync(_load, pems)


async def _make(count: int, bits: int, progress: Callable[[int], None]) -> list[bytes]:
    pems: list[bytes] = []

    async def run_child(share: int) -> None:
        command = [sys.executable, "-m", __spec__.name, str(share), str(bits)]
        # In a session of its own: Ctrl-C is for us, and the nursery ends the children.
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            assert process.stdout is not None
            rest = b""
            async with process.stdout as stream:
                async for data in stream:
                    whole, end, rest = (rest + data).rpartition(_END)
                    pems.extend(_split(whole + end))
                    progress(len(pems))
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                await process.wait()

    workers = min(os.cpu_count() or 1, count)
    async with trio.open_nursery() as nursery:
        for number in range(workers):
            share = count // workers + (number < count % workers)
            nursery.start_soon(run_child, share, name=f"keys {number}")
    if len(pems) != count:
        raise StartError(f"making keys failed: {len(pems)} of {count} were made")
    return pems


def _load(pems: list[bytes]) -> list[RSAPrivateKey]:
    """Return the check of a key costs as much as making one; these are our own, in a private place."""
    keys = [load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True) for pem in pems]
    return [key for key in keys if isinstance(key, RSAPrivateKey)]


def _split(data: bytes) -> list[bytes]:
    return [part + _END for part in data.split(_END)[:-1]]


def _read_private(path: Path) -> bytes:
    try:
        found = path.parent.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return b""
        if stat.S_IMODE(found.st_mode) & 0o077:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


def _write_private(path: Path, pems: list[bytes]) -> None:
    """Write the cache anew; without a usable cache the keys are just made again next time."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(pems))
        scratch.replace(path)
    except OSError:
        return


def main() -> None:
    """Write as many new keys as the first argument says, of the size that the second says."""
    count, bits = (int(word) for word in sys.argv[1:])
    for _ in range(count):
        key = generate_private_key(65_537, bits)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        sys.stdout.buffer.write(pem)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
