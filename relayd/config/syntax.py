"""What is wrong with text that is not TOML, and what was probably done wrong."""

import re
from pathlib import Path
from typing import Final

from relayd.errors import ConfigError
from relayd.system.printable import printable

_POSITION: Final = re.compile(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", re.DOTALL)
#: How tomllib writes a dotted key.
_TUPLE: Final = re.compile(r"\(('.*'),?\)")
_AT_END: Final = " (at end of document)"

_TWICE: Final = "a key or a table stands in the file once, so join the two"
_ESCAPE: Final = "write each backslash twice, or the string in single quotes"
_UNCLOSED: Final = "close what is opened there, a quote or a bracket"
_EQUALS: Final = "a line is written as key = value"
_BOOLEAN: Final = "booleans are written true and false, in lower case"
_NUMBER: Final = "numbers have no leading zeros and no unit; with a unit they are strings in quotes"
_UNQUOTED: Final = "strings are written in double quotes"
_EMPTY: Final = "a value is missing; to leave a key unset, put # in front of it"
_TYPOGRAPHIC: Final = "quotes are written \" or ', not as a word processor does"
_COMMENT: Final = "comments begin with #"
_HEADER: Final = "the header of a table is written as [table], alone in its line"
_AFTER: Final = 'something follows the value; comments begin with #, " in a string is written \\"'
_INLINE: Final = "a table in braces is on one line, without a comma at its end"
_KEY: Final = "a key consists of letters, digits, _ and -; there is no white space in it"

#: How messages of tomllib begin; what is not listed is judged by the line.
_MESSAGES: Final = {
    "Cannot overwrite a value": _TWICE,
    "Cannot declare": _TWICE,
    "Cannot redefine namespace": _TWICE,
    "Cannot mutate immutable namespace": _TWICE,
    "Duplicate inline table key": _TWICE,
    "Unescaped '\\' in a string": _ESCAPE,
    "Invalid hex value": _ESCAPE,
    "Escaped character is not a Unicode scalar value": _ESCAPE,
    "Unterminated string": _UNCLOSED,
    "Illegal character '\\n'": _UNCLOSED,
    "Unclosed array": _UNCLOSED,
    "Unclosed inline table": _UNCLOSED,
}
#: What a whole line looks like.
_LINES: Final = {
    re.compile(r"\s*(?://|;|--|/\*|<!--)"): _COMMENT,
    re.compile(r"\s*\[[^\]]*\Z"): _UNCLOSED,
    re.compile(r"\s*\["): _HEADER,
    re.compile(r"\s*=|[^=]*\Z|[^='\"]*:|[^=]*=\s*[=>]"): _EQUALS,
    re.compile(r"\s*[\w.-]+\s+[^=\s]|[^='\"]*[^\w\s.='\"-]|\s*\.|[^='\"]*\.\s*[.=]"): _KEY,
}
#: What the value in a line looks like.
_VALUES: Final = {
    re.compile(r"(?:#|\Z)"): _EMPTY,
    re.compile(r"[\u2018-\u201f\u00ab\u00bb`]"): _TYPOGRAPHIC,
    re.compile(r"(?i:true|false|yes|no|on|off)\b"): _BOOLEAN,
    re.compile(r"\"[^\"]*\Z|'[^']*\Z|\[[^\]]*\Z"): _UNCLOSED,
    re.compile(r"[+-]?[0-9][0-9_]*(?:$|\s|#|[a-zA-Z]+(?:$|\s|#))"): _NUMBER,
    re.compile(r"[0-9]+[,;]"): _AFTER,
    re.compile(r"[^\"'\[{]"): _UNQUOTED,
    re.compile(r"\"[^\"]*\"|'[^']*'|\[.*\]"): _AFTER,
    re.compile(r"\{"): _INLINE,
}


def syntax_error(path: Path, message: str, text: str) -> ConfigError:
    """Return the error for text that is not TOML.

    tomllib gives the position only in its message; attributes of its error are new in Python 3.14.
    """
    found = _POSITION.fullmatch(message)
    if found is not None:
        line, column = int(found[2]), int(found[3])
        said = _TUPLE.sub(lambda key: key[1].replace("', '", ".").strip("'"), found[1])
        detail = f"line {line}, column {column}: {printable(said, 200)}"
    else:
        line = text.rstrip("\n").count("\n") + 1
        detail = f"line {line}, end of the file: {printable(message.removesuffix(_AT_END), 200)}"
    lines = text.split("\n")
    advice = _advice(message, lines[line - 1] if line <= len(lines) else "")
    return ConfigError(detail, file=path, line=line, advice=advice)


def _advice(message: str, line: str) -> str | None:
    """Return what was probably done wrong in the line that tomllib complains about."""
    for begin, advice in _MESSAGES.items():
        if message.startswith(begin):
            return advice
    for pattern, advice in _LINES.items():
        if pattern.match(line):
            return advice
    value = line.partition("=")[2].strip()
    return next((advice for pattern, advice in _VALUES.items() if pattern.match(value)), None)
