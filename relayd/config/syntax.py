"""What is wrong with text that is not TOML, and what was probably done wrong."""

import re
from pathlib import Path
from typing import Final

from relayd.errors import ConfigError, Mistake
from relayd.system.printable import printable

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


def syntax_error(path: Path, message: str, text: str) -> ConfigError:
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
