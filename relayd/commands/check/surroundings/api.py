"""The HTTP API of a running daemon, asked without any of its parts."""

import json
from enum import Enum, auto
from typing import Any, Final

import trio

from relayd.config.values import Listen

#: Seconds for the program that listens there to answer.
ANSWER_S: Final = 2.0
_MAX_ANSWER: Final = 2**20


class NoAnswer(Enum):
    """Why there is no answer: nothing listens there, or what listens there sends nothing."""

    CLOSED = auto()
    SILENT = auto()


async def get(listen: Listen, path: str) -> bytes | NoAnswer:
    """Return the answer to a GET request, head and body, whatever answers."""
    question = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = b""
    connected = False
    try:
        with trio.move_on_after(ANSWER_S) as scope:
            async with await _connect(listen) as stream:
                connected = True
                await stream.send_all(question.encode())
                async for chunk in stream:
                    answer += chunk
                    if len(answer) > _MAX_ANSWER:
                        break
    except (OSError, trio.BrokenResourceError):
        return answer if connected else NoAnswer.CLOSED
    return NoAnswer.SILENT if scope.cancelled_caught else answer


async def _connect(listen: Listen) -> trio.SocketStream:
    if listen.path:
        return await trio.open_unix_socket(listen.path)
    return await trio.open_tcp_stream(listen.host, listen.port)


def body_of(answer: bytes) -> bytes:
    """Return the body of an answer."""
    return answer.partition(b"\r\n\r\n")[2]


def document(answer: bytes, action: str) -> dict[str, Any] | None:
    """Return the JSON document of a relay daemon's answer, None if it is not one.

    Args:
        answer: what was answered; the body may be in chunks, of which there is one.
        action: the name of the request.
    """
    body = body_of(answer)
    try:
        found = json.loads(body[body.find(b"{") : body.rfind(b"}") + 1])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("action") == action else None
