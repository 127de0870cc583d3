"""Types of the values of configuration keys."""

import ipaddress
import math
import re
from collections.abc import Callable, Collection
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
_SIZE: Final = re.compile(r"([0-9]{1,9})\s*([kmgtKMGT]?)(?:i?[bB])?", re.ASCII)
#: Words for true and false.
_YES: Final = frozenset({"1", "enable", "enabled", "on", "true", "yes"})
_NO: Final = frozenset({"0", "disable", "disabled", "false", "no", "off"})
#: Words for a value → the values; nothing that would make relayd less safe.
_SAME: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("db", "pgsql", "postgres", "postgresql", "sql"), ("database",)),
    **dict.fromkeys(("parent", "policy_server", "relay", "root", "server"), ("upstream",)),
    **dict.fromkeys(("", "disable", "false", "no", "none", "off"), ("disabled", "off")),
    **dict.fromkeys(("ca", "system_root_certs", "validation"), ("cert_validation",)),
    **dict.fromkeys(("certificate_pinning", "pinning"), ("cert_pinning",)),
    **dict.fromkeys(("alert", "crit", "critical", "emerg", "err", "fatal"), ("error",)),
    **dict.fromkeys(("notice", "information"), ("info",)),
    **dict.fromkeys(("all", "verbose"), ("trace",)),
    **dict.fromkeys(("human", "plain"), ("text",)),
}
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
            raise ValueError("no address")
        return cls(host=usable_host(found[1] or found[2]), port=int(found[3]))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"{bracketed(self.host)}:{self.port}"


def _socket_path(path: str) -> str:
    if not path.startswith("/") or "\0" in path or len(path.encode()) > _MAX_SOCKET_PATH:
        raise ValueError(path)
    return path


def _listen(value: Any) -> Listen:
    try:
        return Listen.parse(_text(value))
    except ValueError:
        meant = _meant_listen(str(value)) if type(value) in {str, int} else None
        raise UnexpectedError(suggestion=meant and shown(meant)) from None


def _meant_listen(text: str) -> str | None:
    """Return the address that was probably meant: a part of it is missing, or there is more."""
    text = text.strip().partition("://")[2].rstrip("/") or text.strip()
    host, _, port = text.rpartition(":")
    attempts = (
        text,
        f"unix:{text}" if text.startswith("/") else "",
        f"127.0.0.1:{port}" if not host else "",
        f"0.0.0.0:{port}" if host == "*" else "",
        f"[{host}]:{port}" if ":" in host else "",
        f"{text}:3030" if not host and not text.isdigit() else "",
    )
    for attempt in attempts:
        try:
            return str(Listen.parse(attempt))
        except ValueError:
            continue
    return None


def _text(value: Any) -> str:
    if isinstance(value, str) and "\0" in value:
        raise UnexpectedError(got="a string with a NUL character")
    if not isinstance(value, str):
        raise UnexpectedError
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


def _optional_socket(value: Any) -> Path | None:
    return _absolute_socket(value) if value != "" else None


def _secret(value: Any) -> Secret:
    return Secret(_text(value))


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        word = str(value).lower()
        meant = "true" if word in _YES else "false" if word in _NO else None
        raise UnexpectedError(suggestion=meant)
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(value)  # noqa: TRY004
    return tuple(_text(item) for item in value)


def integer(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser of integers from `low` to `high`."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(value)
        if value > high:
            raise UnexpectedError(f"an integer from {low} to {high}")
        return value

    return read


def _bytes(value: Any) -> int:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return integer(0, _LARGE)(value)
    meant = int(found[1]) * 1024 ** "bkmgt".index((found[2] or "b").lower())
    raise UnexpectedError(suggestion=str(meant))


def choice(*words: str) -> Leaf:
    """Return the leaf for a key with one of `words`."""

    def read(value: Any) -> str:
        if value not in words:
            meant = meant_word(value, words) if isinstance(value, str) else None
            raise UnexpectedError(suggestion=meant and f'"{meant}"')
        return _text(value)

    *first, last = (f'"{word}"' for word in words)
    return Leaf(f"{', '.join(first)} or {last}", read)


def meant_word(word: str, words: Collection[str]) -> str | None:
    """Return the one of `words` that was probably meant by `word`: spelt otherwise, or the same."""
    same = (one for one in _SAME.get(word.lower(), ()) if one in words)
    return next(same, None) or close_word(word, words)


def _duration(value: Any) -> float:
    try:
        return durations.parse_duration(value)
    except (TypeError, ValueError):
        raise UnexpectedError(suggestion=_meant_duration(value)) from None


def _meant_duration(value: Any) -> str | None:
    """Return the duration that was probably meant: `1.5` as "1.5s", `"2S"` as "2s"."""
    text = f"{value}s" if isinstance(value, float) else str(value).lower()
    try:
        durations.parse_duration(text)
    except ValueError:
        return None
    return None if isinstance(value, int) or text == value else shown(text)


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
ControlSocketPath = Annotated[
    Path | None,
    Leaf(
        f'the absolute path of a socket, at most {_MAX_SOCKET_PATH} bytes, or ""', _optional_socket
    ),
]
Flag = Annotated[bool, Leaf("true or false", _boolean)]
Port = Annotated[int, Leaf("an integer from 1 to 65535", integer(1, 65535))]
Count = Annotated[int, Leaf("an integer of at least 0", integer(0, _LARGE))]
Size = Annotated[int, Leaf("an integer of at least 0 (bytes)", _bytes)]
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
        _listen,
    ),
]
ListenAddresses = Annotated[
    tuple[Listen, ...], Leaf('an array of "host:port" and "[IPv6 address]:port"', _addresses)
]
Networks = Annotated[
    tuple[Network, ...],
    Leaf('an array of networks such as "192.0.2.0/24" and addresses', _networks),
]
