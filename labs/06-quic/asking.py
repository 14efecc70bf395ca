"""How the check of this lab asks and judges: a script of calls goes to the learner's code and to the solution.

A script is a list of `Call`s, made one after the other on one Received and one Sent, both new. What the learner's code
answers must be what the solution answers; the tests hold that one against the RFC's examples and against aioquic.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from labkit.check import Check
from labkit.learner import load

PATIENCE = 10  # seconds for a step: they take a hundredth of that, but not on a machine that is very busy
MOST = 0.5  # seconds of processor time for one script: it takes a thousandth of that
MOST_SAID = 60_000  # bytes of an answer by hand: it must fit into a datagram
CODES = {0x07: "FRAME_ENCODING_ERROR", 0x0A: "PROTOCOL_VIOLATION"}

solution = load(Path(__file__).with_name("solution.py"), "labs_quic_solution")
Ranges = Sequence[tuple[int, int]]


class Call(NamedTuple):
    """A call, with the sentence that a learner reads when its answer is wrong; *mark*: bytes of data to point at."""

    name: str
    arguments: tuple[Any, ...]
    why: str = ""
    mark: tuple[int, int, str] = (0, 0, "")


def call(name: str, *arguments: Any, why: str = "", mark: tuple[int, int, str] = (0, 0, "")) -> Call:
    return Call(name, arguments, why, mark)


# -- What runs in the learner's own process ------------------------------------------------------------


class TookTooLong(BaseException):
    """No Exception, so that `except Exception` does not catch it."""


def calls_role(exercise: ModuleType, scripts: str) -> list[list[dict[str, Any]]]:
    """Play scripts of [name, arguments]; what came of each call."""
    found = []
    for one in json.loads(scripts):
        signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, MOST)
        found.append(play(exercise, [Call(name, unpacked(given)) for name, given in one]))
        if "late" in found[-1][-1]:
            break  # It would hang at the others, too.
    signal.setitimer(signal.ITIMER_PROF, 0)
    return found


def stop(*_: object) -> None:
    raise TookTooLong


def play(exercise: ModuleType, script: Iterable[Call]) -> list[dict[str, Any]]:
    """What came of each call, up to the first that raised something else than it may."""
    books: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for one in script:
        found.append(answered(exercise, lambda one=one: made(exercise, books, one)))
        if "raised" in found[-1] or "late" in found[-1]:
            break
    return found


def made(exercise: ModuleType, books: dict[str, Any], one: Call) -> Any:
    kind = kind_of(one)
    if not kind:
        return getattr(exercise, one.name)(*one.arguments)
    if kind not in books:
        books[kind] = getattr(exercise, kind)()
    if one.name == "largest":
        return books[kind].largest
    if one.name == "receive_ack":
        ranges, delay, now = one.arguments
        return books[kind].receive_ack(exercise.Ack([(first, last) for first, last in ranges], delay, 0), now)
    return getattr(books[kind], one.name)(*one.arguments)


def kind_of(one: Call) -> str:
    """The class whose method it is; "" for a function."""
    if one.name.startswith(("encode", "decode")):
        return ""
    return "Sent" if one.name in ("send", "receive_ack", "lost", "timer") else "Received"


def answered(exercise: ModuleType, made: Callable[[], Any]) -> dict[str, Any]:
    """What came of a call: a value, an error of the peer's, an error of the caller's, another exception, or no end."""
    try:
        return {"value": packed(made())}
    except exercise.QuicError as error:
        return {"error": error.code}
    except TookTooLong:
        return {"late": True}
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
        place = f" (line {lines[-1]} of your file)" if lines else ""
        said = {"raised": f"{type(error).__name__}: {error}"[:200] + place}
        return {"refused": True} | said if type(error) is ValueError else said


def packed(value: Any) -> Any:
    """Values as JSON can say them."""
    if isinstance(value, bytes | bytearray):
        return {"hex": value.hex()}
    if isinstance(value, list | tuple):
        return [packed(one) for one in value]
    return value if isinstance(value, str | bool | int | float | None) else {"other": repr(value)[:80]}


def unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(unpacked(one) for one in value)
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


# -- By hand: the same calls, as text in a datagram ----------------------------------------------------


def by_hand_role(exercise: ModuleType, host: str, port: str) -> None:
    """Each datagram is a script, as `spoken` writes it; the answer has a line for each call."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, int(port)))
        while True:
            text, peer = sock.recvfrom(65535)
            sock.sendto(heard(exercise, text.decode(errors="replace")).encode()[:MOST_SAID], peer)


def heard(exercise: ModuleType, text: str) -> str:
    """Play what somebody typed, if all of it can be understood; say what came of it."""
    script, lines = [], [one.strip() for one in re.split(r"[;\n]", text) if one.strip()]
    if "help" in lines:
        return HELP
    for line in lines:
        try:
            script.append(typed(line))
        except (ValueError, IndexError):
            return f"What is {line[:60]!r}? help says what there is. Nothing was called.\n"
    found = play(exercise, script)
    return "".join(f"{shown(one)} -> {told(one, said)}\n" for one, said in zip(script, found, strict=False))


FORMS = {  # what each call takes: data, number, ranges, time; a small letter may be left out
    "encode_varint": "N", "decode_varint": "Dn", "encode_number": "NN", "decode_number": "DN", "decode_ack": "Dn",
    "receive": "Net", "ranges": "", "due": "", "ack": "t", "forget": "N", "largest": "",
    "send": "Net", "receive_ack": "Rtt", "lost": "t", "timer": "",
}  # fmt: skip

WORDS = {"N": "number", "D": "bytes", "T": "seconds", "E": "yes|no", "R": "ranges"}
HELP = "".join(
    " ".join([name, *(WORDS[form] if form.isupper() else f"[{WORDS[form.upper()]}]" for form in forms)]) + "\n"
    for name, forms in FORMS.items()
) + "Bytes are hex, ranges like 5-8,0-2; between two calls is a ; and each line has new books.\n"  # fmt: skip


def typed(text: str) -> Call:
    """One call as a person types it."""
    name, *words = text.split()
    arguments: list[Any] = []
    for form in FORMS[name] if name in FORMS else "N" * (1 + len(words)):  # A name that is unknown lacks a word.
        if form.isupper() or words:
            word = words.pop(0)
            if form in "Dd":
                arguments.append(bytes.fromhex(word.replace("-", "")))
            elif form == "R":
                arguments.append([(int(a), int(b or a)) for a, _, b in (one.partition("-") for one in word.split(","))])
            else:
                arguments.append(word != "no" if form == "e" else float(word) if form == "t" else int(word, 0))
        else:
            arguments.append({"n": 0, "e": True, "t": 0.0}[form])
    return Call(name, tuple(arguments))


def spoken(script: Iterable[Call]) -> str:
    """A script as a person can type it."""
    said = []
    for one in script:
        words = [one.name]
        for form, value in zip(FORMS[one.name], one.arguments, strict=True):
            if form == "R":
                words.append(",".join(f"{first}-{last}" for first, last in value))
            elif form == "e":
                words.append("yes" if value else "no")
            else:
                words.append((value.hex() or "-") if form in "Dd" else f"{value:.9g}" if form == "t" else str(value))
        while len(words) > 1 and FORMS[one.name][len(words) - 2].islower() and words[-1] in ("0", "yes"):
            words.pop()
        said.append(" ".join(words))
    return "; ".join(said)


# -- How the steps ask and judge -----------------------------------------------------------------------


async def hold(c: Check, *scripts: Sequence[Call], random: bool = False) -> None:
    """Each call of each script must be answered as the solution answers it.

    The first script that is not is told; of random ones that which goes wrong soonest, for it explains most.
    """
    jobs = [[[one.name, packed(one.arguments)] for one in script] for script in scripts]
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
    asks: dict[int, bool] = {}  # of the packets on the way: does it ask for an ACK?
    given_up: set[int] = set()  # Nobody waits for them, and the RFC does not say whether their ACK is news.
    for at, (one, said, wanted) in enumerate(zip(script, found, play(solution, script), strict=False)):
        if one.name == "receive_ack" and isinstance(said.get("value"), list):
            late = {n for n in given_up if n in said["value"] and any(a <= n <= b for a, b in one.arguments[0])}
            said = {"value": list(said["value"])}
            for number in late:  # It names each once.
                said["value"].remove(number)
            given_up -= late
        if not same(one.name, said, wanted):
            return at
        if one.name == "send":
            asks[one.arguments[0]] = one.arguments[1]
        elif one.name in ("receive_ack", "lost") and "value" in wanted:
            for number in wanted["value"]:
                asks.pop(number, None)
            if one.name == "lost":
                given_up.update(wanted["value"])
            else:
                given_up.update(n for n, asked in asks.items() if not asked and n < one.arguments[0][0][1])
                asks = {n: asked for n, asked in asks.items() if n not in given_up}
    return None


def smoothed(script: Sequence[Call]) -> float:
    """The round trip that the solution has learned by the end of a script."""
    books: dict[str, Any] = {}
    for one in script:
        made(solution, books, one)
    return float(books["Sent"]._smoothed)


def same(name: str, said: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if "value" not in wanted:
        return said.get("error") == wanted.get("error") and said.get("refused") == wanted.get("refused")
    if "value" not in said:
        return False
    got, right = said["value"], wanted["value"]
    if name in ("receive_ack", "lost") and isinstance(got, list):
        with contextlib.suppress(TypeError):
            return sorted(got) == sorted(right)
    return got == right or (name == "ack" and same_frame(got, right)) or alike(got, right)


def same_frame(got: Any, wanted: Any) -> bool:
    """ACK frames may differ by one in their delay, as floats are rounded; by no more, and in nothing else."""
    with contextlib.suppress(solution.QuicError, TypeError, KeyError):
        one, other = (solution.decode_ack(bytes.fromhex(frame["hex"]), 0) for frame in (got, wanted))
        return len(got["hex"]) == len(wanted["hex"]) and one.ranges == other.ranges and abs(
            one.delay - other.delay
        ) < 1.5 * solution.DELAY_UNIT  # fmt: skip
    return False


def alike(got: Any, wanted: Any) -> bool:
    """Equal, but for the last digits of a float."""
    if isinstance(wanted, list) and isinstance(got, list):
        return len(got) == len(wanted) and all(map(alike, got, wanted))
    if isinstance(wanted, float) and isinstance(got, int | float):
        return abs(got - wanted) < 1e-6
    return bool(got == wanted)


def show(
    c: Check,
    at: int,
    script: Sequence[Call],
    found: Sequence[dict[str, Any]],
    why: str = "",
    before: Sequence[str] = (),
) -> None:
    """Tell lines *before*, and a script up to the call that was answered wrongly; fail. *why*: if no call says it."""
    rights = play(solution, script)
    c.story.clear()
    if (kind := kind_of(script[at])) and not before:
        c.did(f"= a new {kind}: it knows nothing of what others were told")
    for line in before:
        c.did(line)
    calls, answers = script[: at + 1], found[: at + 1]
    if before and at >= FEW:
        numbers = in_question(script[at], found[at], rights[at])
        telling = [*about(numbers, calls, answers), at]
        what = f"packet {number(min(numbers))}" if numbers else f"{script[at].name}()"
        c.did(f"= of {at + 1} calls, the last about {what}:")
        calls, answers = [script[i] for i in telling], [found[i] for i in telling]
    for first, end in runs(calls, answers):
        one, said = calls[first], answers[first]
        c.did(f"> {shown(one, [other.arguments[0] for other in calls[first:end] if end > first + 1])}")
        start, stop, text = one.mark
        if end == len(calls) and stop:
            c.did(" " * (len(one.name) + 3 + 3 * start) + "^" * (3 * (stop - start) - 1) + f" {text}")
        if one.name not in QUIET or "value" not in said:
            c.did(f"{'<' if 'value' in said else '!'} {told(one, said)}{' each' if end > first + 1 else ''}")
    one, said, right = script[at], found[at], rights[at]
    why = next((earlier.why for earlier in reversed(script[: at + 1]) if earlier.why), why)
    prefix = f"{one.name}() raised {said['raised']}. " if "raised" in said else ""
    if "late" in said:
        prefix = f"{one.name}() had not returned after {MOST} s of processor time. "
    got, wanted = told(one, said), told(one, right)
    if all("value" in one and isinstance(one["value"], dict) and "hex" in one["value"] for one in (said, right)):
        got, wanted = (bytes.fromhex(one["value"]["hex"]) for one in (said, right))
    line = spoken(script[: at + 1])
    reproduce = f"echo '{line}' | nc -u -w1 127.0.0.1 7006" if len(line) < 300 else ""
    c.fail(prefix + why, got=got, wanted=wanted, reproduce=reproduce)


QUIET = ("send", "forget")  # They return nothing.
FEW = 5  # calls of a long script that are told: a verdict has a dozen lines


def in_question(one: Call, said: dict[str, Any], right: dict[str, Any]) -> set[int]:
    """The packets that a wrong answer is about: those that are in it and should not be, or the other way round."""
    if one.name in ("receive", "send", "forget"):
        return {one.arguments[0]}
    edges = []
    for answer in (said.get("value"), right.get("value")):
        with contextlib.suppress(solution.QuicError, TypeError, KeyError, ValueError):
            if one.name == "ack":
                answer = [n for pair in solution.decode_ack(bytes.fromhex(answer["hex"]), 0).ranges for n in pair]
            edges.append({n for n in answer if isinstance(n, int)})
    return set.symmetric_difference(*edges) if len(edges) == 2 else set()


def about(numbers: set[int], calls: Sequence[Call], answers: Sequence[dict[str, Any]]) -> list[int]:
    """Which calls before the last tell of the first of these packets, and the last that was like it."""
    least, last = min(numbers, default=-1), len(calls) - 1
    found, similar = [], []
    for at, (one, said) in enumerate(zip(calls[:last], answers, strict=False)):
        if kind_of(one) != kind_of(calls[last]):
            continue
        named = said["value"] if isinstance(said.get("value"), list) else []
        if (one.name in ("send", "receive", "forget") and one.arguments[0] == least) or least in named:
            found.append(at)
        if one.name in (calls[last].name, "receive_ack"):
            similar.append(at)
    return sorted({*found[: FEW - 2], *(similar[-1:] if found else similar[2 - FEW :])})


def runs(script: Sequence[Call], found: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Where calls begin and end that differ in their packet number alone: they are told in one line, but the last."""
    start = 0
    for at, one in enumerate(script):
        after = script[at + 1] if at + 2 < len(script) else None
        if (
            after is None
            or one.name not in ("send", "receive")
            or (one.name, one.arguments[1:], found[at]) != (after.name, after.arguments[1:], found[at + 1])
        ):
            yield start, at + 1
            start = at + 1


def shown(one: Call, numbers: Sequence[int] = ()) -> str:
    """A call as Python writes it; but bytes as hex, and a time as what it is. *numbers*: of packets, instead of one."""
    if len(numbers) > 1:
        listed = [number(value) for value in numbers]
        told = listed if len(listed) < 13 else [*listed[:6], "…", *listed[-4:]]
        return f"{one.name}({' '.join(told)}, {shown(one).partition(', ')[2]}"
    words = []
    for form, value in zip(FORMS[one.name].upper(), one.arguments, strict=True):
        if form == "D":
            words.append(value.hex(" ") or '""')
        elif form == "R":
            words.append(ranges_in_words(value))
        elif form == "T":
            words.append(f"{1000 * value:g} ms")
        elif form == "E":
            words.append("eliciting" if value else "not eliciting")
        else:
            words.append(number(value))
    return f"{one.name}({', '.join(words)})"


def number(value: int) -> str:
    """A number, in hex where that says more."""
    return f"{value:,}".replace(",", "_") if abs(value) < 1 << 20 else f"{value:#x}"


def ranges_in_words(ranges: Any) -> str:
    """[(5, 8), (0, 0)] as `[5-8, 0]`."""
    try:
        pairs = [(number(first), number(last)) for first, last in ranges]
    except (TypeError, ValueError):
        return repr(ranges)[:200]
    return "[" + ", ".join(first if first == last else f"{first}-{last}" for first, last in pairs) + "]"


def told(one: Call, said: dict[str, Any]) -> str:
    """In words what came of a call."""
    if "error" in said:
        return f"QuicError({CODES.get(said['error'], said['error'])})"
    if "refused" in said:
        return "ValueError"
    if "value" not in said:
        return str(said.get("raised", "no end"))
    value = said["value"]
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]).hex(" ") or 'b""' if "hex" in value else str(value["other"])
    if one.name == "ranges":
        return ranges_in_words(value)
    if one.name == "decode_ack" and isinstance(value, list) and len(value) == 3 and isinstance(value[1], float | int):
        return f"{ranges_in_words(value[0])}, delay {1e6 * value[1]:g} µs, ends at {value[2]}"
    if one.name == "decode_varint" and isinstance(value, list) and len(value) == 2:
        return f"{value[0]}, ends at {value[1]}"
    if one.name in ("due", "timer") and isinstance(value, float | int):
        return f"{1000 * value:.6g} ms"
    if one.name == "decode_number" and isinstance(value, int):
        return f"{value} = {value:#x}"
    return str(value)
