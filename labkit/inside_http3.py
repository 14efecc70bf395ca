"""What HTTP/3 says on a stream of QUIC, in words for the ladder: HEADERS GET /tile/3, control SETTINGS."""

from __future__ import annotations

import pylsqpack

from protocols.errors import RemoteProtocolError
from protocols.http3_frames import Decoder, Frame, FrameType, SettingCode, StreamType, name_of, parse_settings
from protocols.quic_frames import Stream

_CONTENT_TYPES = {StreamType.QPACK_ENCODER: "QPACK encoder", StreamType.QPACK_DECODER: "QPACK decoder"}
_LONGEST = 32  # characters of a path
_PSEUDO = (b":method", b":path", b":status")


class Streams:
    """Reads all streams of one connection."""

    def __init__(self) -> None:
        self._read: dict[tuple[bool, int], _OneStream] = {}
        self._settings: dict[bool, dict[int, int]] = {}  # by who has sent them
        self._fields: dict[bool, tuple[int, pylsqpack.Decoder]] = {}  # and the size of its table

    def words(self, from_client: bool, piece: Stream) -> list[str]:
        """What is told in a piece that was not there before; [] when it only goes on, or there is a gap before it."""
        stream = self._read.setdefault((from_client, piece.stream), _OneStream(bool(piece.stream & 2)))
        if not (data := stream.receive(piece)):
            return []
        try:
            words, frames = stream.decode(data)
            if stream.type == StreamType.QPACK_ENCODER and data:
                self._table(from_client).feed_encoder(stream.decoder.rest())
            for frame in frames:
                if word := self._frame(from_client, piece.stream, frame):
                    words.append(word)
        except (RemoteProtocolError, pylsqpack.EncoderStreamError):  # What is being shown is how it is broken.
            return []
        return words

    def _frame(self, from_client: bool, stream: int, frame: Frame) -> str:
        if frame.at:  # more of what was begun
            return ""
        if frame.type == FrameType.SETTINGS:
            self._settings[from_client] = parse_settings(frame.payload)
        if frame.type == FrameType.HEADERS and not frame.left:
            return " ".join(["HEADERS", *self._pseudo_fields(from_client, stream, frame.payload)])
        name = name_of(frame.type) if frame.type in set(FrameType) else f"frame {frame.type:#x}"
        return f"{name} +{len(frame.payload)} B" if frame.type == FrameType.DATA else name

    def _pseudo_fields(self, from_client: bool, stream: int, section: bytes) -> list[str]:
        try:
            _, fields = self._table(from_client).feed_header(stream, section)
        except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked):
            return []
        said = dict(fields)
        return [said[name].decode("latin-1")[:_LONGEST] for name in _PSEUDO if name in said]

    def _table(self, from_client: bool) -> pylsqpack.Decoder:
        """QPACK's table of one direction: as large as its receiver allows, which it may not have said yet."""
        allowed = self._settings.get(not from_client, {}).get(SettingCode.QPACK_MAX_TABLE_CAPACITY, 0)
        if from_client not in self._fields or self._fields[from_client][0] != allowed:
            self._fields[from_client] = allowed, pylsqpack.Decoder(allowed, 100)
        return self._fields[from_client][1]


class _OneStream:
    """One direction of one stream: its pieces in order, and what is framed in them."""

    def __init__(self, is_uni: bool) -> None:
        self.decoder = Decoder()
        self.type: int | None = None if is_uni else -1  # -1: a request's
        self._at = 0
        self._early: dict[int, bytes] = {}

    def receive(self, piece: Stream) -> bytes:
        """What is new, as far as nothing is missing before it."""
        self._early[piece.offset] = piece.data
        data = b""
        for offset in sorted(self._early):
            if offset > self._at + len(data):
                break
            data += self._early.pop(offset)[self._at + len(data) - offset :]
        self._at += len(data)
        return data

    def decode(self, data: bytes) -> tuple[list[str], list[Frame]]:
        """The stream's type, if it is told just now, and the frames."""
        self.decoder.receive_data(data)
        words = []
        if self.type is None:
            self.type = self.decoder.next_number()
            if self.type == StreamType.CONTROL:
                words.append("control")
            elif self.type is not None and self.type not in _CONTENT_TYPES:
                words.append(f"type {self.type:#x}")
        if self.type in _CONTENT_TYPES:
            return [f"{_CONTENT_TYPES[StreamType(self.type)]} +{len(data)} B"], []
        return words, list(self.decoder.frames()) if self.type in (-1, StreamType.CONTROL) else []
