"""Stars out secrets: those that are known by their value, and whatever looks like one."""

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import quote, quote_plus

from relayd.config.secret import REDACTED

#: Defaults of Rudder that are printed in its documentation; as words they are everywhere.
_PUBLIC: Final = frozenset({"", "rudder", "Rudder", REDACTED})
#: A shorter secret is starred only as a word of its own, or no text would be left.
_SHORT: Final = 6
_WORD: Final = r"[\w./@-]"
_NAMES: Final = r"[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|credential|authorization)[\w.-]*"
_SECRET_NAME: Final = re.compile(rf"(?i){_NAMES}")
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_IN_URL: Final = re.compile(r"""://[^\s"'/]*:[^\s"']*@""")
#: What crypt(3) and htpasswd write.
_HASH: Final = re.compile(r"\$(?:apr1|1|2[abxy]|5|6|7|y|gy)\$[^\s\"',:]+|\{S?SHA\d*\}[^\s\"',:]+")
_NAMED: Final = re.compile(
    rf"""(?i)({_NAMES}["']?\s*[=:]\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|(?:(?:basic|bearer)\s+)?[^\s"',;]+)"""
)
_ENVIRONMENT: Final = re.compile(r"(?m)^(\s*Environment=)([^\n]*)")
_CREDENTIAL: Final = re.compile(r"(?m)^(\s*SetCredential(?:Encrypted)?=[^:\n]*:)[^\n]*")


class Masker:
    """Replaces secrets in a text by stars.

    Args:
        secrets: known ones; any form in which a text could have them is replaced.
        users: names that may stand in front of a password in an HTTP header.
    """

    def __init__(self, secrets: Iterable[str] = (), users: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if secret not in _PUBLIC}
        users = list(users)
        forms = {form for secret in known for form in _forms(secret, users)}
        self._long = sorted((form for form in forms if len(form) >= _SHORT), key=len, reverse=True)
        short = sorted((form for form in forms if len(form) < _SHORT), key=len, reverse=True)
        words = "|".join(map(re.escape, short))
        self._short = re.compile(rf"(?<!{_WORD})(?:{words})(?!{_WORD})") if short else None

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for form in self._long:
            text = text.replace(form, REDACTED)
        if self._short is not None:
            text = self._short.sub(REDACTED, text)
        text = _PRIVATE_KEY.sub(REDACTED, text)
        text = _IN_URL.sub(f"://{REDACTED}@", text)
        text = _HASH.sub(REDACTED, text)
        return _NAMED.sub(_starred, text)


def mask_unit(text: str) -> str:
    """Return a unit file of systemd without the values of its environment and credentials."""
    starred = _ENVIRONMENT.sub(_variables, _joined(text))
    return _CREDENTIAL.sub(rf"\1{REDACTED}", starred)


def _joined(text: str) -> str:
    """Return the text of a unit with each continued line in one."""
    return re.sub(r"\\\n\s*", " ", text)


def named_secrets(text: str) -> Iterator[str]:
    """Yield the values in a text whose names sound like those of secrets, such as old ones."""
    for match in _NAMED.finditer(text):
        if not is_path(_name(match)):
            yield match[2].strip("\"'")
    for match in _ENVIRONMENT.finditer(_joined(text)):
        with suppress(ValueError):
            pairs = [word.partition("=") for word in shlex.split(match[2])]
            yield from (value for name, _mark, value in pairs if _SECRET_NAME.fullmatch(name))


def is_path(name: str) -> bool:
    """Return whether a key that sounds like a secret has the path of a file with some."""
    return name.lower().endswith(("_file", "passfile"))


def _forms(secret: str, users: Iterable[str]) -> Iterator[str]:
    """Yield a secret as it could be written: as it is, in a URL, in JSON, in a header."""
    yield secret
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    for user in users:
        pair = f"{user}:{secret}".encode("utf-8", "surrogateescape")
        yield base64.b64encode(pair).decode().rstrip("=")


def _name(match: re.Match[str]) -> str:
    return match[1].rstrip(" =:\"'")


def _starred(match: re.Match[str]) -> str:
    value = match[2]
    if is_path(_name(match)):
        return match[0]
    end = value[0] if value[0] in "\"'" else ""
    return f"{match[1]}{end}{REDACTED}{end}"


def _variables(match: re.Match[str]) -> str:
    try:
        words = shlex.split(match[2])
    except ValueError:
        return f"{match[1]}{REDACTED}"
    return match[1] + " ".join(f"{word.partition('=')[0]}={REDACTED}" for word in words)
