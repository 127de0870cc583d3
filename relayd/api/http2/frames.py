"""The frames of one HTTP/2 connection, counted before anything is done with them.

Nearly every known attack on HTTP/2 consists of frames that cost the sender nothing and carry
nothing: resets, settings, pings, priorities, continuations, empty data. Here each has a price, and
what carries something earns it back. A client that is in debt is disconnected.
"""

from typing import Final

from h2.settings import SettingCodes

#: Frame types of RFC 9113, 6.
_RST_STREAM: Final = 3
_SETTINGS: Final = 4
_PING: Final = 6
_CONTINUATION: Final = 9

#: Type → price of one frame; all others cost 1.
_PRICES: Final = {_RST_STREAM: 10, _SETTINGS: 20, _PING: 2, _CONTINUATION: 20}
#: What a connection may owe at most: 100 resets, or 1,000 empty frames, which take about 20 ms.
_CREDIT: Final = 1000
#: Price of a stream that the server has to reset.
RESET: Final = _PRICES[_RST_STREAM]
#: What one answer earns, and bytes of a body, received or sent, that earn 1.
ANSWER: Final = 20
BYTES: Final = 512
#: Bytes of a body in one frame with which it pays for itself: clients may send what they just read.
PIECE: Final = 32

_HEAD: Final = 9
_PREFACE: Final = 24
#: Bytes of settings in a frame. Each known one takes 6; the library keeps unknown ones for ever.
_MAX_SETTINGS: Final = 6 * 4 * len(SettingCodes)


class FloodError(Exception):
    """The client sends too many frames that carry nothing."""


class FrameCounter:
    """What the frames of a connection have cost and earned."""

    def __init__(self) -> None:
        self._skip = _PREFACE
        self._head = bytearray()
        self._credit = _CREDIT

    def count(self, data: bytes) -> None:
        """Count the frames that begin in received bytes.

        Raises:
            FloodError: the client must be disconnected.
        """
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
            else:
                step = min(_HEAD - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == _HEAD:
                    self._begin(self._head[3], int.from_bytes(self._head[:3]))
                    self._head.clear()
            at += step

    def _begin(self, kind: int, length: int) -> None:
        if kind == _SETTINGS and length > _MAX_SETTINGS:
            raise FloodError("too many settings")
        self._skip = length
        self.pay(_PRICES.get(kind, 1))

    def pay(self, price: int) -> None:
        """Charge the client.

        Raises:
            FloodError: it cannot pay.
        """
        self._credit -= price
        if self._credit < 0:
            raise FloodError("too many frames that carry nothing")

    def earn(self, amount: int) -> None:
        """Credit the client, up to what it had at first."""
        self._credit = min(self._credit + amount, _CREDIT)
