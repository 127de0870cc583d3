"""Asks the running relayd through its control socket. Needs nothing but the standard library."""

import grp
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from math import isinf
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from relayd.errors import UNDECODABLE, RelaydError
from relayd.system.shortage import words_of

#: Seconds without a byte of an answer. A relayd that works answers within one or two.
PATIENCE_S: Final = 30.0
#: Between attempts to connect while too many others do.
_PAUSE_S: Final = 0.05


class NotRunningError(RelaydError):
    """No relayd listens on the control socket."""


class NotPermittedError(RelaydError):
    """This user may not use the control socket."""


class ControlError(RelaydError):
    """Relayd could not do what was asked, or its answer is not understood.

    Attributes:
        status: of HTTP; 0 without an answer.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._patience = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(None if isinf(self._patience) else self._patience)
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self.sock.connect(str(self._path))
            except BlockingIOError:  # the queue of callers is full; the kernel does not wait
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
            time.sleep(_PAUSE_S)


class Control:
    """The control socket of the relayd on this machine.

    Args:
        path: of the socket; None if the configuration has none.
        patience: seconds without a byte of an answer; `inf` for an answer that follows something
            of unknown length.
    """

    def __init__(self, path: Path | None, patience: float = PATIENCE_S) -> None:
        self._path = path
        self._patience = patience

    def get(self, target: str, **query: object) -> Any:
        """Return the data of `GET target`.

        Args:
            target: its path, as `/status`.
            query: parameters; those that are None, False or empty are left out, lists are repeated.

        Raises:
            NotRunningError: nobody listens.
            NotPermittedError: this user may not.
            ControlError: relayd answers with an error, too late, or not at all.
        """
        given = {name: value for name, value in query.items() if value not in (None, False, "", ())}
        words = {name: "true" if value is True else value for name, value in given.items()}
        suffix = f"?{urlencode(words, doseq=True)}" if words else ""
        return self._ask("GET", f"{quote(target, safe='/')}{suffix}", None)

    def post(self, target: str, body: Mapping[str, object] | None = None) -> Any:
        """Return the data of `POST target` with a JSON body; see `get` for the errors."""
        return self._ask("POST", quote(target, safe="/"), dict(body or {}))

    def _ask(self, method: str, target: str, body: dict[str, object] | None) -> Any:
        with self._asking(method, target, body) as answer:
            return _data(answer.status, self._read(answer))

    def lines(self, target: str, body: Mapping[str, object]) -> Iterator[Any]:
        """Yield the JSON values of the lines with which relayd answers `POST target`.

        They come as they happen. See `get` for the errors.
        """
        with self._asking("POST", quote(target, safe="/"), dict(body)) as answer:
            if answer.status != http.HTTPStatus.OK:
                _data(answer.status, self._read(answer))
            try:
                for line in answer:
                    yield msgspec.json.decode(line)
            except (OSError, http.client.HTTPException, *UNDECODABLE) as error:
                raise ControlError(f"the answer of relayd broke off: {error}") from None

    @contextmanager
    def _asking(
        self, method: str, target: str, body: dict[str, object] | None
    ) -> Iterator[http.client.HTTPResponse]:
        if self._path is None:
            raise NotRunningError("general.control_socket is empty: relayd has no control socket")
        connection = _UnixConnection(self._path, self._patience)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        with closing(connection):
            try:
                # A caller who may not use the socket, or is one too many, is answered and cut off
                # before it has asked.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, target, data, headers)
                answer = connection.getresponse()
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise NotRunningError(f"relayd does not listen on {self._path}") from error
            except PermissionError as error:
                raise NotPermittedError(_not_permitted(self._path)) from error
            except TimeoutError as error:
                raise ControlError(
                    f"relayd has not answered on {self._path} for {self._patience:g} s"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                detail = words_of(error) if isinstance(error, OSError) else repr(error)
                raise ControlError(f"cannot ask relayd on {self._path}: {detail}") from error
            if answer.status == http.HTTPStatus.FORBIDDEN:
                raise NotPermittedError(_not_permitted(self._path))
            yield answer

    @staticmethod
    def _read(answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(f"the answer of relayd broke off: {error}") from None


def _not_permitted(path: Path) -> str:
    return f"{path}: only root, the user of relayd and {_members(path)} may use it"


def _members(path: Path) -> str:
    """Return who else may use a socket, by the name of its group as far as that can be seen."""
    for place in (path, path.parent):  # who may not enter the directory does not see the socket
        try:
            gid = place.lstat().st_gid
        except OSError:
            continue
        try:
            return f"the members of group {grp.getgrgid(gid).gr_name}"
        except KeyError:
            return f"the members of group {gid}"
    return "the members of its group"


def _data(status: int, body: bytes) -> Any:
    """Return the data of an answer; raise `ControlError` with the details of an error."""
    try:
        answer = msgspec.json.decode(body)
        if status == http.HTTPStatus.OK:
            return answer.get("data")
        details = str(answer["errorDetails"])
    except (*UNDECODABLE, AttributeError, KeyError, TypeError):
        details = f"relayd gave an answer that is not understood (status {status})"
    raise ControlError(details, status)
