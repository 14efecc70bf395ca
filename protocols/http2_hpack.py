"""HPACK, by the library hpack, remembered: what came before, byte for byte, means the same again (RFC 7541).

A client sends the same fields with each request, and from the second time on they are a few indices of the dynamic
table. As long as nobody changes that table, the same bytes stand for the same fields, and need not be looked up one by
one. Both ends have a table per direction; so what is remembered belongs to one connection and one direction.
"""

from __future__ import annotations

import re

import hpack
from hpack.table import HeaderTable

from protocols.errors import RemoteProtocolError
from protocols.http2_frames import ErrorCode
from protocols.http2_messages import Raw

MOST = 32  # blocks to remember, and
SIZE_UPDATES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*+[\0-\x7f]){3}")  # One would need no more than two.
LONGEST = 1024  # bytes of them, lest they be used to fill our memory


class CachedDecoder(hpack.Decoder):
    """What we receive."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._known: dict[bytes, Raw] = {}

    def section(self, block: bytes) -> Raw:
        """Return the fields of a block. RemoteProtocolError: the tables of both ends now differ (§4.3)."""
        if known := self._known.get(block):
            return known
        if SIZE_UPDATES.match(block):
            raise RemoteProtocolError("more than two size updates (RFC 7541 §4.2)", ErrorCode.COMPRESSION_ERROR)
        before = state_of(self.header_table)
        try:
            raw = tuple(self.decode(block, raw=True))
        except hpack.OversizedHeaderListError:  # A bomb: one byte can stand for 4 KB (CVE-2016-6581).
            text = f"more than {self.max_header_list_size} bytes of fields (RFC 9113 §10.5.1)"
            raise RemoteProtocolError(text, ErrorCode.ENHANCE_YOUR_CALM) from None
        except (hpack.HPACKError, IndexError) as error:
            text = f"the fields cannot be unpacked: {type(error).__name__} (RFC 9113 §4.3)"
            raise RemoteProtocolError(text, ErrorCode.COMPRESSION_ERROR) from None
        if is_same(state_of(self.header_table), before) and len(self._known) < MOST and len(block) <= LONGEST:
            self._known[block] = raw
        else:
            self._known.clear()
        return raw


class CachedEncoder(hpack.Encoder):
    """What we send."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Raw, bytes] = {}

    def encode(self, headers: object, huffman: bool = True) -> bytes:
        """Return the block for some fields."""
        key: Raw = tuple(headers)  # type: ignore[arg-type]
        resized = self.header_table.resized  # The client has asked for it; the next block has to say so (§4.2).
        if not resized and (known := self._known.get(key)):
            return known
        before = state_of(self.header_table)
        block = super().encode(key, huffman)
        if is_same(state_of(self.header_table), before) and not resized and len(self._known) < MOST:
            self._known[key] = block
        else:
            self._known.clear()
        return block


State = tuple[int, int, object]


def state_of(table: HeaderTable) -> State:
    """What changes when a table does: its limit, how many entries it has, and which is the newest."""
    entries = table.dynamic_entries
    return table.maxsize, len(entries), entries[0] if entries else None


def is_same(one: State, other: State) -> bool:
    """The same entry, and not an equal one: that may have come after a clearance, with other entries behind it."""
    return one[:2] == other[:2] and one[2] is other[2]
