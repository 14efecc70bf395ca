"""What of this lab's check runs in the learner's own process: it feeds the pieces, and reports what came of it."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from labkit.learner import load

talk = load(Path(__file__).with_name("talk.py"), "labs_http2_talk")
asking: Any = load(Path(__file__).with_name("asking.py"), "labs_http2_asking")
frame, pair = asking.frame, asking.pair
DATA, PING = asking.DATA, asking.PING


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
