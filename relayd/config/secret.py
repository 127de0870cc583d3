"""A password that is never shown."""

import hmac
from typing import Final

#: Shown in place of a secret.
REDACTED: Final = "***"


class Secret:
    """A string that only `reveal()` returns; `repr`, `str`, format and log fields hide it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself; give it only to the peer it is meant for."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def _bytes(self) -> bytes:
        return self._value.encode("utf-8", "surrogatepass")
