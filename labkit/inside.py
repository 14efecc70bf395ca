"""What a TCP segment carries, in a word or two for the ladder: ClientHello, alert unknown_ca, HEADERS 1 GET /.

What is encrypted is opened with the secrets that were recorded with it, as Wireshark does it. A segment that comes
again says nothing new, and after a gap it is anybody's guess where a message begins: from there on, the direction is
silent.
"""

from __future__ import annotations

import re

from hpack import Decoder as Unpacker
from hpack import HPACKError

from protocols.errors import RemoteProtocolError
from protocols.http2_frames import PREFACE, Decoder, Flag, Frame, FrameType, content
from protocols.tls import RETRY, Alert, ContentType, HandshakeType, Message, Onlooker, client_hello, server_hello
from protocols.tls_opened import Opened, Secrets

_LINE = re.compile(rb"(?:[A-Z]{3,8} [!-~]{1,60}|HTTP/1\.[01] [0-9]{3})(?= )")
_HANDSHAKE, _ALERTS, _FRAMES = frozenset(HandshakeType), frozenset(Alert), frozenset(FrameType)
_FIRST = bytes([FrameType.SETTINGS, 0, 0, 0, 0, 0])  # HTTP/2's server may speak before its client: RFC 9113 §3.4
_LONGEST = 32  # characters of a line of HTTP


class Reader:
    """Reads one connection. The side that speaks first is the client, in all these protocols."""

    def __init__(self, secrets: Secrets | None = None) -> None:
        self._next: dict[bool, int] = {}  # direction → the sequence number (from 0) that comes next
        self._secrets = secrets or {}
        self._tls: Onlooker | None = None
        self._random = b""
        self._opened: dict[bool, Opened] = {}
        self._content = Content()
        self._begun = False

    def words(self, from_client: bool, seq: int, payload: bytes) -> list[str]:
        """What the payload at *seq* (relative to the first byte of its direction) says; [] when nobody can tell."""
        if not payload or seq != self._next.setdefault(from_client, seq):
            return []
        self._next[from_client] = seq + len(payload)
        if not self._begun:
            self._begun = True
            self._tls = Onlooker() if payload[:2] == b"\x16\x03" else None
        try:
            return counted(self._records(self._tls, from_client, payload) if self._tls
                            else self._content.words(from_client, payload))  # fmt: skip
        except RemoteProtocolError:  # Some other protocol after all, or what is being shown is how one is broken.
            self._tls, self._content = None, Content()
            return []

    def _records(self, tls: Onlooker, from_client: bool, payload: bytes) -> list[str]:
        found = []
        for seen in tls.receive_data(from_client, payload):
            record, messages, side = seen.record, seen.messages, self._opened.get(from_client)
            if seen.is_encrypted:
                if side is None:
                    found.append("encrypted")
                    continue
                try:
                    record, messages = side.open(record)
                except RemoteProtocolError:  # Somebody has changed it on the way.
                    del self._opened[from_client]
                    found.append("encrypted")
                    continue
            if record.type == ContentType.ALERT and len(record.data) == 2:
                code = record.data[1]
                found.append(f"alert {Alert(code).name.lower() if code in _ALERTS else code}")
            elif record.type == ContentType.APPLICATION_DATA:
                found += self._content.words(from_client, record.data) or ["data"]
            for message in messages:
                found.append(name(message))
                self._listen(message)
        return found

    def _listen(self, message: Message) -> None:
        """Get hold of the secrets of this connection, once both hellos are here."""
        if message.type == HandshakeType.CLIENT_HELLO:
            self._random = client_hello(message.body).random
        elif message.type == HandshakeType.SERVER_HELLO and (hello := server_hello(message.body)).random != RETRY:
            try:
                self._opened = {
                    is_client: Opened("CLIENT" if is_client else "SERVER", self._random, hello.cipher, self._secrets)
                    for is_client in (True, False)
                }
            except KeyError:  # TLS 1.2, or nobody has logged them.
                self._opened = {}


class Content:
    """HTTP of any version, or something else that is left alone."""

    def __init__(self) -> None:
        self._frames: dict[bool, Decoder] = {}
        self._fields: dict[bool, Unpacker] = {}
        self._begun: set[bool] = set()

    def words(self, from_client: bool, data: bytes) -> list[str]:
        if from_client not in self._begun:
            self._begun.add(from_client)
            is_preface = from_client and data.startswith(PREFACE)
            if not self._frames and (is_preface or data[3:9] == _FIRST):
                self._frames = {True: Decoder(), False: Decoder()}
                self._fields = {True: Unpacker(), False: Unpacker()}
            if is_preface:
                return ["preface", *self.words(True, data[len(PREFACE) :])]
        if self._frames:
            self._frames[from_client].receive_data(data)
            return [self._frame(from_client, frame) for frame in self._frames[from_client].frames()]
        found = _LINE.match(data)
        return [found[0].decode()[:_LONGEST]] if found else []

    def _frame(self, from_client: bool, frame: Frame) -> str:
        name = FrameType(frame.type).name if frame.type in _FRAMES else f"frame {frame.type:#x}"
        words = [name, str(frame.stream)] if frame.stream else [name]
        if frame.type in (FrameType.HEADERS, FrameType.CONTINUATION) and (unpacker := self._fields.get(from_client)):
            try:
                whole = frame.type == FrameType.HEADERS and frame.flags & Flag.END_HEADERS
                fields = dict(unpacker.decode(content(frame), raw=True) if whole else ())
                said = [fields.get(b":method"), fields.get(b":path"), fields.get(b":status")]
                words += [bytes(word).decode("latin-1")[:_LONGEST] for word in said if word]
                if not whole:  # Its table changes, and we do not see how.
                    del self._fields[from_client]
            except (HPACKError, IndexError):
                del self._fields[from_client]
        return " ".join(words)


def name(message: Message) -> str:
    """Of a message of TLS's handshake: ClientHello."""
    if message.type not in _HANDSHAKE:
        return f"message {message.type}"
    return HandshakeType(message.type).name.title().replace("_", "")


def counted(words: list[str]) -> list[str]:
    """Equal neighbours become one, with their number."""
    joined: list[tuple[str, int]] = []
    for word in words:
        if joined and joined[-1][0] == word:
            joined[-1] = word, joined[-1][1] + 1
        else:
            joined.append((word, 1))
    return [f"{count}×{word}" if count > 1 else word for word, count in joined]
