"""Parts of libraries that the daemon never uses, and therefore does not load.

Each library in the table imports these modules although relayd needs nothing from them. Inside
`lean`, it is imported without them. The rows add up to some 17 MB. An idle relay has
46.0 MB and must not exceed 53.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final, NamedTuple, cast


class Unused(NamedTuple):
    """Modules of no use to relayd that are loaded together or not at all.

    Attributes:
        modules: dotted names.
        saves: resident memory in MB that loading them adds to a relay that is otherwise lean.
        optional: the library handles their absence; otherwise it gets empty classes instead.
    """

    modules: tuple[str, ...]
    saves: float
    optional: bool = False


#: Library → its unused parts. Medians of 7 fresh interpreters each that import what a relay imports
#: (Python 3.11, x86-64). What saved less than 0.3 MB was dropped: `itsdangerous` (0.2),
#: `werkzeug.sansio.multipart` and `gzip` (0.1), and the blocking half of the HTTP client (0.2).
UNUSED: Final = {
    "trio": (Unused(("trio._dtls",), 0.4),),  # encrypted datagrams
    "msgspec": (Unused(("typing_extensions",), 0.4, optional=True),),  # for older Pythons
    "structlog": (
        Unused(
            ("structlog.dev", "structlog.tracebacks"), 3.5
        ),  # lines in colour; an estimate, with rich
        Unused(("asyncio",), 1.6),  # another event loop
        Unused(("greenlet",), 1.1, optional=True),  # another kind of task
        Unused(("pickle",), 0.5),  # copies of loggers
    ),
    "prometheus_client": (
        # A server and a client for metrics.
        Unused(("http.server", "socketserver", "urllib.request", "wsgiref.simple_server"), 1.5),
    ),
    "httpcore2": (
        Unused(("h2",), 1.3, optional=True),  # HTTP/2
        Unused(("anyio",), 0.5, optional=True),  # other event loops
    ),
    "quart_trio": (
        Unused(("click", "click.core", "click.testing", "flask.cli", "quart.cli"), 2.5),  # commands
        Unused(("jinja2",), 1.7),  # HTML templates
        # Another event loop, and files in its threads.
        Unused(
            (
                "asyncio",
                "aiofiles",
                "aiofiles.base",
                "aiofiles.threadpool",
                "aiofiles.threadpool.binary",
                "hypercorn.asyncio",
            ),
            1.9,
        ),
        Unused(("werkzeug.serving", "werkzeug.test"), 1.4),  # a server for development
        Unused(("h2", "h2.events", "hypercorn.protocol.h2"), 1.4),  # HTTP/2, which the door loads
        # Hypercorn as a program: processes, its log.
        Unused(("hypercorn.logging", "hypercorn.trio.run", "multiprocessing.synchronize"), 1.2),
        Unused(("quart.testing", "quart_trio.testing", "http.cookiejar"), 0.9),  # a test client
        Unused(("hypercorn.protocol.ws_stream",), 0.5),  # websockets
    ),
}


class _StandIn(ModuleType):
    """A module in which every name is an empty class.

    While the library is imported, calling one makes an instance that is good for nothing, such as
    a default that relayd replaces. Afterwards, a call loads the module and is passed on, so that a
    use that nobody expected costs time and memory, but works.
    """

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        # Such a name may stand in an `except` clause.
        bases = (Exception,) if name.endswith("Error") else ()
        found = type(name, bases, {"__new__": self._make, "__module__": self.__name__})
        setattr(self, name, found)
        return found

    def _make(self, kind: type, *args: object, **options: object) -> object:
        if sys.modules.get(self.__name__) is self or kind.__module__ != self.__name__:
            return object.__new__(kind)
        return getattr(importlib.import_module(self.__name__), kind.__name__)(*args, **options)


@contextmanager
def lean(library: str) -> Iterator[None]:
    """Let a library be imported without its unused parts; afterwards they can be imported as usual.

    Modules that were imported before are left alone.
    """
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    replaced = [
        (name, unused)
        for unused in UNUSED[library]
        for name in unused.modules
        if name not in modules
    ]
    for name, unused in replaced:
        modules[name] = None if unused.optional else _StandIn(name)
    try:
        yield
    finally:
        for name, _ in replaced:
            del modules[name]


def load_lean(library: str) -> None:
    """Import a library without its unused parts."""
    with lean(library):
        importlib.import_module(library)


class _Later(ModuleType):
    """A module that is loaded when something of it is first used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def load_when_used(name: str) -> None:
    """Let a module be loaded when something of it is first used; call it before its importers.

    `idna` is 0.5 MB that trio imports for host names outside ASCII.
    """
    sys.modules.setdefault(name, _Later(name))
