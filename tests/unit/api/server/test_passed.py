"""Sockets from the service manager: taken by its protocol, and compared with the configuration."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from relayd.api.server import passed
from relayd.api.server.passed import open_passed, take_sockets
from relayd.config.main_conf import Listen
from relayd.errors import StartError


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close what a test has opened."""
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that listens on a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = stack.enter_context(socket.socket(family))
    sock.bind((host, 0))
    sock.listen()
    return sock


def take(monkeypatch: pytest.MonkeyPatch, sock: int) -> passed.PassedSocket:
    """Take a socket, or something else, as if it were the first descriptor passed."""
    number = os.dup(sock)
    os.set_inheritable(number, True)
    monkeypatch.setattr(passed, "_FIRST", number)
    environment = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "door.socket",
        "PATH": "/bin",
    }
    try:
        (taken,) = take_sockets(environment)
    except StartError:
        with suppress(OSError):  # it may be closed
            os.close(number)
        raise
    finally:
        assert environment == {"PATH": "/bin"}
    assert not os.get_inheritable(number)
    return taken


def place_of(sock: socket.socket, host: str | None = None) -> Listen:
    """Return the address of a socket as `server.listen` has it, or another host's."""
    return Listen(host=host or sock.getsockname()[0], port=sock.getsockname()[1])


@pytest.mark.parametrize(
    ("bound", "named"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("127.0.0.1", ["localhost"]),
        ("::", ["::"]),
        ("::", ["0.0.0.0", "::"]),
        ("::", ["0.0.0.0"]),
    ],
)
async def test_sockets_for_the_addresses_are_used(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, bound: str, named: list[str]
) -> None:
    """A socket is used for its address; one of IPv6 that takes IPv4 as well counts for both."""
    sock = listening(stack, bound)
    sockets = [take(monkeypatch, sock.fileno())]
    async with open_passed(sockets, [place_of(sock, host) for host in named]) as listeners:
        assert [one.socket.getsockname() for one in listeners] == [sock.getsockname()]
    assert listeners[0].socket.fileno() == -1


@pytest.mark.fault("A24")
@pytest.mark.parametrize(
    ("named", "words"),
    [
        (["127.0.0.2"], "server.listen has 127.0.0.2:PORT, for which .* passes no socket"),
        (["127.0.0.1", "::1"], r"server.listen has \[::1\]:PORT, for which .* passes no socket"),
        ([], "passes a socket for 127.0.0.1:PORT, which server.listen does not have"),
    ],
)
async def test_other_addresses_are_an_error(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, named: list[str], words: str
) -> None:
    """Each address needs its socket, and each socket its address."""
    sock = listening(stack)
    sockets = [take(monkeypatch, sock.fileno())]
    port = str(sock.getsockname()[1])
    with pytest.raises(StartError, match=words.replace("PORT", port)):
        async with open_passed(sockets, [place_of(sock, host) for host in named]):
            pass
    assert sockets[0].socket.fileno() == -1


@pytest.mark.fault("A24")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("file", "is not a socket: "),
        ("udp", "is not a socket of TCP"),
        ("unix", "is not a socket of TCP"),
        ("bound", "does not listen"),
    ],
)
def test_other_descriptors_are_an_error(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    """Only listening sockets of TCP are taken."""
    if kind == "file":
        number = os.open("/dev/null", os.O_RDONLY)
        stack.callback(os.close, number)
    else:
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        protocol = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
        number = stack.enter_context(socket.socket(family, protocol)).fileno()
    with pytest.raises(StartError, match=rf"^descriptor \d+ .* \(door.socket\) {words}"):
        take(monkeypatch, number)


@pytest.mark.parametrize("pid", ["", "1"])
def test_sockets_for_another_process_are_not_taken(pid: str) -> None:
    """Without variables, or with those of another process, nothing is taken."""
    environment = {"LISTEN_PID": pid, "LISTEN_FDS": "1"}
    assert take_sockets(environment) == []
    assert environment == {}


@pytest.mark.parametrize("count", ["", "-1", "two", "²", "100000"])
def test_number_of_sockets_is_checked(count: str) -> None:
    """What is no number of descriptors is an error."""
    with pytest.raises(StartError, match="LISTEN_FDS is not a number of descriptors"):
        take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})
