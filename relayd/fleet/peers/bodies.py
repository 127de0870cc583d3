"""Bodies of requests to other policy servers and of their answers, with errors explained."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.tls import PeerStream, reason_of

#: A longer line is returned in pieces.
MAX_LINE: Final = 64 * 1024
#: What libraries raise for values that they did not foresee, beside their own errors.
_UNFORESEEN: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Content:
    """A body to send; remembers the exception with which it ended."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = pieces
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async for piece in self._pieces:
                yield piece
        except Exception as error:
            self.error = error
            raise


class Chunks:
    """Iterates over the body of an answer, turning errors of the library into `PeerError`."""

    def __init__(self, body: AsyncIterator[bytes], stream: PeerStream | None) -> None:
        self._body = body
        self._stream = stream

    def __aiter__(self) -> "Chunks":
        return self

    async def __anext__(self) -> bytes:
        with explained():
            chunk = await anext(self._body)
        if self._stream is not None:
            self._stream.note_content(len(chunk))
        return chunk


class Lines:
    """Splits a body into lines."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._begun = b""
        self._whole: list[bytes] = []
        self._end: StopAsyncIteration | PeerError | None = None

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> bytes:
        while not self._whole:
            if self._end is not None:
                raise self._end
            try:
                self._cut(await anext(self._body))
            except (StopAsyncIteration, PeerError) as end:
                self._end = end
                if self._begun:
                    self._whole, self._begun = [self._begun], b""
        return self._whole.pop()

    def _cut(self, data: bytes) -> None:
        lines = (self._begun + data).splitlines(keepends=True)
        self._begun = b""
        if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < MAX_LINE:
            self._begun = lines.pop()
        self._whole = lines[::-1]


@contextmanager
def explained(content: object = None) -> Iterator[None]:
    """Turn errors of the library into `PeerError`, but not those that a body to send has raised."""
    from relayd.fleet.peers.library import FAILURES

    try:
        yield
    except FAILURES as error:
        raise PeerError(
            f"no valid answer: {reason_of(error)}", "transient", PeerStep.ANSWER
        ) from None
    except _UNFORESEEN as error:
        if isinstance(content, Content) and error is content.error:
            raise
        detail = f"no valid request or answer: {type(error).__name__}: {reason_of(error)}"
        raise PeerError(detail, "transient", PeerStep.ANSWER) from error
