"""Steps A and B of this lab's check: variable-length integers, and packet numbers that are cut to their last bytes."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

asking: Any = sys.modules.get("labs_quic_asking") or load(Path(__file__).with_name("asking.py"), "labs_quic_asking")
call, hold, PATIENCE = asking.call, asking.hold, asking.PATIENCE

VARINT = "RFC 9000 §16: the first two bits are the base-2 logarithm of the length, the others are the value"
EDGES = (0, 37, 63, 64, 15293, 16383, 16384, 494878333, 2**30 - 1, 2**30, 2**32, 151288809941952652, 2**62 - 1)
CHANCE = random.Random(6)


# -- A: variable-length integers -----------------------------------------------------------------------


@step(
    "an integer is read, be it 1, 2, 4 or 8 bytes long",
    rfc=f"{VARINT}; A.1 has these examples",
    symptom="Yours reads another value than the bytes have, or says that it ends elsewhere. Write the first byte as "
    "eight bits: what do the first two say, and what the other six?",
    where="Shift the first byte right by 6: 0, 1, 2 or 3, and 1, 2, 4 or 8 bytes are the integer, the most significant "
    "first. The two bits are not part of the value. Return the value, and `at` plus the length.",
    code="""
size = 1 << (data[at] >> 6)
value = int.from_bytes(data[at : at + size]) & (1 << 8 * size - 2) - 1""",
    seconds=PATIENCE,
)
async def varint_read(c: Check) -> None:
    await hold(
        c,
        [call("decode_varint", b"\x25", 0, why="25 is 37 in one byte: its first two bits are 00.")],
        [call("decode_varint", bytes.fromhex("7bbd"), 0, mark=(0, 2, "01 11101110111101"),
              why="7b bd is 15293 in two bytes: the first two bits, 01, are its length and not its value.")],
        [call("decode_varint", bytes.fromhex("9d7f3e7d"), 0, why="9d 7f 3e 7d is 494878333: it begins with 10, and "
              "those are four bytes.")],
        [call("decode_varint", bytes.fromhex("c2197c5eff14e88c"), 0, why="c2 19 … is 151288809941952652: it begins "
              "with 11, and those are eight bytes.")],
        [call("decode_varint", b"\xff" * 8, 0, why="The largest of all is 2**62 - 1: eight bytes less two bits.")],
        [call("decode_varint", bytes.fromhex("0102407b039d7f3e7d25"), 2, mark=(2, 4, "begin here"),
              why="`at` says where the integer begins: other things stand before it and behind it.")],
        [call("decode_varint", bytes.fromhex(form), 0, why="The value is 37, in more bytes than needed. That is legal: "
              "only a frame's type must be short (§12.4).") for form in ("4025", "80000025", "c000000000000025")],
    )  # fmt: skip


@step(
    "an integer is written, in as few bytes as it needs",
    rfc=f"{VARINT}; Table 4: up to 63, 16383, 1073741823, 4611686018427387903",
    symptom="Your bytes are another integer than they should be, or too many. Look at the value just below and just "
    "above each bound.",
    where="In 1, 2, 4, 8 bytes there are 6, 14, 30, 62 bits for the value. What needs more than 62, or is below zero, "
    "has no form: raise a ValueError. With its upper bits cut off it would be another number.",
    code="""
for power, size in enumerate((1, 2, 4, 8)):
    if 0 <= value < 1 << 8 * size - 2:
        return (power << 8 * size - 2 | value).to_bytes(size)
raise ValueError""",
    seconds=PATIENCE,
)
async def varint_written(c: Check) -> None:
    await hold(
        c,
        *(
            [call("encode_varint", value, why=f"{value} fits into {8 * size - 2} bits: its shortest form has "
                  f"{size} byte{'s' * (size > 1)}.")]
            for value in EDGES
            for size in [next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size - 2)]
        ),
        [call("encode_varint", 2**62, why="2**62 needs 63 bits, and there are 62: this must be a ValueError, and no "
              "other number.")],
        [call("encode_varint", 2**64 + 5, why="2**64 + 5 does not fit: this must be a ValueError, and not 5.")],
        [call("encode_varint", -1, why="-1 has no form: this must be a ValueError.")],
    )  # fmt: skip


@step(
    "an integer that is cut off is refused",
    rfc="RFC 9000 §20.1: a frame that is badly formatted is a FRAME_ENCODING_ERROR",
    symptom="The bytes end before the integer does, and yours returns a value, or breaks with a Python error. A peer "
    "can send that at any time.",
    where="Before you read: is there a first byte at `at`? Before you use them: are all the bytes there that it "
    "promises? A slice of bytes that are not there is short, and raises nothing.",
    code="""
if at >= len(data) or at + (1 << (data[at] >> 6)) > len(data):
    raise QuicError(FRAME_ENCODING_ERROR)""",
    seconds=PATIENCE,
)
async def varint_cut(c: Check) -> None:
    whole = bytes.fromhex("c2197c5eff14e88c")
    await hold(
        c,
        [call("decode_varint", b"", 0, why="There is no byte at all: QuicError(FRAME_ENCODING_ERROR).")],
        *(
            [call("decode_varint", whole[:size], 0, mark=(0, 1, "11: of 8 bytes"),
                  why=f"Only {size} of 8 bytes are there: QuicError(FRAME_ENCODING_ERROR), and no value made of less.")]
            for size in range(1, 8)
        ),
        [call("decode_varint", b"\x7b", 0, why="One of 2 bytes is there: QuicError(FRAME_ENCODING_ERROR).")],
        [call("decode_varint", b"\x25\x9d\x7f\x3e", 1, why="Three of 4 bytes are there: "
              "QuicError(FRAME_ENCODING_ERROR).")],
        [call("decode_varint", b"\x25", 1, why="The data ends where this should begin: "
              "QuicError(FRAME_ENCODING_ERROR).")],
    )  # fmt: skip


# -- B: packet numbers ---------------------------------------------------------------------------------


@step(
    "a packet number is cut to so few bytes that it can still be told",
    rfc="RFC 9000 §17.1, A.2: room for more than twice the distance to the largest that is acknowledged",
    symptom="Yours writes too many bytes, too few, or other ones. How many packets may be on their way that the "
    "receiver knows and you do not know that it knows?",
    where="The number less the largest acknowledged is that distance; n bytes reach a distance of half of 256**n. Take "
    "the smallest n of 1 to 4, and the last n bytes of the number. Further than four bytes reach, or above 2**62 - 1: "
    "ValueError.",
    code="""
for size in (1, 2, 3, 4):
    if 0 < number - acked <= 1 << 8 * size - 1:
        return (number & (1 << 8 * size) - 1).to_bytes(size)""",
    seconds=PATIENCE,
)
async def number_written(c: Check) -> None:
    def written(number: int, acked: int, why: str) -> list[Any]:
        return [call("encode_number", number, acked, why=why)]

    await hold(
        c,
        written(0, -1, "The very first packet: nothing is acknowledged (-1), and one byte is enough."),
        written(126, -1, "127 packets are on their way, and one byte tells 256 apart: more than twice as many."),
        written(150, -1, "151 packets are on their way, and one byte tells 256 apart, not twice as many: two bytes."),
        written(0xAC5C02, 0xABE8B3, "The first example of A.2: 0x734f packets are on their way, so two bytes: 5c 02."),
        written(0xACE8FE, 0xABE8B3, "The second example of A.2: the distance is 0x1004b, so three bytes: ac e8 fe."),
        written(1_000_100, 1_000_000, "The distance is what counts, not the number: it is 100, and one byte will do."),
        written(1_000_000, 967_300, "The distance is 32,700, and two bytes tell 65,536 apart: twice as many."),
        written(1_000_000, 967_000, "The distance is 33,000, and two bytes tell 65,536 apart: not twice as many."),
        written(2**31, 3, "Four bytes reach a distance of 2**31: this one still goes."),
        written(2**31 + 4, 3, "The distance is more than half of what four bytes can tell apart: ValueError. Nobody "
                "can read such a number; long before, something else is broken."),
        written(2**62 - 1, 2**62 - 9, "The last packet number there is, 2**62 - 1, goes like every other."),
        written(2**62, 2**62 - 9, "There is no packet number beyond 2**62 - 1: ValueError. A connection ends "
                "there (§12.3)."),
    )  # fmt: skip


@step(
    "the whole packet number is found again",
    rfc="RFC 9000 A.3: the number that is closest to the next that is expected, and ends like this",
    symptom="Yours takes another number than the sender had. The bytes are only its end: what stands before them is "
    "known from the largest number that has come.",
    where="Take the next number that is expected, largest + 1, and put the bytes in the place of its last ones: that "
    "is a candidate. One window, 256 for a byte, above and below it there is another. Which is closest?",
    code="""
expected, window = largest + 1, 1 << 8 * len(data)
candidate = expected & ~(window - 1) | int.from_bytes(data)
if candidate <= expected - window // 2: candidate += window
elif candidate > expected + window // 2: candidate -= window""",
    seconds=PATIENCE,
)
async def number_read(c: Check) -> None:
    def read(data: str, largest: int, why: str) -> list[Any]:
        return [call("decode_number", bytes.fromhex(data), largest, why=why)]

    await hold(
        c,
        read("00", -1, "The very first packet: none has come (-1), so 0 is expected, and it is 0."),
        read("9b32", 0xA82F30EA, "The example of A.3: after 0xa82f30ea, 9b 32 is 0xa82f9b32."),
        read("05", 3, "5 after 3: a packet between them is missing, and that is all."),
        read("02", 0x1FF, "After 0x1ff, 02 is 0x202: the byte has gone round, and the candidate 0x202 is near."),
        read("02", 0x1FE, "After 0x1fe, 02 is 0x202: 0x102, which has the old upper bytes, is too far behind."),
        read("fe", 0x201, "After 0x201, fe is 0x1fe, which comes late: 0x2fe is too far ahead."),
        read("f0", 3, "After 3, f0 is 0xf0: the number 240 - 256 would be below zero."),
        read("ffffff", 0xA0_00_00_01, "After 0xa0000001, ff ff ff is 0x9fffffff, which comes late."),
        read("00000000", 0xFFFF_FFF0, "After 0xfffffff0, 00 00 00 00 is 0x100000000: numbers have 62 bits, not 32."),
    )  # fmt: skip


@step(
    "the window's two edges, and the two ends of all numbers",
    rfc="RFC 9000 A.3: candidate <= expected - half: one window up; candidate > expected + half: one down",
    symptom="Nearly every number is right, and one at an edge of the window is not. Both edges are half a window away "
    "from the number that is expected (not from the largest), and only one of them belongs to it.",
    where="The number lies in (expected - half, expected + half]: the lower edge is outside, the upper one inside. But "
    "never go below 0, nor to 2**62 or above.",
    code="""
if candidate <= expected - window // 2 and candidate < 2**62 - window:
    return candidate + window
if candidate > expected + window // 2 and candidate >= window:
    return candidate - window
return candidate""",
    seconds=PATIENCE,
)
async def number_edges(c: Check) -> None:
    def read(data: int, size: int, largest: int, why: str) -> list[Any]:
        return [call("decode_number", data.to_bytes(size), largest, why=why)]

    near = [
        read((largest + 1 + away) % 256, 1, largest, f"{largest + 1} is expected; {largest + 1 + away} is "
             f"{abs(away)} {'above' if away > 0 else 'below'} it, within the window of -127 to 128.")
        for largest in (999, 1023, 1100, 1151)
        for away in (128, 127, 129 - 256, 1)
    ]  # fmt: skip
    wide = [
        read((0x12345678 + away) % 65536, 2, 0x12345677, f"0x12345678 is expected, and the number {away:+} from it is "
             "in the window of -32767 to 32768.")
        for away in (32768, -32767)
    ]  # fmt: skip
    await hold(
        c,
        *near,
        *wide,
        read(0x80, 1, -1, "Nothing has come; 80 is 128, for there is nothing below 0."),
        read(0xFF, 1, 10, "After 10, ff is 255: 255 - 256 would be below 0."),
        read(0x00, 1, 2**62 - 2, "After 2**62 - 2, 00 would be 2**62, and there is no such number: it is the one a "
             "window below."),
        read(0xFF, 1, 2**62 - 2, "After 2**62 - 2, ff is 2**62 - 1, the last number."),
    )  # fmt: skip
    scripts = []
    for _ in range(300):
        acked = CHANCE.randrange(2 ** CHANCE.randint(1, 61))
        number = acked + CHANCE.randint(1, 2 ** CHANCE.randint(1, 30))
        wire = asking.solution.encode_number(number, acked)
        largest = CHANCE.randint(acked, number - 1)  # What the receiver has is between.
        scripts.append([call("decode_number", wire, largest, why=f"Packet {number} was sent when {acked} was "
                             f"acknowledged, and comes when {largest} is the largest that has come.")])  # fmt: skip
    await hold(c, *scripts, random=True)
