"""Answers of the front door itself, without a framework."""

from dataclasses import dataclass

from hypercorn.typing import HTTPScope

from relayd.api.server.access import Send

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a short text or none.

    Attributes:
        status: its status.
        text: the body.
        headers: besides those of the body.
    """

    status: int
    text: str = ""
    headers: Headers = ()


async def send_answer(send: Send, answer: Answer, method: str) -> None:
    """Send an answer to a request with this method."""
    body = f"{answer.text}\n".encode() if answer.text else b""
    headers = list(answer.headers)
    if answer.status != 204:
        headers.append((b"content-length", b"%d" % len(body)))
    if body:
        headers.append((b"content-type", b"text/plain; charset=utf-8"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    shown = b"" if method == "HEAD" or answer.status == 204 else body
    await send({"type": "http.response.body", "body": shown, "more_body": False})


def header_of(scope: HTTPScope, name: bytes) -> bytes | None:
    """Return the value of a header, given in lower case; None if there is none."""
    return next((value for key, value in scope["headers"] if key == name), None)
