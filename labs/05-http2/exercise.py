"""Three small pieces on which HTTP/2 stands: frames, flow control, header compression. Yours to write, sans-IO.

    A  encode(), FrameDecoder    9 bytes stand before every frame: length 24 | type 8 | flags 8 | R 1 | stream 31
    B  Ledger                    who may send how much: a window for each stream, and one for the connection
    C  decode_integer(), HeaderDecoder    HPACK: fields as numbers in a table that both ends keep

Read labs/05-http2/README.md first; the rules are in RFC 9113 §4, §5.2, §6.1, §6.2, §6.9 and in RFC 7541 §2 to §6. Check
with `make http2-check`: it begins with A, and ends with a server around your pieces. Stuck? `make http2-hint`.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

FROM_HUFFMAN = decode_huffman  # given: bytes to bytes; raises hpack.HPACKError for what is no such code
STATIC = HeaderTable.STATIC_TABLE  # given: 61 times (name, value). Index 1 of HPACK is STATIC[0].
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 1, 3, 6, 9  # RFC 9113 §7
DATA, HEADERS, PADDED, PRIORITY = 0, 1, 0x08, 0x20  # two types of frame, and two of their flags
MAX_WINDOW, MAX_INTEGER = 2**31 - 1, 2**32 - 1  # An integer has at most five bytes behind its prefix, too.


class Http2Error(Exception):
    """The peer broke a rule: an error of a stream, or of the connection (0). It gets no other one out of you."""

    def __init__(self, code: int, stream: int = 0) -> None:
        super().__init__(code, stream)
        self.code, self.stream = code, stream


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    payload: bytes  # of DATA and HEADERS without padding, of HEADERS without the five bytes of PRIORITY
    size: int  # of all the payload, with those: it is this that flow control counts


def encode(type: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame. ValueError for a payload or a stream that does not fit into its field."""
    return struct.pack("!HBBI", len(payload), type, flags, stream) + payload  # TODO A


class FrameDecoder:
    def __init__(self, max_size: int = 16384) -> None: ...  # TODO A: a longer payload is refused, before it is here

    def receive_data(self, data: bytes) -> Iterable[Frame]: ...  # TODO A: return (or yield) what these bytes complete


class Ledger:  # A sender keeps one for what it may send, a receiver one for what it has to take.
    # TODO B: all windows begin with 65,535, those of new streams with what set_initial() said
    def open(self, stream: int) -> None: ...
    def close(self, stream: int) -> None: ...
    def available(self, stream: int) -> int: ...  # bytes of DATA that may go now; 0 for a stream that is closed
    def charge(self, stream: int, size: int) -> None: ...  # DATA was sent, or has come. Http2Error if it was too much
    def update(self, stream: int, increment: int) -> None: ...  # WINDOW_UPDATE; stream 0 is the connection
    def set_initial(self, size: int) -> None: ...  # SETTINGS_INITIAL_WINDOW_SIZE


def decode_integer(data: bytes, at: int, bits: int) -> tuple[int, int]: ...  # TODO C: its value, and where it ends


class HeaderDecoder:
    def __init__(self, max_size: int = 4096) -> None: ...  # TODO C: bytes in its dynamic table, the most allowed

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]: ...  # TODO C: the fields of the next header block
