"""MIME headers as OpenSSL reads them, where every reader would understand the same.

OpenSSL's reader is lenient in ways of its own (comments, blanks in names, lines cut at 1023 bytes,
parameters without quotes that contain anything). Headers are accepted in the forms that mail tools,
proxies and libraries write: any order, any case, other headers in between, parameters folded over
lines, with quotes or without. All that could be read in two ways is refused.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

#: Header blocks of agents are far shorter; OpenSSL cuts lines of 1024 bytes.
MAX_BLOCK: Final = 8192
_MAX_LINE: Final = 1000

_TOKEN: Final = rb"[!#$%&'*+.0-9A-Z^_`a-z|~/{}-]+"
#: A parameter's value. Quotes keep everything but their own kind, and no reader agrees on escapes.
_VALUE: Final = rb'(?:"[^"\\()\x00-\x1f\x7f-\xff]*"|[!#$%&\'*+.0-9:=?@A-Z^_`a-z|~/{},-]+)'
_FOLD: Final = rb"(?:[ \t]*(?:\r?\n[ \t]+)?)"
_PARAMETER: Final = rb";" + _FOLD + _TOKEN + rb"[ \t]*=[ \t]*" + _VALUE + rb"[ \t]*"
_STRUCTURED: Final = re.compile(
    rb"[ \t]*(" + _TOKEN + rb")[ \t]*((?:" + _PARAMETER + rb"){0,32});?[ \t]*"
)
_ONE_PARAMETER: Final = re.compile(
    rb";" + _FOLD + rb"(" + _TOKEN + rb")[ \t]*=[ \t]*(" + _VALUE + rb")"
)
#: One header with its continuation lines.
_HEADER: Final = re.compile(
    rb"([A-Za-z][A-Za-z0-9-]*):([^\r\n]*(?:\r?\n[ \t]+(?=[^ \t\r\n])[^\r\n]*){0,99})\r?\n"
)
_END: Final = re.compile(rb"\r?\n")
#: The last line of a block and the empty one after it.
_BLOCK_END: Final = re.compile(rb"\n\r?\n")


class HeaderError(ValueError):
    """The headers are not those of a signed run log; one line."""


class Headers(NamedTuple):
    """The headers of one entity that matter.

    Attributes:
        content_type: in lower case.
        parameters: of the content type, names in lower case, values without quotes.
        encoding: the Content-Transfer-Encoding in lower case, empty if there is none.
        end: where the content begins.
    """

    content_type: bytes
    parameters: dict[bytes, bytes]
    encoding: bytes
    end: int


def read_headers(data: bytes, at: int) -> Headers:
    """Read the headers that begin at `at`, and the empty line after them.

    Raises:
        HeaderError: they can be read in more than one way, or lack a Content-Type.
    """
    end = _BLOCK_END.search(data, at, at + MAX_BLOCK)
    if end is None:
        raise HeaderError("it has no end, or is too long")
    content_type, parameters, encoding = _read_block(data[at : end.end()])
    return Headers(content_type, parameters, encoding, end.end())


@lru_cache(maxsize=64)
def _read_block(block: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Read a block of headers; cached, because that of a signature is always the same."""
    values: dict[bytes, bytes] = {}
    at = 0
    while (match := _HEADER.match(block, at)) is not None:
        name = match[1].lower()
        if name.startswith(b"content-"):
            if name in values:
                raise HeaderError(f"the header {name.decode()} appears twice")
            values[name] = match[2]
        at = match.end()
    if not _END.fullmatch(block, at):
        raise HeaderError("a line of it is no header")
    if len(block) > _MAX_LINE and max(map(len, block.split(b"\n"))) > _MAX_LINE:
        raise HeaderError(f"a line of it has more than {_MAX_LINE} bytes")
    content_type, parameters = _structured(values.get(b"content-type", b""))
    encoding = values.get(b"content-transfer-encoding", b"").strip().lower()
    return content_type, parameters, encoding


def _structured(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    match = _STRUCTURED.fullmatch(value)
    if match is None:
        raise HeaderError("there is no Content-Type that can be read in one way only")
    parameters: dict[bytes, bytes] = {}
    for parameter in _ONE_PARAMETER.finditer(match[2]):
        name = parameter[1].lower()
        if name in parameters or b"*" in name:
            raise HeaderError(f"a second or encoded parameter {name.decode()}")
        parameters[name] = parameter[2].strip(b'"')
    return match[1].lower(), parameters
