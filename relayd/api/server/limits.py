"""The share of the HTTP server that one client may use."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the HTTP server; the defaults suit a web server in front on the same machine.

    Attributes:
        connections: open at once. Beyond that, a new one replaces the one that has been without a
            request for longest; if all have requests in progress, the new one gets 503.
        head_s: seconds from connect, or from the end of an answer, to a complete request head.
        write_s: seconds for one write of at most 64 KiB; a client that reads less than 2 kB/s is
            disconnected.
        stop_write_s: the same while the server stops; a stop takes at most `grace` plus this.
        linger_s: seconds in which a client may still send after the last answer, so that the
            answer reaches it (closing with unread input makes the kernel send a reset).
        request_line_bytes: longer ones are answered with 414.
        head_bytes: of request line and headers; larger ones are answered with 431.
        headers: more are answered with 431.
    """

    connections: int = 512
    head_s: float = 10.0
    write_s: float = 30.0
    stop_write_s: float = 5.0
    linger_s: float = 2.0
    request_line_bytes: int = 8 * 1024
    head_bytes: int = 16 * 1024
    headers: int = 100
