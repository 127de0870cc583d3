"""Read a TOML file into frozen structs, with errors that name file, key, value and expectation."""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

import msgspec

from relayd.errors import ConfigError, ConfigWarning, Mistake, SettingError
from relayd.system.printable import printable

T = TypeVar("T", bound=msgspec.Struct)

#: A configuration file has a few kilobytes; a larger one is a mistake and would only cost time.
MAX_BYTES: Final = 1024 * 1024
#: tomllib's time grows with the square of the parts of a dotted key, which is on one line.
_MAX_LINE_BYTES: Final = 4096
_MAX_SHOWN: Final = 60
_MAX_UNKNOWN: Final = 50
_POSITION: Final = re.compile(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", re.DOTALL)
_AT_END: Final = " (at end of document)"
#: How messages of tomllib begin; what is not listed is judged by the value in the line.
_MISTAKES: Final[dict[str, Mistake]] = {
    "Cannot overwrite a value": "duplicate",
    "Cannot declare": "duplicate",
    "Cannot redefine namespace": "duplicate",
    "Cannot mutate immutable namespace": "duplicate",
    "Duplicate inline table key": "duplicate",
    "Unescaped '\\' in a string": "escape",
    "Invalid hex value": "escape",
    "Escaped character is not a Unicode scalar value": "escape",
    "Unterminated string": "unclosed",
    "Illegal character '\\n'": "unclosed",
    "Unclosed array": "unclosed",
    "Unclosed inline table": "unclosed",
    "Expected '=' after a key": "equals",
    "Expected ']'": "unclosed",
}
_VALUES: Final[dict[re.Pattern[str], Mistake]] = {
    re.compile(r"(?i:true|false|yes|no|on|off)\b"): "boolean",
    re.compile(r"\"[^\"]*\Z|'[^']*\Z|\[[^\]]*\Z"): "unclosed",
    re.compile(r"[+-]?[0-9][0-9_]*(?:$|\s|#|[a-zA-Z]+(?:$|\s|#))"): "number",
    re.compile(r"[^\"'\[{]"): "unquoted",
}
_TYPE_NAMES: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "an array",
    dict: "a table",
}


class Leaf(NamedTuple):
    """How to read the value of one key; part of the `Annotated` of a struct's field.

    Attributes:
        expected: completes "expected …" in an error.
        parse: turns the value from TOML into that of the field; raises ValueError to refuse it.
        confidential: errors never show the value.
    """

    expected: str
    parse: Callable[[Any], object]
    confidential: bool = False


class UnexpectedError(ValueError):
    """A part of a value is not valid.

    Attributes:
        expected: completes "expected …".
        got: completes "got …"; shows nothing confidential.
    """

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML 1.0 file.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is too large, not UTF-8, or not TOML.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    _check_size(path, data)
    try:
        text = data.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"byte {error.start} is not UTF-8", file=path) from None
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, str(error), text) from None
    except RecursionError:
        raise ConfigError("nested too deeply", file=path) from None
    except ValueError as error:  # a number with thousands of digits, a date that does not exist
        raise ConfigError(printable(str(error), 200), file=path) from None


def build(path: Path, table: dict[str, Any], struct: type[T]) -> tuple[T, list[ConfigWarning]]:
    """Turn a TOML table into `struct`; absent keys keep its defaults.

    Every field is either a struct (a TOML table) or carries a `Leaf`.

    Args:
        path: the file, for messages only.
        table: the result of `read_table`.
        struct: the type to build.

    Returns:
        The value, and a warning for each unknown key.

    Raises:
        SettingError: a value is not what its key expects.
    """
    unknown: list[ConfigWarning] = []
    value = _build(path, table, struct, "", unknown)
    warnings = unknown[:_MAX_UNKNOWN]
    if len(unknown) > _MAX_UNKNOWN:
        detail = f"{len(unknown) - _MAX_UNKNOWN} more unknown keys"
        warnings.append(ConfigWarning(kind="more_unknown_keys", detail=detail, file=path))
    return value, warnings


def leaves(value: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of every field, with those of nested structs in their place."""
    for name, hint in get_type_hints(type(value), include_extras=True).items():
        field = getattr(value, name)
        if _is_struct(hint):
            yield from leaves(field, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def invalid(path: Path, key: str, expected: str, got: str) -> SettingError:
    """Return the error for a value that its key does not accept."""
    return SettingError(printable(key, 200), expected, got, file=path)


def shown(value: object) -> str:
    """Return a TOML value as messages show it, in at most 60 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{printable(value, _MAX_SHOWN)}"'
    if isinstance(value, int | float):
        return printable(str(value), _MAX_SHOWN)
    return _TYPE_NAMES.get(type(value), "a date or time")


def _check_size(path: Path, data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes", file=path)
    for number, line in enumerate(data.split(b"\n"), 1):
        if len(line) > _MAX_LINE_BYTES:
            detail = f"line {number}: longer than {_MAX_LINE_BYTES} bytes"
            raise ConfigError(detail, file=path, line=number)


def _build(
    path: Path, table: dict[str, Any], struct: type[T], prefix: str, unknown: list[ConfigWarning]
) -> T:
    hints = get_type_hints(struct, include_extras=True)
    fields: dict[str, object] = {}
    for name, value in table.items():
        key = prefix + name
        hint = hints.get(name)
        if hint is None:
            known = hints if len(unknown) < _MAX_UNKNOWN else {}
            unknown.append(_unknown(path, key, name, known))
        elif not _is_struct(hint):
            fields[name] = _parse(path, key, value, _leaf(hint))
        elif isinstance(value, dict):
            fields[name] = _build(path, value, hint, f"{key}.", unknown)
        else:
            raise invalid(path, key, "a table", shown(value))
    return struct(**fields)


def _parse(path: Path, key: str, value: object, leaf: Leaf) -> object:
    try:
        return leaf.parse(value)
    except UnexpectedError as error:
        raise invalid(path, key, error.expected, error.got) from None
    except ValueError:
        got = _TYPE_NAMES.get(type(value), "a date or time") if leaf.confidential else shown(value)
        # Without its cause, which could show a confidential value.
        raise invalid(path, key, leaf.expected, got) from None


def _leaf(hint: Any) -> Leaf:
    return next(extra for extra in hint.__metadata__ if isinstance(extra, Leaf))


def _is_struct(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _unknown(path: Path, key: str, name: str, known: dict[str, Any]) -> ConfigWarning:
    close = difflib.get_close_matches(name[:100], known, n=1)
    shown = printable(key, 200)
    return ConfigWarning(
        kind="unknown_key",
        detail=f"unknown key {shown}",
        key=shown,
        suggestion=close[0] if close else None,
        file=path,
    )


def _syntax_error(path: Path, message: str, text: str) -> ConfigError:
    """Return the error for text that is not TOML.

    tomllib gives the position only in its message; attributes of its error are new in Python 3.14.
    """
    found = _POSITION.fullmatch(message)
    if found is not None:
        line, column = int(found[2]), int(found[3])
        detail = f"line {line}, column {column}: {printable(found[1], 200)}"
    else:
        line = text.rstrip("\n").count("\n") + 1
        detail = f"line {line}, end of the file: {printable(message.removesuffix(_AT_END), 200)}"
    lines = text.split("\n")
    mistake = _mistake(message, lines[line - 1] if line <= len(lines) else "")
    return ConfigError(detail, file=path, line=line, mistake=mistake)


def _mistake(message: str, line: str) -> Mistake | None:
    """Return what was probably done wrong in the line that tomllib complains about."""
    for begin, mistake in _MISTAKES.items():
        if message.startswith(begin):
            return mistake
    key, equals, value = line.partition("=")
    if not equals:
        return "equals" if not key.lstrip().startswith("[") and ":" in key else None
    value = value.strip()
    for pattern, mistake in _VALUES.items():
        if pattern.match(value):
            return mistake
    return None
