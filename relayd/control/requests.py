"""What a request at the control socket asks for, as typed values."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

import msgspec
from quart import Response, request

from relayd.api import answers
from relayd.errors import UNDECODABLE, RelaydError
from relayd.system.libc import trim_memory

T = TypeVar("T")


class BadRequestError(RelaydError):
    """The request has a parameter that is unknown, missing or of the wrong type."""


async def read_body(kind: type[T]) -> T:
    """Return the JSON body of the current request; an empty one is an empty object.

    Args:
        kind: a `msgspec.Struct` with `forbid_unknown_fields`.

    Raises:
        BadRequestError: it is not valid; the text says where.
    """
    data = await request.get_data()
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except UNDECODABLE as error:
        raise BadRequestError(f"body: {error}") from None


def read_query(kind: type[T]) -> T:
    """Return the query parameters of the current request.

    Args:
        kind: a `msgspec.Struct` with `forbid_unknown_fields`; a field that is a tuple takes a
            parameter that is repeated.

    Raises:
        BadRequestError: they are not valid; the text says where.
    """
    repeated = {
        field.encode_name
        for field in msgspec.structs.fields(kind)  # type: ignore[arg-type]
        if not field.required and not isinstance(field.default, str | int | float | None)
    }
    given: dict[str, Any] = {}
    for name, values in request.args.lists():
        if name in repeated:
            given[name] = values
        elif len(values) == 1:
            given[name] = values[0]
        else:
            raise BadRequestError(f"query: `{name}` is repeated")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"query: {error}") from None


def answering(
    action: str,
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Response]]]:
    """Make a handler that returns data answer with it, or with the error that it raises.

    `BadRequestError` becomes status 400, another `RelaydError` 409: what was asked for is
    understood, but not possible now.

    Args:
        action: the name of the operation in the answer.
    """

    def decorate(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Response]]:
        @wraps(handler)
        async def answer(*args: Any, **kwargs: Any) -> Response:
            try:
                return answers.success(action, await handler(*args, **kwargs))
            except RelaydError as error:
                return failure_of(action, error)

        return answer

    return decorate


def encoded(value: object) -> msgspec.Raw:
    """Return a value as JSON; for a thread, as thousands of rows take some milliseconds.

    What was needed to make it, megabytes for a large fleet, is returned to the system.
    """
    raw = msgspec.Raw(msgspec.json.encode(value))
    trim_memory()
    return raw


def failure_of(action: str, error: RelaydError) -> Response:
    """Return the answer for an error, see `answering`."""
    return answers.failure(action, str(error), 400 if isinstance(error, BadRequestError) else 409)
