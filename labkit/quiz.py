"""Questions to answer from the learner's own capture; the right answer is read out of that capture.

labs/NN-<slug>/questions.toml holds them:

    [[question]]
    experiment = "handshake"       whose packets
    text = "How many bytes …?"
    filter = "tcp.flags.syn == 1"  a Wireshark display filter
    field = "tcp.seq_raw"          a field of the packets that match
    take = "first"                 first, last, count, distinct, sum, min or max of it
    tolerance = 0.1                how far off a number may be, as a fraction (default: not at all)
    unit, hints, explain           for people
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import console, evidence, progress
from labkit.catalog import Lab
from labkit.sandbox import CannotRun

_BYTES = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+")  # as some tools print them, where others leave out the colons

TAKES = ("first", "last", "count", "distinct", "sum", "min", "max")


@dataclass(frozen=True)
class Question:
    experiment: str
    text: str
    filter: str
    field: str
    take: str
    hints: tuple[str, ...]
    explain: str
    unit: str = ""
    tolerance: float = 0.0


def questions(lab: Lab) -> list[Question]:
    """The questions of a lab. ValueError where the file asks for what does not exist."""
    known = {one.name for one in lab.experiments()}
    found = []
    for entry in lab.questions():
        question = Question(**{**entry, "hints": tuple(entry["hints"])})
        if question.take not in TAKES or question.experiment not in known:
            raise ValueError(f"{lab.slug}: question {question.text!r}: unknown take or experiment")
        found.append(question)
    return found


def display_filter(lab: Lab, question: Question) -> str:
    """The filter, narrowed to the packets of the question's experiment."""
    names = [one.name for one in lab.experiments()]
    number = names.index(question.experiment) + 1
    return f"ip.addr == 10.0.{number}.0/24 && ({question.filter})"


def right_answer(lab: Lab, question: Question, capture: Path) -> str:
    """The answer that this capture gives. CannotRun where it has no packets of the experiment."""
    rows = evidence.fields(capture, display_filter(lab, question), question.field)
    values = [row[0] for row in rows if row and row[0]]
    if question.take == "count":
        answer = str(len(rows))
        empty = not rows
    else:
        empty = not values
        answer = "" if empty else _taken(question.take, values)
    if empty:
        raise CannotRun(f"{capture.name} has no packets for this question. Run `make {lab.slug}` again, to its end.")
    return answer


def _taken(take: str, values: list[str]) -> str:
    if take == "first":
        return values[0]
    if take == "last":
        return values[-1]
    if take == "distinct":
        return str(len(set(values)))
    numbers = [_number(value) for value in values]
    found = math.fsum(numbers) if take == "sum" else min(numbers) if take == "min" else max(numbers)
    return f"{found:.9g}" if found % 1 else str(int(found))


def _number(text: str) -> float:
    cleaned = text.strip().lower().replace(",", "").replace("_", "")
    if cleaned.startswith("0x"):
        return float(int(cleaned, 16))
    if cleaned in ("true", "false"):
        return float(cleaned == "true")
    return float(cleaned)


def is_right(question: Question, given: str, right: str) -> bool:
    """True when what was typed means the right answer: 0x10 is 16, "1,448 bytes" is 1448, 1f:4E:74 is 1f4e74."""
    words = given.strip().removesuffix(question.unit).strip() if question.unit else given.strip()
    if _BYTES.fullmatch(words) or _BYTES.fullmatch(right):
        return _digits(words) == _digits(right)
    try:
        return math.isclose(_number(words), _number(right), rel_tol=question.tolerance, abs_tol=1e-9)
    except (ValueError, OverflowError):
        return words.casefold() == right.casefold()


def _digits(text: str) -> str:
    return text.replace(":", "").lower()


def ask(lab: Lab, capture: Path) -> int:
    """Ask all questions on the terminal (or read answers from a pipe, one per line)."""
    asked = questions(lab)
    right_answer(lab, asked[0], capture)  # No tshark, no capture: say so before the first question.
    console.heading(f"{lab.slug}: {len(asked)} questions about your own packets in {_name(capture)}")
    console.paragraph("Type an answer; an empty line or “hint” for a hint, “skip” for the answer, “quit” to leave.")
    right = seen = 0
    for number, question in enumerate(asked, 1):
        network = display_filter(lab, question).split()[2]
        console.heading(f"{number}. {question.experiment}, {network}")
        console.paragraph(question.text + (f"  ({question.unit})" if question.unit else ""))
        outcome = _one(lab, question, capture)
        if outcome is None:
            break
        right += outcome
        progress.note(lab.slug, "quiz", **{str(number): bool(outcome)})
        seen += 1
    console.say(f"\n{right} of {seen} right" + (f"; {len(asked) - seen} not asked yet." if seen < len(asked) else "."))
    return 0 if right == seen else 1


def _one(lab: Lab, question: Question, capture: Path) -> bool | None:
    """Ask one question until it is answered. None: the learner has left."""
    right = right_answer(lab, question, capture)
    where = f"tshark -r {_name(capture)} -Y '{display_filter(lab, question)}' -T fields -e {question.field}"
    hints = [*question.hints, where]
    tries = 3
    while True:
        try:
            given = input(console.plain("  > ")).strip()
        except EOFError:
            console.say()
            return None
        if given in ("quit", "exit", "q"):
            return None
        if given.lower() in ("", "hint", "h", "?"):
            hint = hints.pop(0) if hints else "There are no more hints; “skip” tells the answer."
            if hint is where:
                console.say(f"    {hint}")  # Never wrapped: it is there to be copied.
            else:
                console.paragraph(hint, "    ")
            continue
        if given != "skip" and is_right(question, given, right):
            console.say(f"  {console.mark(True)} {right} {question.unit}".rstrip())
            console.paragraph(question.explain, "    ")
            return True
        tries -= 1
        if given == "skip" or not tries:
            sign = "=" if given == "skip" else console.mark(False)
            console.say(f"  {sign} In your capture it is {right} {question.unit}".rstrip() + ". See for yourself:")
            console.say(f"    {where}")
            console.paragraph(question.explain, "    ")
            return False
        left = "one try" if tries == 1 else f"{tries} tries"
        console.say(f"  {console.mark(False)} No; {left} left. An empty line gives a hint.")


def as_json(lab: Lab, capture: Path) -> list[dict[str, Any]]:
    """Questions with the answers that the capture gives, for machines."""
    return [
        {"text": q.text, "filter": display_filter(lab, q), "field": q.field, "take": q.take,
         "answer": right_answer(lab, q, capture)}
        for q in questions(lab)
    ]  # fmt: skip


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
