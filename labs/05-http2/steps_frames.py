"""Steps A of this lab's check: the frame codec."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

talk = load(Path(__file__).with_name("talk.py"), "labs_http2_talk")
asking: Any = load(Path(__file__).with_name("asking.py"), "labs_http2_asking")
anew, ask, caret, cut, frame, hexed = asking.anew, asking.ask, asking.caret, asking.cut, asking.frame, asking.hexed
outcome = asking.outcome
CODES, CONTINUATION, DATA, END_HEADERS = asking.CODES, asking.CONTINUATION, asking.DATA, asking.END_HEADERS
END_STREAM, FRAME_SIZE_ERROR, HEADERS = asking.END_STREAM, asking.FRAME_SIZE_ERROR, asking.HEADERS
HEADER_RULE, MAX_WINDOW, PADDED, PATIENCE = asking.HEADER_RULE, asking.MAX_WINDOW, asking.PADDED, asking.PATIENCE
PING, PRIORITY, PROTOCOL_ERROR, SETTINGS = asking.PING, asking.PRIORITY, asking.PROTOCOL_ERROR, asking.SETTINGS
SHARED, WINDOW_UPDATE = asking.SHARED, asking.WINDOW_UPDATE


Seen = tuple[Sequence[bytes], dict[str, Any]]  # reads in which bytes arrive, and what was found in them


async def frames_of(c: Check, *inputs: Sequence[bytes], most: Sequence[int] = ()) -> list[Seen]:
    """Feed each input to a decoder of its own, in the learner's process; *most* are their max_size (0: by default)."""
    limits = most or [0] * len(inputs)
    jobs = [[limit, [data.hex() for data in reads]] for limit, reads in zip(limits, inputs, strict=True)]
    return list(zip(inputs, await ask(c, "frames_role", jobs), strict=True))


def told(c: Check, reads: Sequence[bytes], found: dict[str, Any]) -> None:
    """Tell what was fed, and what came of it."""
    wire = b"".join(reads)
    if len(reads) > 1:
        sizes = ", ".join(str(len(data)) for data in reads[:5]) + ", …" * (len(reads) > 5)
        c.did(f"= {len(reads)} reads, of {sizes} bytes:")
    c.did(f"> {hexed(wire)}")
    frames = [f"type {kind}, flags 0x{flags:02x}, stream {stream}, payload {len(data) // 2:,} B, size {size:,}"
              for kind, flags, stream, data, size in found["frames"]]  # fmt: skip
    came = frames[0] if len(frames) == 1 else f"{len(frames)} frames" if frames or "value" in found else ""
    c.did(f"< {came or 'nothing'}" if "value" in found else f"! {came}{', then ' * bool(came)}{outcome(found)}")


PARTS = {"type": (3, 4), "flags": (4, 5), "stream": (5, 9), "payload": (9, 99), "size": (0, 3)}


def decoded(c: Check, seen: Seen, wanted: Sequence[tuple[Any, ...]], why: str = "") -> None:
    """The decoder must have found exactly these frames, each (type, flags, stream, payload, size) and its bytes."""
    reads, found = seen
    anew(c)
    told(c, reads, found)
    ending = f": {why}." if why else "."
    if "value" not in found:
        c.fail(f"Your decoder raised {outcome(found)} for frames that are in order{ending}")
    place = 0  # where in the bytes the frame begins
    for got, want in zip(found["frames"], wanted, strict=False):
        for name, value, right in zip(PARTS, (*got[:3], bytes.fromhex(got[3]), got[4]), want, strict=True):
            if value != right:
                start, end = (place + at for at in PARTS[name])
                below = c.story.pop()
                caret(c, start, min(end, place + 9 + want[4]), f"the {'length' if name == 'size' else name}")
                c.did(below)
                c.equal(value, right, f"The {name} of a frame is wrong{ending}")
        place += 9 + want[4]
    if len(found["frames"]) != len(wanted):
        were = "1 frame was" if len(wanted) == 1 else f"{len(wanted)} frames were"
        c.fail(f"{were} there, and your decoder found {len(found['frames'])}{ending}")


def refused(c: Check, seen: Seen, codes: tuple[int, ...], why: str) -> None:
    """The decoder must have raised the error of the connection with one of these codes."""
    reads, found = seen
    anew(c)
    told(c, reads, found)
    names = " or ".join(CODES[code] for code in codes)
    if "value" in found:
        did = "took it" if found["frames"] else "waits for more"
        c.fail(f"This must be refused: {why}. Your decoder {did}.", wanted=f"Http2Error({names})")
    if found.get("error") not in [[code, 0] for code in codes]:
        c.fail(f"This must be refused with another error: {why}.", got=outcome(found),
               wanted=f"Http2Error({names}): an error of the connection (stream 0)")  # fmt: skip


@step(
    "A: a frame goes out",
    rfc=HEADER_RULE,
    symptom="Nine bytes stand in front of each frame, always. Count those of yours, and say of each what it is: how "
    "many are the length? What is its largest value, and how many bytes does that take?",
    where="Three bytes of length (of the payload alone), one of type, one of flags, four of stream, the most "
    "significant first. struct has no format for three bytes.",
    code='size = len(payload)\nheader = struct.pack(\n    "!BHBBI", size >> 16, size & 0xFFFF, type, flags, stream\n)\n'
    "return header + payload",
    seconds=PATIENCE,
)
async def frame_out(c: Check) -> None:
    jobs = [
        (DATA, 1, 1, "hello", 1),
        (SETTINGS, 0, 0, "", 0),
        (HEADERS, 0x25, 0x01020304, "abc", 1),
        (DATA, 0, 3, "x", 0x4000),
        (250, 0xFF, MAX_WINDOW, "x", 0x012345),
    ]
    found = await ask(c, "encode_role", jobs)
    for (type, flags, stream, text, times), one in zip(jobs, found, strict=True):
        size = len(text) * times
        wanted = frame(type, flags, stream, text.encode() * times)
        call = f"encode({type}, {flags}, {stream}, {text.encode()!r}{f' * {times:,}' if times > 1 else ''})"
        c.did(f"> {call}")
        if "value" not in one:
            c.fail(f"{call} raised {outcome(one)}.")
        got, length = bytes.fromhex(one["value"][0]), one["value"][1]
        c.did(f"< {hexed(got)}{' …' if length > 20 else ''}")
        c.equal(got, wanted[:20], f"The header of a frame with {size:,} bytes of payload is wrong.")
        c.equal(length, len(wanted), f"The frame has not 9 bytes and its payload of {size:,}.")


@step(
    "A: what does not fit into a frame is not cut to size",
    rfc="RFC 9113 §4.1: a length of 24 bits, and a stream identifier of 31; the reserved bit MUST remain unset",
    symptom="A field of the header is too small for a number, and your frame went out with another number.",
    where="2²⁴ has 25 bits; without the first it is 0. The peer then takes the payload for the next frames. The same "
    "with a stream of 32 bits: the first of them is reserved, and is sent as 0.",
    code="if len(payload) >= 1 << 24 or not 0 <= stream < 1 << 31:\n    raise ValueError(...)",
    seconds=PATIENCE,
)
async def not_cut(c: Check) -> None:
    jobs = {
        (DATA, 0, 1 << 31, "x", 1): "a stream has 31 bits, and the bit before them is reserved",
        (DATA, 0, -1, "x", 1): "there is no stream -1",
        (DATA, 0, 1, "x", 1 << 24): "a length has 24 bits, and without its first 16,777,216 is 0",
    }
    found = await ask(c, "encode_role", list(jobs))
    for ((type, flags, stream, text, times), why), one in zip(jobs.items(), found, strict=True):
        call = f"encode({type}, {flags}, {stream}, {text.encode()!r}{f' * {times:,}' if times > 1 else ''})"
        c.did(f"> {call}")
        if "value" in one:
            got = bytes.fromhex(one["value"][0])
            c.did(f"< {hexed(got)}")
            c.fail(f"{call} must be a ValueError: {why}.", got=f"{got[:9].hex(' ')} …", wanted="ValueError")
        if not one.get("raised", "").startswith("ValueError"):
            c.fail(f"{call} must be a ValueError: {why}.", got=outcome(one), wanted="ValueError")


@step(
    "A: a frame comes in",
    rfc=HEADER_RULE + "; the reserved bit MUST be ignored. §5.5: frames of unknown types are no error",
    symptom="Take the bytes of the story and read them by hand, field by field: where does your decoder begin to read "
    "something else? Is there a bit among them that belongs to no field?",
    where="The header begins with 24 bits of length; the payload follows the nine bytes. All frames look so, of types "
    "that you do not know, too: it is not the decoder that says what they mean. The bit before the stream is reserved: "
    "ignore it.",
    code='header = struct.unpack_from("!BHBBI", self._buffer)\nhigh, low, type, flags, stream = header\n'
    "size = high << 16 | low\n"
    "stream & 0x7FFFFFFF",
    seconds=PATIENCE,
)
async def frame_in(c: Check) -> None:
    cases = [(SETTINGS, 1, 0, b""), (DATA, 1, 5, b"hello"), (PING, 0, 0, bytes(range(8))),
             (HEADERS, 4, 0x01020304, b"\x82"), (250, 0xF7, MAX_WINDOW, b"?"), (DATA, 0, 3, talk.some_bytes(0x1234)),
             (WINDOW_UPDATE, 0, 1, b"\0\0\1\0")]  # fmt: skip
    large = (DATA, 0, 3, talk.some_bytes(0x012345))
    reserved = [(PING, 0, stream, b"hi") for stream in (3, 0, MAX_WINDOW)]
    as_sent = [*cases, *((type, flags, 1 << 31 | stream, data) for type, flags, stream, data in reserved), large]
    limits = [0] * (len(as_sent) - 1) + [0x20000]
    seen = await frames_of(c, *([frame(*case)] for case in as_sent), most=limits)
    reasons = [""] * len(cases) + ["the first of the 32 bits is reserved, and is ignored"] * len(reserved)
    for case, one, why in zip([*cases, *reserved], seen, reasons, strict=False):
        decoded(c, one, [(*case, len(case[3]))], why)
    decoded(c, seen[-1], [(*large, len(large[3]))], "max_size is 131,072, and the length has all its 24 bits")


@step(
    "A: however the stream is cut",
    rfc="RFC 9293 §2.2: TCP is a byte stream, and keeps no boundaries",
    symptom="A read is not a frame: it may hold half of one, or three and a half. Your decoder loses bytes there, or "
    "keeps a frame that is whole.",
    where="What is not whole must still be there at the next call. A header can be cut, too, and a frame without a "
    "payload is whole with its ninth byte.",
    code="self._buffer += data\nwhile len(self._buffer) >= 9:\n    ...\n    if len(self._buffer) < 9 + size:\n"
    "        return\n    payload = bytes(self._buffer[9 : 9 + size])\n    del self._buffer[: 9 + size]",
    seconds=PATIENCE,
)
async def every_split(c: Check) -> None:
    cases = [(SETTINGS, 0, 0, b""), (HEADERS, 4, 1, b"\x82\x86"), (DATA, 0, 1, b"hello"), (PING, 1, 0, bytes(8)),
             (DATA, 1, 1, b"")]  # fmt: skip
    wire = b"".join(frame(*case) for case in cases)
    ends = [sum(9 + len(case[3]) for case in cases[: number + 1]) for number in range(len(cases))]
    inputs = [[wire], *([wire[:i], wire[i:]] for i in range(1, len(wire))), *(cut(wire, n) for n in (1, 2, 3, 5, 7))]
    for reads, found in await frames_of(c, *inputs):
        decoded(c, (reads, found), [(*case, len(case[3])) for case in cases])
        came = 0
        for data, count in zip(reads, found["counts"], strict=True):
            came += len(data)
            whole = sum(end <= came for end in ends)
            if count != whole:
                c.fail(f"When {came} bytes had come, {whole} frames were whole, and your decoder had given {count}.")


@step(
    "A: two connections at a time",
    rfc=SHARED,
    symptom="Bytes of one connection came out of another: the worst thing that can happen to a server.",
    where="What is written in the class body, and not in __init__, exists once, for all connections. The same is true "
    "of a mutable default of an argument.",
    code="def __init__(self, ...):\n    self._buffer = bytearray()",
    seconds=PATIENCE,
)
async def two_decoders(c: Check) -> None:
    c.did("> to one FrameDecoder: 12 bytes of a PING")
    c.did("> to another one: DATA")
    c.did("> to the first: the rest of the PING")
    found = await c.start("two_decoders_role", host="client").result(PATIENCE - 1)
    if found.get("value") != (wanted := [["my ping!"], ["their data"]]):
        c.fail("Two FrameDecoders disturb each other.", got=outcome(found), wanted=f"{wanted}")


@step(
    "A: a frame that is too large is refused before its payload",
    rfc="RFC 9113 §4.2: FRAME_SIZE_ERROR if a frame exceeds the size defined in SETTINGS_MAX_FRAME_SIZE. CWE-770",
    symptom="A header announces 16 MB, and your decoder waits for them: in your memory.",
    where="The length stands in the first bytes of the header. Compare it with max_size as soon as the header is "
    "here, before you look whether the payload is. As many bytes as allowed are allowed.",
    code="if size > self._max_size:\n    raise Http2Error(FRAME_SIZE_ERROR)",
    seconds=PATIENCE,
)
async def too_large(c: Check) -> None:
    full = (DATA, 0, 1, talk.some_bytes(16384))
    small, header = (DATA, 0, 1, bytes(100)), frame(DATA, 0, 1, b"", 16385)
    one_more = "16,385 bytes are announced, 16,384 are allowed, and the payload need not come"
    wrong = {
        (header,): one_more,
        tuple(cut(header, 1)): one_more,
        (frame(250, 0, 0, b"", 0xFFFFFF),): "16,777,215 bytes are announced, in a frame of an unknown type",
        (frame(DATA, 0, 1, bytes(20000)),): "20,000 bytes are in one frame, and 16,384 are allowed",
        (frame(SETTINGS, 0, 0, b"") + header,): "behind a good frame, 16,385 bytes are announced",
        (frame(DATA, 0, 1, b"", 101),): "max_size is 100, and 101 bytes are announced",
    }
    inputs = [[frame(*full)], cut(frame(*full), 1000), [frame(*full) * 3], [frame(*small)], *wrong]
    seen = await frames_of(c, *inputs, most=[0, 0, 0, 100, *[0] * (len(wrong) - 1), 100])
    for one in seen[:2]:
        decoded(c, one, [(*full, 16384)], "16,384 bytes are allowed, one more is not")
    decoded(c, seen[2], [(*full, 16384)] * 3, "each has 16,384 bytes, which is allowed, and one read brought all three")
    decoded(c, seen[3], [(*small, 100)], "max_size is 100, and 100 bytes are allowed")
    for one, why in zip(seen[4:], wrong.values(), strict=True):
        refused(c, one, (FRAME_SIZE_ERROR,), why)


@step(
    "A: padding is taken off, and counted",
    rfc="RFC 9113 §6.1, §6.2: DATA and HEADERS may be padded; §6.1: flow control includes "
    "the Pad Length and Padding fields",
    symptom="In a padded frame something stands before and behind what was meant: a byte that says how much padding "
    "there is, and the padding. In a HEADERS frame with PRIORITY there are five bytes more.",
    where="PADDED (0x08): the first byte is the number of bytes at the end that are padding. PRIORITY (0x20), in "
    "HEADERS: five bytes, behind that first one. `size` is the length of the whole payload all the same.",
    code="start = (1 if padded else 0) + (5 if priority else 0)\nend = len(payload) - (payload[0] if padded else 0)\n"
    "payload[start:end]",
    seconds=PATIENCE,
)
async def padding(c: Check) -> None:
    cases = [
        (DATA, PADDED, b"\x03hello\0\0\0", b"hello", "the first byte says that 3 bytes of padding stand at the end"),
        (DATA, PADDED, b"\0hello", b"hello", "padding of no bytes: only the byte that says so is there"),
        (DATA, PADDED | END_STREAM, b"\x04\0\0\0\0", b"", "all but the first byte is padding, which is allowed"),
        (DATA, PADDED, b"\xff" + b"x" * 10 + bytes(255), b"x" * 10, "255 bytes of padding are the most"),
        (HEADERS, PADDED | END_HEADERS, b"\x02\x82\x86\0\0", b"\x82\x86", "HEADERS may be padded, too"),
        (HEADERS, PRIORITY | END_HEADERS, b"\0\0\0\0\x0f\x82", b"\x82", "PRIORITY: five bytes stand before the block"),
        (HEADERS, PADDED | PRIORITY, b"\x01\x80\0\0\0\x0f\x82\0", b"\x82",
         "the pad length comes first, then the five bytes of PRIORITY"),
        (HEADERS, PADDED | PRIORITY, b"\x02\x80\0\0\0\x0f\0\0", b"", "nothing is left of the block, which is allowed"),
    ]  # fmt: skip
    cases += [
        (PING, PADDED, b"\x02hello\0\0", b"\x02hello\0\0", "in a PING the bit 0x08 means nothing"),
        (CONTINUATION, PADDED | PRIORITY, b"\x01\x82\0\0\0\0\0", b"\x01\x82\0\0\0\0\0", "CONTINUATION has no padding"),
        (250, 0xFF, b"\x01?\0", b"\x01?\0", "nobody knows what 0x08 means in a frame of an unknown type"),
        (DATA, PRIORITY, b"hello, world", b"hello, world", "0x20 means nothing in DATA"),
    ]
    seen = await frames_of(c, *([frame(type, flags, 1, payload)] for type, flags, payload, *_ in cases))
    for (type, flags, payload, content, why), one in zip(cases, seen, strict=True):
        decoded(c, one, [(type, flags, 1, content, len(payload))], why)


@step(
    "A: more padding than there is room for",
    rfc="RFC 9113 §6.1: if the length of the padding is the length of the frame payload or greater: a connection error "
    "of type PROTOCOL_ERROR. §4.2: too small to contain mandatory frame data: FRAME_SIZE_ERROR",
    symptom="A frame says how its payload is divided: so many bytes of padding, five of PRIORITY. A peer may say more "
    "than there is, or not even have room to say it. What does your decoder cut off then, and from where?",
    where="A slice with an end before its start is empty, and says nothing. Compare before you cut.",
    code="if len(payload) < start:\n    raise Http2Error(FRAME_SIZE_ERROR)\n"
    "if end < start:\n    raise Http2Error(PROTOCOL_ERROR)",
    seconds=PATIENCE,
)
async def too_much_padding(c: Check) -> None:
    one, both = (PROTOCOL_ERROR,), (PROTOCOL_ERROR, FRAME_SIZE_ERROR)
    as_long, missing = "the padding is as long as the payload", "the byte that says how long the padding is is missing"
    wrong: list[tuple[int, int, bytes, tuple[int, ...], str]] = [
        (DATA, PADDED, b"\x06hello", one, as_long + ", and 5 bytes were left for it"),
        (DATA, PADDED, b"\x07hello", one, "the padding is longer than the payload"),
        (DATA, PADDED, b"\xff", one, "255 bytes of padding are announced, and none are there"),
        (DATA, PADDED, b"\x01", one, as_long),
        (HEADERS, PADDED, b"\x03\x82\x86", one, as_long),
        (HEADERS, PADDED | PRIORITY, b"\x02\0\0\0\0\x0f\x82", one,
         "behind the five bytes of PRIORITY there is room for one byte of padding, and not for two"),
        (DATA, PADDED, b"", both, missing),
        (HEADERS, PADDED, b"", both, missing),
        (HEADERS, PRIORITY, b"\0\0\0\0", both, "PRIORITY says five bytes, and there are four"),
        (HEADERS, PRIORITY | PADDED, b"\0\0\0\0\0", both, "PRIORITY says five bytes, and there are four"),
    ]  # fmt: skip
    seen = await frames_of(c, *([frame(type, flags, 1, payload)] for type, flags, payload, *_ in wrong))
    for (*_, codes, why), found in zip(wrong, seen, strict=True):
        refused(c, found, codes, why)


@step(
    "A: garbage is the same garbage at every cut",
    rfc="RFC 9113 §4.2, §5.4: a peer's mistake is an error code, not a crash",
    symptom="Something else than Http2Error came out of your decoder, or another result when the bytes were cut "
    "differently.",
    where="A decision that is made with what happens to be in the buffer is made differently tomorrow.",
    code="Decide only on a whole header, and then on a whole payload.",
    seconds=PATIENCE,
)
async def garbage(c: Check) -> None:
    chance = random.Random(9113)
    wires = []
    for _ in range(60):
        parts = [frame(chance.choice((0, 0, 1, 1, 4, 9, 77)), chance.randrange(256), chance.randrange(1 << 32),
                       bytes((chance.randrange(12), *chance.randbytes(chance.randrange(12))))[chance.randrange(2):])
                 for _ in range(chance.randint(1, 5))]  # fmt: skip
        wires.append(b"".join(parts) + chance.randbytes(chance.randrange(12)))
    inputs = [*([wire] for wire in wires), *(cut(wire, 1) for wire in wires),
              *(cut(wire, chance.randint(2, 9)) for wire in wires)]  # fmt: skip
    seen = await frames_of(c, *inputs, most=[40] * len(inputs))
    for number, (reads, found) in enumerate(seen):
        whole, first = seen[number % len(wires)]
        anew(c)
        if "raised" in found:
            told(c, reads, found)
            c.fail(f"Your decoder raised {found['raised']}. Whoever uses it catches Http2Error, and nothing else.")
        same = "value" in found and "value" in first and found["frames"] == first["frames"]
        if not same and ("value" in found or found.get("error") != first.get("error")):
            told(c, whole, first)  # (Frames before an error are nobody's any more.)
            told(c, reads, found)
            c.fail("Your decoder gives another result for these bytes than for the same bytes in one read.")
    c.did(f"= {len(wires)} streams of garbage, each cut in three ways: nothing but Http2Error, and always the same")
