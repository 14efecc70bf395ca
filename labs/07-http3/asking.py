"""How the check of this lab asks and judges: a script of calls goes to the learner's code and to the solution.

A script is a list of `Call`s, made one after the other on one new object of the learner's. What it answers must be what
the solution answers; the tests hold that one against the lab's own HTTP/3 and against aioquic.
"""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from labkit.check import Check
from labkit.learner import load
from protocols.quic_packets import encode_varint

PATIENCE = 10  # seconds for a step: they take a hundredth of that, but not on a machine that is very busy
MOST = 0.5  # seconds of processor time for one script: it takes a thousandth of that
MUCH = 1000  # bytes that an object may hold of what it has been given, where nothing needs to be held

solution = load(Path(__file__).with_name("solution.py"), "labs_http3_solution")
CODES = {value: name for name, value in vars(solution).items() if isinstance(value, int) and 0x100 < value < 0x200}
TYPES = {getattr(solution, name): name
         for name in "DATA HEADERS CANCEL_PUSH SETTINGS PUSH_PROMISE GOAWAY MAX_PUSH_ID".split()}  # fmt: skip
HTTP2_TYPES = {0x02: "PRIORITY", 0x06: "PING", 0x08: "WINDOW_UPDATE", 0x09: "CONTINUATION"}


class Call(NamedTuple):
    """A call, with the sentence that a learner reads when its answer is wrong; *mark*: bytes of data to point at.

    `settings` is no call but a look at that attribute; `held` counts the bytes that an object keeps.
    """

    kind: str  # the class
    name: str
    arguments: tuple[Any, ...] = ()
    why: str = ""
    mark: tuple[int, int, str] = (0, 0, "")


def varint(value: int, size: int = 0) -> bytes:
    """A number; in so many bytes, also if it needs fewer."""
    return (value | (size.bit_length() - 1) << 8 * size - 2).to_bytes(size) if size else encode_varint(value)


def wire(type: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """A frame; *length*: what it says of its payload, if that is not so."""
    return varint(type) + varint(len(payload) if length is None else length) + payload


def name_of(type: int) -> str:
    return TYPES.get(type) or (f"HTTP/2's {HTTP2_TYPES[type]}" if type in HTTP2_TYPES else f"type {type:#x}")


# -- What runs in the learner's own process ------------------------------------------------------------


class TookTooLong(BaseException):
    """No Exception, so that `except Exception` does not catch it."""


def calls_role(exercise: ModuleType, scripts: str) -> list[list[dict[str, Any]]]:
    """Play scripts of [kind, name, arguments]; what came of each call."""
    found = []
    for one in json.loads(scripts):
        signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, MOST)
        found.append(play(exercise, [Call(kind, name, unpacked(given)) for kind, name, given in one]))
        if "late" in found[-1][-1]:
            break  # It would hang at the others, too.
    signal.setitimer(signal.ITIMER_PROF, 0)
    return found


def stop(*_: object) -> None:
    raise TookTooLong


def play(exercise: ModuleType, script: Iterable[Call]) -> list[dict[str, Any]]:
    """What came of each call, up to the first that raised anything; but behind Http3Error one may look at settings."""
    made: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for one in script:
        if found and "value" not in found[-1] and not ("error" in found[-1] and one.name == "settings"):
            break
        found.append(answered(exercise, made, one))
    return found


def answered(exercise: ModuleType, made: dict[str, Any], one: Call) -> dict[str, Any]:
    """What came of a call: a value, an error of the peer's, another exception, or no end."""
    try:
        if one.kind not in made:
            made[one.kind] = getattr(exercise, one.kind)()
        it = made[one.kind]
        if one.name == "settings":
            return {"value": settings_of(it.settings)}
        if one.name == "held":
            return {"value": held(it)}
        arguments = one.arguments
        if one.name == "receive_frame":
            arguments = (exercise.Frame(*arguments),)
        value = getattr(it, one.name)(*arguments)
        if one.kind == "FrameDecoder" and one.name == "receive_data" and value is not None:
            value = list(value)  # A generator will do, too.
        return {"value": packed(value)}
    except exercise.Http3Error as error:
        return {"error": error.code}
    except TookTooLong:
        return {"late": True}
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
        place = f" (line {lines[-1]} of your file)" if lines else ""
        return {"raised": f"{type(error).__name__}: {error}"[:200] + place}


def settings_of(value: Any) -> Any:
    return sorted(map(list, value.items())) if isinstance(value, dict) else packed(value)


def held(value: Any, depth: int = 4) -> int:
    """Bytes in an object, as far as one can see."""
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    if depth == 0:
        return 0
    if isinstance(value, dict):
        return sum(held(one, depth - 1) for one in value.values())
    if isinstance(value, list | tuple | set):
        return sum(held(one, depth - 1) for one in value)
    return sum(held(one, depth - 1) for one in getattr(value, "__dict__", {}).values())


def packed(value: Any) -> Any:
    """Values as JSON can say them."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"hex": bytes(value).hex()}
    if isinstance(value, list | tuple):
        return [packed(one) for one in value]
    return value if isinstance(value, str | bool | int | float | None) else {"other": repr(value)[:80]}


def unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(unpacked(one) for one in value)
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


# -- How the steps ask and judge -----------------------------------------------------------------------


async def hold(c: Check, *scripts: Sequence[Call], random: bool = False) -> None:
    """Each call of each script must be answered as the solution answers it.

    The first script that is not is told; of random ones that which goes wrong soonest, for it explains most.
    """
    jobs = [[[one.kind, one.name, packed(one.arguments)] for one in script] for script in scripts]
    answers = await c.start("calls_role", json.dumps(jobs), host="client").result(PATIENCE - 1)
    wrong = [
        (at, script, found)
        for script, found in zip(scripts, answers, strict=False)
        if (at := first_wrong(script, found)) is not None
    ]
    if wrong:
        show(c, *(min(wrong, key=lambda one: one[0]) if random else wrong[0]))
    c.did(f"= {sum(map(len, scripts))} calls, all of them answered as they should be")


def first_wrong(script: Sequence[Call], found: Sequence[dict[str, Any]]) -> int | None:
    for at, (one, said, wanted) in enumerate(zip(script, found, play(solution, script), strict=False)):
        if not same(one, said, wanted):
            return at
    return None


def same(one: Call, said: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if "value" not in wanted or "value" not in said:
        return said == wanted
    if one.name == "held":
        return bool(said["value"] <= MUCH)
    return bool(joined(said["value"]) == joined(wanted["value"]))


def joined(value: Any) -> Any:
    """Frames, with pieces of the same DATA put together: into how many somebody cuts what he was given is his."""
    if not isinstance(value, list) or not all(is_frame(one) for one in value):
        return value
    whole: list[list[Any]] = []
    for type, payload, ends in value:
        if type == 0 and payload["hex"] == "" and not ends:
            continue  # It says nothing.
        if whole and type == 0 == whole[-1][0] and not whole[-1][2]:
            whole[-1] = [0, {"hex": whole[-1][1]["hex"] + payload["hex"]}, ends]
        else:
            whole.append([type, payload, ends])
    return whole


def is_frame(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], int) and (
        isinstance(value[1], dict) and "hex" in value[1] and isinstance(value[2], bool)
    )  # fmt: skip


def show(c: Check, at: int, script: Sequence[Call], found: Sequence[dict[str, Any]]) -> None:
    """Tell a script up to the call that was answered wrongly; fail."""
    rights = play(solution, script)
    c.story.clear()
    c.did(f"= a new {script[at].kind}")
    for number, end in runs(script[: at + 1], found):
        one, said = script[number], found[number]
        times = f"   {end - number} times" if end - number > 1 else ""
        c.did(f"> {shown(one)}{times}")
        start, stop, text = one.mark
        if number == at and stop:
            before = shown(one).index(in_hex(one.arguments[-1]))
            c.did(" " * (2 + before + 3 * start) + "^" * (3 * (stop - start) - 1) + f" {text}")
        c.did(f"{'<' if 'value' in said else '!'} {told(one, said)}{' each' if times else ''}")
    one, said, right = script[at], found[at], rights[at]
    why = next((other.why for other in (*reversed(script[: at + 1]), *script[at:]) if other.why), "")
    called = one.name if one.name == "settings" else f"{one.name}()"
    prefix = f"{called} raised {said['raised']}. " if "raised" in said else ""
    if "late" in said:
        prefix = f"{called} had not returned after {MOST:g} s of processor time. "
    wanted = f"at most {MUCH:,} bytes" if one.name == "held" else told(one, right)
    has_raised = any("value" not in one for one in found[:at])  # by hand that would be the end
    if not has_raised and (line := by_hand(c, script[: at + 1])):
        c.did(f"= the same by hand: {line}")
    c.fail(prefix + why, got=told(one, said), wanted=wanted)


def runs(script: Sequence[Call], found: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Where calls begin and end that are the same, with the same answer: they are told in one line."""
    start = 0
    for at in range(len(script)):
        if at + 1 == len(script) or (script[at][:3], found[at]) != (script[at + 1][:3], found[at + 1]):
            yield start, at + 1
            start = at + 1


def by_hand(c: Check, script: Sequence[Call]) -> str:
    """A shell line that makes the same calls; "" if it were too long."""
    lines = [f"from {c.exercise_file.stem} import *", f"it = {script[0].kind}()"]
    for one in script:
        given = one.arguments[:1] if one.arguments[1:2] == (b"",) and one.name == "receive_frame" else one.arguments
        words = ", ".join(f"bytes.fromhex('{x.hex()}')" if isinstance(x, bytes) else repr(x) for x in given)
        call = f"it.{one.name}(Frame({words}))" if one.name == "receive_frame" else f"it.{one.name}({words})"
        lines.append({"settings": "print(it.settings)", "held": "print(vars(it))"}.get(one.name, f"print({call})"))
    line = f'cd {os.path.relpath(c.exercise_file.parent)}; python3 -c "{"; ".join(lines)}"'
    return line if len(line) < 300 else ""


def shown(one: Call) -> str:
    """A call as Python writes it; but bytes as hex, and a frame as what it is."""
    if one.name in ("settings", "held"):
        return one.name if one.name == "settings" else "how much does it hold?"
    if one.name == "receive_frame":
        return f"receive_frame({frame(*one.arguments)})"
    words = [in_hex(word) if isinstance(word, bytes) else str(word) for word in one.arguments]
    return f"{one.name}({', '.join(words)})"


def in_hex(data: bytes, most: int = 24) -> str:
    if len(data) <= most:
        return data.hex(" ") or '""'
    return f"{data[:12].hex(' ')} … {len(data):,} bytes"


def frame(type: int, payload: bytes = b"", ends: bool = True) -> str:
    """`HEADERS 00 00 d1`; `DATA 61 62, goes on`."""
    return f"{name_of(type)}{' ' * bool(payload)}{in_hex(payload) if payload else ''}{'' if ends else ', goes on'}"


def told(one: Call, said: dict[str, Any]) -> str:
    """In words what came of a call."""
    if "error" in said:
        return f"Http3Error({CODES.get(said['error'], said['error'])})"
    if "value" not in said:
        return str(said.get("raised", "no end"))
    value = said["value"]
    if one.name == "held":
        return f"{value:,} bytes"
    if one.name == "settings" and isinstance(value, list):
        return "{" + ", ".join(f"{code:#x}: {number}" for code, number in value) + "}"
    if isinstance(value, list) and value and all(is_frame(part) for part in value):
        frames = [frame(type, bytes.fromhex(payload["hex"]), ends) for type, payload, ends in joined(value)]
        listed = frames if len(frames) < 9 else [*frames[:6], f"… {len(frames)} frames"]
        return "[" + "; ".join(listed) + "]"
    if one.kind == "OneWay" and isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
        kind = f"{value[0]:#x}" if isinstance(value[0], int) else value[0]
        return f"{kind}, {in_hex(bytes.fromhex(value[1].get('hex', '')))}"
    return str(value)
