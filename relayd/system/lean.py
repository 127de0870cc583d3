"""Parts of libraries that the daemon never uses, and therefore does not load.

Each library in the table imports these modules although relayd needs nothing from them. Inside
`lean`, it is imported without them. Together they add 9.3 MB to a relay that has loaded all of
these libraries. An idle relay, without httpcore2, has 49.0 MB and must not exceed 53.
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
#: (Python 3.11, x86-64). What saved less than 0.3 MB was dropped: `hypercorn.asyncio` (0.1) and
#: the blocking half of httpcore2 (0.2).
UNUSED: Final = {
    "structlog": (
        Unused(("rich",), 3.2, optional=True),  # tracebacks in colour
        Unused(("greenlet",), 1.1, optional=True),  # another kind of task
    ),
    "httpcore2": (
        Unused(("h2",), 1.3, optional=True),  # HTTP/2
        Unused(("anyio",), 0.5, optional=True),  # other event loops
    ),
    "quart_trio": (
        Unused(("jinja2",), 1.7),  # HTML templates
        Unused(("h2", "h2.events", "hypercorn.protocol.h2"), 1.4),  # HTTP/2, which the door loads
        Unused(("quart.testing", "quart_trio.testing", "http.cookiejar"), 0.9),  # a test client
        Unused(("hypercorn.protocol.ws_stream",), 0.5),  # websockets
    ),
}


class _StandIn(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {})
        setattr(self, name, found)
        return found


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
