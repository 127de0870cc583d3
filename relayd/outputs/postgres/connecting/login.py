"""What a server may ask of the client before it lets it in, and the answer with channel binding.

asyncpg answers every method that a server asks for; `require_auth` and `channel_binding` say which
of them the operator allows, and a password must not leave before that is clear.
"""

import asyncio
import ssl
import struct
from typing import Any, Final

import msgspec

from relayd.config.secret import Secret
from relayd.outputs.postgres.connecting.scram import BINDING, Scram, server_end_point
from relayd.outputs.postgres.faults import ConnectError, Step, explain_connecting

#: Codes of the message R (PostgreSQL manual, 54.7 Message Formats).
_OK: Final = 0
_SASL: Final = 10
_SASL_CONTINUE: Final = 11
_SASL_FINAL: Final = 12
_METHODS: Final = {3: "password", 5: "md5", 7: "gss", 9: "sspi", _SASL: "scram-sha-256"}
_NEED_PASSWORD: Final = frozenset({3, 5, _SASL})
_PLUS: Final = b"SCRAM-SHA-256-PLUS"
_MAX_MESSAGE: Final = 64 * 1024


class Demands(msgspec.Struct, frozen=True):
    """What a login must be like.

    Attributes:
        host: for messages.
        password: None without one.
        hint: why there is no password, "" without a reason.
        methods: `require_auth`, "" for any.
        binding: `channel_binding`.
        certificate: the client's, "" without one.
    """

    host: str
    password: Secret | None
    hint: str
    methods: str
    binding: str
    certificate: str = ""

    def allows(self, method: str) -> bool:
        """Return whether `require_auth` allows a method."""
        listed = [name.strip() for name in self.methods.split(",")]
        if not self.methods:
            return True
        if listed[0].startswith("!"):
            return f"!{method}" not in listed
        return method in listed

    def fault(self, detail: str) -> ConnectError:
        """Return the reason to end the connection."""
        return ConnectError(detail, Step.LOGIN, host=self.host)


class Guard(asyncio.Protocol):
    """Stands between a transport and asyncpg until the server has accepted the login.

    Attributes:
        fault: why it ended the connection, None if it did not.
    """

    def __init__(self, inner: Any, demands: Demands) -> None:
        """Guard a protocol of asyncpg.

        Args:
            inner: the protocol.
            demands: what the login must be like.
        """
        self.fault: ConnectError | None = None
        self._inner = inner
        self._demands = demands
        self._transport: Any = None
        self._waiting = b""
        self._heard = False
        self._asked: int | None = None
        self._scram: Scram | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Judge whole messages, and pass on those that are asyncpg's."""
        self._heard = True
        self._waiting += data
        while self._transport is not None and len(self._waiting) >= 5:
            (length,) = struct.unpack_from("!I", self._waiting, 1)
            if self._waiting[:1] != b"R" or not 8 <= length <= _MAX_MESSAGE:
                return self._release()
            if len(self._waiting) <= length:
                return None
            message, self._waiting = self._waiting[: length + 1], self._waiting[length + 1 :]
            try:
                self._judge(message)
            except ConnectError as fault:
                self.fault = fault
                self._transport.abort()
                self._waiting = b""
        return None

    def eof_received(self) -> bool | None:
        """Pass it on."""
        answer: bool | None = self._inner.eof_received()
        return answer

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on. In TLS 1.3 a client certificate is refused only after the handshake."""
        if self.fault is None and isinstance(exc, ssl.SSLError):
            self.fault = explain_connecting(exc, self._demands.host)
        elif self.fault is None and self._demands.certificate and not self._heard:
            # The server's reason can be lost where it closes while the client still writes.
            why = f"TLS: closed without a word: does it accept {self._demands.certificate}?"
            self.fault = ConnectError(why, Step.TLS, host=self._demands.host)
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()

    def _judge(self, message: bytes) -> None:
        (code,) = struct.unpack_from("!I", message, 5)
        if code == _OK:
            self._judge_end()
            self._inner.data_received(message)
            self._release()
        elif self._scram is not None and code in (_SASL_CONTINUE, _SASL_FINAL):
            self._continue(code, message[9:])
        else:
            if code in _METHODS:
                self._judge_method(code)
            if code == _SASL and self._binds(message[9:]):
                return
            self._inner.data_received(message)

    def _judge_method(self, code: int) -> None:
        method, demands = _METHODS[code], self._demands
        self._asked = code
        if not demands.allows(method):
            raise demands.fault(f"it asks for {method}, which require_auth does not allow")
        if demands.binding == "require" and code != _SASL:
            raise demands.fault(f"it asks for {method}, and channel_binding=require needs SCRAM")
        if code in _NEED_PASSWORD and not demands.password:
            why = f"; {demands.hint}" if demands.hint else ""
            raise demands.fault(
                f"it asks for a password, and output.database.password is empty{why}"
            )

    def _judge_end(self) -> None:
        demands = self._demands
        if self._asked is None and not demands.allows("none"):
            raise demands.fault("it asks for no authentication, which require_auth does not allow")
        if demands.binding == "require" and (self._scram is None or not self._scram.verified):
            raise demands.fault("it does not bind the channel as channel_binding=require demands")
        if self._scram is not None and not self._scram.verified:
            raise demands.fault("it did not prove that it knows the password")

    def _binds(self, methods: bytes) -> bool:
        """Begin SCRAM with channel binding if both sides can and the operator allows it."""
        demands = self._demands
        encrypted = self._transport.get_extra_info("ssl_object")
        offered = _PLUS in methods.split(b"\0")
        end_point = server_end_point(encrypted) if encrypted and offered else None
        if demands.binding == "disable" or end_point is None or demands.password is None:
            if demands.binding == "require":
                raise demands.fault("it offers no channel binding, which channel_binding demands")
            return False
        self._scram = Scram(demands.password.reveal(), BINDING, end_point)
        first = self._scram.first()
        self._send(_PLUS + b"\0" + struct.pack("!I", len(first)) + first)
        return True

    def _continue(self, code: int, answer: bytes) -> None:
        assert self._scram is not None
        try:
            if code == _SASL_CONTINUE:
                self._send(self._scram.final(answer))
            else:
                self._scram.verify(answer)
        except ValueError as error:
            raise self._demands.fault(f"SCRAM: {error}") from error

    def _send(self, content: bytes) -> None:
        self._transport.write(b"p" + struct.pack("!I", len(content) + 4) + content)

    def _release(self) -> None:
        """Leave the connection to asyncpg."""
        transport, self._transport = self._transport, None
        transport.set_protocol(self._inner)
        rest, self._waiting = self._waiting, b""
        if rest:
            self._inner.data_received(rest)
