"""How a QUIC connection has ended, in words: there are more ways than with TCP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocols.errors import RemoteProtocolError
from protocols.quic_numbers import ErrorCode
from protocols.tls_numbers import Alert, words


@dataclass(frozen=True)
class Ended:
    """How a connection has ended.

    how      closed: by CONNECTION_CLOSE. Without one: idle, nothing was heard for too long; reset, the server has
             forgotten the connection (RFC 9000 §10.3); version, it speaks none of ours; gone, the network says no
    by       who has ended it
    code     of CONNECTION_CLOSE: the application's, if is_application, else QUIC's (§20.1)
    reason   in words: whoever closes may write what he wants. It may be shown: no control characters
    """

    how: Literal["closed", "idle", "reset", "version", "gone"]
    by: Literal["us", "server"]
    code: int = 0
    is_application: bool = False
    reason: str = ""

    @property
    def alert(self) -> Alert | None:
        """Of TLS, if the handshake has failed (RFC 9001 §4.8)."""
        number = self.code - ErrorCode.CRYPTO_ERROR
        return Alert(number) if not self.is_application and number in set(Alert) else None

    @property
    def is_good(self) -> bool:
        return self.how == "closed" and self.code == 0

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        if self.how != "closed":
            return self.reason
        who = "the server has closed it" if self.by == "server" else "closed by us"
        return f"{who} with {name_of(self.code, self.is_application)}{reason}"


def name_of(code: int, is_application: bool) -> str:
    """A code of CONNECTION_CLOSE, in words."""
    if is_application:
        return f"the application's code {code:#x}"
    if 0 <= code - ErrorCode.CRYPTO_ERROR <= 0xFF:
        return f"{words(code - ErrorCode.CRYPTO_ERROR, Alert)} ({code:#06x})"
    return f"{ErrorCode(code).name if code in set(ErrorCode) else 'an unknown code'} ({code:#x})"


class QuicError(RemoteProtocolError):
    """The connection has ended, and somebody wanted more of it. `ended` tells how."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(str(ended), ended.code)
        self.ended = ended
