"""The check of this lab: frames, a flow-control ledger and HPACK, each alone with its bytes, then in a server."""

from __future__ import annotations

import asyncio
import json
import random
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, PingAckReceived, StreamEnded, StreamReset
from h2.exceptions import FlowControlError, ProtocolError
from h2.settings import SettingCodes

from labkit.check import Check, Conn, step
from labkit.learner import load

talk = load(Path(__file__).with_name("talk.py"), "labs_http2_talk")

BY_HAND = "server_role"
PATIENCE = 10  # seconds for a step: they take a hundredth of that, but not on a machine that is very busy
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x01, 0x01, 0x04, 0x08, 0x20
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 1, 3, 6, 9
CODES = {1: "PROTOCOL_ERROR", 3: "FLOW_CONTROL_ERROR", 6: "FRAME_SIZE_ERROR", 9: "COMPRESSION_ERROR"}
MAX_WINDOW = 2**31 - 1
HEADER_RULE = "RFC 9113 §4.1: Length (24), Type (8), Flags (8), Reserved (1), Stream Identifier (31), Frame Payload"
SHARED = "Python's tutorial, §9.3.5: what is written in the class body is shared by all instances"

AFTER = """
You have written what every HTTP/2 connection turns on, and a server made of it has spoken to the client of another
author. Two of your limits are what keeps such a server alive: the size of a frame is refused before its payload comes,
and an integer of HPACK has an end.

Ask your own server: `make http2-exercise`, and in another terminal `curl --http2-prior-knowledge
http://127.0.0.1:7005/hello`.

What production code has beside yours: a limit on a header list after it is decompressed (one byte of block can stand
for nearly 4 KB of fields, again and again: the HPACK bomb), on CONTINUATION frames, and on how many streams are opened
and reset (CVE-2023-44487, rapid reset). A sender that shares the connection's window fairly among its streams; a
receiver that gives back what was read, not what has come. In this lab: protocols/http2.py and servers/http2.py; frames
are in protocols/http2_frames.py, field blocks in protocols/http2_hpack.py, and h2 has the rest.
"""


# -- What runs in the learner's own process ------------------------------------------------------------


def attempt(exercise: ModuleType, call: Callable[[], Any]) -> dict[str, Any]:
    """{"value": …}; {"error": [code, stream]} for an Http2Error; {"raised": …} for anything else."""
    try:
        return {"value": call()}
    except exercise.Http2Error as error:
        return {"error": [int(error.code), int(error.stream)]}
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
        place = f" (line {lines[-1]} of your file)" if lines else ""
        return {"raised": f"{type(error).__name__}: {error}{place}"}


def encode_role(exercise: ModuleType, jobs: str) -> list[dict[str, Any]]:
    """encode() for each [type, flags, stream, text, how often]: the beginning of the frame, and its length."""

    def one(type: int, flags: int, stream: int, text: str, times: int) -> list[Any]:
        frame = bytes(exercise.encode(type, flags, stream, text.encode() * times))
        return [frame[:20].hex(), len(frame)]

    return [attempt(exercise, lambda job=job: one(*job)) for job in json.loads(jobs)]


def frames_role(exercise: ModuleType, jobs: str) -> list[dict[str, Any]]:
    """For each [max_size or 0, [reads]] the frames that a new decoder finds, and how many after each read."""
    return [feed(exercise, most, [bytes.fromhex(data) for data in reads]) for most, reads in json.loads(jobs)]


def feed(exercise: ModuleType, most: int, reads: list[bytes]) -> dict[str, Any]:
    frames: list[list[Any]] = []
    counts: list[int] = []

    def run() -> None:
        decoder = exercise.FrameDecoder(most) if most else exercise.FrameDecoder()
        for data in reads:
            for frame in decoder.receive_data(data) or ():
                frames.append([frame.type, frame.flags, frame.stream, bytes(frame.payload).hex(), frame.size])
            counts.append(len(frames))

    return attempt(exercise, run) | {"frames": frames, "counts": counts}


def ledger_role(exercise: ModuleType, scripts: str) -> list[list[dict[str, Any]]]:
    """For each script, a list of [method, arguments …], what each call did, and what is available after it."""
    return [play(exercise, calls) for calls in json.loads(scripts)]


def play(exercise: ModuleType, calls: list[list[Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        ledger = exercise.Ledger()
    except Exception as error:
        return [{"raised": f"{type(error).__name__}: {error}", "available": {}}]
    streams: list[int] = []
    for name, *arguments in calls:
        streams += arguments if name == "open" else []
        seen = attempt(exercise, lambda name=name, arguments=arguments: (getattr(ledger, name)(*arguments), None)[1])
        found.append(seen)
        seen["available"] = {}
        for stream in streams:
            asked = attempt(exercise, lambda stream=stream: ledger.available(stream))
            seen["available"][stream] = asked.get("value", asked.get("raised", "an Http2Error"))
        if "raised" in seen or seen.get("error", [0, 1])[1] == 0:
            break  # The connection is over.
    return found


def integer_role(exercise: ModuleType, jobs: str) -> list[dict[str, Any]]:
    """decode_integer() for each [data, at, bits]."""
    return [
        attempt(exercise, lambda data=data, at=at, bits=bits: exercise.decode_integer(bytes.fromhex(data), at, bits))
        for data, at, bits in json.loads(jobs)
    ]


def fields_role(exercise: ModuleType, jobs: str) -> list[list[dict[str, Any]]]:
    """For each [max_size or 0, [blocks]] the fields that a new decoder finds in each block, up to the first error."""
    return [decode(exercise, most, [bytes.fromhex(block) for block in blocks]) for most, blocks in json.loads(jobs)]


def decode(exercise: ModuleType, most: int, blocks: list[bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    decoder: Any = None

    def one(block: bytes) -> list[list[str]]:
        nonlocal decoder
        if decoder is None:
            decoder = exercise.HeaderDecoder(most) if most else exercise.HeaderDecoder()
        fields = [(name, value) for name, value in decoder.decode(block) or ()]
        if any(isinstance(text, str) for field in fields for text in field):
            raise TypeError("decode() returned text, and it must return pairs of bytes")
        return [[bytes(name).hex(), bytes(value).hex()] for name, value in fields]

    for block in blocks:
        found.append(attempt(exercise, lambda block=block: one(block)))
        if "value" not in found[-1]:
            break
    return found


def two_decoders_role(exercise: ModuleType) -> dict[str, Any]:
    """The payloads that two FrameDecoders find when they are fed in turn."""

    def found() -> list[list[str]]:
        first, second, seen = exercise.FrameDecoder(), exercise.FrameDecoder(), ([], [])
        ping, data = frame(PING, 0, 0, b"my ping!"), frame(DATA, 0, 1, b"their data")
        for number, decoder, read in ((0, first, ping[:12]), (1, second, data), (0, first, ping[12:])):
            seen[number].extend(bytes(one.payload).decode("latin-1") for one in decoder.receive_data(read) or ())
        return list(seen)

    return attempt(exercise, found)


def two_tables_role(exercise: ModuleType) -> dict[str, Any]:
    """What two HeaderDecoders have as their newest entry, after one kept a: b, and then the other c: d."""

    def found() -> list[str]:
        decoders = [exercise.HeaderDecoder(), exercise.HeaderDecoder()]
        for decoder, block in zip(decoders, (b"\x40\x01a\x01b", b"\x40\x01c\x01d"), strict=True):
            decoder.decode(block)
        return [pair(decoder.decode(b"\xbe")[0]) for decoder in decoders]

    return attempt(exercise, found)


def server_role(exercise: ModuleType, host: str, port: str) -> None:
    """The HTTP/2 server of talk.py around the learner's pieces."""
    asyncio.run(talk.serve(exercise, host, int(port)))


# -- How the steps ask and judge -----------------------------------------------------------------------


def frame(type: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame as the check writes it; *length* where the header is to say something else than the truth."""
    size = len(payload) if length is None else length
    return size.to_bytes(3) + bytes((type, flags)) + stream.to_bytes(4) + payload


def cut(wire: bytes, size: int) -> list[bytes]:
    """Reads of so many bytes."""
    return [wire[i : i + size] for i in range(0, len(wire), size)]


def hexed(data: bytes, most: int = 22) -> str:
    """Bytes as hex; of long ones the beginning, and how many they are: a line of a terminal has 80 columns."""
    return data.hex(" ") if len(data) <= most else f"{data[: most - 3].hex(' ')} … of {len(data):,}"


def caret(c: Check, start: int, end: int, text: str) -> None:
    """Mark bytes of the line of hex that was told last."""
    if start < 19:
        c.did("  " + " " * (3 * start) + "^" * max(2, 3 * (min(end, 19) - start) - 1) + f" {text}")


def anew(c: Check, what: str = "") -> None:
    """Begin the story again: what was done to another decoder or ledger explains nothing here."""
    c.story.clear()
    if what:
        c.did(f"= a new {what}")


def erred(code: int, stream: int) -> str:
    whose = f"of stream {stream}" if stream else "of the connection (stream 0)"
    return f"Http2Error({CODES.get(code, code)}, {stream}): an error {whose}"


def outcome(found: dict[str, Any]) -> str:
    """In words what an attempt came to, where it raised."""
    if "error" in found:
        return erred(*found["error"])
    return found.get("raised") or f"{found.get('value')}"


async def ask(c: Check, role: str, jobs: object) -> Any:
    return await c.start(role, json.dumps(jobs), host="client").result(PATIENCE - 1)


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


class Model:
    """What a ledger has to do, so that calls of any kind can be judged."""

    def __init__(self) -> None:
        self.initial, self.windows = 65535, {0: 65535}

    def call(self, name: str, stream: int, number: int = 0) -> tuple[int, int] | None:
        """Do as told; return the error, (code, stream), or None."""
        windows = self.windows
        if name == "open":
            windows[stream] = self.initial
        elif name == "close":
            windows.pop(stream, None)
        elif name == "charge":
            for one in (0, stream):
                if one in windows and number:
                    if number > windows[one]:
                        return FLOW_CONTROL_ERROR, one
                    windows[one] -= number
        elif name == "update":
            if not number:
                return PROTOCOL_ERROR, stream
            if windows.get(stream, 0) + number > MAX_WINDOW:
                return FLOW_CONTROL_ERROR, stream
            if stream in windows:
                windows[stream] += number
        else:
            size = stream
            grown = {one: window + size - self.initial for one, window in windows.items() if one}
            if size > MAX_WINDOW or max(grown.values(), default=0) > MAX_WINDOW:
                return FLOW_CONTROL_ERROR, 0
            windows.update(grown)
            self.initial = size
        return None

    def available(self, stream: int) -> int:
        return max(0, min(self.windows[0], self.windows.get(stream, 0)))


Call = tuple[Any, ...]  # method, arguments …, and at the end a sentence that says why, perhaps


def bare(call: Call) -> list[Any]:
    return [call[0], *(one for one in call[1:] if isinstance(one, int))]


def reason(call: Call) -> str:
    return next((f" {one}" for one in call[1:] if isinstance(one, str)), "")


def told_call(call: Call) -> str:
    return f"{call[0]}({', '.join(f'{one:_}' for one in bare(call)[1:])})"


async def hold(c: Check, *scripts: Sequence[Call]) -> None:
    """After each call of each script, the ledger must say what the model says."""
    asked = [[bare(call) for call in calls] for calls in scripts]
    for calls, seen in zip(scripts, await ask(c, "ledger_role", asked), strict=True):
        judge(c, calls, seen)


def judge(c: Check, calls: Sequence[Call], seen: Sequence[dict[str, Any]]) -> None:
    model = Model()
    anew(c, "Ledger")
    new = " This is a new Ledger: nothing that was done to another one shows in it."
    for number, (call, one) in enumerate(zip(calls, seen, strict=False)):
        error, name, why = model.call(*bare(call)), told_call(call), reason(call) or ("" if number else new)
        rooms = ", ".join(f"{stream}: {told_number(room)}" for stream, room in one["available"].items())
        c.did(f"> {name:26}" + (f" available {rooms}" if rooms and "value" in one else ""))
        if "value" not in one:
            c.did(f"! {outcome(one)}")
        if "raised" in one:
            c.fail(f"{name} raised {one['raised']}.{why}")
        if error is None and "error" in one:
            c.fail(f"{name} was refused, and nothing is wrong with it.{why}", got=erred(*one["error"]))
        if error is not None and one.get("error") != list(error):
            did = "was accepted" if "value" in one else "raised another error"
            c.fail(f"{name} {did}.{why}", got=outcome(one) if "error" in one else None, wanted=erred(*error))
        if error is not None and not error[1]:
            return  # The connection is over.
        for stream, room in one["available"].items():
            wanted = model.available(int(stream))
            if error is not None and int(stream) == error[1]:
                continue  # It is reset now.
            if room != wanted:
                c.fail(f"After {name}, available({stream}) is {told_number(room)}, and not {wanted:,}.{why}",
                       got=f"available({stream}) = {room}", wanted=f"available({stream}) = {wanted}")  # fmt: skip


def told_number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def wrong(calls: Sequence[Call], seen: Sequence[dict[str, Any]]) -> int:
    """How many calls it takes until the ledger is wrong; 0 where it is right."""
    model = Model()
    for number, (call, one) in enumerate(zip(calls, seen, strict=False), 1):
        error = model.call(*call)
        if one.get("error") != (list(error) if error else None) or "raised" in one:
            return number
        if error:
            return 0
        if any(value != model.available(int(stream)) for stream, value in one["available"].items()):
            return number
    return 0


class Field(NamedTuple):
    """A part of a header block, as hex, and the field that it is; no name where it is a size update, or nothing."""

    wire: str
    name: str = ""
    value: str = ""


Block = Sequence[Field]


class Blocks(NamedTuple):
    """Header blocks for a decoder of their own, with a table of *most* bytes (0: as many as by default)."""

    blocks: Sequence[Block]
    why: str = ""
    most: int = 0
    refused: bool = False  # the last of them must be


def bad(why: str, *wires: str, most: int = 0) -> Blocks:
    """Blocks as hex, of which the last must be refused."""
    return Blocks([[Field(wire)] for wire in wires], why, most, refused=True)


async def fields_of(c: Check, *cases: Blocks) -> None:
    """Feed all blocks to decoders in the learner's process; judge what they made of them."""
    jobs = [[case.most, [as_bytes(block).hex() for block in case.blocks]] for case in cases]
    for case, seen in zip(cases, await ask(c, "fields_role", jobs), strict=True):
        anew(c, f"HeaderDecoder({case.most or ''})")
        for number, (block, one) in enumerate(zip(case.blocks, seen, strict=False), 1):
            c.did(f"> {hexed(as_bytes(block)) or '(an empty block)'}")
            c.did(f"< {listed(as_fields(one))}" if "value" in one else f"! {outcome(one)}")
            if not case.refused:
                same_fields(c, block, one, case.why)
            elif number < len(case.blocks) and "value" not in one:
                c.fail(f"Your decoder raised {outcome(one)} for a header block that is in order.")
            elif number == len(case.blocks):
                must_be_refused(c, "block", one, case.why)


def as_bytes(block: Block) -> bytes:
    return bytes.fromhex("".join(part.wire for part in block))


def as_fields(one: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(bytes.fromhex(name), bytes.fromhex(value)) for name, value in one["value"]]


def same_fields(c: Check, block: Block, one: dict[str, Any], why: str) -> None:
    ending = f": {why}." if why else "."
    if "value" not in one:
        c.fail(f"Your decoder raised {outcome(one)} for a header block that is in order{ending}")
    got = as_fields(one)
    at = number = 0
    for part in block:
        end = at + len(part.wire) // 2
        if part.name:
            wanted = (part.name.encode(), part.value.encode(errors="surrogateescape"))
            if got[number : number + 1] != [wanted]:
                c.did(f"= of {hexed(as_bytes(block))}")
                caret(c, at, end, "this one")
                came = pair(got[number]) if number < len(got) else "nothing"
                c.fail(f"Field {number + 1} of a block is wrong{ending}", got=came, wanted=pair(wanted))
            number += 1
        at = end
    if len(got) > number:
        c.fail(f"The block has {number} fields, and your decoder found {len(got)}{ending}", got=listed(got))


def must_be_refused(c: Check, kind: str, one: dict[str, Any], why: str) -> None:
    """What an attempt came to must be COMPRESSION_ERROR, of the connection."""
    if one.get("error") != [COMPRESSION_ERROR, 0]:
        how = "" if "value" in one else " with Http2Error(COMPRESSION_ERROR)"
        got = listed(as_fields(one)) if kind == "block" and "value" in one else outcome(one)
        c.fail(f"This {kind} must be refused{how}: {why}.", got=got, wanted="Http2Error(COMPRESSION_ERROR)")


def pair(field: tuple[bytes, bytes]) -> str:
    return f"{field[0].decode('latin-1')}: {field[1].decode('latin-1')}"


def listed(fields: Sequence[tuple[bytes, bytes]]) -> str:
    text = " | ".join(map(pair, fields))
    return (text[:66] + " …" if len(text) > 66 else text) or "no fields"


def as_integer(value: int, bits: int) -> bytes:
    """RFC 7541 §5.1, the other way round."""
    most = 2**bits - 1
    if value < most:
        return bytes((value,))
    data = bytearray((most,))
    value -= most
    while value >= 128:
        data.append(value % 128 + 128)
        value //= 128
    return bytes((*data, value))


# -- A: frames -----------------------------------------------------------------------------------------


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


# -- B: a ledger of windows ----------------------------------------------------------------------------


@step(
    "B: DATA is charged to its stream and to the connection",
    rfc="RFC 9113 §5.2.1, §6.9.1: both windows are reduced; who sends must stay within both",
    symptom="There are two windows for each byte: its stream's, and one that all streams share. Yours forgets one.",
    where="What may go now is what fits into both, so the smaller one. At first each has 65,535 bytes.",
    code="self._windows = {0: 65535}   # by stream; 0 is the connection\n...\n"
    "self._windows[0] -= size\nself._windows[stream] -= size\n...\n"
    "min(self._windows[0], self._windows[stream])",
    seconds=PATIENCE,
)
async def both_windows(c: Check) -> None:
    shared = "All streams share the connection's window."
    await hold(
        c,
        [("open", 1, "A new window has 65,535 bytes."), ("charge", 1, 1000), ("charge", 1, 64535), ("open", 3, shared)],
        [("open", 1), ("open", 3), ("charge", 1, 40000, shared), ("charge", 3, 25000, shared), ("charge", 3, 535)],
        [("open", 1), ("open", 3), ("open", 5), ("charge", 5, 10, shared), ("charge", 3, 20, shared)],
    )


@step(
    "B: WINDOW_UPDATE opens one window",
    rfc="RFC 9113 §6.9: a frame on stream 0 is for the connection, on another stream for that one alone",
    symptom="A WINDOW_UPDATE opens a window that it was not for, or does not open the one that it was for.",
    where="The stream alone is no use while the connection's window is shut, and the other way round.",
    code="self._windows[stream] += increment   # with 0 for the connection",
    seconds=PATIENCE,
)
async def window_update(c: Check) -> None:
    one, all_of_them = "It is for this stream alone.", "It is for the connection alone."
    await hold(
        c,
        [("open", 1), ("open", 3), ("charge", 1, 65535), ("update", 1, 1000, one), ("update", 0, 600, all_of_them),
         ("update", 0, 1000, all_of_them), ("charge", 1, 900), ("charge", 3, 700)],
        [("open", 1), ("open", 3), ("update", 0, 100000, all_of_them), ("charge", 1, 65535), ("update", 1, 5, one),
         ("charge", 3, 65000), ("update", 3, 1, one)],
    )  # fmt: skip


@step(
    "B: an increment of 0 is an error, and so is too much",
    rfc="RFC 9113 §6.9: an increment of 0 is a PROTOCOL_ERROR; §6.9.1: more than 2^31-1 is a FLOW_CONTROL_ERROR; "
    "of the stream, or on stream 0 of the connection",
    symptom="A peer adds nothing, again and again; or so much that others count backwards. Your ledger takes it.",
    where="2³¹-1 is the most that a window may be, not what may be added. Exactly that is allowed. Python does not "
    "overflow, so that you have to look.",
    code="if increment == 0:\n    raise Http2Error(PROTOCOL_ERROR, stream)\n"
    "if self._windows[stream] + increment > MAX_WINDOW:\n    raise Http2Error(FLOW_CONTROL_ERROR, stream)",
    seconds=PATIENCE,
)
async def bad_updates(c: Check) -> None:
    zero, much, most = "An increment of 0 is an error.", "A window has at most 2³¹-1 bytes.", "2³¹-1 is allowed."
    room, gone = MAX_WINDOW - 65535, "On a stream that is closed nothing may be sent."
    await hold(
        c,
        [("open", 1), ("update", 1, 0, zero), ("close", 1, gone), ("open", 3)],
        [("open", 1), ("update", 0, 0, zero + " On stream 0 it is the connection's.")],
        [
            ("open", 1),
            ("open", 3),
            ("update", 1, room, most),
            ("update", 1, 1, much),
            ("close", 1, gone),
            ("charge", 3, 5),
        ],
        [("open", 1), ("update", 0, room, most), ("update", 0, 1, much + " On stream 0 it is the connection's.")],
        [("open", 1), ("update", 1, MAX_WINDOW, much)],
        [("open", 1), ("charge", 1, 65535), ("update", 1, MAX_WINDOW, most), ("update", 0, MAX_WINDOW, most)],
    )


@step(
    "B: a new initial size is for streams that are open, too",
    rfc="RFC 9113 §6.9.2: adjust the size of all stream flow-control windows by the difference",
    symptom="The peer's SETTINGS say another initial size. It is for streams that are open, too, but not for the "
    "connection.",
    where="By the difference between the new value and the old one: what was sent stays sent. New streams begin with "
    "the new value.",
    code="for stream in self._windows:\n    if stream:\n        self._windows[stream] += size - self._initial\n"
    "self._initial = size",
    seconds=PATIENCE,
)
async def new_initial_size(c: Check) -> None:
    new, old = "A new stream begins with the new size.", "Open streams are changed by the difference."
    never = "SETTINGS never change the connection's window (§6.9.2)."
    await hold(
        c,
        [("set_initial", 100000), ("open", 1, never), ("charge", 1, 60000), ("open", 3, never)],
        [("set_initial", 1000), ("open", 1, new), ("set_initial", 100, old), ("open", 3, new)],
        [("open", 1), ("set_initial", 1000, old), ("set_initial", 65535, old)],
        [("open", 1), ("open", 3), ("charge", 1, 500), ("set_initial", 2000, old), ("set_initial", 2000, old),
         ("set_initial", 10000, old), ("charge", 3, 4000), ("set_initial", 9000, old)],
        [("set_initial", 10), ("set_initial", 70000), ("open", 1, never), ("update", 0, 70000)],
        [("set_initial", 0), ("open", 1, "A window of 0 is no error: the peer opens it when it likes."),
         ("update", 1, 5), ("set_initial", 10, old)],
    )  # fmt: skip


@step(
    "B: a window may be below zero",
    rfc="RFC 9113 §6.9.2: a change can cause the available space to become negative. A sender MUST track it",
    symptom="Bytes were on the way already when the window shrank. Now it is below zero, and stays so until enough "
    "was given back. Your ledger makes it 0, or more.",
    where="Keep the number as it is; only available() must not go below 0. DATA without a byte needs no window.",
    code="return max(0, min(self._windows[0], self._windows[stream]))\n...\n"
    "if size > max(0, self._windows[stream]): ...  # no bytes always fit",
    seconds=PATIENCE,
)
async def below_zero(c: Check) -> None:
    debt = "The window was below zero, and what is given back pays that first."
    shut = "Nothing may be sent, and fewer than no bytes cannot be."
    await hold(
        c,
        [("open", 1), ("charge", 1, 1000), ("set_initial", 400, shut), ("update", 1, 600, debt),
         ("update", 1, 50, debt)],
        [("open", 1), ("charge", 1, 20000), ("set_initial", 0, shut), ("set_initial", 30000, debt)],
        [("open", 1), ("charge", 1, 500), ("set_initial", 0, shut),
         ("charge", 1, 0, "An empty DATA frame (END_STREAM) needs no window (§6.9.1)."), ("update", 1, 501, debt)],
        [("open", 1), ("open", 3), ("charge", 1, 5), ("set_initial", 4, shut), ("set_initial", 3, shut),
         ("charge", 3, 2, "The window of this stream is not below zero."), ("set_initial", 5, debt)],
        [("open", 1), ("charge", 1, 65535), ("charge", 1, 0, "An empty DATA frame needs no window (§6.9.1).")],
    )  # fmt: skip


@step(
    "B: SETTINGS that make a window too large",
    rfc="RFC 9113 §6.9.2, §6.5.2: a window above 2^31-1 is a connection error of type FLOW_CONTROL_ERROR",
    symptom="A window can grow by WINDOW_UPDATE, and you look at that. By what else can it grow? And whose fault is "
    "it, if one frame is too much for one of many streams?",
    where="SETTINGS are the connection's, so that the error is, too: stream 0. A stream that is closed has no window.",
    code="if self._windows[stream] + size - self._initial > MAX_WINDOW:\n    raise Http2Error(FLOW_CONTROL_ERROR)",
    seconds=PATIENCE,
)
async def settings_too_large(c: Check) -> None:
    much = "A window has at most 2³¹-1 bytes, and SETTINGS are the connection's."
    await hold(
        c,
        [("set_initial", MAX_WINDOW, "2³¹-1 is allowed."), ("open", 1), ("charge", 1, 10)],
        [("open", 1), ("set_initial", MAX_WINDOW, "2³¹-1 is allowed."), ("charge", 1, 10)],
        [("set_initial", MAX_WINDOW + 1, much)],
        [("open", 1), ("update", 1, MAX_WINDOW - 65535), ("set_initial", 65536, much)],
        [("open", 1), ("open", 3), ("update", 1, 1), ("set_initial", MAX_WINDOW, much)],
        [("open", 1), ("charge", 1, 1), ("update", 1, 1), ("set_initial", MAX_WINDOW, "2³¹-1 is allowed.")],
        [("update", 0, MAX_WINDOW - 65535), ("set_initial", MAX_WINDOW, "It is not for the connection's window.")],
        [("open", 1), ("update", 1, MAX_WINDOW - 65535), ("close", 1), ("open", 3),
         ("set_initial", 70000, "The stream that had a large window is closed.")],
    )  # fmt: skip


@step(
    "B: more than the window",
    rfc="RFC 9113 §6.9.1: a sender MUST NOT exceed the space in either window. §6.9: a receiver MAY respond with "
    "FLOW_CONTROL_ERROR",
    symptom="The same ledger is the receiver's: it says when a peer has sent too much. Of two windows, which one was "
    "broken? And may a peer use up a window to its last byte?",
    where="Beyond the stream's window it is the stream's error, beyond the connection's it is the connection's. "
    "Exactly as much as there is may come.",
    code="for one in (0, stream):\n    if size > max(0, self._windows[one]):\n"
    "        raise Http2Error(FLOW_CONTROL_ERROR, one)\n    self._windows[one] -= size",
    seconds=PATIENCE,
)
async def too_much_data(c: Check) -> None:
    whole = "That is exactly what is allowed."
    await hold(
        c,
        [("set_initial", 100), ("open", 1), ("charge", 1, 100, whole),
         ("charge", 1, 1, "The stream's window is spent.")],
        [("set_initial", 100), ("open", 1), ("charge", 1, 101, "The stream's window has 100 bytes.")],
        [("open", 1), ("set_initial", 100000), ("charge", 1, 65535, whole),
         ("charge", 1, 1, "The connection's window is spent.")],
        [("open", 1), ("open", 3), ("charge", 1, 65000), ("charge", 3, 536, "The connection has 535 bytes.")],
        [("open", 1), ("charge", 1, 10), ("set_initial", 5), ("charge", 1, 1, "The stream's window is below zero.")],
    )  # fmt: skip


@step(
    "B: streams that are closed, and the connection that goes on",
    rfc="RFC 9113 §6.9: a receiver MUST always account for DATA against the connection's window, even if the frame is "
    "in error; it MUST NOT treat a WINDOW_UPDATE on a closed stream as an error",
    symptom="You have reset a stream, and the peer did not know yet: its DATA still comes, and a WINDOW_UPDATE. Your "
    "ledger loses count of the connection, or takes it for an error.",
    where="The window of a closed stream is gone, and nothing may be sent on it. The connection's window pays for its "
    "DATA all the same: the peer has counted it, and if you do not, the two of you never agree again.",
    code="def close(self, stream):\n    self._windows.pop(stream, None)\n...\n"
    "for one in (0, stream):  # the connection pays, whatever the stream is\n"
    "    if one in self._windows: ...",
    seconds=PATIENCE,
)
async def closed_streams(c: Check) -> None:
    gone, counted = "On a stream that is closed nothing may be sent.", "The connection pays for it all the same."
    late = "It may come late, and is ignored."
    await hold(
        c,
        [("open", 1), ("open", 3), ("close", 1, gone), ("charge", 3, 5)],
        [("open", 1), ("open", 3), ("close", 1), ("charge", 1, 1000, counted)],
        [("open", 1), ("open", 3), ("charge", 1, 1000), ("close", 1), ("update", 1, 1000, late), ("charge", 3, 5)],
        [("open", 1), ("close", 1), ("set_initial", 5, gone), ("open", 3)],
        [("open", 1), ("close", 1), ("close", 1, "It was closed already, and stays so."), ("open", 3)],
        [("set_initial", 100), ("open", 1), ("set_initial", 65535), ("open", 3), ("set_initial", 100), ("close", 3),
         ("set_initial", 65535), ("open", 5), ("charge", 1, 65000), ("close", 1), ("open", 7, counted)],
        [("set_initial", 100), ("open", 1), ("charge", 1, 200, "The stream's window has 100 bytes."), ("close", 1),
         ("set_initial", 65535), ("open", 3, "The connection pays also for what was too much for its stream.")],
        [("open", 1), ("close", 1), ("charge", 1, 65536, "The connection's window has 65,535 bytes.")],
    )  # fmt: skip


@step(
    "B: a long life, in any order",
    rfc="RFC 9113 §6.9, all of it",
    symptom="Sixty connections, each with calls in an order of its own. In one of them your ledger was wrong.",
    where="The shortest of those is shown. Say after each call what each window is; where do you and your ledger part?",
    code="Print self._windows after each call, and count along.",
    seconds=PATIENCE,
)
async def long_life(c: Check) -> None:
    chance = random.Random(69)
    scripts = [a_life(chance) for _ in range(60)]
    seen = await ask(c, "ledger_role", scripts)
    mistaken = [(wrong(calls, one), calls, one) for calls, one in zip(scripts, seen, strict=True)]
    if shortest := min((life for life in mistaken if life[0]), key=lambda life: life[0], default=None):
        count, calls, one = shortest
        judge(c, calls[:count], one[:count])
    c.did("= 60 connections of up to 40 calls each: right after each call")


def a_life(chance: random.Random) -> list[list[Any]]:
    """Calls such as a connection may see; at most the last is an error."""
    model, calls, opened = Model(), [], 0
    for _ in range(40):
        live = [stream for stream in model.windows if stream]
        some = chance.choice([*live, *range(1, 2 * opened, 2)] or [0])  # now and then one that is closed
        small = chance.choice((0, 1, 7, 100, 16384, 40000))
        kind = chance.choice(("open", "charge", "charge", "charge", "update", "update", "set_initial", "close"))
        if kind == "open" or not opened:
            opened += 1
            call: list[Any] = ["open", 2 * opened - 1]
        elif kind == "charge":
            room = model.available(some)
            call = [kind, some, chance.choice((small, room, room // 2, room // 3, room + chance.randrange(2)))]
            if call[2] > model.windows[0] and call[2] > model.windows.get(some, call[2]):
                continue  # Too much for both: whose error that is is not said.
        elif kind == "update":
            stream = chance.choice((0, some))
            call = [kind, stream, chance.choice((small or 1, MAX_WINDOW - max(0, model.windows.get(stream, 0)), 30000))]
        elif kind == "set_initial":
            call = [kind, chance.choice((0, 1, 100, 10000, 65535, 100000, MAX_WINDOW - 40000))]
        else:
            call = [kind, some]
        calls.append(call)
        if model.call(*call):
            break
    return calls


# -- C: header compression -----------------------------------------------------------------------------


@step(
    "C: integers",
    rfc="RFC 7541 §5.1, and its examples in C.1",
    symptom="The numbers of HPACK begin in the middle of a byte. Yours is another number, or ends at another place.",
    where="If the prefix is not all ones, it is the number. If it is, the number goes on, seven bits in each byte, the "
    "least significant first, as long as the first bit is 1; and 2ᴺ-1 is added. So 2ᴺ-1 itself is a prefix of ones and "
    "a byte of 0. The bits before the prefix are not yours.",
    code="most = 2**bits - 1\nvalue = data[at] & most\nif value < most:\n    return value, at + 1\n"
    "for shift in (0, 7, 14, 21, 28):\n    at += 1\n    value += (data[at] & 0x7F) << shift\n"
    "    if data[at] < 0x80: ...",
    seconds=PATIENCE,
)
async def integers(c: Check) -> None:
    cases = [
        ("0a", 0, 5, 10, "C.1.1: 10 fits into five bits"),
        ("1f 9a 0a", 0, 5, 1337, "C.1.2: 31 + 26 + 10 × 128"),
        ("2a", 0, 8, 42, "C.1.3: 42 at the beginning of a byte"),
        ("ea", 0, 5, 10, "the three bits before the prefix belong to something else"),
        ("ff 9a 0a", 0, 5, 1337, "the three bits before the prefix belong to something else"),
        ("1e", 0, 5, 30, "30 is less than 31, and is all there is"),
        ("1f 00", 0, 5, 31, "all ones say that more follows, and a 0 follows: 31 + 0"),
        ("1f 01", 0, 5, 32, "31 + 1"),
        ("7f 00", 0, 7, 127, "the prefix has seven bits: 127 + 0"),
        ("0f 0d", 0, 4, 28, "the prefix has four bits: 15 + 13"),
        ("ff 80 01", 0, 8, 383, "255 + 0 + 1 × 128"),
        ("3f e1 1f", 0, 5, 4096, "31 + 97 + 31 × 128"),
        ("82 1f 9a 0a 05", 1, 5, 1337, "it begins at data[1], and ends at data[4]"),
        ("05 0a", 1, 5, 10, "it begins at data[1]"),
        ("1f 80 80 80 80 00", 0, 5, 31, "five bytes of nothing behind the prefix are a waste, and allowed"),
    ]
    cases += [(as_integer(value, bits).hex(" "), 0, bits, value, "") for bits in (4, 5, 6, 7)
              for value in (2**bits - 2, 2**bits - 1, 2**bits, 2**bits + 127, 2**bits + 128, 16384, 2**32 - 1)
              ]  # fmt: skip
    found = await ask(c, "integer_role", [[data, at, bits] for data, at, bits, *_ in cases])
    for (data, at, bits, value, why), one in zip(cases, found, strict=True):
        c.did(f"> {data}")
        caret(c, at, at + 1, f"the last {bits} bits of this byte are the prefix")
        ending = f": {why}." if why else "."
        if "value" not in one:
            c.fail(f"Your decode_integer() raised {outcome(one)} for the number {value:,}{ending}")
        end = len(bytes.fromhex(data)) - (data == "82 1f 9a 0a 05")
        if one["value"] != [value, end]:
            c.fail(f"This is the number {value:,}, and it ends at {end}{ending}", got=f"{one['value']}",
                   wanted=f"({value}, {end})")  # fmt: skip


@step(
    "C: an integer has an end",
    rfc="RFC 7541 §5.1: encodings that exceed implementation limits, in value or octet length, MUST be treated as "
    "decoding errors",
    symptom="A number goes on and on, or stops where the bytes do, and your decoder goes with it.",
    where="Our limits: at most five bytes behind the prefix, and at most 2³²-1. A byte of 0x80 adds nothing and asks "
    "for more; a megabyte of them is a number, too. Where the bytes end before the number, it is the same error.",
    code="for shift in range(0, 35, 7):   # and no `while True`\n    ...\nraise Http2Error(COMPRESSION_ERROR)",
    seconds=PATIENCE,
)
async def endless_integers(c: Check) -> None:
    wrong = {
        b"\x1f" + b"\x80" * 5 + b"\0": "there are six bytes behind the prefix",
        b"\x1f" + b"\x80" * 100_000 + b"\0": "there are 100,001 bytes behind the prefix",
        b"\x1f" + b"\xff" * 10: "it has more bytes than any number may have, and no end",
        as_integer(2**32, 5): "2³² is one more than allowed",
        as_integer(2**32 + 1, 7): "2³² + 1 is too much; who counts in 32 bits reads 1",
        as_integer(2**35, 5): "2³⁵ is too much; who counts in 32 bits reads 0",
        as_integer(2**64 + 5, 5): "2⁶⁴ + 5 has too many bytes; who counts in 64 bits reads 5",
        b"\x1f": "the prefix says that more follows, and nothing does",
        b"\x1f\x9a": "the last byte says that more follows, and nothing does",
        b"\x1f\x80\x80\x80\x80": "the last byte says that more follows, and nothing does",
        b"": "there is no byte",
    }
    found = await ask(c, "integer_role", [[data.hex(), 0, 7 if data[:1] == b"\x7f" else 5] for data in wrong])
    for (data, why), one in zip(wrong.items(), found, strict=True):
        c.did(f"> {hexed(data) or '(nothing)'}")
        c.did(f"< {outcome(one)}")
        must_be_refused(c, "integer", one, why)


C21 = Field("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key", "custom-header")
C22 = Field("040c2f73616d706c652f70617468", ":path", "/sample/path")
C23 = Field("100870617373776f726406736563726574", "password", "secret")
GET, POST, HTTP, ROOT = (Field("82", ":method", "GET"), Field("83", ":method", "POST"), Field("86", ":scheme", "http"),
                         Field("84", ":path", "/"))  # fmt: skip
HOST = Field("410f7777772e6578616d706c652e636f6d", ":authority", "www.example.com")


@step(
    "C: fields out of the static table, and literal ones",
    rfc="RFC 7541 §6.1, §6.2, and the examples in C.2",
    symptom="The first bits of a field say what it is. Yours was taken for something else, or ends elsewhere.",
    where="1: a field of the table, index 7 bits. 01: literal, and kept in the table, index 6 bits. 0000 and 0001: "
    "literal, not kept, index 4 bits. The index is that of the name; if it is 0 the name follows as a string. A "
    "string is its length (7 bits behind the H bit) and its bytes. Index 1 is STATIC[0].",
    code="if first & 0x80: ...\nelif first & 0x40: ...\nelif first & 0x20: ...   # a size, see below\nelse: ...",
    seconds=PATIENCE,
)
async def static_fields(c: Check) -> None:
    blocks: list[Block] = [
        [GET], [C22], [C23], [C21], [GET, HTTP, ROOT, HOST],
        [Field("81", ":authority"), Field("bd", "www-authenticate")],  # the ends of the table
        [Field("0f0d0431323334", "content-length", "1234")],  # an index that does not fit into four bits
        [Field("1f0d0431323334", "content-length", "1234"), Field("88", ":status", "200")],
        [Field("000161" + "7f41" + (b"x" * 192).hex(), "a", "x" * 192), GET],  # a length that does not fit into seven
        [Field("00016100", "a"), Field("0001620163", "b", "c")],
        [Field("0003582d610120", "X-a", " "), Field("000161" + "03" + "c3a9ff", "a", "\xe9\udcff")],  # nobody's to mend
        [],
    ]  # fmt: skip
    await fields_of(c, *(Blocks([block]) for block in blocks))


@step(
    "C: Huffman strings",
    rfc="RFC 7541 §5.2: if the H bit is set, the string is Huffman-coded; examples in C.4 and C.6",
    symptom="A string has its first bit (H) set, and came out as it stands there.",
    where="FROM_HUFFMAN() is given. The length is that of the coded string. Not every sequence of bits is a code: what "
    "it raises then is not an Http2Error.",
    code="try:\n    return FROM_HUFFMAN(text), end\n"
    "except HPACKError:\n    raise Http2Error(COMPRESSION_ERROR) from None",
    seconds=PATIENCE,
)
async def huffman(c: Check) -> None:
    host = Field("418cf1e3c2e5f23a6ba0ab90f4ff", ":authority", "www.example.com")
    custom = Field("408825a849e95ba97d7f8925a849e95bb8e8b4bf", "custom-key", "custom-value")
    await fields_of(
        c,
        *(Blocks([block]) for block in ([GET, HTTP, ROOT, host], [custom, GET], [Field("00016180", "a"), GET])),
        bad("eight bits of ones are more padding than a code may have", "00016181ff"),
        bad("there stands the code for the end of a string (EOS)", "00016184ffffffff"),
        bad("the bits behind the last letter are not the padding, which is ones", "0001618100"),
    )


@step(
    "C: the table that grows",
    rfc="RFC 7541 §2.3.2, §2.3.3, §6.2.1, and the example in C.3",
    symptom="A field that was sent before is named by its index, and another field came out.",
    where="Behind the 61 of the static table comes the dynamic one: 62 is always the newest, and each new one moves "
    "the others on by one. It outlives the block. Only literals that begin with 01 are kept.",
    code="self._entries.insert(0, (name, value))   # the newest first\n...\n[*STATIC, *self._entries][index - 1]",
    seconds=PATIENCE,
)
async def dynamic_table(c: Check) -> None:
    host = Field("be", ":authority", "www.example.com")
    cached = Field("58086e6f2d6361636865", "cache-control", "no-cache")
    requests: list[Block] = [
        [GET, HTTP, ROOT, HOST],
        [GET, HTTP, ROOT, host, cached],
        [GET, Field("87", ":scheme", "https"), Field("85", ":path", "/index.html"),
         Field("bf", ":authority", "www.example.com"),
         Field("400a637573746f6d2d6b65790c637573746f6d2d76616c7565", "custom-key", "custom-value")],
        [Field("be", "custom-key", "custom-value"), Field("bf", "cache-control", "no-cache"),
         Field("c0", ":authority", "www.example.com")],
    ]  # fmt: skip
    kept: list[Block] = [
        [C21, Field("be", "custom-key", "custom-header"), Field("7e0161", "custom-key", "a"),
         Field("be", "custom-key", "a"), Field("bf", "custom-key", "custom-header")],
        [Field("0f2f0162", "custom-key", "b"), Field("1f2f0163", "custom-key", "c"), Field("be", "custom-key", "a"),
         Field("bf", "custom-key", "custom-header")],
        [Field("7f00" + "0164", "custom-key", "d"), Field("c0", "custom-key", "custom-header")],
    ]  # fmt: skip
    newest, next_one = (Field(index, "custom-key", "custom-header") for index in ("be", "bf"))
    many = [[Field("40017802" + f"{number:02d}".encode().hex(), "x",
                   f"{number:02d}")] for number in range(70)]  # fmt: skip
    late = [[Field((b"\xff" + as_integer(61 + 70, 7)[1:]).hex(), "x", "00"), Field("be", "x", "69")]]
    await fields_of(
        c,
        Blocks(requests, "these are the requests of RFC 7541 C.3, in one connection"),
        Blocks(kept, "of the literals, only those that begin with 01 are kept"),
        Blocks([[C21, C21], [newest, next_one]], "the same field was kept twice: two entries (§2.3.2)"),
        Blocks([*many, *late], "seventy fields were kept, and 131 is the oldest"),
    )


@step(
    "C: two connections at a time",
    rfc="RFC 9113 §4.3: field compression is stateful, and its state is the connection's. " + SHARED,
    symptom="A field of one connection came out of another: a cookie, perhaps. The worst thing that can happen.",
    where="What is written in the class body, and not in __init__, exists once, for all connections.",
    code="def __init__(self, ...):\n    self._entries = []",
    seconds=PATIENCE,
)
async def two_tables(c: Check) -> None:
    c.did("> to one HeaderDecoder: a: b, to be kept; to another one: c: d")
    c.did("> to each: index 62, its newest entry")
    found = await c.start("two_tables_role", host="client").result(PATIENCE - 1)
    if found.get("value") != ["a: b", "c: d"]:
        c.fail("Two HeaderDecoders disturb each other.", got=outcome(found), wanted="['a: b', 'c: d']")


@step(
    "C: the table has a size, and what is old goes",
    rfc="RFC 7541 §4.1: an entry's size is its name's length, its value's, and 32; §4.4: eviction; example in C.5",
    symptom="Your table keeps more than it may, or less: then the two ends mean different fields by the same index.",
    where="Sum up the sizes, each with its 32. While that is more than allowed, the oldest goes. An entry that is "
    "larger than the table empties it, and is no error.",
    code="def size(self):\n    return sum(len(n) + len(v) + 32 for n, v in self._entries)\n...\n"
    "while self.size() > self._limit:\n    self._entries.pop()",
    seconds=PATIENCE,
)
async def eviction(c: Check) -> None:
    date = "4d6f6e2c203231204f637420323031332032303a31333a323"
    private = Field("580770726976617465", "cache-control", "private")
    location = Field("6e1768747470733a2f2f7777772e6578616d706c652e636f6d", "location", "https://www.example.com")
    cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
    responses: list[Block] = [
        [Field("4803333032", ":status", "302"), private,
         Field("611d" + date + "120474d54", "date", "Mon, 21 Oct 2013 20:13:21 GMT"), location],
        [Field("4803333037", ":status", "307"), Field("c1", "cache-control", "private"),
         Field("c0", "date", "Mon, 21 Oct 2013 20:13:21 GMT"), Field("bf", "location", "https://www.example.com")],
        [Field("88", ":status", "200"), Field("c1", "cache-control", "private"),
         Field("611d" + date + "220474d54", "date", "Mon, 21 Oct 2013 20:13:22 GMT"),
         Field("c0", "location", "https://www.example.com"), Field("5a04677a6970", "content-encoding", "gzip"),
         Field("7738" + cookie.encode().hex(), "set-cookie", cookie)],
        [Field("be", "set-cookie", cookie), Field("bf", "content-encoding", "gzip"),
         Field("c0", "date", "Mon, 21 Oct 2013 20:13:22 GMT")],
    ]  # fmt: skip
    a, b, newest, older = Field("4001610141", "a", "A"), Field("4001620142", "b", "B"), Field("be", "b", "B"), "bf"
    large = Field("40017821" + "79" * 33, "x", "y" * 33)
    await fields_of(
        c,
        Blocks(responses, "these are the responses of RFC 7541 C.5, with a table of 256 bytes", 256),
        Blocks([[a, b, newest, Field(older, "a", "A")]], "two entries of 34 bytes each fit into 68", 68),
        Blocks([[a, b, newest]], "of two entries of 34 bytes the newer one fits into 67", 67),
        bad("two entries have 34 bytes each, 67 are allowed: the older one is gone", a.wire + b.wire + older, most=67),
        Blocks([[a, large, GET]], "an entry that is larger than the table is no error, and a field all the same", 65),
        bad(
            "four entries would be 278 bytes, and 256 are allowed: the oldest is gone",
            *(as_bytes(block).hex() for block in responses[:3]),
            "c1",
            most=256,
        ),
        Blocks(
            [[a, Field("7e0142", "a", "B"), Field("be", "a", "B")]],
            "a new entry may take its name from one that it drives out (§4.4)",
            67,
        ),
        Blocks([[Field("40016102c3a9", "a", "é"), b, newest, Field("bf", "a", "é")]], "a length counts bytes", 69),
        bad("a length counts bytes: 35 and 34 are more than 68", "40016102c3a9" + b.wire + "bf", most=68),
        bad("an entry that is larger than the table empties it", a.wire + large.wire + "be", most=65),
    )


@step(
    "C: the sender changes the table's size",
    rfc="RFC 7541 §6.3, §4.2, §4.3: not above what was allowed, and at the beginning of a block",
    symptom="The sender of the fields says how much of your table it uses. What must happen to entries that no longer "
    "fit, and do they come back when it says a larger size again? How large may it be, and where may it be said?",
    where="001 and the size in 5 bits. Smaller: evict at once, and keep to it in the blocks to come. It may grow again "
    "up to what was allowed at first (max_size). Several may stand in front of the first field, none behind it.",
    code="self._limit, at = decode_integer(block, at, 5)\nif self._limit > self._allowed or fields:\n"
    "    raise Http2Error(COMPRESSION_ERROR)\nself._evict()",
    seconds=PATIENCE,
)
async def size_update(c: Check) -> None:
    a, b = Field("4001610141", "a", "A"), Field("4001620142", "b", "B")
    newest, older = Field("be", "b", "B"), Field("bf", "a", "A")
    to_0, to_34, to_68, to_4096 = Field("20"), Field("3f03"), Field("3f25"), Field("3fe11f")
    good = [
        (0, [[a, b], [to_4096, newest, older]]),
        (0, [[to_0, GET], [to_4096, a, b, newest, older]]),
        (0, [[a, b], [to_68], [newest, older]]),
        (0, [[a, b], [to_34, newest], [newest]]),
        (100, [[to_0, to_68, a, b, newest, older]]),
    ]
    two = a.wire + b.wire
    emptied, late = "the table had 0 bytes in between", "a size update stands behind a field, and its place is in front"
    await fields_of(
        c,
        *(Blocks(blocks, "a size update is no field, and what fits stays", most) for most, blocks in good),
        bad("a size of 0 empties the table", two, "20be"),
        bad(emptied + ", so it is empty", two, "203fe11fbe"),
        bad("a size of 34 bytes leaves room for the newer entry alone", two, "3f03bf"),
        bad("since the block before, the table has 34 bytes", "3f03" + a.wire, b.wire + "bf"),
        bad("4,097 bytes, and 4,096 are allowed", "3fe21f"),
        bad("101 bytes, and 100 are allowed", "3f46", most=100),
        bad(emptied + ", but 101 bytes are still more than the 100 that are allowed", "20", "3f46", most=100),
        bad(late, "823fe11f"),
        bad(late, "8220"),
    )


@step(
    "C: what is no header block",
    rfc="RFC 7541 §6.1: an index of 0, §2.3.3: an index greater than the tables: decoding errors. RFC 9113 §4.3: "
    "COMPRESSION_ERROR, of the connection",
    symptom="A block names a field that is not there, or ends in the middle, and your decoder makes something of it.",
    where="Python's table[-1] is the last one, and data[5:99] is as much as there is: neither complains. Compare "
    "first. The error is the connection's: after it the two tables are no longer the same.",
    code="if not 1 <= index <= len(table):\n    raise Http2Error(COMPRESSION_ERROR)\n...\n"
    "if at + size > len(data):\n    raise Http2Error(COMPRESSION_ERROR)",
    seconds=PATIENCE,
)
async def no_block(c: Check) -> None:
    empty = "62 is behind the static table, and nothing was kept"
    cases = {
        "80": "index 0 is nobody's",
        "be": empty,
        "7e0161": empty,
        "0f2f0161": empty,
        "ff00": "there is no field 127",
        "ffffffffff07": "there is no field 2,147,483,774",
        "40": "the name is missing",
        "4001": "the name has one byte, and it is missing",
        "400161": "the value is missing",
        "4001610562": "the value has five bytes, and one is there",
        "4001610262": "the value has two bytes, and one is there",
        "0084": "a name of four bytes is missing",
        "04": "the value is missing",
        "0f": "the index ends in the middle",
        "ff": "the index ends in the middle",
        "3f": "the size ends in the middle",
        "00016" + "17f": "the length ends in the middle",
        "0001617f8080808000" + "61": "the value has 127 bytes, and one is there",
    }
    await fields_of(
        c,
        *(bad(why, block) for block, why in cases.items()),
        bad("one entry was kept, 62, and there is no 63", C21.wire, "bf"),
        bad("nothing was kept: a literal that begins with 0000 or 0001 is not", C22.wire + C23.wire, "be"),
    )


@step(
    "C: blocks of another author, whole and broken",
    rfc="RFC 7541, all of it. RFC 9113 §4.3: a decoding error is a connection error of type COMPRESSION_ERROR",
    symptom="The Python library hpack wrote blocks, some were broken on purpose, and it reads them otherwise than you "
    "do; or something else than Http2Error came out.",
    where="The last block of the story is the one; those before it filled the table. Which field is the first that "
    "differs? What do your two tables hold by then?",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def foreign_blocks(c: Check) -> None:
    chance = random.Random(7541)
    jobs = [(chance.choice((100, 200, 4096)), some_blocks(chance)) for _ in range(40)]
    for _, blocks in jobs:
        if chance.random() < 0.7:
            block = bytearray(blocks[-1])
            for _ in range(chance.randint(1, 3)):
                at, byte = chance.randrange(len(block)), chance.randrange(256)
                block[at] = chance.choice((0, 0x20, 0x80, 0xBE, 0xC4, 0xFF, byte))
            blocks[-1] = bytes(block[: chance.randint(1, len(block))])
    seen = await ask(c, "fields_role", [[most, [block.hex() for block in blocks]] for most, blocks in jobs])
    refusals = 0
    for (most, blocks), found in zip(jobs, seen, strict=True):
        theirs = hpack.Decoder()
        theirs.max_allowed_table_size = theirs.header_table_size = most
        anew(c, f"HeaderDecoder({most})")
        for block, one in zip(blocks, found, strict=False):
            c.did(f"> {hexed(block)}")
            if "raised" in one:
                c.fail(f"Your decoder raised {one['raised']}. Whoever uses it catches Http2Error, and nothing else.")
            try:
                wanted = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
            except hpack.HPACKError as error:
                if one.get("error") != [COMPRESSION_ERROR, 0]:
                    c.fail(f"hpack refuses this block ({error}), and your decoder did not.", got=outcome(one)[:200],
                           wanted="Http2Error(COMPRESSION_ERROR)")  # fmt: skip
                refusals += 1
                break
            if "error" in one:
                c.fail("Your decoder refused a block that is in order.", got=outcome(one), wanted=listed(wanted))
            got = as_fields(one)
            if got != wanted:
                c.fail("Your decoder reads other fields in this block than hpack does.", got=listed(got),
                       wanted=listed(wanted))  # fmt: skip
    c.did(f"= {len(jobs)} connections, {refusals} of them with a broken block: as hpack read them")


def some_blocks(chance: random.Random) -> list[bytes]:
    """Header blocks of one connection, by an encoder that may change the size of its table."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 100
    blocks = []
    for _ in range(chance.randint(1, 8)):
        if chance.random() < 0.3:
            encoder.header_table_size = chance.choice((0, 34, 60, 80, 100))
        fields = [(chance.choice((b":path", b"cookie", b"x", b"etag", b"a-b")),
                   chance.choice((b"/", b"", b"1", b"22", b"x" * 40)), chance.random() < 0.2)
                  for _ in range(chance.randint(1, 6))]  # fmt: skip
        blocks.append(encoder.encode(fields, huffman=chance.random() < 0.3))
    return blocks


# -- On a socket: the server of talk.py around the three pieces, and clients that nobody here has written -------


class Client:
    """The Python library h2, as a client, on a socket: it counts the windows, too, and refuses what is too much."""

    def __init__(self, c: Check, conn: Conn) -> None:
        self.c, self.conn = c, conn
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.came: dict[int, bytes] = {}  # the body that has come, by stream
        self.ended: set[int] = set()
        self.marks = 0
        self.mine = f"tcp.port == {conn.socket.getsockname()[1]} && tcp.srcport == {c.net.port} && tcp.len > 0"

    def request(self, path: str, *fields: tuple[str, str], method: str = "GET", ends: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "server.lab"), (":path", path)]
        self.h2.send_headers(stream, [*pseudo, *fields], end_stream=ends)
        self.came[stream] = b""
        self.c.did(f"> {method} {path} on stream {stream}")
        return stream

    async def settle(self) -> None:
        """Send what there is, then a PING, and read until its answer is here: all before it has been acted on."""
        self.marks += 1
        mark = self.marks.to_bytes(8)
        self.h2.ping(mark)
        while not any(isinstance(event, PingAckReceived) and event.ping_data == mark for event in await self.turn()):
            pass

    async def turn(self) -> list[Event]:
        """Send what there is, read once, and count what came."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self.conn.socket, self.h2.data_to_send())
            async with asyncio.timeout(PATIENCE / 2):
                data = await loop.sock_recv(self.conn.socket, 65536)
            if not data:
                self.c.fail("Your server closed the connection in the middle of it.", filter=self.mine)
            events = self.h2.receive_data(data)
        except TimeoutError:
            self.c.fail("Your server said nothing more, and something was to come.", filter=self.mine)
        except FlowControlError:
            self.c.fail("More DATA came than the windows allow: h2 counted along, and refused it.", filter=self.mine)
        except ProtocolError as error:
            name = type(error).__name__
            self.c.fail(f"The Python library h2, as a client, could not follow your server: {name}: {error}",
                        filter=self.mine)  # fmt: skip
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id is not None:
                self.came[event.stream_id] += event.data or b""
            elif isinstance(event, StreamEnded) and event.stream_id is not None:
                self.ended.add(event.stream_id)
            elif isinstance(event, StreamReset | ConnectionTerminated):
                code = int(event.error_code or 0)
                what = "RST_STREAM" if isinstance(event, StreamReset) else "GOAWAY"
                self.c.fail(f"Your server sent {what} with {CODES.get(code, code)}, and nothing was wrong.",
                            filter=self.mine)  # fmt: skip
        return events

    async def body(self, stream: int) -> bytes:
        """Read to the end of a stream; give back each byte that has come."""
        while stream not in self.ended:
            for event in await self.turn():
                if isinstance(event, DataReceived) and event.flow_controlled_length and event.stream_id is not None:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return self.came[stream]


@step(
    "On a socket: another author's client gets its answers",
    rfc="RFC 9113 §4: frames and field blocks; §3.4: the preface; RFC 7541: HPACK",
    symptom="A server around your pieces (talk.py) was asked by the Python library h2, and the answer was wrong.",
    where="Everything that h2 sends goes through your decoders, and what your server says through your encode().",
    code="The steps above have all that is needed.\nRun the server (make http2-exercise), and ask it with curl.",
    seconds=PATIENCE,
)
async def foreign_client(c: Check) -> None:
    server = c.start("server_role", c.net.server.address, c.net.port)
    # It says when it listens: who knocks before leaves an RST in the capture.
    while not (server.output() or server.ended):  # noqa: ASYNC110  it is another process
        await asyncio.sleep(0.005)
    conn = await c.connect(seconds=PATIENCE)
    client = Client(c, conn)
    fields = [("user-agent", "h2"), ("x-lab", "http2"), ("cookie", "a=b; c=d")]
    for number in range(3):
        path = f"/hello/{number}"
        got = await client.body(client.request(path, *fields))
        names = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"server.lab"), (b":path", path.encode())]
        wanted = talk.report([*names, *((name.encode(), value.encode()) for name, value in fields)], 0)
        c.did(f"< {len(got)} bytes")
        c.equal(got, wanted, "Your decoder read other fields than h2 sent.", filter=client.mine)
    stream = client.request("/", method="PUT", ends=False)
    await client.settle()
    c.did("> 60 DATA frames of 1,000 bytes, 255 of padding, and one that says so")
    for number in range(60):
        client.h2.send_data(stream, bytes(1000), end_stream=number == 59, pad_length=255)
        if number % 20 == 19:  # 25,120 bytes: so that the windows would not hold all three times as much.
            await client.settle()
    got = await client.body(stream)
    if not got.endswith(b"\n60000 bytes of body\n"):
        c.fail("Of an upload with padding, other bytes came out.", got=got[-24:], wanted=b"\n60000 bytes of body\n",
               filter=client.mine)  # fmt: skip
    size = 200_000
    got = await client.body(client.request(f"/bytes/{size}"))
    c.equal(len(got), size, "A body that is larger than all windows did not come whole.", filter=client.mine)
    c.equal(got, talk.some_bytes(size), "A body that is larger than all windows came broken.", filter=client.mine)


@step(
    "On a socket: not a byte more than the windows allow, and not one less",
    rfc="RFC 9113 §6.9.1: DATA must fit into both windows; §6.9.2: SETTINGS change those of all streams, §6.9: "
    "WINDOW_UPDATE one",
    symptom="The Python library h2 opened and shut windows, and counted the DATA that came. Your server sent too much, "
    "or had stopped before it had to.",
    where="The steps of B have each of these moves alone. The capture has them in order; to see frames in it, say in "
    "Wireshark (Decode As) that TCP port 7005 is HTTP2, or: tshark -r captures/http2-check.pcapng -d "
    "tcp.port==7005,http2 -Y http2",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def windows_on_the_wire(c: Check) -> None:
    conn = await c.connect(seconds=PATIENCE)
    client = Client(c, conn)

    async def came(*wanted: int) -> None:
        await client.settle()
        for stream, size in zip((1, 3, 5), wanted, strict=False):
            got = len(client.came[stream])
            c.did(f"< on stream {stream}: {got:,} bytes until now")
            if got != size:
                more = "More" if got > size else "Less"
                what = f"{more} DATA came than the windows allow."
                c.fail(what, got=f"{got:,} bytes on stream {stream}", wanted=f"{size:,} bytes", filter=client.mine)

    def settings(size: int) -> None:
        c.did(f"> SETTINGS_INITIAL_WINDOW_SIZE {size:,}")
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})

    def update(increment: int, stream: int | None) -> None:
        c.did(f"> WINDOW_UPDATE: {increment:,} for {f'stream {stream}' if stream else 'the connection'}")
        client.h2.increment_flow_control_window(increment, stream)

    settings(1000)
    await client.settle()
    client.request("/bytes/5000")
    client.request("/bytes/5000")
    await came(1000, 1000)
    update(500, 1)
    await came(1500, 1000)
    settings(300)  # The windows were 0 and are -700 now.
    await came(1500, 1000)
    update(1000, 1)
    await came(1800, 1000)
    settings(1000)
    await came(2500, 1000)
    settings(100_000)
    await came(5000, 5000)
    client.request("/bytes/100000")
    await came(5000, 5000, 65535 - 10000)
    update(1000, 5)
    await came(5000, 5000, 65535 - 10000)
    update(1000, None)
    await came(5000, 5000, 66535 - 10000)
    update(100_000, None)
    await came(5000, 5000, 100_000)
    c.did("= exactly as much as h2 allowed, each time")


@step(
    "On a socket: each error with its code, and whose it is",
    rfc="RFC 9113 §5.4.1: GOAWAY for an error of the connection; §5.4.2: RST_STREAM for one of a stream; §7: the codes",
    symptom="A peer broke a rule, and learnt something else about it than what it was; or nothing.",
    where="The server of talk.py makes GOAWAY of an Http2Error of stream 0, and RST_STREAM of the others.",
    code="raise Http2Error(FLOW_CONTROL_ERROR, stream)",
    seconds=PATIENCE,
)
async def errors_on_the_wire(c: Check) -> None:
    hello = frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, ACK, 0, b"")
    start = talk.PREFACE + frame(SETTINGS, 0, 0, b"")
    get = frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x86\x04\x0d/bytes/900000")  # :path is a literal
    cases = {
        frame(DATA, 0, 1, b"", 16385): (FRAME_SIZE_ERROR, 0, "a frame of 16,385 bytes is announced"),
        frame(WINDOW_UPDATE, 0, 0, bytes(4)): (PROTOCOL_ERROR, 0, "the increment is 0, for the connection"),
        frame(WINDOW_UPDATE, 0, 0, MAX_WINDOW.to_bytes(4)): (FLOW_CONTROL_ERROR, 0, "the window would be too large"),
        frame(SETTINGS, 0, 0, b"\0\4\x80\0\0\0"): (FLOW_CONTROL_ERROR, 0, "the initial window size is 2³¹"),
        frame(HEADERS, PADDED | END_HEADERS, 1, b"\x03\x82\x86"): (PROTOCOL_ERROR, 0, "3 of 3 bytes are padding"),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x80"): (COMPRESSION_ERROR, 1, "the block names field 0"),
    }
    for wire, (code, last, why) in cases.items():
        conn = await c.connect(seconds=PATIENCE)
        await conn.send(start)
        await conn.expect(hello, "the server's SETTINGS, and an acknowledgement of the client's", 5)
        await conn.send(wire)
        bye = frame(GOAWAY, 0, 0, last.to_bytes(4) + code.to_bytes(4))
        await conn.expect(bye, f"GOAWAY with {CODES[code]}, because {why}", 5)
        await conn.finish_sending()
        await conn.expect_end("a clean end behind GOAWAY", 5)
    conn = await c.connect(seconds=PATIENCE)
    await conn.send(start + get)
    got = await conn.read(len(hello) + 9 + 10 + 65535 + 4 * 9, 5)  # HEADERS with 10 bytes, and four of DATA
    c.did(f"< {len(got):,} bytes: HEADERS, and as much DATA as the windows hold")
    await conn.send(frame(WINDOW_UPDATE, 0, 1, bytes(4)) + frame(PING, 0, 0, b"alright?"))
    reset = frame(RST_STREAM, 0, 1, PROTOCOL_ERROR.to_bytes(4)) + frame(PING, ACK, 0, b"alright?")
    why = "RST_STREAM with PROTOCOL_ERROR, because of an increment of 0; the connection goes on, and answers a PING"
    await conn.expect(reset, why, 5)
