"""Whatever stands in the files, requests and answers that relayd reads, it lives or says why not.

Nothing of it may end the daemon or make it log a bug of its own, and afterwards it still works. A
failure prints the seed and the last cases; `RELAYD_FUZZ_SEED` repeats them.
"""

import io
import os
import re
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import trio

from relayd.commands.cli import rudder_relayd
from tests.support.daemon import open_daemon
from tests.support.fuzzed import Fuzzer
from tests.support.hostile import (
    HostileSite,
    configuration_keys,
    make_hostile_site,
    open_hostile,
)

#: Share of each surface, and cases between two checks of the daemon.
SHARES = {
    "nodes list": (0.15, 200),
    "certificates": (0.10, 50),
    "requests": (0.30, 400),
    "upstream": (0.15, 100),
    "sub-relay": (0.05, 40),
}
CAMPAIGN = 100_000
DATABASES = (
    "postgres://a..b/d",
    "postgres://h:1,a..b/d",
    f"postgres://{'x' * 64}/d",
    "postgres://é.test/d",
    "postgres:///d?host=/no%00",
    "postgres://h/d?sslmode=bad",
    "postgres://[fe80::1%25no]:1/d",
    "postgres://127.0.0.1:1/d?sslrootcert=/no",
    "postgres://127.0.0.1:1/d?options=%ff&target_session_attrs=any",
)
#: One line that names what is wrong, as `-t` prints it.
LINE = re.compile(r"(?:error|warning): .+")


def seed() -> int:
    """Return the seed of this run."""
    return int(os.environ.get("RELAYD_FUZZ_SEED", "1"))


def show(done: int, total: int, what: str, begun: float) -> None:
    """Print progress to the terminal."""
    print(f"{done}/{total} {what}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


async def run_surfaces(directory: Path, total: int) -> int:
    """Fuzz a running daemon with `total` cases, shared out; return how many were tried."""
    begun = time.monotonic()
    async with open_hostile(directory, seed()) as hostile:
        for surface, (share, batch) in SHARES.items():
            count = max(1, round(total * share))
            for first in range(0, count, batch):
                await hostile.run(surface, range(first, min(count, first + batch)))
            show(hostile.done.total(), total, surface, begun)
        return hostile.done.total()


def check_configurations(directory: Path, numbers: range) -> list[bytes]:
    """Read hostile `main.conf` as `-t` does; return those that it accepts."""
    fuzzer, keys = Fuzzer(seed()), configuration_keys()
    accepted: list[bytes] = []
    for number in numbers:
        data = fuzzer.toml(number, keys, 'general.node_id = "root"')
        (directory / "main.conf").write_bytes(data)
        (directory / "logging.conf").write_bytes(fuzzer.logging(number))
        code, said = call_test_mode(directory)
        # 75: the file with the node id is not there yet.
        assert code in {0, 2, 3, 75}, (number, data, said)
        assert all(map(LINE.fullmatch, said)), (number, data, said)
        assert code == 0 or said[-1].startswith("error: "), (number, data, said)
        assert "".join(said).isprintable(), (number, data, said)
        if code == 0:
            accepted.append(data)
    return accepted


def call_test_mode(directory: Path) -> tuple[int, list[str]]:
    """Run `rudder-relayd -t` in this process: exit code, and the lines that it printed."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        rudder_relayd.main(["-t", "-c", str(directory)])
    said = (out.getvalue().removesuffix("Syntax: OK\n") + err.getvalue()).removesuffix("\n")
    return int(str(ended.value.code)), said.split("\n") if said else []


async def start_or_refuse(site: HostileSite, number: int) -> None:
    """Start relayd with hostile values: it runs until it is stopped, or ends with one line."""
    fuzzer = Fuzzer(seed())
    rng = fuzzer.source("start", number)
    site.write()
    key = rng.choice(configuration_keys())
    table, _, name = key.rpartition(".")
    tables = site.tables()
    value = fuzzer.toml(number, [name], "").decode("utf-8", "replace").strip()
    if number % 2:
        tables["output.database"] = f'url = "{rng.choice(DATABASES)}"\npassword = "p"'
        tables["processing.reporting"] += '\noutput = "database"'
    lines = [f"[{other}]\n{text}" for other, text in tables.items() if other != table]
    text = "\n".join([*lines, f"[{table}]", tables.get(table, ""), value])
    (site.conf / "main.conf").write_text(text)
    proxy = str(fuzzer.hostile(rng)).replace("\0", "")[:99].encode("utf-8", "replace").decode()
    async with open_daemon(site, ready=None, env={"https_proxy": proxy}) as daemon:
        with trio.fail_after(30):
            while not daemon.lines_of("started") and not daemon.ended.is_set():
                await trio.sleep(0.02)
        code = await daemon.stop() if not daemon.ended.is_set() else await daemon.process.wait()
        said = "\n".join(daemon.lines)
        assert code in {0, 2, 3}, (number, value, said)
        assert "Traceback" not in said, (number, value, said)


@pytest.mark.fault("F6")
async def test_no_input_ends_the_daemon(tmp_path: Path) -> None:
    """A few hundred hostile files, requests and answers: relayd lives, works, and logs no bug."""
    await run_surfaces(tmp_path / "site", 400)


@pytest.mark.fault("F6", "F38", "F56")
def test_no_configuration_makes_a_traceback(tmp_path: Path) -> None:
    """Hostile configuration files are accepted, or refused with lines that say why."""
    assert check_configurations(tmp_path, range(300))


@pytest.mark.torture
@pytest.mark.fault("F6")
async def test_no_input_ends_the_daemon_campaign(tmp_path: Path) -> None:
    """A hundred thousand cases, and real starts with hostile configurations."""
    begun = time.monotonic()
    tried = await run_surfaces(tmp_path / "site", CAMPAIGN)
    site = make_hostile_site(tmp_path / "starts")
    starts = 20
    for number in range(starts):
        await start_or_refuse(site, number)
    tried += starts
    show(tried, CAMPAIGN, "starts", begun)
    (tmp_path / "conf").mkdir()
    check_configurations(tmp_path / "conf", range(CAMPAIGN - tried))
    show(CAMPAIGN, CAMPAIGN, "configurations", begun)
