"""What a TCP segment carries, in a word or two for the ladder: ClientHello, alert unknown_ca, GET /, HEADERS 1.

Only what anybody on the way could read. A segment that comes again says nothing new, and after a gap it is anybody's
guess where a message begins: from there on, the direction is silent.
"""

from __future__ import annotations

import re

from protocols.errors import RemoteProtocolError
from protocols.http2_frames import PREFACE, Decoder, FrameType
from protocols.tls import Alert, ContentType, HandshakeType, Onlooker

_LINE = re.compile(rb"(?:[A-Z]{3,8} [!-~]{1,60}|HTTP/1\.[01] [0-9]{3})(?= )")
_NAMES = frozenset(HandshakeType), frozenset(Alert), frozenset(FrameType)
_LONGEST = 32  # characters of a line of HTTP


class Reader:
    """Reads one connection. `first` is the side that speaks first: in all these protocols the client."""

    def __init__(self) -> None:
        self._next: dict[bool, int] = {}  # direction → the sequence number (from 0) that comes next
        self._tls: Onlooker | None = None
        self._http2: dict[bool, Decoder] = {}
        self._begun = False

    def words(self, from_client: bool, seq: int, payload: bytes) -> list[str]:
        """What the payload at *seq* (relative to the first byte of its direction) says; [] when nobody can tell."""
        if not payload or seq != self._next.setdefault(from_client, seq):
            return []
        self._next[from_client] = seq + len(payload)
        if not self._begun:
            self._begun = True
            if payload[:2] == b"\x16\x03":
                self._tls = Onlooker()
            elif payload.startswith(PREFACE):
                self._http2 = {True: Decoder(), False: Decoder()}
                return ["preface", *self._read(True, payload[len(PREFACE) :])]
        return self._read(from_client, payload)

    def _read(self, from_client: bool, payload: bytes) -> list[str]:
        try:
            if self._tls:
                return self._records(self._tls, from_client, payload)
            if self._http2:
                self._http2[from_client].receive_data(payload)
                return _counted([_frame(f.type, f.stream) for f in self._http2[from_client].frames()])
        except RemoteProtocolError:  # Some other protocol after all, or what is being shown is how one is broken.
            self._tls, self._http2 = None, {}
            return []
        found = _LINE.match(payload)
        return [found[0].decode()[:_LONGEST]] if found else []

    def _records(self, tls: Onlooker, from_client: bool, payload: bytes) -> list[str]:
        found = []
        for seen in tls.receive_data(from_client, payload):
            data = seen.record.data
            if seen.is_encrypted:
                found.append("encrypted")
            elif seen.record.type == ContentType.ALERT and len(data) == 2:
                found.append("alert " + (Alert(data[1]).name.lower() if data[1] in _NAMES[1] else str(data[1])))
            else:
                found += [_message(message.type) for message in seen.messages]
        return _counted(found)


def _message(number: int) -> str:
    return HandshakeType(number).name.title().replace("_", "") if number in _NAMES[0] else f"message {number}"


def _frame(number: int, stream: int) -> str:
    name = FrameType(number).name if number in _NAMES[2] else f"frame {number:#x}"
    return f"{name} {stream}" if stream else name


def _counted(words: list[str]) -> list[str]:
    """Equal neighbours become one, with their number."""
    joined: list[tuple[str, int]] = []
    for word in words:
        if joined and joined[-1][0] == word:
            joined[-1] = word, joined[-1][1] + 1
        else:
            joined.append((word, 1))
    return [f"{count}×{word}" if count > 1 else word for word, count in joined]
