"""What one client may take of the HTTP server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the HTTP server; the defaults suit a web server in front on the same machine.

    Attributes:
        connections: open at once. When full, the one that has waited longest for a request makes
            room for a new one; when all are busy, the new one gets 503.
        head_s: seconds from connect, or from the end of an answer, to a complete request head.
        write_s: seconds for one write of at most 64 KiB; a client that reads less than 2 kB/s is
            cut off.
        stop_write_s: the same once the server stops, which takes at most `grace` and this
            together.
        linger_s: seconds in which a client may still send after the last answer, so that the
            answer reaches it (closing with unread input makes the kernel send a reset).
        request_line_bytes: more is answered by 414.
        head_bytes: request line and headers; more is answered by 431.
        headers: more is answered by 431.
    """

    connections: int = 512
    head_s: float = 10.0
    write_s: float = 30.0
    stop_write_s: float = 5.0
    linger_s: float = 2.0
    request_line_bytes: int = 8 * 1024
    head_bytes: int = 16 * 1024
    headers: int = 100
