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
from typing import BinaryIO

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
_BUFFER = 1 << 18  # bytes of blocks that are written at once
_LONGEST = 1 << 26  # bytes of a block: a damaged length must not own our memory


class BadCapture(Exception):
    """The file is not a pcapng that we can read; the text says where and why."""


class CannotWrite(Exception):
    """The disk takes no more; the text is its reason."""


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    if options:
        options += struct.pack("<HH", _END, 0)
    body += bytes(-len(body) % 4) + options
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


class _PacketShapes(dict[int, struct.Struct]):
    """Packet blocks without options, by size of the packet: one `pack_into` makes the whole block."""

    def __missing__(self, size: int) -> struct.Struct:
        self[size] = shape = struct.Struct(f"<7I{size}s{-size % 4}xI")
        return shape


class Writer:
    """Writes one section of a capture; memory does not grow with the capture.

    *interfaces* are the names of the vantage points; *comment* says what the section is; *key_log* is
    an SSLKEYLOGFILE, whose lines go into the capture. Packets are collected until there are _BUFFER
    bytes of them, or `flush` is called. CannotWrite where the disk refuses: the section is then
    taken back, and the file is as before.
    """

    def __init__(
        self, fd: int, interfaces: Sequence[str], comment: str = "", key_log: str | Path | None = None
    ) -> None:
        self._fd = fd
        self._key_log, self._key_log_read = key_log, 0
        self._start = os.lseek(fd, 0, os.SEEK_END)
        self._buffer = bytearray(_BUFFER)
        self._used = 0
        self._older = 0  # bytes of it that were there at the last call of flush_older()
        self._shapes = _PacketShapes()
        header = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)  # version 1.0, length unknown
        blocks = _block(Block.SECTION, header, _option(_COMMENT, comment.encode()) if comment else b"")
        for name in interfaces:
            options = _option(_IF_NAME, name.encode()) + _option(_IF_TSRESOL, b"\x09")  # 10^-9 s
            blocks += _block(Block.INTERFACE, struct.pack("<HHI", _LINK_RAW, 0, 0), options)
        self._write(memoryview(blocks))

    def add(self, interface: int, time_ns: int, data: bytes, comment: str = "") -> None:
        """Add an IP packet seen at a vantage point at a time (ns since 1970)."""
        size = len(data)
        high, low = time_ns >> 32, time_ns & 0xFFFF_FFFF
        if comment:
            body = struct.pack("<IIIII", interface, high, low, size, size) + data
            block = _block(Block.PACKET, body, _option(_COMMENT, comment.encode()))
            if self._used + len(block) > _BUFFER:
                self.flush()
            self._buffer[self._used : self._used + len(block)] = block
            self._used += len(block)
            return
        shape = self._shapes[size]  # The path of a gigabyte of packets.
        total = shape.size
        if self._used + total > _BUFFER:
            self.flush()
        shape.pack_into(self._buffer, self._used, Block.PACKET, total, interface, high, low, size, size, data, total)
        self._used += total

    @property
    def waiting(self) -> bool:
        """True when there are packets to flush."""
        return self._used > 0

    def flush(self) -> None:
        """Write what waits, and ahead of it the secrets that were logged since."""
        self._write_first(self._used)

    def flush_older(self) -> None:
        """Write what waited already when this was called last, so that every packet has waited for its secrets."""
        self._write_first(self._older)
        self._older = self._used

    def _write_first(self, size: int) -> None:
        self._write_secrets()
        self._write(memoryview(self._buffer)[:size])
        self._buffer[: self._used - size] = self._buffer[size : self._used]
        self._used, self._older = self._used - size, 0

    def _write_secrets(self) -> None:
        try:
            if self._key_log is None or os.stat(self._key_log).st_size <= self._key_log_read:
                return
            with open(self._key_log, "rb") as file:
                file.seek(self._key_log_read)
                lines = file.read()
        except FileNotFoundError:  # No TLS yet.
            return
        lines = lines[: lines.rfind(b"\n") + 1]  # The last may be half written.
        self._key_log_read += len(lines)
        if lines:
            self._write(memoryview(_block(Block.SECRETS, struct.pack("<II", _TLS_KEY_LOG, len(lines)) + lines)))

    def _write(self, data: memoryview) -> None:
        try:
            while data:  # A disk that is nearly full takes less than all.
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            os.ftruncate(self._fd, self._start)
            raise CannotWrite(os.strerror(error.errno or 0)) from None


def trim(fd: int) -> None:
    """Cut off a last block that is not whole, as a killed writer leaves it, so that a section can follow."""
    end = 0
    with os.fdopen(os.dup(fd), "rb") as file:
        for _, start, length in _blocks(file, "the capture"):
            end = start + length
    os.ftruncate(fd, end)


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


def _blocks(file: BinaryIO, path: str | Path) -> Iterator[tuple[int, int, int]]:
    """Yield type, position and length of each whole block. The caller may read in between."""
    at, size = 0, os.fstat(file.fileno()).st_size
    file.seek(0)
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<II", head)
        if at == 0 and kind != Block.SECTION:
            raise BadCapture(f"{path} is not a pcapng file")
        if kind == Block.SECTION and (order := file.read(4)) != struct.pack("<I", _BYTE_ORDER) and len(order) == 4:
            raise BadCapture(f"{path}: a byte order that this lab does not write")
        if length < 12 or length % 4 or length > _LONGEST:
            raise BadCapture(f"{path}: a block of {length} bytes at byte {at}")
        if at + length > size:
            return
        yield kind, at, length
        at += length
        file.seek(at)


def read(path: str | Path) -> Iterator[Record]:
    """Yield the packets of a capture that this module wrote.

    A last block that is cut off is left out. Raises BadCapture for anything else that is not ours,
    OSError where the file cannot be read.
    """
    number = section = 0
    interfaces: list[str] = []
    with open(path, "rb") as file:
        for kind, start, length in _blocks(file, path):
            file.seek(start + 8)
            body = file.read(length - 12)
            if file.read(4) != struct.pack("<I", length):
                raise BadCapture(f"{path}: the block at byte {start} ends with another length than it begins with")
            try:
                if kind == Block.SECTION:
                    section += 1
                    interfaces = []
                elif kind == Block.INTERFACE:
                    options = _options(body[8:])
                    if struct.unpack_from("<H", body)[0] != _LINK_RAW or options.get(_IF_TSRESOL) != b"\x09":
                        raise BadCapture(f"{path} is not a capture of this lab's wire. Open it in Wireshark instead.")
                    interfaces.append(options.get(_IF_NAME, b"?").decode(errors="replace"))
                elif kind == Block.PACKET:
                    number += 1
                    interface, high, low, size, _ = struct.unpack_from("<IIIII", body)
                    if 20 + size > len(body):
                        raise BadCapture(f"{path}: packet {number} is damaged")
                    options = _options(body[20 + size + (-size % 4) :])
                    comment = options.get(_COMMENT, b"").decode(errors="replace")
                    yield Record(number, section, interfaces[interface], (high << 32 | low) / 1e9,
                                 body[20 : 20 + size], comment)  # fmt: skip
            except (struct.error, IndexError):
                raise BadCapture(f"{path}: the block at byte {start} is damaged") from None


def count_sections(path: str | Path) -> int:
    """How many sections a capture has. Reads only the block headers."""
    with open(path, "rb") as file:
        return sum(kind == Block.SECTION for kind, _, _ in _blocks(file, path))


def read_key_log(path: str | Path, section: int) -> str:
    """The TLS key log in a section of a capture (from 1)."""
    found, number = [], 0
    with open(path, "rb") as file:
        for kind, start, length in _blocks(file, path):
            number += kind == Block.SECTION
            if kind == Block.SECRETS and number == section:
                file.seek(start + 8)
                secrets_type, size = struct.unpack("<II", file.read(8))
                if secrets_type == _TLS_KEY_LOG and size <= length - 20:
                    found.append(file.read(size).decode("ascii", "replace"))
    return "".join(found)


def keep_sections(path: str | Path, count: int) -> None:
    """Take back all sections of a capture but the first *count*."""
    with open(path, "r+b") as file:
        starts = [start for kind, start, _ in _blocks(file, path) if kind == Block.SECTION]
        if count < len(starts):
            os.ftruncate(file.fileno(), starts[count])


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
