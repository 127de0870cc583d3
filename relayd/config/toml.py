"""Read a TOML file into frozen structs, with errors that name file, key, value and expectation."""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_type_hints

import msgspec

from relayd.config.syntax import syntax_error
from relayd.errors import ConfigError, ConfigWarning, RelaydError, SettingError
from relayd.system.files import open_regular
from relayd.system.printable import printable

T = TypeVar("T", bound=msgspec.Struct)
S = TypeVar("S", bound=msgspec.Struct)
E = TypeVar("E", bound=RelaydError)

#: A configuration file has a few kilobytes; a larger one is a mistake and would only cost time.
MAX_BYTES: Final = 1024 * 1024
#: tomllib's time grows with the square of the parts of a dotted key, which is on one line. Only in
#: lines longer than this can it be seconds.
_LONG_LINE_BYTES: Final = 4096
_MAX_KEY_PARTS: Final = 100
#: Strings and comments, in which dots divide no key; and what ends a key.
_NO_KEY: Final = re.compile(rb"\"(?:[^\"\\]|\\.)*+\"?|'[^']*+'?|#.*")
_AROUND_KEYS: Final = re.compile(rb"[=,\[\]{}]")
#: A line that holds a whole `key = value`, or should.
_ASSIGNMENT: Final = re.compile(r"\s*[A-Za-z0-9_\-.\"' ]+=")
_MAX_SHOWN: Final = 60
_INTEGER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
#: Names for a key → names of keys for the same, the most likely first.
_SAME: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("pass", "passphrase", "passwd", "pw", "pwd", "secret"), ("password",)),
    **dict.fromkeys(("account", "login", "username"), ("user",)),
    **dict.fromkeys(("address", "fqdn", "hostname", "ip", "policy_server", "server"), ("host",)),
    **dict.fromkeys(("connection", "dsn", "uri"), ("url",)),
    "url": ("host",),
    **dict.fromkeys(("pool", "pool_size", "max_connections"), ("max_pool_size",)),
    **dict.fromkeys(("db", "pgsql", "postgres", "postgresql"), ("database",)),
    **dict.fromkeys(("parent", "relay"), ("upstream",)),
    **dict.fromkeys(("dir", "folder", "spool"), ("directory", "path")),
    **dict.fromkeys(("interval", "period"), ("frequency",)),
    **dict.fromkeys(("age", "keep", "max_age", "ttl"), ("retention", "max_ttl")),
    **dict.fromkeys(("reports", "runlogs", "run_logs"), ("reporting",)),
    **dict.fromkeys(("inventories",), ("inventory",)),
    **dict.fromkeys(("bind", "listen_address"), ("listen",)),
    **dict.fromkeys(("port", "upstream_port"), ("https_port",)),
    **dict.fromkeys(("id", "uuid"), ("node_id",)),
    **dict.fromkeys(("threads", "workers", "cores"), ("core_threads",)),
    **dict.fromkeys(("global", "logging", "main"), ("general",)),
    "proxy": ("https_proxy",),
    "verify_certificates": ("peer_authentication",),
    **dict.fromkeys(("log_level", "loglevel", "severity"), ("level",)),
    **dict.fromkeys(("sudo",), ("use_sudo",)),
}
_MAX_UNKNOWN: Final = 50
#: Errors of one file that are reported; syntax errors are found by reading the file again.
_MAX_ERRORS: Final = 20
_MAX_BITS: Final = 64
_TYPE_NAMES: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "an array",
    dict: "a table",
}


class UnexpectedError(ValueError):
    """A value that its key does not accept, with more than `Leaf.expected` says.

    Attributes:
        expected: completes "expected …"; None for that of the leaf.
        got: completes "got …"; None to show the value, unless it is confidential.
        suggestion: the value that was probably meant, None without one.
    """

    def __init__(
        self,
        expected: str | None = None,
        got: str | None = None,
        *,
        suggestion: str | None = None,
    ) -> None:
        meant = "" if suggestion is None else f", did you mean {suggestion}?"
        super().__init__(f"expected {expected}, got {got}{meant}")
        self.expected = expected
        self.got = got
        self.suggestion = suggestion


class Leaf(NamedTuple):
    """How to read the value of one key; part of the `Annotated` of a struct's field.

    Attributes:
        expected: completes "expected …" in an error.
        parse: turns the value from TOML into that of the field; raises ValueError to refuse it,
            `UnexpectedError` to say more.
        confidential: errors never show the value.
        doubt: says what is questionable about an accepted value from TOML, or returns None.
    """

    expected: str
    parse: Callable[[Any], object]
    confidential: bool = False
    doubt: Callable[[Any], str | None] | None = None


class Built(NamedTuple, Generic[T]):
    """A file as far as it could be read.

    Attributes:
        value: the struct; keys with an error keep their default.
        warnings: unknown keys and questionable values.
        errors: values that their keys do not accept.
    """

    value: T
    warnings: list[ConfigWarning]
    errors: list[SettingError]


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML 1.0 file.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is too large, not UTF-8, or not TOML.
    """
    table, errors = read_lines(path)
    if errors:
        raise joined(*errors)
    return table


def read_lines(path: Path) -> tuple[dict[str, Any], list[ConfigError]]:
    """Read a TOML 1.0 file; leave out lines that are no TOML, and return an error for each.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is too large, not UTF-8, or without its invalid lines still not TOML.
    """
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    _check_size(path, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        detail = "UTF-16, expected UTF-8" if utf16 else f"byte {error.start} is not UTF-8"
        raise ConfigError(detail if utf16 else f"line {line}: {detail}", file=path) from None
    errors: list[ConfigError] = []
    while True:
        try:
            return _loads(path, text), errors
        except ConfigError as error:
            errors.append(error)
            rest = _without_line(text, error.line)
            if rest is None or len(errors) >= _MAX_ERRORS:
                raise joined(*errors) from None
            text = rest


def joined(first: E, *others: RelaydError, warnings: Iterable[ConfigWarning] = ()) -> E:
    """Return the first error, which then carries the others and the warnings."""
    first.others = (*first.others, *others)
    first.warnings = (*first.warnings, *warnings)
    return first


def build(path: Path, table: dict[str, Any], struct: type[T]) -> tuple[T, list[ConfigWarning]]:
    """Turn a TOML table into `struct`; absent keys keep its defaults.

    Args:
        path: the file, for messages only.
        table: the result of `read_table`.
        struct: the type to build.

    Returns:
        The value, and a warning for each unknown key and each questionable value.

    Raises:
        SettingError: a value is not what its key expects.
    """
    built = build_all(path, table, struct)
    if built.errors:
        raise joined(*built.errors, warnings=built.warnings)
    return built.value, built.warnings


def build_all(path: Path, table: dict[str, Any], struct: type[T]) -> Built[T]:
    """Turn a TOML table into `struct`, and collect what is wrong with it.

    Every field is either a struct (a TOML table) or carries a `Leaf`.
    """
    builder = _Builder(path, struct)
    value = builder.build(table, struct, "")
    return Built(value, builder.all_warnings(), builder.errors)


def leaves(value: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of every field, with those of nested structs in their place."""
    for name, hint in get_type_hints(type(value), include_extras=True).items():
        field = getattr(value, name)
        if _is_struct(hint):
            yield from leaves(field, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def shown(value: object) -> str:
    """Return a TOML value as messages show it, in at most 60 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{printable(value, _MAX_SHOWN)}"'
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"an integer of more than {_MAX_BITS} bits"
    if isinstance(value, int | float):
        return printable(str(value), _MAX_SHOWN)
    return _TYPE_NAMES.get(type(value), "a date or time")


def _check_size(path: Path, data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes", file=path)
    for number, line in enumerate(data.split(b"\n"), 1):
        if len(line) > _LONG_LINE_BYTES and _most_dots(line) >= _MAX_KEY_PARTS:
            detail = f"line {number}: a key of more than {_MAX_KEY_PARTS} parts"
            raise ConfigError(detail, file=path, line=number)


def _most_dots(line: bytes) -> int:
    """Return how many dots the longest dotted key of a line has at most."""
    return max(part.count(b".") for part in _AROUND_KEYS.split(_NO_KEY.sub(b"", line)))


def _loads(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise syntax_error(path, str(error), text) from None
    except RecursionError:
        raise ConfigError("nested too deeply", file=path) from None
    except ValueError as error:  # a number with thousands of digits, a date that does not exist
        raise ConfigError(printable(str(error), 200), file=path) from None


def _without_line(text: str, number: int | None) -> str | None:
    """Return the text with one line emptied; None if that line is not by itself at fault."""
    lines = text.split("\n")
    if number is None or number > len(lines) or not _ASSIGNMENT.match(lines[number - 1]):
        return None
    if _is_open(lines[number - 1]):
        return None  # what it opens may end in a later line, which by itself is not at fault
    lines[number - 1] = ""
    return "\n".join(lines)


def _is_open(line: str) -> bool:
    value = line.partition("=")[2]
    pairs = (("[", "]"), ("{", "}"))
    return value.count('"') % 2 > 0 or any(value.count(a) > value.count(b) for a, b in pairs)


class _Builder:
    """Builds the structs of one file."""

    def __init__(self, path: Path, root: type[msgspec.Struct]) -> None:
        self._path = path
        self._root = root
        self._warnings: list[ConfigWarning] = []
        self._unknown = 0
        self.errors: list[SettingError] = []

    def all_warnings(self) -> list[ConfigWarning]:
        more = self._unknown - _MAX_UNKNOWN
        if more <= 0:
            return self._warnings
        detail = f"{more} more unknown keys"
        last = ConfigWarning(kind="more_unknown_keys", detail=detail, file=self._path)
        return [*self._warnings, last]

    def build(self, table: dict[str, Any], struct: type[S], prefix: str) -> S:
        hints = get_type_hints(struct, include_extras=True)
        fields: dict[str, object] = {}
        for name, value in table.items():
            key = prefix + name
            hint = hints.get(name)
            if hint is None:
                self._note_unknown(key)
            elif not _is_struct(hint):
                self._parse(fields, name, key, value, _leaf(hint))
            elif isinstance(value, dict):
                fields[name] = self.build(value, hint, f"{key}.")
            else:
                got = _TYPE_NAMES.get(type(value)) if isinstance(value, str) else None
                got = got if got and _is_confidential(hint) else shown(value)
                self._refuse(key, "a table", got, _as_table(key, value, hint))
        return struct(**fields)

    def _parse(
        self, fields: dict[str, object], name: str, key: str, value: object, leaf: Leaf
    ) -> None:
        kind = _TYPE_NAMES.get(type(value), "a date or time")
        got = kind if leaf.confidential else shown(value)
        try:
            fields[name] = leaf.parse(value)
        except UnexpectedError as error:
            expected = error.expected or leaf.expected
            meant = error.suggestion or _rewritten(value, leaf)
            self._refuse(key, expected, error.got or got, meant)
        except ValueError:  # its text could show a confidential value
            self._refuse(key, leaf.expected, got, _rewritten(value, leaf))
        else:
            self._note_doubt(key, leaf.doubt(value) if leaf.doubt else None)

    def _refuse(self, key: str, expected: str, got: str, suggestion: str | None = None) -> None:
        if len(self.errors) < _MAX_ERRORS:
            key = printable(key, 200)
            error = SettingError(key, expected, got, file=self._path, suggestion=suggestion)
            self.errors.append(error)

    def _note_doubt(self, key: str, doubt: str | None) -> None:
        if doubt is not None:
            detail = f"{key}: {doubt}"
            warning = ConfigWarning(kind="doubtful", detail=detail, key=key, file=self._path)
            self._warnings.append(warning)

    def _note_unknown(self, key: str) -> None:
        self._unknown += 1
        if self._unknown > _MAX_UNKNOWN:
            return
        shown = printable(key, 200)
        warning = ConfigWarning(
            kind="unknown_key",
            detail=f"unknown key {shown}",
            key=shown,
            suggestion=meant_key(key, _keys(self._root)),
            file=self._path,
        )
        self._warnings.append(warning)


def close_word(word: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """Return the one of `known` that was probably meant by `word`, if any.

    Args:
        word: as it was written; case does not matter, and `-` is the same as `_`.
        known: in lower case.
        cutoff: how similar they must be, up to 1. Below 0.7, `postgres` is like `upstream`.
    """
    import difflib

    folded = {one.replace("-", "_"): one for one in known}
    word = word[:100].lower().replace("-", "_")
    close = difflib.get_close_matches(word, folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def meant_key(key: str, known: Iterable[str]) -> str | None:
    """Return the key or table that was probably meant by an unknown one, if any.

    Args:
        key: the unknown key, with the tables around it.
        known: the dotted names of all keys and tables.
    """
    known = list(known)
    key = key[:200].lower().replace("-", "_")
    table, _, name = key.rpartition(".")
    siblings = {one.rpartition(".")[2]: one for one in known if one.rpartition(".")[0] == table}
    same = (name, *_SAME.get(name, ()))
    for word in same:
        if word in siblings:
            return siblings[word]
    for around in (f"{table}.", ""):
        for word in same:
            found = [one for one in known if f".{one}".endswith(f".{word}")]
            found = [one for one in found if one.startswith(around)]
            if len(found) == 1:
                return found[0]
    if near := close_word(name, siblings, cutoff=0.8):
        return siblings[near]
    flat = {one.replace(".", "_"): one for one in known}
    for whole in (name, key.replace(".", "_")):
        if near := close_word(whole, flat, cutoff=0.9):
            return flat[near]
    near = close_word(name, siblings, cutoff=0.6)
    return siblings[near] if near else None


def _rewritten(value: object, leaf: Leaf) -> str | None:
    """Return how a value of the wrong TOML type was probably meant: `"443"` as 443, 1 as "1"."""
    if leaf.confidential:
        return None
    meant: object
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        meant = value.lower() == "true"
    elif isinstance(value, str) and _INTEGER.fullmatch(value):
        meant = int(value)
    elif isinstance(value, list) and len(value) == 1:
        (meant,) = value
    elif isinstance(value, str):
        meant = [part.strip() for part in value.split(",")]
    elif isinstance(value, int) and not isinstance(value, bool):
        meant = str(value)
    else:
        return None
    if not _accepts(leaf, meant):
        return None
    return f"[{', '.join(map(shown, meant))}]" if isinstance(meant, list) else shown(meant)


def _as_table(key: str, value: object, struct: type[msgspec.Struct]) -> str | None:
    """Return what was probably meant in place of a table: `[[a]]` as [a], a URL as its key."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return f"[{printable(key, 200)}]"
    name, hint = next(iter(get_type_hints(struct, include_extras=True).items()))
    if not isinstance(value, str) or _is_struct(hint):
        return None
    # That a key accepts the value says nothing if it accepts any text.
    meant = _accepts(_leaf(hint), value) and not _accepts(_leaf(hint), "?")
    return f"{printable(key, 200)}.{name}" if meant else None


def _accepts(leaf: Leaf, value: object) -> bool:
    try:
        leaf.parse(value)
    except ValueError:
        return False
    return True


def _is_confidential(struct: type[msgspec.Struct]) -> bool:
    """Return whether a table has a value that is never shown."""
    hints = get_type_hints(struct, include_extras=True).values()
    return any(not _is_struct(hint) and _leaf(hint).confidential for hint in hints)


def _keys(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all tables and values."""
    for name, hint in get_type_hints(struct, include_extras=True).items():
        yield f"{prefix}{name}"
        if _is_struct(hint):
            yield from _keys(hint, f"{prefix}{name}.")


def _leaf(hint: Any) -> Leaf:
    return next(extra for extra in hint.__metadata__ if isinstance(extra, Leaf))


def _is_struct(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)
