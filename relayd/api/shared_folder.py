"""`/shared-folder`: the server's files that every node may read."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

import trio
from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody

from relayd.api import answers
from relayd.api.conditional import Version, precondition, wanted_range
from relayd.api.server.raw_path import last_value, rest_of_path
from relayd.shared.metadata import HASHES
from relayd.shared.paths import PathError, split_path
from relayd.shared.reading import CHUNK, Digests, OpenFile
from relayd.system.printable import printable
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger

log = get_logger("shared_files")

_PREFIX: Final = "/shared-folder/"
#: Bytes of one write. A client has `Limits.write_s` for each, so slow clients need small pieces;
#: larger pieces are not faster.
PIECE: Final = 64 * 1024
#: Characters of a path in a log line.
_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """What the routes need.

    Attributes:
        path: the directory; nothing outside it is ever served.
        digests: hashes of its files.
        reading: limits the threads that read for clients.
    """

    path: Path
    digests: Digests = field(default_factory=Digests)
    reading: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(16))


def shared_folder_blueprint(folder: SharedFolder) -> Blueprint:
    """Return the route `/shared-folder/PATH`, relative to the base of the API."""
    routes = Blueprint("shared_folder", __name__)

    @routes.route(f"{_PREFIX}<rest:_path>", methods=["GET", "HEAD"], endpoint="getSharedFolder")
    async def answer(_path: str) -> Response:
        return await answer_file(folder, rest_of_path(_PREFIX), "getSharedFolder")

    return routes


async def answer_file(folder: SharedFolder, raw: bytes, action: str) -> Response:
    """Return the answer to a request for a file.

    Args:
        folder: where the file is.
        raw: its path there, percent-encoded.
        action: name of the request in errors.
    """
    try:
        wanted = _wanted_hash(last_value("hash_type"), last_value("hash"))
    except ValueError as error:
        return answers.failure(action, str(error), 400)
    shown = printable(unquote(raw.decode("latin-1")), _SHOWN)
    try:
        parts = split_path(raw)
        file = await in_thread(OpenFile.beneath, folder.path, parts, limiter=folder.reading)
    except PathError as error:
        log.info("path refused", path=shown, reason=str(error))
        return answers.not_found()
    except FileNotFoundError as error:
        unreadable = isinstance(error.__cause__, PermissionError)
        write = log.warning if unreadable else log.debug
        write("no such file", path=shown, reason=error.strerror)
        return answers.not_found()
    except OSError as error:
        return _read_error(shown, action, error)
    try:
        return await _answer(folder, file, wanted)
    except OSError as error:
        return _read_error(shown, action, error)


def _read_error(path: str, action: str, error: OSError) -> Response:
    """Return the answer for a file that exists but cannot be read."""
    log.error("file cannot be read", path=path, detail=str(error))
    return answers.failure(action, "the file cannot be read", 500)


async def _answer(folder: SharedFolder, file: OpenFile, wanted: tuple[str, str] | None) -> Response:
    """Return the answer for a file; close the file unless its content will be sent."""
    version = Version.of(file.status)
    body = None
    try:
        status = precondition(request.headers, version)
        if request.method == "GET":
            body = _body(folder, file, version) if status == 200 else None
        elif status == 200 and wanted is not None:
            status = 304 if await folder.digests.of(file, wanted[0]) == wanted[1] else 200
    finally:
        if body is None:
            file.close()
    response = _response(status, version) if body is None else _content(body, version)
    response.headers["ETag"] = version.etag
    response.headers["Last-Modified"] = version.last_modified
    return response


def _wanted_hash(algorithm: str, value: str) -> tuple[str, str] | None:
    """Return algorithm and lower-case value of the client's hash; None if it gives none."""
    algorithm, value = algorithm or "sha256", value.lower()
    if algorithm not in HASHES:
        raise ValueError("invalid hash_type, should be sha256 or sha512")
    if not value:
        return None
    digits = 2 * HASHES[algorithm]
    if len(value) != digits or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"invalid hash, should be {digits} hexadecimal digits")
    return algorithm, value


def _body(folder: SharedFolder, file: OpenFile, version: Version) -> "_FileBody | None":
    """Return the requested part of the file; None if it has no such part."""
    part = wanted_range(request.headers, version)
    if part is None:
        return _FileBody(folder, file, range(version.size), whole=True)
    return _FileBody(folder, file, part, whole=False) if part else None


def _response(status: int, version: Version) -> Response:
    """Return an answer without the file's content."""
    if status == 200 and request.method == "GET":
        response = answers.empty(416)
        response.headers["Content-Range"] = f"bytes */{version.size}"
        return response
    response = answers.empty(status)
    if status == 200:
        _describe(response, version.size)
    elif status == 304:
        del response.headers["Content-Length"]
    return response


def _content(body: "_FileBody", version: Version) -> Response:
    """Return an answer with the file's content, or a part of it."""
    response = Response(body, status=200 if body.whole else 206)
    _describe(response, len(body.part))
    if not body.whole:
        part = f"{body.part.start}-{body.part.stop - 1}"
        response.headers["Content-Range"] = f"bytes {part}/{version.size}"
    return response


def _describe(response: Response, size: int) -> None:
    response.headers["Content-Type"] = "application/octet-stream"
    response.headers["Content-Length"] = str(size)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["X-Content-Type-Options"] = "nosniff"


class _FileBody(ResponseBody):
    """Part of a file as the body of an answer; each piece is read after the previous one is sent.

    If the file is truncated meanwhile, the answer is broken off: its length was already sent.
    """

    def __init__(self, folder: SharedFolder, file: OpenFile, part: range, *, whole: bool) -> None:
        self._path = printable(request.path, _SHOWN)
        self.part = part
        self.whole = whole
        self._folder = folder
        self._file = file
        self._at = part.start
        self._read = memoryview(b"")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._file.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._read:
            self._read = memoryview(await self._read_on())
        piece, self._read = self._read[:PIECE], self._read[PIECE:]
        return bytes(piece)

    async def _read_on(self) -> bytes:
        size = min(CHUNK, self.part.stop - self._at)
        if not size:
            raise StopAsyncIteration
        try:
            data = await in_thread(self._file.read, self._at, size, limiter=self._folder.reading)
        except OSError as error:
            raise self._broken_off(f"cannot be read: {words_of(error)}") from error
        if not data:
            raise self._broken_off("became shorter while it was sent")
        self._at += len(data)
        return data

    def _broken_off(self, detail: str) -> answers.BrokenOffError:
        log.warning("answer broken off", path=self._path, detail=detail)
        return answers.BrokenOffError(detail)
