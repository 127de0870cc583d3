"""Notification of the service manager, over real datagram sockets."""

import os
import re
import time
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.errors import NodesError
from relayd.service.systemd import Notifier, take_notifier
from tests.support.service_manager import open_service_manager, parse


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@relayd-{os.getpid()}"


async def test_ready_arrives_by_both_kinds_of_socket(address: str) -> None:
    """The end of the start is reported with a status of one line."""
    with open_service_manager(address) as manager:
        await Notifier(address).ready(lambda: "one\ntwo")
        assert await manager.message() == {"READY": "1", "STATUS": "one\\ntwo"}


async def test_long_status_is_cut(address: str) -> None:
    """A status is at most a few hundred characters long."""
    with open_service_manager(address) as manager:
        await Notifier(address).ready(lambda: "x" * 10_000)
        assert len((await manager.message())["STATUS"]) < 320


async def test_stopping_is_reported(address: str) -> None:
    """The beginning of the stop is reported."""
    with open_service_manager(address) as manager:
        await Notifier(address).stopping()
        assert (await manager.message())["STOPPING"] == "1"


@pytest.mark.fault("F40")
async def test_reload_is_reported_with_its_time(address: str) -> None:
    """A reload is reported at its beginning, with the monotonic time, and at its end."""
    with open_service_manager(address) as manager:
        notifier = Notifier(address)
        await notifier.ready(lambda: "up")
        await manager.message()
        before = time.monotonic_ns() // 1000
        async with notifier.reload():
            begun = await manager.message()
            assert before <= int(begun["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert begun["RELOADING"] == "1"
            assert manager.drain() == []
        done = await manager.message()
        assert done["READY"] == "1"
        assert re.fullmatch(r"up; reloaded at [-0-9]{10} [:0-9]{8} UTC", done["STATUS"])


async def test_failed_reload_is_reported(address: str) -> None:
    """After a failed reload relayd is still ready, and its status says what failed."""
    with open_service_manager(address) as manager:
        notifier = Notifier(address)
        await notifier.ready(lambda: "up")
        with pytest.raises(NodesError):
            async with notifier.reload():
                raise NodesError("nodeslist.json: cut short")
        *_, last = [await manager.message() for _ in range(3)]
        assert last["READY"] == "1"
        assert last["STATUS"].startswith("up; the reload at ")
        assert "nodeslist.json: cut short" in last["STATUS"]


async def test_cancelled_reload_is_not_left_open(address: str) -> None:
    """A cancelled reload leaves the unit ready, not reloading forever."""
    with open_service_manager(address) as manager:
        notifier = Notifier(address)
        await notifier.ready(lambda: "up")
        with trio.CancelScope() as scope:
            async with notifier.reload():
                scope.cancel()
                await trio.sleep_forever()
        *_, last = [await manager.message() for _ in range(3)]
        assert last["READY"] == "1"


async def test_reload_during_the_start_does_not_end_it(address: str) -> None:
    """A reload before the end of the start does not make the unit ready."""
    with open_service_manager(address) as manager:
        async with Notifier(address).reload():
            pass
        assert manager.drain() == []


@pytest.mark.fault("F40")
async def test_status_follows_the_state(address: str, autojump_clock: MockClock) -> None:
    """The state is sent again when it has changed, also after a reload, and only then."""
    states = iter(["one", "one", "one", "two", "two", "two"])
    with open_service_manager(address) as manager:
        notifier = Notifier(address)
        with trio.move_on_after(15):
            await notifier.run_status()
        await notifier.ready(lambda: next(states))
        async with notifier.reload():
            pass
        assert [message.get("READY") for message in map(parse, manager.drain())] == ["1", None, "1"]
        with trio.move_on_after(35):
            await notifier.run_status()
        [news] = map(parse, manager.drain())
        assert re.fullmatch(r"two; reloaded at .* UTC", news["STATUS"])


async def test_watchdog_is_pinged_twice_per_period(address: str, autojump_clock: MockClock) -> None:
    """The first ping is sent at once, the next ones after every half period."""
    with open_service_manager(address) as manager:
        begun = trio.current_time()
        with trio.move_on_after(101):
            await Notifier(address, 30.0).run_watchdog()
        assert trio.current_time() == pytest.approx(begun + 101)
        assert manager.drain() == [b"WATCHDOG=1"] * 7


async def test_watchdog_ends_if_not_needed(address: str) -> None:
    """Without a watchdog or a service manager, the task returns at once."""
    await Notifier(address).run_watchdog()
    await Notifier("", 30.0).run_watchdog()


async def test_missing_service_manager_is_a_warning_once(tmp_path: Path) -> None:
    """A missing socket does not stop relayd, and is logged once."""
    notifier = Notifier(str(tmp_path / "nobody"))
    with capture_logs() as logs:
        await notifier.ready(lambda: "up")
        await notifier.stopping()
    assert [entry["event"] for entry in logs] == ["cannot notify the service manager"]


async def test_service_manager_that_does_not_read_is_not_awaited(
    address: str, autojump_clock: MockClock
) -> None:
    """If the socket stays full, the message is dropped and relayd goes on."""
    with open_service_manager(address), capture_logs() as logs:
        notifier = Notifier(address)
        for _ in range(2000):
            await notifier.stopping()
            if logs:
                break
        assert logs[0]["detail"] == "timeout"


async def test_full_socket_does_not_stop_other_tasks(address: str) -> None:
    """A message that cannot be sent yet does not block the event loop, and is sent later."""
    with open_service_manager(address) as manager:
        notifier = Notifier(address)
        sent = 0
        async with trio.open_nursery() as nursery:
            while True:
                done = trio.Event()
                nursery.start_soon(_stopping, notifier, done)
                await wait_all_tasks_blocked()
                if not done.is_set():
                    break
                sent += 1
            assert len(manager.drain()) == sent
            await done.wait()
        assert len(manager.drain()) == 1


async def _stopping(notifier: Notifier, done: trio.Event) -> None:
    await notifier.stopping()
    done.set()


def test_variables_are_removed_from_the_environment() -> None:
    """Children do not inherit the service manager's variables."""
    environment = {
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = take_notifier(environment)
    assert environment == {"PATH": "/bin"}
    assert notifier.watchdog_s == 30.0


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("1500000", "", 1.5),
        ("1500000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("-5", "", None),
        ("1e6", "", None),
        ("²", "", None),
        ("soon", "", None),
    ],
)
def test_watchdog_of_the_environment(usec: str, pid: str, expected: float | None) -> None:
    """The watchdog is used only if it is for this process and a valid number of microseconds."""
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert take_notifier(environment).watchdog_s == expected


async def test_address_of_another_kind_is_not_used() -> None:
    """An address that is neither a path nor an abstract name is logged, and nothing is sent."""
    with capture_logs() as logs:
        notifier = take_notifier({"NOTIFY_SOCKET": "vsock:2:1234"})
        await notifier.ready(lambda: "up")
    assert [entry["event"] for entry in logs] == [
        "NOTIFY_SOCKET is neither a path nor an abstract name"
    ]
