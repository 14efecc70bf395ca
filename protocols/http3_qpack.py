"""QPACK, by the library pylsqpack, bounded: field sections that need not arrive in order (RFC 9204).

HPACK's table changes with each HEADERS frame, so these have to be read in the order in which they were written: one
that is lost stops all streams. QPACK gives the changes a stream of their own:

    encoder's stream   insert `x-a: b`                         what is to be remembered
    a request          0200 80                                 needs 1 insert; the field is entry 0
    decoder's stream   section of stream 0 is read             only now the other end may forget that entry

A section that arrives before what it needs is blocked: it waits, and a receiver says for how many it would.

What the library leaves to its user: a section that names one large entry of the table over and over, a byte each time.
60 KB became 250 MB of fields. So lines are counted before they are unpacked; since a section changes no table, one that
has too many can simply be left alone, which HPACK could not do.
"""

from __future__ import annotations

import pylsqpack

from protocols.errors import RemoteProtocolError
from protocols.http2_messages import Raw
from protocols.http3_frames import ErrorCode

TABLE = 4096  # bytes of a table: of ours, and the most that we fill of theirs (they may offer 2^62)
BLOCKED = 16  # streams that may wait for inserts: what they sent is held in memory
LINE = 32  # bytes that each field counts, beside its name and value (RFC 9114 §4.2.2)


class TooLarge(Exception):
    """More fields than we take. The connection is none the worse for it."""


class Nameless(Exception):
    """A field without a name: malformed, and the fault of one message (RFC 9114 §4.2). The library ends all for it."""


class FieldDecoder:
    """What we receive. `out` is for our decoder stream."""

    def __init__(self, max_fields: int, table: int = TABLE, blocked: int = BLOCKED) -> None:
        self.max_fields = max_fields
        self.out = b""
        self._has_table = False
        self._lsqpack = pylsqpack.Decoder(table, blocked)

    def section(self, stream: int, data: bytes) -> Raw | None:
        """The fields of a section; None: it is blocked. TooLarge, Nameless, or RemoteProtocolError (§2.2.3).

        Of a Nameless one the stream is to be given up: cancel().
        """
        if data == b"\0\0":  # No fields at all, which the library takes for a section that is cut off.
            return ()
        if count_lines(data) * LINE > self.max_fields:
            self.cancel(stream)
            raise TooLarge
        try:
            out, raw = self._lsqpack.feed_header(stream, data)
        except pylsqpack.StreamBlocked:
            return None
        except (pylsqpack.DecompressionFailed, ValueError):
            raise failed() from None
        return self._take(out, raw)

    def resume(self, stream: int) -> Raw:
        """The fields of a section that was blocked."""
        try:
            out, raw = self._lsqpack.resume_header(stream)
        except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked, ValueError):
            raise failed() from None
        return self._take(out, raw)

    def _take(self, out: bytes, raw: list[tuple[bytes, bytes]]) -> Raw:
        self.out += out
        if sum(len(name) + len(value) + LINE for name, value in raw) > self.max_fields:
            raise TooLarge
        return tuple(raw)

    def cancel(self, stream: int) -> None:
        """What has come on this stream, or may come, will not be read (§2.2.2.2)."""
        self.out += self._lsqpack.cancel_stream(stream)

    def feed(self, data: bytes) -> list[int]:
        """What came on their encoder stream; return the streams that are not blocked any more."""
        text = "an instruction of the encoder that cannot be (RFC 9204 §4.3)"
        if data and not self._has_table:  # The library begins with the largest table, and not with none (§3.2.2).
            self._has_table = True
            if data[0] >> 5 != 1:
                raise RemoteProtocolError(text, ErrorCode.QPACK_ENCODER_STREAM_ERROR)
        try:
            return self._lsqpack.feed_encoder(data)
        except pylsqpack.EncoderStreamError:
            raise RemoteProtocolError(text, ErrorCode.QPACK_ENCODER_STREAM_ERROR) from None


class FieldEncoder:
    """What we send. `out` is for our encoder stream."""

    def __init__(self) -> None:
        self.out = b""
        self._lsqpack = pylsqpack.Encoder()

    def offered(self, table: int, blocked: int) -> None:
        """The other end's SETTINGS. Until then nothing is put into its table."""
        if table:
            self.out += self._lsqpack.apply_settings(min(table, TABLE), min(blocked, BLOCKED))

    def section(self, stream: int, fields: Raw) -> bytes:
        """The bytes of a section."""
        out, section = self._lsqpack.encode(stream, list(fields))
        self.out += out
        return section

    def feed(self, data: bytes) -> None:
        """What came on their decoder stream."""
        try:
            self._lsqpack.feed_decoder(data)
        except pylsqpack.DecoderStreamError:
            text = "an instruction of the decoder that cannot be (RFC 9204 §4.4)"
            raise RemoteProtocolError(text, ErrorCode.QPACK_DECODER_STREAM_ERROR) from None


def failed() -> RemoteProtocolError:
    """§2.2.3: a connection error, as in HTTP/2, though the table is not what is broken."""
    return RemoteProtocolError("fields that cannot be unpacked (RFC 9204 §2.2.3)", ErrorCode.QPACK_DECOMPRESSION_FAILED)


def count_lines(data: bytes) -> int:
    """How many fields a section has (§4.5), without unpacking any. One that is cut off: as many as are whole.

    Nameless: one has no name. (That of an entry in the table the library gives us as it is.)
    """
    lines = 0
    try:
        _, at = _integer(data, 0, 8)  # how many inserts it needs
        _, at = _integer(data, at, 7)  # from where it counts
        while at < len(data):
            first = data[at]
            if first & 0x80:  # an entry of a table
                _, at = _integer(data, at, 6)
            elif first & 0x40:  # the name of an entry, and a value
                _, at = _integer(data, at, 4)
                at = _skip(data, at, 7)
            elif first & 0x20:  # a name and a value
                size, at = _integer(data, at, 3)
                if not size:
                    raise Nameless
                at = _skip(data, at + size, 7)
            elif first & 0x10:  # an entry that came late
                _, at = _integer(data, at, 4)
            else:  # its name, and a value
                _, at = _integer(data, at, 3)
                at = _skip(data, at, 7)
            lines += 1
    except IndexError:
        pass
    return lines


def _skip(data: bytes, at: int, bits: int) -> int:
    """Where a string (§4.1.2) ends."""
    size, at = _integer(data, at, bits)
    return at + size


def _integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """HPACK's integers (RFC 7541 §5.1): some bits of the first byte; if these are all 1, seven of each next."""
    most = (1 << bits) - 1
    number, at = data[at] & most, at + 1
    if number == most:
        shift = 0
        while True:
            byte, at = data[at], at + 1
            number += (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 62:  # longer than any that there is
                raise IndexError
    return number, at
