"""Remote run over a real socket: requests, commands and answers."""

import json
import os
import resource
from collections.abc import Sized
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from relayd.api import remote_run as module
from relayd.remote_run import lanes
from relayd.remote_run import runs as runs_module
from relayd.remote_run.audit import Requester, write_audit
from relayd.remote_run.request import RunRequest, read_run_request
from relayd.telemetry.metrics import Metrics
from tests.support.agent import PRINT_ARGUMENTS, Commands, agent, gone, pid_in
from tests.support.http import BASE, api, descriptors, eventually, open_server
from tests.support.logs import written
from tests.support.remote_run import EVENTS, FORM, Following, form, make_nodes, open_lab

NODES = make_nodes(["n1", "n2"])
#: The last line of an answer in text that has lost some of its output.
DROPPED = "rudder-relayd: incomplete: %d bytes of output were dropped\n"
#: Prints a line, waits until the pipe is opened, prints another one.
HOLDING = "echo begins; until read line < {pipe}; do :; done; echo ends"


@pytest.fixture
def commands() -> Commands:
    """The commands started from here on."""
    return Commands()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """The pipe that a holding command waits for."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def holding(tmp_path: Path) -> Path:
    """A command that waits between its two lines."""
    return agent(tmp_path / "rudder", HOLDING.format(pipe=tmp_path / "pipe"))


def _has(logs: Sized, number: int) -> bool:
    return len(logs) == number


async def release(pipe: Path) -> None:
    """Releases one holding command, as soon as it waits."""
    await trio.to_thread.run_sync(pipe.write_text, "go\n", abandon_on_cancel=True)


@pytest.mark.history(50)
async def test_asynchronous_output_comes_line_by_line(tmp_path: Path, pipe: Path) -> None:
    """A line reaches the client while the command is still running."""
    async with (
        open_lab(holding(tmp_path), NODES) as lab,
        lab.begun("nodes/n1", asynchronous=True, keep_output=True) as client,
    ):
        following = Following(client)
        await following.until(b"begins\n")
        assert following.body == b"begins\n"
        await release(pipe)
        await following.to_the_end()
        assert following.size == len(b"begins\nends\n")
        assert following.complete


@pytest.mark.history(50)
async def test_asynchronous_without_output_is_answered_at_once(tmp_path: Path, pipe: Path) -> None:
    """The answer does not wait for the command, which continues."""
    async with open_lab(holding(tmp_path), NODES) as lab:
        answer = await lab.post("nodes/n1", asynchronous=True)
        assert (answer.status, answer.body) == (200, b"")
        with capture_logs() as logs:
            await release(pipe)
            await eventually(lambda: bool(logs))
        assert [entry["outcome"] for entry in logs] == ["ok"]


@pytest.mark.history(50)
@pytest.mark.parametrize(("keep_output", "body"), [(True, b"begins\nends\n"), (False, b"")])
async def test_synchronous_is_answered_at_the_end(
    commands: Commands, tmp_path: Path, pipe: Path, *, keep_output: bool, body: bytes
) -> None:
    """Not even the head of the answer is sent before the command has ended."""
    async with open_lab(holding(tmp_path), NODES) as lab:
        answered = trio.Event()

        async def ask() -> None:
            answer = await lab.post("nodes/n1", keep_output=keep_output)
            assert (answer.status, answer.body) == (200, body)
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await release(pipe)
            assert not answered.is_set() or not commands()


@pytest.mark.history(53)
@pytest.mark.parametrize("name", ["conditions", "classes"])
async def test_conditions_reach_the_command(tmp_path: Path, name: str) -> None:
    """Both names of the parameter work, and an empty value counts as missing."""
    async with open_lab(agent(tmp_path / "rudder", PRINT_ARGUMENTS), NODES) as lab:
        answer = await lab.post("nodes/n1", keep_output=True, **{name: "c1,C_2"})
        assert answer.body == b"remote\nrun\n-D\nc1,C_2\n--\nn1.test\n"
        answer = await lab.post("nodes/n1", keep_output=True, **{name: ""})
        assert answer.body == b"remote\nrun\n--\nn1.test\n"


_REGEX = "should match ^[a-zA-Z0-9][a-zA-Z0-9_]*$"


@pytest.mark.fault("A13", "P14")
@pytest.mark.history(53)
@pytest.mark.parametrize(
    ("target", "fields", "reason"),
    [
        ("all", {"conditions": "class~1"}, f"invalid condition: class~1, {_REGEX}"),
        ("all", {"classes": "ok,-x"}, f"invalid condition: -x, {_REGEX}"),
        ("all", {"conditions": "a,,b"}, f"invalid condition: , {_REGEX}"),
        ("all", {"conditions": "$(id)"}, f"invalid condition: $(id), {_REGEX}"),
        ("all", {"conditions": "a;b"}, f"invalid condition: a;b, {_REGEX}"),
        ("all", {"conditions": "a\n"}, f"invalid condition: a\\n, {_REGEX}"),
        ("all", {"conditions": "\u0663"}, f"invalid condition: \u0663, {_REGEX}"),
        (
            "all",
            {"conditions": "a" * 1025},
            f"invalid condition: {'a' * 60}…, longer than 1024 characters",
        ),
        (
            "all",
            {"conditions": ",".join(["a" * 1000] * 101)},
            "invalid conditions: longer than 100000 characters",
        ),
        ("nodes", {}, "Missing nodes"),
        ("nodes", {"nodes": ""}, "Missing nodes"),
        ("nodes", {"nodes": ",,"}, "Missing nodes"),
        (
            "nodes/n1",
            {"asynchronous": "yes"},
            "invalid asynchronous: yes, should be true or false",
        ),
        ("nodes/n1", {"keep_output": ""}, "invalid keep_output: , should be true or false"),
        ("nodes/n1", {f"x{n}": "" for n in range(10_001)}, "invalid form: more than 10000 fields"),
    ],
)
async def test_a_bad_parameter_is_refused(
    tmp_path: Path, target: str, fields: dict[str, str], reason: str
) -> None:
    """The answer describes the fault, and no command runs."""
    command = agent(tmp_path / "rudder", f"touch {tmp_path / 'ran'}")
    async with open_lab(command, NODES) as lab:
        answer = await lab.post(target, **fields)
    assert (answer.status, answer.body.decode()) == (400, reason)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("A2")
async def test_a_form_has_a_length_a_size_and_a_type(tmp_path: Path) -> None:
    """A form without length, of more than 1 MiB or of another type is not read."""
    path = f"{BASE}/remote-run/all"
    async with open_lab(agent(tmp_path / "rudder", "exit 0"), NODES) as lab:
        server = lab.server
        assert (await server.ask("POST", path)).status == 411
        chunked = "Transfer-Encoding: chunked\r\n"
        async with server.client() as client:
            await client.send(
                f"POST {path} HTTP/1.1\r\nHost: x\r\n{FORM}{chunked}\r\n0\r\n\r\n".encode()
            )
            assert (await client.answer("POST")).status == 411
        large = form(nodes="x" * 1024 * 1024)
        assert (await server.ask("POST", path, large, FORM)).status == 413
        other = "Content-Type: multipart/form-data; boundary=x\r\n"
        assert (await server.ask("POST", path, b"--x--", other)).status == 415
        assert (await server.ask("POST", path, b"a=1", "")).status == 200


async def test_paths_of_a_disabled_remote_run_are_unknown() -> None:
    """If remote run is off, its paths are unknown."""
    async with open_server(api()) as server:
        answer = await server.ask("POST", f"{BASE}/remote-run/all", b"a=1", FORM)
    assert (answer.status, answer.body) == (404, b"NOT FOUND")


@pytest.mark.fault("A13")
@pytest.mark.history(52)
async def test_only_known_nodes_reach_a_command_line(tmp_path: Path) -> None:
    """Ids are resolved, host names follow `--`, and no name can end or split its argument."""
    hosts = {"dash": "-oProxy=$(id)", "comma": "a.test,b.test", "blank": "a b", "empty": ""}
    nodes = make_nodes(["n1", *hosts], hosts=hosts)
    strangers = ["-x", ";reboot", "$(id)", "`id`", "a\nb", "../../etc", "x" * 10_000]
    async with open_lab(agent(tmp_path / "rudder", PRINT_ARGUMENTS), nodes) as lab:
        answer = await lab.events("nodes", nodes=["n1", *hosts, *strangers], keep_output=True)
    lines = [line for line in answer.output() if line not in ("remote", "run", "--")]
    assert sorted(lines) == ["-oProxy=$(id)", "n1.test"]
    verdicts = answer.verdicts
    assert {node for node, verdict in verdicts.items() if verdict == "exit"} == {"n1", "dash"}
    assert set(verdicts) == {"n1", *hosts, *strangers}


@pytest.mark.history(49)
async def test_without_neighbours_no_command_runs(tmp_path: Path) -> None:
    """Unknown nodes are logged and skipped; without a known node, no command is started."""
    command = agent(tmp_path / "rudder", f"touch {tmp_path / 'ran'}")
    async with open_lab(command, NODES) as lab:
        with capture_logs() as logs:
            answer = await lab.post("nodes", nodes="x,y", keep_output=True)
        assert (answer.status, answer.body) == (200, b"")
        assert [entry["node"] for entry in logs if "node" in entry] == ["x", "y"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("A14")
async def test_thousands_of_hosts_are_split_among_commands(tmp_path: Path) -> None:
    """Each of 20,000 hosts is in the argument of one command, and none is too long."""
    script = 'for a; do last="$a"; done; printf "%s" "$last" > {calls}/$$'
    calls = tmp_path / "calls"
    calls.mkdir()
    nodes = make_nodes([f"node-{number:05}" for number in range(20_000)])
    async with open_lab(agent(tmp_path / "rudder", script.format(calls=calls)), nodes) as lab:
        assert (await lab.post("all")).status == 200
    arguments = [path.read_text() for path in calls.iterdir()]
    assert max(map(len, arguments)) <= 100_000
    hosts = ",".join(arguments).split(",")
    assert sorted(hosts) == sorted(f"{node}.test" for node in nodes.ids())


@pytest.mark.fault("A15")
async def test_a_flood_is_streamed_and_capped(tmp_path: Path) -> None:
    """The client gets the first 64 MiB of 72 MB, and memory does not grow with them."""
    command = agent(tmp_path / "rudder", "yes 0123456789abcde | head -c 72000000")
    async with (
        open_lab(command, NODES) as lab,
        lab.begun("nodes/n1", asynchronous=True, keep_output=True) as client,
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with capture_logs() as logs:
            size = await Following(client).to_the_end()
            await eventually(lambda: bool(logs))
    assert 64 * 2**20 - 2**17 < size <= 64 * 2**20 + len(DROPPED % 10**7)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    [audit] = logs
    dropped = audit["dropped_bytes"]
    assert (audit["outcome"], 72_000_000 - dropped + len(DROPPED % dropped)) == ("ok", size)


@pytest.mark.fault("A15")
async def test_a_flood_for_the_end_is_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output held until the end has its own limit."""
    command = agent(tmp_path / "rudder", "yes 0123456789abcde | head -c 20000000")
    async with open_lab(command, NODES) as lab:
        answer = await lab.post("nodes/n1", keep_output=True)
    note = DROPPED.encode() % (20_000_000 - answer.body.rindex(b"rudder-relayd"))
    assert answer.body.endswith(b"\n" + note)
    assert 16 * 2**20 - 2**17 < len(answer.body) <= 16 * 2**20 + len(note)


@pytest.mark.fault("A16", "F51")
async def test_a_command_that_never_ends_is_ended(commands: Commands, tmp_path: Path) -> None:
    """A silent command is ended at its deadline, and each node has its verdict."""
    script = f"trap '' TERM; echo on; echo $$ > {tmp_path / 'pid'}; sleep 1000; sleep 1000"
    async with open_lab(agent(tmp_path / "rudder", script), NODES, timeout=1.0) as lab:
        with capture_logs() as logs:
            answer = await lab.events("all", asynchronous=True, keep_output=True)
    assert answer.output() == ["on"] * 3
    assert answer.verdicts == dict.fromkeys(("root", "n1", "n2"), "exit")
    ends = {(event["code"], event["detail"]) for event in answer.of("exit")}
    assert ends == {(None, "terminated: no output for 1 s")}
    await gone(await pid_in(tmp_path / "pid"))
    assert not commands()
    assert [entry["outcome"] for entry in logs if "outcome" in entry] == ["timeout"]


@pytest.mark.fault("A17")
async def test_a_client_that_leaves_does_not_end_the_run(
    commands: Commands, tmp_path: Path, pipe: Path
) -> None:
    """The command runs to its end after its client disconnects, and nothing leaks."""
    command = agent(
        tmp_path / "rudder",
        HOLDING.format(pipe=pipe) + f"; head -c 1000000 /dev/zero; touch {tmp_path / 'ended'}",
    )
    async with open_lab(command, NODES) as lab:
        before = descriptors()
        with capture_logs() as logs:
            async with lab.begun("nodes/n1", asynchronous=True, keep_output=True) as client:
                await Following(client).until(b"begins\n")
                await client.reset()
            await release(pipe)
            await eventually(lambda: bool(logs))
        assert (tmp_path / "ended").exists()
        assert [entry["outcome"] for entry in logs] == ["ok"]
        await eventually(lambda: descriptors() == before)
    assert not commands()


@pytest.mark.fault("A17")
async def test_a_client_that_leaves_before_the_end_of_a_synchronous_run(
    commands: Commands, tmp_path: Path, pipe: Path
) -> None:
    """A synchronous run also continues after its client disconnects."""
    async with open_lab(holding(tmp_path), NODES) as lab:
        with capture_logs() as logs:
            async with lab.begun("nodes/n1", keep_output=True) as client:
                await eventually(lambda: bool(commands()))
                await client.reset()
            await release(pipe)
            await eventually(lambda: bool(logs))
        assert [entry["outcome"] for entry in logs] == ["ok"]


async def test_an_answer_that_is_never_read_does_not_block_the_command(tmp_path: Path) -> None:
    """The command does not wait for a client that disconnected before its answer began."""
    command = agent(tmp_path / "rudder", "head -c 30000000 /dev/zero")
    async with open_lab(command, NODES) as lab:
        run = lab.runs.start(
            RunRequest(("n1",), asynchronous=True, keep_output=True), Requester("", "")
        )
        await run.decided.wait()
        body = module.AnswerBody(run.answer)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not run.done.is_set()
        del body
        await run.done.wait()


async def test_a_slow_client_slows_its_command(tmp_path: Path) -> None:
    """Output is not buffered for a client that does not read: the command waits."""
    command = agent(tmp_path / "rudder", f"head -c 30000000 /dev/zero; touch {tmp_path / 'ended'}")
    async with (
        open_lab(command, NODES) as lab,
        lab.begun("nodes/n1", asynchronous=True, keep_output=True) as client,
    ):
        following = Following(client)
        assert await following.head() == 200
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not (tmp_path / "ended").exists()
        assert await following.to_the_end() == 30_000_000


@pytest.mark.fault("A18")
async def test_commands_at_once_are_bounded(commands: Commands, tmp_path: Path, pipe: Path) -> None:
    """The third command waits until one of two has ended; its client gets its answer meanwhile."""
    async with open_lab(holding(tmp_path), NODES, max_commands=2) as lab:
        for _ in range(3):
            assert (await lab.post("nodes/n1", asynchronous=True)).status == 200
        await eventually(lambda: len(commands()) == 2)
        assert b"rudder_relayd_remote_run_commands 2.0" in lab.metrics.render()
        with capture_logs() as logs:
            for done in range(1, 4):
                await release(pipe)
                await eventually(partial(_has, logs, done))
    assert not commands()


@pytest.mark.fault("A18")
async def test_runs_at_once_are_bounded(
    tmp_path: Path, pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that memory does not hold is refused for the moment, as the audit shows."""
    monkeypatch.setattr(runs_module, "MEMORY", 2 * (lanes.EXECUTED + 2 * lanes.WAITING))
    async with open_lab(holding(tmp_path), NODES) as lab:
        for _ in range(2):
            assert (await lab.post("nodes/n1", asynchronous=True)).status == 200
        with capture_logs() as logs:
            answer = await lab.post("nodes/n1", asynchronous=True)
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert json.loads(answer.body)["errorDetails"] == "too many remote runs at once"
        assert [entry["outcome"] for entry in logs] == ["refused"]
        with capture_logs() as logs:
            for done in range(1, 3):
                await release(pipe)
                await eventually(partial(_has, logs, done))
        assert (await lab.post("nodes/x")).status == 200


@pytest.mark.fault("A19")
async def test_a_command_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    """The client learns that no command was started, but no local path."""
    async with open_lab(tmp_path / "rudder", NODES) as lab:
        for asynchronous in (True, False):
            answer = await lab.post("nodes/n1", asynchronous=asynchronous, keep_output=True)
            assert answer.status == 500
            assert json.loads(answer.body) == {
                "action": "remoteRunNode",
                "result": "error",
                "errorDetails": "the command could not be started: see the log",
            }
        events = await lab.events("nodes/n1", asynchronous=True)
    assert events.verdicts == {"n1": "hop_error"}


def test_no_audit_line_is_left_out(tmp_path: Path) -> None:
    """The web application makes one run for each node of a fleet; each of them leaves its line."""
    requester, metrics = Requester("127.0.0.1", "192.0.2.7"), Metrics()

    def audit_many() -> None:
        for number in range(50):
            request = read_run_request({}, (f"n{number}",))
            write_audit(requester, request, "ok", metrics)

    text = written(tmp_path / "log", audit_many)
    for number in range(50):
        assert text.count(f'target="1 node (n{number})"') == 1


async def test_every_run_leaves_one_audit_line(tmp_path: Path) -> None:
    """One line has the client, the number of nodes, the conditions and the outcome."""
    async with open_lab(agent(tmp_path / "rudder", "exit 3"), NODES) as lab:
        with capture_logs() as logs:
            headers = "X-Forwarded-For: 192.0.2.7\r\n"
            await lab.post("nodes", headers, nodes="n1,n2,x", conditions="c1,c2")
    [audit] = [entry for entry in logs if entry["event"] == "remote run"]
    assert (audit["asked_by"], audit["forwarded_for"]) == ("127.0.0.1", "192.0.2.7")
    assert (audit["nodes"], audit["neighbours"], audit["relays"]) == (3, 2, 0)
    assert audit["target"] == "3 nodes (n1, n2, x)"
    assert (audit["conditions"], audit["outcome"]) == ("c1,c2", "incomplete")
    assert audit["verdicts"] == "some_failed=2 unreachable=1"
    assert b'remote_runs_total{outcome="incomplete"} 1.0' in lab.metrics.render()


async def test_a_stop_ends_runs_and_their_commands(
    commands: Commands, tmp_path: Path, pipe: Path
) -> None:
    """When the service stops, commands end with it, and the audit records it."""
    async with open_lab(holding(tmp_path), NODES) as lab:
        await lab.post("nodes/n1", asynchronous=True)
        await eventually(lambda: bool(commands()))
        with capture_logs() as logs:
            await lab.stop()
    assert [entry["outcome"] for entry in logs if "outcome" in entry] == ["stopped"]
    assert not commands()


async def test_events_are_asked_for_by_name(tmp_path: Path) -> None:
    """Only the media type itself selects events; a wildcard gives text."""
    async with open_lab(agent(tmp_path / "rudder", "echo hi"), NODES) as lab:
        for accept in ("*/*", "application/*", "text/plain", "application/x-ndjson;q=0"):
            answer = await lab.post("nodes/n1", f"Accept: {accept}\r\n", keep_output=True)
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.body == b"hi\n"
        answer = await lab.post("nodes/n1", EVENTS, keep_output=True)
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"event": "queued", "relay": "root", "node": "n1"},
        {"event": "started", "relay": "root", "node": "n1"},
        {"event": "output", "relay": "root", "node": "n1", "output": "hi"},
        {"event": "exit", "relay": "root", "node": "n1", "code": 0, "nodes": 1},
    ]
