"""Imports that leave out what a daemon has no use for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Make modules look not installed while others that can do without them are imported.

    What is imported already is left alone, and afterwards all can be imported as ever.

    Args:
        modules: top-level module names.
    """
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def stood_in(module: str, *names: str) -> Iterator[None]:
    """Let others import empty classes from a module that is not loaded, and never used by them.

    What is imported already is left alone, and afterwards it can be imported as ever.

    Args:
        module: dotted name.
        names: what is imported from it.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = substitute = ModuleType(module)
    for name in names:
        setattr(substitute, name, type(name, (), {}))
    try:
        yield
    finally:
        del sys.modules[module]
