"""Step A of this lab's check: the frames of one stream, whose bytes come in any pieces."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

asking: Any = sys.modules.get("labs_http3_asking") or load(Path(__file__).with_name("asking.py"), "labs_http3_asking")
Call, hold, wire, varint, PATIENCE = asking.Call, asking.hold, asking.wire, asking.varint, asking.PATIENCE
DATA, HEADERS, SETTINGS, GOAWAY, LARGEST = 0x00, 0x01, 0x04, 0x07, asking.solution.LARGEST
CHANCE = random.Random(7)
GREASE = 0x1F * 5 + 0x21  # a type that will never mean anything (§7.2.8): 0xbc, so it needs two bytes


def comes(*pieces: bytes, why: str = "", end: bool = False, mark: tuple[int, int, str] = (0, 0, "")) -> list[Any]:
    """A script: so many pieces of one stream, and perhaps its end. The sentence is about the last of it."""
    script = [Call("FrameDecoder", "receive_data", (piece,), why, mark) for piece in pieces]
    return [*script, Call("FrameDecoder", "receive_end", (), why)] if end else script


def held(why: str) -> Any:
    return Call("FrameDecoder", "held", (), why)


@step(
    "a frame is a type, a length, and so many bytes",
    rfc="RFC 9114 §7.1: both are variable-length integers (RFC 9000 §16), so a head has 2 to 16 bytes",
    symptom="Yours finds another frame in the bytes than there is. Both numbers of the head say with their first two "
    "bits how long they are.",
    where="varint(data, at) gives the value and where it ends. Call it for the type, then for the length from where "
    "the type ended; the payload begins where the length ended.",
    code="""
kind, at = varint(data, 0)
length, at = varint(data, at)
return [Frame(kind, data[at : at + length])]""",
    seconds=PATIENCE,
)
async def one_frame(c: Check) -> None:
    section = bytes.fromhex("0000d1d7")
    await hold(
        c,
        comes(wire(HEADERS, section), why="01 is HEADERS, 04 its length, and four bytes are the payload.",
              mark=(0, 2, "the head")),
        comes(wire(GOAWAY, b"\x08"), why="07 is GOAWAY, and its payload is one byte."),
        comes(wire(SETTINGS), why="A frame may be empty: 04 00 is SETTINGS that say nothing."),
        comes(wire(HEADERS, bytes(63)), why="3f is 63: the last length of one byte."),
        comes(wire(HEADERS, bytes(64)), why="40 40 is 64: a length of two bytes, which begin with 01.",
              mark=(1, 3, "01 and 14 bits")),
        comes(wire(HEADERS, bytes(15000)), why="7a 98 is 15000, a length of two bytes."),
        comes(varint(HEADERS, 2) + varint(4, 4) + section, mark=(0, 6, "the head"),
              why="40 01 is the type 1 in two bytes, 80 00 00 04 the length 4 in four. HTTP/3 allows longer forms."),
        comes(varint(HEADERS, 8) + varint(4, 8) + section, why="Type and length in eight bytes each are legal, too."),
    )  # fmt: skip
