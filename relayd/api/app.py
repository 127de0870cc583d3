"""The HTTP API as a Quart-Trio app: its parts and its answers to errors."""

import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, ParamSpec, TypeVar, cast

from quart import Response, request
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from relayd.api import answers
from relayd.api.openapi import openapi_blueprint
from relayd.api.page import page_blueprint
from relayd.api.remote_run import remote_run_blueprint, way_blueprint
from relayd.api.server.body import HTTPConnection, Request
from relayd.api.server.raw_path import BASE, Rest
from relayd.api.shared_files import PREFIX as SHARED_FILES
from relayd.api.shared_files import shared_files_blueprint
from relayd.api.shared_folder import shared_folder_blueprint
from relayd.api.system import Services, metrics_blueprint, system_blueprint
from relayd.system.printable import printable
from relayd.telemetry.logs import get_logger

__all__ = ["BASE", "Services", "make_app"]

log = get_logger("api")

P = ParamSpec("P")
T = TypeVar("T")

#: Maximum size of a request body in bytes, unless a route has its own.
MAX_BODY: Final = 1024 * 1024
#: Characters of a path in a log line.
_SHOWN: Final = 200


class App(QuartTrio):
    """Quart-Trio with bounded bodies and relayd's log."""

    request_class = Request
    asgi_http_class = HTTPConnection

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Match paths whatever the Host is: no route depends on it, and it may be no name at all.

        Werkzeug encodes it for IDNA, which fails for a label of more than 63 characters.
        """
        if request is None:
            return super().create_url_adapter(request)
        return self.url_map.bind(
            "relayd",
            request.root_path,
            url_scheme=request.scheme,
            default_method=request.method,
            path_info=request.path,
            query_args=request.query_string.decode("latin-1"),
        )

    def ensure_async(
        self, func: Callable[P, T] | Callable[P, Awaitable[T]]
    ) -> Callable[P, Awaitable[T]]:
        """Return a coroutine function as it is; Quart's own test of it would load asyncio."""
        if inspect.iscoroutinefunction(func):
            return func
        return self.sync_to_async(cast("Callable[P, T]", func))

    def log_exception(
        self,
        exception_info: tuple[type, BaseException, TracebackType] | tuple[None, None, None],
    ) -> None:
        """Log an unexpected exception of a handler; the client gets no details."""
        kind = exception_info[0]
        log.exception(  # noqa: LOG004 - Quart calls this while it handles the exception
            "request failed",
            method=request.method,
            path=printable(request.path, _SHOWN),
            detail=kind.__name__ if kind is not None else "",
        )


def make_bare_app(name: str) -> App:
    """Return an application without any route."""
    app = App(name, static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY,
        BODY_LIMITS={},
        PROPAGATE_EXCEPTIONS=False,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        RESPONSE_TIMEOUT=None,  # it would break long streams; each write has its own deadline
    )
    app.url_map.converters["rest"] = Rest
    app.url_map.merge_slashes = False  # no redirects to a normalized path
    app.url_map.strict_slashes = False  # one slash at the end makes no difference
    app.register_error_handler(404, _not_found)
    app.register_error_handler(405, _not_found)
    app.register_error_handler(HTTPException, _http_error)
    return app


def make_app(services: Services) -> App:
    """Return the app with all routes that `services` can serve."""
    app = make_bare_app(__name__)
    app.register_blueprint(system_blueprint(services), url_prefix=f"{BASE}/system")
    app.register_blueprint(metrics_blueprint(services.metrics))
    app.register_blueprint(openapi_blueprint(), url_prefix=BASE)
    if services.pages is not None:
        app.register_blueprint(page_blueprint(services.pages))
    if services.shared_folder is not None:
        app.register_blueprint(shared_folder_blueprint(services.shared_folder), url_prefix=BASE)
    if services.shared_files is not None:
        app.config["BODY_LIMITS"][f"{BASE}{SHARED_FILES}"] = services.shared_files.max_body
        app.register_blueprint(shared_files_blueprint(services.shared_files), url_prefix=BASE)
    if services.remote_runs is not None:
        app.register_blueprint(
            remote_run_blueprint(services.remote_runs), url_prefix=f"{BASE}/remote-run"
        )
    if services.ask_way is not None:
        app.register_blueprint(way_blueprint(services.ask_way), url_prefix=f"{BASE}/remote-run")
    return app


async def _not_found(_error: HTTPException) -> Response:
    return answers.not_found()


async def _http_error(error: HTTPException) -> Response:
    """Return the answer for the errors of Werkzeug and Quart; 500 gets no details."""
    return answers.failure(_action(), error.name, error.code or 500)


def _action() -> str:
    """Return the action of the current route: the last part of its endpoint's name."""
    return (request.endpoint or "unknown").rpartition(".")[2]
