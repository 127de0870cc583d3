"""The table behind the node records: one array for each attribute, one row for each node.

An object for each of 50,000 nodes would take 30 MB; the arrays take 5 MB, and nothing before the
first row.
"""

import math
from array import array
from collections.abc import Iterator
from typing import Any, Final

#: Bytes of a configuration id, as `20180824-130007-3ad37587`; a longer one is not kept.
ID_BYTES: Final = 32

#: Attributes and their types. Times are Unix seconds; NaN and 0 mean that nothing is known.
TYPES: Final = {
    "arrived": "d",
    "run": "d",
    "done_at": "d",
    "outcome_at": "d",
    "inventory_at": "d",
    "lag": "f",
    "ahead": "f",
    "failures": "I",
    "reports": "I",
    "this_hour": "I",
    "last_hour": "I",
    "outcome": "B",
    "reason": "B",
    "inventory": "B",
}


class Columns:
    """The arrays, all of the same length; those of `TYPES` are attributes."""

    arrived: "array[float]"
    run: "array[float]"
    done_at: "array[float]"
    outcome_at: "array[float]"
    inventory_at: "array[float]"
    lag: "array[float]"
    ahead: "array[float]"
    failures: "array[int]"
    reports: "array[int]"
    this_hour: "array[int]"
    last_hour: "array[int]"
    outcome: "array[int]"
    reason: "array[int]"
    inventory: "array[int]"

    def __init__(self) -> None:
        for name, code in TYPES.items():
            setattr(self, name, array(code))
        self._ids = bytearray()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.arrived)

    def append(self) -> int:
        """Append a row of which nothing is known; return its number."""
        for _, code, column in self.items():
            column.append(_blank(code))
        self._ids += bytes(ID_BYTES)
        return len(self) - 1

    def clear(self, row: int) -> None:
        """Forget all about a row."""
        for _, code, column in self.items():
            column[row] = _blank(code)
        self.set_config_id(row, None)

    def items(self) -> Iterator[tuple[str, str, "array[Any]"]]:
        """Yield name, type code and array of each attribute."""
        for name, code in TYPES.items():
            yield name, code, getattr(self, name)

    def config_id(self, row: int) -> str | None:
        """Return the configuration id of a row, None if it is not known."""
        start = row * ID_BYTES
        if not self._ids[start]:
            return None
        return self._ids[start : start + ID_BYTES].rstrip(b"\0").decode("utf-8", "replace")

    def set_config_id(self, row: int, config_id: str | None) -> None:
        """Set the configuration id of a row."""
        text = (config_id or "").encode("utf-8", "replace")
        start = row * ID_BYTES
        self._ids[start : start + ID_BYTES] = (text if len(text) <= ID_BYTES else b"").ljust(
            ID_BYTES, b"\0"
        )

    def begin_hour(self) -> None:
        """Make the counts of this hour those of the last one."""
        self.last_hour = self.this_hour
        self.this_hour = array(TYPES["this_hour"], bytes(self.last_hour.itemsize * len(self)))

    def copy(self) -> "Columns":
        """Return a table with copies of all arrays."""
        columns = Columns()
        for name, _, column in self.items():
            setattr(columns, name, column[:])
        columns._ids = self._ids[:]
        return columns

    def dump(self) -> dict[str, bytes]:
        """Return the bytes of all arrays by name."""
        return {name: column.tobytes() for name, _, column in self.items()} | {
            "config_ids": bytes(self._ids)
        }

    @classmethod
    def load(cls, data: dict[str, bytes]) -> "Columns":
        """Return the table of such bytes.

        Raises:
            ValueError: they are not those of a table.
        """
        columns = cls()
        if data.keys() != TYPES.keys() | {"config_ids"}:
            raise ValueError("other columns than expected")
        for name, code, column in columns.items():
            column.frombytes(data[name])
            if code in "df" and any(map(math.isinf, column)):
                raise ValueError(f"an infinite number in column {name}")
        columns._ids = bytearray(data["config_ids"])
        lengths = {len(column) for _, _, column in columns.items()}
        if lengths != {len(columns._ids) / ID_BYTES}:
            raise ValueError("columns of different lengths")
        return columns


def _blank(code: str) -> float:
    return math.nan if code in "df" else 0
