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


@step(
    "what comes together is one frame after the other",
    rfc="RFC 9000 §2.2: a stream is bytes in order; its STREAM frames say nothing about what is in it",
    symptom="Several frames come with one call, and yours does not give all of them, or not in order. QUIC gives as "
    "many bytes as it has: one call is not one frame.",
    where="Where a frame ends the next one begins, until there are no bytes left. What is left of an unfinished one "
    "must be there at the next call.",
    code="""
data, at = self._buffer + data, 0
while there is a whole frame at data[at]:
    frames.append(...); at = its end
self._buffer = data[at:]""",
    seconds=PATIENCE,
)
async def several_frames(c: Check) -> None:
    first, second = wire(HEADERS, b"abcd"), wire(HEADERS, b"xyz")
    await hold(
        c,
        comes(first + second, why="Two frames come at once: both must be given."),
        comes(first + second + wire(SETTINGS) + wire(GOAWAY, b"\x08"), why="Four frames come at once."),
        comes(first, second, why="The second comes later: the first is not given again."),
        comes(first + second[:3], second[3:], why="A frame, and the beginning of one: its rest comes with the next "
              "call."),
        comes(first, b"", second, why="No bytes at all are no frame, and lose none."),
        comes(wire(HEADERS, wire(SETTINGS)), why="What is in a payload is no frame, even if it looks like one."),
        comes(wire(GOAWAY, b"\x08") * 300, why="300 frames with one call are 300 frames."),
    )  # fmt: skip


@step(
    "a frame may be cut anywhere, its numbers too",
    rfc="RFC 9000 §2.2, §19.8: QUIC gives what has arrived in order, wherever that ends",
    symptom="The same bytes come in pieces, and yours finds other frames in them, or breaks. A type or a length can be "
    "cut in the middle, too.",
    where="varint() gives None for a number that is not all there. Then nothing of this head is used up: wait for "
    "more bytes, and read it once more from its beginning.",
    code="""
kind = varint(data, at)
if kind is None or (length := varint(data, kind[1])) is None:
    break  # not all here: keep data[at:]""",
    seconds=PATIENCE,
)
async def split_frames(c: Check) -> None:
    whole = varint(HEADERS, 4) + varint(70, 2) + bytes(range(70)) + wire(GOAWAY, b"\x10")
    cuts = [comes(whole[:at], whole[at:], why=f"{len(whole)} bytes come as {at} and {len(whole) - at}. "
                  + where_cut(at)) for at in (*range(1, 8), 40, 75, 76, 77, 78)]  # fmt: skip
    await hold(
        c,
        comes(b"\x01", b"\x03abc", why="The type comes first, the length and the payload later."),
        comes(b"\x01\x40", b"\x46" + bytes(70), why="The length has two bytes, and they come one by one.",
              mark=(0, 1, "the rest of the length")),
        *cuts,
        comes(*(whole[at : at + 1] for at in range(len(whole))), why="All bytes come one by one."),
        comes(*(wire(HEADERS, bytes(300))[at : at + 7] for at in range(0, 303, 7)),
              why="A frame of 300 bytes comes in pieces of 7: it is given once, and whole."),
    )  # fmt: skip


def where_cut(at: int) -> str:
    if at < 4:
        return "The type has four bytes, and is cut."
    if at < 6:
        return "The length is cut off, or cut." if at == 5 else "The type is there, the length is not."
    return "The payload is cut." if at < 76 else "The second frame is cut."


@step(
    "DATA is given as it comes",
    rfc="RFC 9114 §7.1: a length of up to 2^62 - 1; §4.1: a whole body may be one DATA frame",
    symptom="A part of a DATA frame has come, and yours keeps it back until the frame is whole; or a piece is not what "
    "came. One DATA frame may have a gigabyte, or a video that never ends.",
    where="Remember how many bytes of the frame are still to come. Whatever is here of them is a piece: Frame(DATA, "
    "piece, ends), where `ends` says whether it is the last. What comes behind it is the next frame. In an empty DATA "
    "frame there is one piece, without a byte.",
    code="""
piece = data[at : at + self._left]
at += len(piece); self._left -= len(piece)
if piece: frames.append(Frame(DATA, piece, not self._left))""",
    seconds=PATIENCE,
)
async def data_at_once(c: Check) -> None:
    await hold(
        c,
        comes(wire(DATA, b"hello"), why="A whole DATA frame comes at once: one piece, and it is the last."),
        comes(wire(DATA, b"hello", 10), why="Five of ten bytes are here: they are given now, and ends is False."),
        comes(wire(DATA, b"hello", 10), b"world", why="The other five: with them the frame ends."),
        comes(wire(DATA, b"hello", 10), b"world" + wire(HEADERS, b"abc"), why="Behind the end of DATA stands the next "
              "frame: five bytes were missing, no more.", mark=(0, 5, "the end of DATA")),
        comes(wire(DATA, b"", 5), b"h", b"ello", why="First the head alone, then the bytes."),
        comes(wire(DATA), why="An empty DATA frame is a frame: one piece, without a byte, and it is the last."),
        comes(wire(HEADERS, b"abc") + wire(DATA, b"x") + wire(DATA, b"") + wire(DATA, b"y", 2), b"z",
              why="Three frames of DATA: each ends by itself."),
        [*comes(wire(DATA, b"x" * 1000, 1 << 30), *[b"x" * 1000] * 20,
                why="A DATA frame says that it has a gigabyte; its pieces are given as they come."),
         held("A DATA frame says that it has a gigabyte, and 21 pieces of it were given. They are not needed any "
              "more: whoever keeps them can be filled up.")],
        comes(wire(DATA, b"x", 2**62 - 1), b"yz", why="Up to 2^62 - 1 bytes may be in a frame, and this DATA says so: "
              "there is nothing wrong with it."),
    )  # fmt: skip


@step(
    "what nobody knows is passed over",
    rfc="RFC 9114 §9: unknown types are ignored; §7.2.8: 0x1f * N + 0x21 are sent on purpose, so that everybody does",
    symptom="A frame of a type that is none of the seven comes, as every browser sends them, and yours stops, keeps "
    "it, or takes its payload for frames.",
    where="Give its type, once and without its payload, as soon as the head is here: Frame(kind). Its payload is "
    "skipped like a piece of DATA that is not given. HTTP/2's types are such types, too: whether they are allowed is "
    "for D to say.",
    code="""
frames.append(Frame(kind))
self._type, self._left = kind, length  # as with DATA, but what comes of it is thrown away""",
    seconds=PATIENCE,
)
async def unknown_frames(c: Check) -> None:
    both = varint(GREASE, 4) + varint(3, 2) + b"abc" + wire(GOAWAY, b"\x10")
    await hold(
        c,
        comes(wire(GREASE, b"greased") + wire(HEADERS, b"abc"), mark=(0, 3, "type 0xbc, 7 bytes"),
              why="A frame of the reserved type 0xbc, then HEADERS: of the first only the type is given."),
        comes(wire(0x21), why="A reserved type without payload is given in the same way."),
        comes(wire(0x0E, wire(HEADERS, b"abc")), why="0x0e means nothing here, and what is in it is no frame."),
        comes(wire(GREASE, b"gre", 7), b"ase", b"d" + wire(HEADERS, b"abc"), why="Its payload comes in pieces: it is "
              "given once, with the first, and all pieces are skipped."),
        comes(wire(GREASE, b"", 7), b"greased" + wire(DATA, b"x"), why="Only its head is here: the type is known."),
        comes(wire(0x06, bytes(8)), why="PING was a frame of HTTP/2; the decoder gives its type as of any other."),
        comes(wire(2**62 - 1, b"x", 2**62 - 1), b"y", why="Its type and its length may be as large as can be: nobody "
              "waits for it."),
        [*comes(wire(GREASE, b"x" * 1000, 1 << 30), *[b"x" * 1000] * 20,
                why="An unknown frame says that it has a gigabyte: what comes of it is skipped."),
         held("An unknown frame says that it has a gigabyte, and 21,000 bytes of it have come. What is skipped need "
              "not be kept.")],
        comes(*(both[at : at + 1] for at in range(len(both))), why="An unknown frame and GOAWAY come byte by byte."),
    )  # fmt: skip


@step(
    "a length is only what somebody says",
    rfc="RFC 9114 §10.5: an endpoint that has no limits can be made to use up its memory; §8.1: EXCESSIVE_LOAD",
    symptom="A frame that must be kept until it is whole says that it is larger than LARGEST, and yours waits for it; "
    "or refuses one that is not. Whoever waits for 2^62 bytes waits for ever, and keeps all of them.",
    where="When the head is here, before the payload: is it one of the six types that are given whole, and its length "
    "more than LARGEST? Then it is too large now, and not when it has come. DATA and unknown types have no limit.",
    code="""
if kind in WHOLE and length > LARGEST:
    raise Http3Error(EXCESSIVE_LOAD)""",
    seconds=PATIENCE,
)
async def large_frames(c: Check) -> None:
    await hold(
        c,
        comes(wire(HEADERS, bytes(LARGEST)), why="HEADERS of exactly LARGEST bytes is not too large."),
        comes(wire(HEADERS, b"", LARGEST + 1), why="HEADERS says that it has 16,385 bytes: it is refused before they "
              "come.", mark=(1, 5, "16385")),
        comes(wire(HEADERS, b"abc", 2**62 - 1), why="HEADERS says that it has 2^62 - 1 bytes."),
        comes(wire(SETTINGS, b"", 1 << 20), why="SETTINGS of a megabyte: every type that is kept has this limit."),
        comes(wire(HEADERS, b"abc") + wire(GOAWAY, b"", 1 << 20), why="The second frame is too large."),
        comes(b"\x01\x80\x00\x40", b"\x01", why="The length comes in two pieces; with the second it is known to be "
              "16,385."),
        comes(wire(DATA, b"abc", LARGEST + 1), why="DATA is not kept, so it may have any length."),
        comes(wire(GREASE, b"abc", LARGEST + 1), why="Unknown frames are not kept, so they may have any length."),
    )  # fmt: skip


@step(
    "a stream ends behind a frame, and nowhere else",
    rfc="RFC 9114 §7.1: where a stream ends cleanly, and its last frame was cut off, that is a FRAME_ERROR",
    symptom="A stream has ended, and yours takes half a frame for a good end, or a good end for half a frame. QUIC "
    "has lost nothing: this is all that the peer has sent.",
    where="Three things may be unfinished: a head, a payload that is kept until it is whole, and one that is given or "
    "skipped as it comes. If bytes are kept, or some are still to come, it is a FRAME_ERROR.",
    code="""
if self._buffer or self._left:
    raise Http3Error(FRAME_ERROR)""",
    seconds=PATIENCE,
)
async def cut_off(c: Check) -> None:
    fine = "The stream ends behind a whole frame: all is well."
    await hold(
        c,
        comes(end=True, why="A stream with no frames at all has none that is cut off. (D will have a word to say.)"),
        comes(wire(HEADERS, b"abc"), end=True, why=fine),
        comes(wire(HEADERS, b"abc") + wire(DATA, b"xyz"), end=True, why=fine),
        comes(wire(DATA), end=True, why="The stream ends behind an empty DATA frame: all is well."),
        comes(wire(DATA, b"hello", 10), b"world", end=True, why=fine),
        comes(wire(GREASE, b"greased"), end=True, why="The stream ends behind an unknown frame: all is well."),
        comes(wire(DATA, b"hello", 10), end=True, why="The stream ends after 5 of 10 bytes of DATA: a body that is "
              "cut off must never pass for a whole one."),
        comes(wire(DATA, b"", 10), end=True, why="DATA has said that there are 10 bytes, and the stream ends."),
        comes(wire(HEADERS, b"abc", 4), end=True, why="The stream ends after 3 of 4 bytes of HEADERS."),
        comes(wire(HEADERS, b"abc") + b"\x00", end=True, why="The stream ends behind a type: a length was to come."),
        comes(wire(HEADERS, b"abc") + b"\x40", end=True, why="The stream ends in the middle of a type."),
        comes(b"\x01\x40", end=True, why="The stream ends in the middle of a length."),
        comes(wire(GREASE, b"gre", 7), end=True, why="The stream ends within an unknown frame: that is cut off, too."),
        comes(wire(GREASE, b"", 7), end=True, why="An unknown frame has said that there are 7 bytes, and none comes."),
    )  # fmt: skip


@step(
    "any frames, in any pieces",
    rfc="RFC 9114 §7.1",
    symptom="Each of the steps above is right, and their sum is not: frames of all kinds come in pieces of any size, "
    "and something was given twice, too late, or not at all.",
    where="The failure shows the calls up to the first that went wrong. What does your decoder remember between two of "
    "them? It should be: bytes that are not decoded, the type that goes on, and how much of it is still to come.",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def any_frames(c: Check) -> None:
    await hold(c, *(list(mixed()) for _ in range(150)), random=True)


def mixed() -> Iterator[Any]:
    """A script of some frames, in pieces, and the end of the stream."""
    kinds = (DATA, DATA, HEADERS, SETTINGS, GOAWAY, GREASE, 0x0E, 0x06)
    frames = [(CHANCE.choice(kinds), CHANCE.randbytes(CHANCE.choice((0, 1, 2, 5, 63, 64, 200)))) for _ in range(5)]
    stream = b"".join(varint(kind, CHANCE.choice((2, 2, 4, 8))) + varint(len(payload), CHANCE.choice((2, 4, 8)))
                      + payload for kind, payload in frames)  # fmt: skip
    stream = stream[: CHANCE.choice((len(stream), len(stream), CHANCE.randint(0, len(stream))))]
    at = 0
    while at < len(stream):
        size = CHANCE.choice((1, 2, 3, 10, 100, 1000))
        yield Call("FrameDecoder", "receive_data", (stream[at : at + size],), "Frames of several types come in pieces "
                   "of any size: this call must give what has become known with it, and nothing else.")  # fmt: skip
        at += size
    yield Call("FrameDecoder", "receive_end", (), "Is a frame unfinished where the stream ends?")
