"""Structured logging: constant event texts with fields, filtered per component and node.

    log = get_logger("disposal").bind(queue_id=queue_id, file=name)
    log.warning("file refused", reason="bad_name")

Loggers can be used from import on. `open_logging` moves writing to a separate thread, so that the
event loop never waits for a reader of the log; `configure` applies `logging.conf`, at the start
and on each reload. Loggers are structlog's, so `structlog.testing.capture_logs` works with them.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any, Final, Self

from relayd.config.log_filter import ANY, DEBUG, ERROR, INFO, TRACE, WARNING, Directive
from relayd.config.logging_conf import LoggingSettings
from relayd.errors import SettingError
from relayd.system.lean import lean
from relayd.system.streams import is_journal
from relayd.telemetry.bridge import bridged, library_floor
from relayd.telemetry.limit import BURST, Key, RateLimit
from relayd.telemetry.lines import RESERVED, Render, json_renderer, text_renderer
from relayd.telemetry.recent import Recent
from relayd.telemetry.writer import LogWriter

with lean("structlog"):
    import structlog

__all__ = ["Limit", "Logger", "configure", "dropped", "get_logger", "open_logging", "recent"]

_FORMAT_VARIABLE: Final = "RELAYD_LOG_FORMAT"
_NAMES: Final = {
    TRACE: "trace",
    DEBUG: "debug",
    INFO: "info",
    WARNING: "warning",
    ERROR: "error",
}
#: Levels that the rate limit applies to: a lower one is enabled to get every line, and errors
#: are never left out.
_LIMITED: Final = frozenset({"info", "warning"})


class Limit(Enum):
    """How many lines of one event are logged per second at the levels info and warning.

    `EVENT`: ten. `GOOD_FILES`: `general.file_lines` of `logging.conf`, for events that every file
    of a fleet causes. `NONE`: all, where an operator looks for each line.
    """

    EVENT = auto()
    GOOD_FILES = auto()
    NONE = auto()


class Levels:
    """Decides which lines are logged: compiled directives, the most specific one wins."""

    def __init__(self, directives: tuple[Directive, ...]) -> None:
        self._table = {
            (item.queue_id, item.node, item.component): item.level for item in directives
        }
        #: Whether a directive depends on the node, or on the file.
        self._by_node = any(item.node for item in directives)
        self._by_file = any(item.queue_id for item in directives)
        self._components = {
            name: self._threshold(name) for name in {item.component for item in directives}
        }
        self._base = self._components.get("", INFO)
        self._named = frozenset(self._components) - {""}
        #: The level below which no component logs anything.
        self.floor = min(item.level for item in directives)

    def enabled(
        self, level: int, component: str, node: object = None, queue_id: object = None
    ) -> bool:
        """Return whether a line of this level is logged.

        Args:
            level: of `relayd.config.log_filter`.
            component: that logs it.
            node: that it is about, None if it concerns no node.
            queue_id: of the file that it is about, None if it concerns no file.
        """
        if level < self.floor:
            return False
        if (self._by_node and node is not None) or (self._by_file and queue_id is not None):
            return level >= self._threshold(component, node, queue_id)
        return level >= self._components.get(component, self._base)

    def library_enabled(self, level: int, library: str, component: str) -> bool:
        """Return whether a line of a library is logged.

        Args:
            level: of the line.
            library: the first part of its logger's name; a directive may name it.
            component: the one that such lines belong to otherwise.
        """
        return self.enabled(level, library if library in self._named else component)

    def _threshold(self, component: str, node: object = None, queue_id: object = None) -> int:
        for file in _by_specificity(queue_id):
            for about in _by_specificity(node):
                for name in (component, ""):
                    level = self._table.get((file, about, name))
                    if level is not None:
                        return level
        return INFO


def _by_specificity(value: object) -> tuple[str, ...]:
    return ("",) if value is None else (str(value), ANY, "")


class Logger(structlog.BoundLoggerBase):
    """Logs the events of one component; made by `get_logger`, never directly.

    Methods take a constant event text and fields. Secrets among the fields are starred out, long
    values truncated and unprintable characters escaped.
    """

    def write(self, level: int, event: str, /, **fields: object) -> None:
        """Log at a level of `relayd.config.log_filter`, whether it is enabled or not."""
        self._write(_NAMES[level], event, fields)

    def debug(self, event: str, /, **fields: object) -> None:
        """Log a step in the processing of one file or request."""
        self._log(DEBUG, "debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log a normal event that is of interest to an operator."""
        self._log(INFO, "info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log a problem with one file, node or request."""
        self._log(WARNING, "warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Log a problem that an operator must act on."""
        self._log(ERROR, "error", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Log the exception being handled with its traceback."""
        self._log(ERROR, "exception", event, {"exc_info": sys.exc_info()[1], **fields})

    def enabled(self, level: int) -> bool:
        """Return whether lines of a level (of `relayd.config.log_filter`) are logged."""
        context = self._context
        return _state.levels.enabled(
            level, context["component"], context.get("node"), context.get("queue_id")
        )

    def bind(self, **fields: object) -> Self:
        """Return a logger that adds these fields to its lines."""
        return super().bind(**_renamed(fields))

    def _log(self, level: int, method: str, event: str, fields: dict[str, object]) -> None:
        context = self._context
        node = fields.get("node") or context.get("node")
        queue_id = fields.get("queue_id") or context.get("queue_id")
        if _state.levels.enabled(level, context["component"], node, queue_id):
            self._write(method, event, fields)

    def _write(self, method: str, event: str, fields: dict[str, object]) -> None:
        try:
            (line,), _ = self._process_event(method, event, _renamed(fields))
        except structlog.DropEvent:
            return
        self._logger.write(line)


def _renamed(fields: dict[str, object]) -> dict[str, object]:
    """Rename fields that are called like a part of the line, so that none replaces that part."""
    for name in RESERVED:
        if name in fields:
            fields[f"{name}_"] = fields.pop(name)
    return fields


class _State:
    """State that `configure` and `open_logging` change; one per process, as is the log."""

    def __init__(self) -> None:
        self.levels = Levels((Directive("", "", INFO),))
        self.render: Render = text_renderer(journal=False)
        self.limit = RateLimit()
        self.file_lines = LoggingSettings().general.file_lines
        self.fd = 1
        self.writer: LogWriter | None = None
        self.dropped = 0
        self.recent = Recent()


_state = _State()


class _Output:
    """Passes rendered events of structlog to the writing thread, or to stderr before its start."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit

    def write(self, line: bytes) -> None:
        writer = _state.writer
        if writer is not None:
            writer.put(line)
        elif sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(line.decode())


_OUTPUTS: Final = {limit: _Output(limit) for limit in Limit}


def get_logger(component: str, limit: Limit = Limit.EVENT) -> Logger:
    """Return the logger of one component.

    Args:
        component: its name in each line and in `logging.conf`.
        limit: how many lines per second of each event are logged before a summary.
    """
    return Logger(_OUTPUTS[limit], _processors, {"component": component})


def configure(settings: LoggingSettings, *, stream_fd: int = 1, json: bool | None = None) -> None:
    """Apply `logging.conf` to all lines logged from now on, and log its warnings.

    Args:
        settings: levels, filter and format.
        stream_fd: the file descriptor to write to. When systemd connected it to the journal
            ($JOURNAL_STREAM, systemd.exec(5)), lines carry their priority.
        json: whether to write one JSON document per line; None to follow $RELAYD_LOG_FORMAT
            (`json` or `text`), or the settings if it is not set.

    Raises:
        SettingError: the variable is invalid; nothing was changed.
    """
    levels = Levels(settings.directives())
    as_json = wants_json(settings) if json is None else json
    make = json_renderer if as_json else text_renderer
    _state.render = make(journal=is_journal(stream_fd))
    _state.levels = levels
    _state.file_lines = settings.general.file_lines
    _state.fd = stream_fd
    if _state.writer is not None:
        _state.writer.fd = stream_fd
        logging.getLogger().setLevel(library_floor(levels.floor))
    for warning in settings.warnings:
        get_logger("config").warning("logging configuration", detail=warning)


@contextmanager
def open_logging() -> Iterator[None]:
    """Start the writing thread and log the records of libraries; flush waiting lines at the end.

    Flushing takes at most 2 seconds, however slow the reader is.
    """
    _occupy_standard_streams()
    _state.limit = RateLimit()
    _state.recent = Recent()
    writer = LogWriter(_state.fd, _dropped_line, _summaries, _state.limit.next_due)
    writer.start()
    _state.writer = writer
    try:
        with bridged(_log_for_library, _library_enabled):
            logging.getLogger().setLevel(library_floor(_state.levels.floor))
            yield
    finally:
        _state.writer = None
        writer.close()
        _state.dropped += writer.dropped


def dropped() -> int:
    """Return how many log lines could not be written since the start."""
    return _state.dropped + (_state.writer.dropped if _state.writer is not None else 0)


def recent() -> Recent:
    """Return the last warnings and errors since the start."""
    return _state.recent


def _note(
    _output: _Output, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    _state.recent.note(method, event)
    return event


def _limit(
    output: _Output, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if output.limit is not Limit.NONE and method in _LIMITED:
        burst = _state.file_lines if output.limit is Limit.GOOD_FILES else BURST
        if not burst:
            raise structlog.DropEvent
        key = Key(method, event["component"], event["event"])
        admitted, first = _state.limit.admit(key, time.monotonic(), burst)
        if first and _state.writer is not None:
            _state.writer.wake()
        if not admitted:
            raise structlog.DropEvent
    return event


def _render(_output: _Output, method: str, event: MutableMapping[str, Any]) -> bytes:
    return _state.render(method, event)


#: Shared by all loggers and changed in place only: that is how `capture_logs` reaches them.
_processors: Final[list[Any]] = [_note, _limit, _render]
structlog.configure(processors=_processors)


def _library_enabled(level: int, library: str, component: str) -> bool:
    return _state.levels.library_enabled(level, library, component)


def _log_for_library(level: int, component: str, event: str, error: BaseException | None) -> None:
    fields = {} if error is None else {"exc_info": error}
    # The bridge has decided already; a directive may name the library and not the component.
    get_logger(component).write(level, event, **fields)


def _summaries(now: float) -> bytes:
    return b"".join(
        _state.render(
            key.level, _event(key.component, "lines left out", count=count, like=key.event)
        )
        for key, count in _state.limit.due(now)
    )


def _dropped_line(count: int) -> bytes:
    return _state.render("warning", _event("main", f"{count} log lines dropped"))


def _event(component: str, event: str, **fields: object) -> dict[str, Any]:
    return {"component": component, "event": event, **fields}


def wants_json(settings: LoggingSettings) -> bool:
    """Return whether lines are JSON documents: by $RELAYD_LOG_FORMAT, or else by the settings.

    Raises:
        SettingError: the variable is invalid.
    """
    word = os.environ.get(_FORMAT_VARIABLE) or settings.general.format
    if word not in {"json", "text"}:
        raise SettingError(_FORMAT_VARIABLE, '"json" or "text"', f"{word!a:.60}")
    return word == "json"


def _occupy_standard_streams() -> None:
    """Open /dev/null for each of descriptors 0 to 2 that is closed.

    Otherwise the next file or socket to be opened would get its number, and with it relayd's log
    lines.
    """
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
