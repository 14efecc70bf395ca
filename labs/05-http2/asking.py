"""How the steps of this lab's check ask the learner's process, tell what happened, and name what is wrong."""

from __future__ import annotations

import json
from typing import Any

from labkit.check import Check

PATIENCE = 10  # seconds for a step: they take a hundredth of that, but not on a machine that is very busy
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x01, 0x01, 0x04, 0x08, 0x20
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 1, 3, 6, 9
CODES = {1: "PROTOCOL_ERROR", 3: "FLOW_CONTROL_ERROR", 6: "FRAME_SIZE_ERROR", 9: "COMPRESSION_ERROR"}
MAX_WINDOW = 2**31 - 1
HEADER_RULE = "RFC 9113 §4.1: Length (24), Type (8), Flags (8), Reserved (1), Stream Identifier (31), Frame Payload"
SHARED = "Python's tutorial, §9.3.5: what is written in the class body is shared by all instances"


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


def pair(field: tuple[bytes, bytes]) -> str:
    """A field as text."""
    return f"{field[0].decode('latin-1')}: {field[1].decode('latin-1')}"
