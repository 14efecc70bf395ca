"""pcapng by hand: the capture format of Wireshark (draft-ietf-opsawg-pcapng).

A file is a row of blocks: type, length, body, length again. We write a Section Header, an Interface
Description for each vantage point (nanosecond clock), an Enhanced Packet for each packet, and a
Decryption Secrets block for TLS keys. A block is written whole or not at all, so that a file cut
short by a crash is still a good file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from labkit.packets import Packet, decode


class Block(IntEnum):
    """Block types (§4)."""

    INTERFACE = 0x0000_0001
    PACKET = 0x0000_0006
    SECRETS = 0x0000_000A
    SECTION = 0x0A0D_0D0A


_COMMENT, _END = 1, 0  # options that every block has (§3.5)
_IF_NAME, _IF_TSRESOL = 2, 9  # options of an Interface Description (§4.2)
_LINK_RAW = 101  # LINKTYPE_RAW: the packet begins with its IP header
_TLS_KEY_LOG = 0x544C_534B  # "TLSK" (§4.7)
_BYTE_ORDER = 0x1A2B_3C4D
_BATCH = 1000  # writev takes at most IOV_MAX (1024) buffers


class BadCapture(Exception):
    """The file is not a pcapng that we can read; the text says where and why."""


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    if options:
        options += struct.pack("<HH", _END, 0)
    body += bytes(-len(body) % 4) + options
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


_packet_header = struct.Struct("<IIIIIII").pack
_packet_trailer = [bytes(-n % 4) for n in range(4)]
_length = struct.Struct("<I").pack


class Writer:
    """Writes one section of a capture; memory does not grow with the capture.

    *interfaces* are the names of the vantage points; *comment* says what the section is.
    `add` and `add_secrets` collect blocks, `flush` writes them. OSError where the disk refuses: the
    file then ends after the last whole block.
    """

    def __init__(self, fd: int, interfaces: Sequence[str], comment: str = "") -> None:
        self._fd = fd
        self._pending: list[bytes] = []
        header = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)  # version 1.0, length unknown
        self._pending.append(_block(Block.SECTION, header, _option(_COMMENT, comment.encode()) if comment else b""))
        for name in interfaces:
            options = _option(_IF_NAME, name.encode()) + _option(_IF_TSRESOL, b"\x09")  # 10^-9 s
            self._pending.append(_block(Block.INTERFACE, struct.pack("<HHI", _LINK_RAW, 0, 0), options))
        self.flush()

    def add(self, interface: int, time_ns: int, data: bytes, comment: str = "") -> None:
        """Add an IP packet seen at a vantage point at a time (ns since 1970)."""
        size = len(data)
        if comment:
            body = struct.pack("<IIIII", interface, time_ns >> 32, time_ns & 0xFFFF_FFFF, size, size) + data
            self._pending.append(_block(Block.PACKET, body, _option(_COMMENT, comment.encode())))
            return
        # The same without options, spelled out: this is the path of a gigabyte of packets.
        padding = _packet_trailer[size & 3]
        total = 32 + size + len(padding)
        high, low = time_ns >> 32, time_ns & 0xFFFF_FFFF
        self._pending += (
            _packet_header(Block.PACKET, total, interface, high, low, size, size),
            data,
            padding + _length(total),
        )

    def add_secrets(self, key_log: bytes) -> None:
        """Add lines of an SSLKEYLOGFILE. They must come before the packets that they open."""
        self._pending.append(_block(Block.SECRETS, struct.pack("<II", _TLS_KEY_LOG, len(key_log)) + key_log))

    def flush(self) -> None:
        while self._pending:
            batch = self._pending[:_BATCH]
            del self._pending[:_BATCH]
            total, start = sum(map(len, batch)), os.lseek(self._fd, 0, os.SEEK_CUR)
            try:
                written = os.writev(self._fd, batch)
                while written < total:  # Short write: the disk is nearly full, or a signal came.
                    written += os.write(self._fd, b"".join(batch)[written:])
            except OSError:
                self._pending.clear()
                os.ftruncate(self._fd, start)
                raise


@dataclass(frozen=True, slots=True)
class Record:
    """A packet of a capture: number (from 1), section (from 1), vantage point, time (s), comment."""

    number: int
    section: int
    interface: str
    time: float
    data: bytes
    comment: str

    def decoded(self) -> Packet | None:
        return decode(self.data)


def read(path: str | Path) -> Iterator[Record]:
    """Yield the packets of a capture that this module wrote.

    A last block that is cut off is left out. Raises BadCapture for anything else that is not ours,
    OSError where the file cannot be read.
    """
    number = section = 0
    interfaces: list[str] = []
    with open(path, "rb") as file:
        while len(head := file.read(8)) == 8:
            kind, length = struct.unpack("<II", head)
            if section == 0 and kind != Block.SECTION:
                raise BadCapture(f"{path} is not a pcapng file")
            if length < 12 or length % 4 or length > 1 << 26:
                raise BadCapture(f"{path}: a block of {length} bytes after packet {number}")
            rest = file.read(length - 8)
            if len(rest) < length - 8:
                return
            body = rest[:-4]
            if kind == Block.SECTION:
                if len(body) < 16 or body[:4] != struct.pack("<I", _BYTE_ORDER):
                    raise BadCapture(f"{path}: a byte order that this lab does not write")
                section += 1
                interfaces = []
            elif kind == Block.INTERFACE:
                if struct.unpack_from("<H", body)[0] != _LINK_RAW:
                    raise BadCapture(f"{path}: not captured by this lab (link type is not raw IP)")
                interfaces.append(_options(body[8:]).get(_IF_NAME, b"?").decode(errors="replace"))
            elif kind == Block.PACKET:
                number += 1
                interface, high, low, size, _ = struct.unpack_from("<IIIII", body)
                if interface >= len(interfaces) or 20 + size > len(body):
                    raise BadCapture(f"{path}: packet {number} is damaged")
                options = _options(body[20 + size + (-size % 4) :])
                comment = options.get(_COMMENT, b"").decode(errors="replace")
                yield Record(number, section, interfaces[interface], (high << 32 | low) / 1e9,
                             body[20 : 20 + size], comment)  # fmt: skip


def count_sections(path: str | Path) -> int:
    """How many sections a capture has. Reads only the block headers."""
    found = 0
    with open(path, "rb") as file:
        while len(head := file.read(8)) == 8:
            kind, length = struct.unpack("<II", head)
            found += kind == Block.SECTION
            file.seek(length - 8, os.SEEK_CUR)
    return found


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from("<HH", data, at)
        if code == _END:
            break
        found[code] = data[at + 4 : at + 4 + size]
        at += 4 + size + (-size % 4)
    return found
