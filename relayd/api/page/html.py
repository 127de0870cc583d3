"""HTML, made by hand: each text is escaped here, and nowhere else."""

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Final
from urllib.parse import quote

from relayd.api.page.script import SCRIPT
from relayd.api.page.style import STYLE
from relayd.system.printable import printable


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return any value as HTML; what is HTML already stays."""
    return value if isinstance(value, Html) else Html(escape(printable(str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        children: its content; what is not `Html` is escaped.
        attributes: those that are None or False are left out; a trailing `_` of a name is removed,
            others become `-`.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text("" if value is True else value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Return parts one after the other."""
    return Html("".join(text(part) for part in parts))


def link(target: str, *children: object, **attributes: object) -> Html:
    """Return a link to a path relative to the page."""
    return tag("a", *children, href=target, **attributes)


def path_of(*parts: str) -> str:
    """Return a relative path of parts of which any character is kept."""
    return "/".join(quote(part, safe="", errors="backslashreplace") for part in parts)


_VOID: Final = frozenset({"br", "input", "meta", "link"})
#: The document in front of its parts; `%s`: base, title.
_REFRESH: Final = Html('<noscript><meta http-equiv="refresh" content="30"></noscript>')


def document(title: str, base: str, *body: object, live: bool) -> bytes:
    """Return a whole document.

    Args:
        title: of the document.
        base: relative path of the first page, "./" or "../".
        body: its content.
        live: whether it refreshes itself.
    """
    head = join(
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
        _REFRESH if live else "",
    )
    content = join(*body, Html(f"<script>{SCRIPT}</script>") if live else "")
    attributes = f' data-events="{text(base)}events"' if live else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>'
        f"<body{attributes}>{content}</body></html>\n"
    ).encode()


def _hash(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


#: No external sources, no framing, no forms to elsewhere; style and script by their content.
HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
