"""Types of the values of configuration keys."""

import ipaddress
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from relayd.config import durations
from relayd.config.secret import Secret
from relayd.config.toml import Leaf, UnexpectedError, close_word, shown
from relayd.system.addresses import HOST, HasPortError, HostError, bracketed, usable_host

_HOST_PORT: Final = re.compile(
    r"(?:\[([^\]]*:[^\]]*)\]|([^:\[\]-][^:\[\]]*)):([0-9]{1,5})", re.ASCII
)
#: `sockaddr_un.sun_path` holds 108 bytes, the last of them 0: unix(7).
_MAX_SOCKET_PATH: Final = 107


class Listen(msgspec.Struct, frozen=True):
    """Where the HTTP API listens: a TCP address or a Unix socket.

    Attributes:
        host: name, IPv4 or IPv6 address (without brackets); "" for a Unix socket.
        port: 1 to 65535; 0 for a Unix socket.
        path: path of the Unix socket; "" for TCP.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Listen":
        """Read `host:port`, `[IPv6]:port` or `unix:/path`.

        Raises:
            ValueError: it has another form.
        """
        if text.startswith("unix:"):
            return cls(path=_socket_path(text.removeprefix("unix:")))
        found = _HOST_PORT.fullmatch(text)
        if found is None or not 1 <= int(found[3]) <= 65535:
            raise ValueError(text)
        return cls(host=usable_host(found[1] or found[2]), port=int(found[3]))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"{bracketed(self.host)}:{self.port}"


def _socket_path(path: str) -> str:
    if not path.startswith("/") or "\0" in path or len(path.encode()) > _MAX_SOCKET_PATH:
        raise ValueError(path)
    return path


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(value)
    return value


def _name(value: Any) -> str:
    text = _text(value)
    if not text or not text.isprintable():
        raise ValueError(value)
    return text


def _upstream_host(value: Any) -> str:
    """Read a host, or "" for none."""
    text = _text(value)
    try:
        return usable_host(text) if text else text
    except HasPortError:
        raise UnexpectedError("a host name only; the port is general.https_port") from None
    except HostError as error:
        raise UnexpectedError(str(error)) from None


def _path(value: Any) -> Path:
    text = _text(value)
    if not text:
        raise ValueError(value)
    return Path(text)


def _command(value: Any) -> str:
    """Return a path as it was written: `./rudder` is a file, `rudder` is searched for in PATH."""
    _path(value)
    return str(value)


def _absolute_socket(value: Any) -> Path:
    return Path(_socket_path(_text(value)))


def _secret(value: Any) -> Secret:
    return Secret(_text(value))


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)  # noqa: TRY004 - any invalid value is a ValueError
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(value)  # noqa: TRY004
    return tuple(_text(item) for item in value)


def integer(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser of integers from `low` to `high`."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(value)
        return value

    return read


def choice(*words: str) -> Leaf:
    """Return the leaf for a key with one of `words`."""

    def read(value: Any) -> str:
        if value not in words:
            meant = close_word(value, words) if isinstance(value, str) else None
            raise UnexpectedError(suggestion=meant and f'"{meant}"')
        return _text(value)

    *first, last = (f'"{word}"' for word in words)
    return Leaf(f"{', '.join(first)} or {last}", read)


def _duration(value: Any) -> float:
    if not isinstance(value, str | int):
        raise ValueError(value)  # noqa: TRY004
    return durations.parse_duration(value)


def _period(value: Any) -> float:
    seconds = _duration(value)
    if not seconds:
        raise ValueError(value)
    return seconds


def _frequency(value: Any) -> float:
    return _duration(value) or math.inf


def _doubt_duration(value: Any) -> str | None:
    if not durations.has_split_number(value):
        return None
    return f"{shown(value)} is read as {durations.parse_duration(value):g} s"


def _doubt_frequency(value: Any) -> str | None:
    return _doubt_duration(value) if _duration(value) else "with 0, this is only done at start"


_LARGE: Final = 2**63 - 1

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _addresses(value: Any) -> tuple[Listen, ...]:
    if not isinstance(value, list):
        raise ValueError(value)  # noqa: TRY004
    found = tuple(Listen.parse(_text(item)) for item in value)
    if any(listen.path for listen in found):
        raise UnexpectedError("addresses of this machine, not a Unix socket")
    return found


def _networks(value: Any) -> tuple[Network, ...]:
    if not isinstance(value, list):
        raise ValueError(value)  # noqa: TRY004
    return tuple(ipaddress.ip_network(_text(item)) for item in value)


Text = Annotated[str, Leaf("a string", _text)]
Name = Annotated[str, Leaf("a string that is not empty", _name)]
OptionalName = Annotated[str | None, Leaf("a string that is not empty", _name)]
Names = Annotated[tuple[str, ...], Leaf("an array of strings", _names)]
FilePath = Annotated[Path, Leaf("a path", _path)]
OptionalFilePath = Annotated[Path | None, Leaf("a path", _path)]
CommandPath = Annotated[str, Leaf("a path", _command)]
OptionalSocketPath = Annotated[
    Path | None,
    Leaf(f"the absolute path of a socket, at most {_MAX_SOCKET_PATH} bytes", _absolute_socket),
]
Flag = Annotated[bool, Leaf("true or false", _boolean)]
Port = Annotated[int, Leaf("an integer from 1 to 65535", integer(1, 65535))]
Count = Annotated[int, Leaf("an integer of at least 0", integer(0, _LARGE))]
Size = Annotated[int, Leaf("an integer of at least 0 (bytes)", integer(0, _LARGE))]
Several = Annotated[int, Leaf("an integer of at least 1", integer(1, 2**31 - 1))]
OptionalSeveral = Annotated[int | None, Leaf("an integer of at least 1", integer(1, 2**31 - 1))]
Password = Annotated[Secret, Leaf("a string", _secret, confidential=True)]
OptionalPassword = Annotated[Secret | None, Leaf("a string", _secret, confidential=True)]
#: A host in the form of `usable_host`, or "".
OptionalHost = Annotated[str, Leaf(HOST, _upstream_host)]
#: Seconds, at least 0.
Duration = Annotated[float, Leaf(durations.EXPECTED, _duration, doubt=_doubt_duration)]
#: Seconds, more than 0.
Period = Annotated[
    float, Leaf(f"{durations.EXPECTED}, more than 0", _period, doubt=_doubt_duration)
]
#: Seconds; infinite for 0, with which `rudder-relayd` starts as well.
Frequency = Annotated[float, Leaf(durations.EXPECTED, _frequency, doubt=_doubt_frequency)]
ListenAddress = Annotated[
    Listen,
    Leaf(
        '"host:port", "[IPv6 address]:port" or "unix:/path"',
        lambda value: Listen.parse(_text(value)),
    ),
]
ListenAddresses = Annotated[
    tuple[Listen, ...], Leaf('an array of "host:port" and "[IPv6 address]:port"', _addresses)
]
Networks = Annotated[
    tuple[Network, ...],
    Leaf('an array of networks such as "192.0.2.0/24" and addresses', _networks),
]
