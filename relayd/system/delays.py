"""How long relayd waits before it retries, all in one place."""

from typing import Final

import msgspec


class Steps(msgspec.Struct, frozen=True):
    """Growing delays between attempts; the last one repeats.

    Attributes:
        seconds: the delay after the first failed attempt, after the second, and so on.
    """

    seconds: tuple[float, ...]

    def after(self, attempts: int) -> float:
        """Return the delay in seconds after a number of failed attempts, at least one."""
        return self.seconds[min(attempts, len(self.seconds)) - 1]


class Doubling(msgspec.Struct, frozen=True):
    """Delays that double with each attempt.

    Attributes:
        first: seconds after the first failed attempt.
        longest: the delay never grows beyond this many seconds.
    """

    first: float
    longest: float

    def after(self, attempts: int) -> float:
        """Return the delay in seconds after a number of failed attempts, at least one."""
        return min(self.longest, self.first * 2.0 ** min(attempts - 1, 32))


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """All retry delays of the daemon; tests pass shorter ones.

    Attributes:
        file: one file that could not be processed, while others can.
        database: the database is down or busy, or only a standby answers.
        database_operator: an operator has to act before the database accepts run logs.
        upstream_failing: the upstream is reached, but fails for file after file.
        upstream_unreachable: no connection to the upstream.
        upstream_operator: the same, until an operator acts.
        nodes: the nodes list or the certificates file is missing or broken.
        pins: the upstream's certificate file is missing or broken.
    """

    file: Doubling = Doubling(1.0, 600.0)
    database: Steps = Steps((0.2, 0.5, 1.0, 2.0))
    database_operator: Steps = Steps((1.0, 5.0, 15.0, 60.0))
    # Short: a few files that always fail must not hold up the others for long.
    upstream_failing: Steps = Steps((0.1, 0.25, 0.5, 1.0))
    upstream_unreachable: Steps = Steps((1.0, 2.0, 4.0, 8.0, 15.0, 30.0))
    upstream_operator: Steps = Steps((5.0, 15.0, 60.0))
    nodes: Steps = Steps((1.0, 2.0, 5.0, 10.0))
    pins: Steps = Steps((1.0, 2.0, 5.0, 10.0, 30.0))


DELAYS: Final = Delays()
