"""Runs the check of a lab against a learner's program, and tells the verdict like a teacher."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit import console, evidence, pcapng, progress, sandbox
from labkit import lab as labs
from labkit.catalog import Lab
from labkit.check import Check, Step, run_steps, steps_of
from labkit.lab import Network
from labkit.run import capture_path, why_no_wire
from labkit.sandbox import CannotRun, Event, Inside, World

_SIDES = ("client", "server")


def grade(lab: Lab, exercise: Path, capture: Path | None = None) -> tuple[list[Step], list[Event]]:
    """Run all steps; return them and the final event of each that ran ("passed", "failed", "cannot").

    Raises CannotRun where nothing can be said about the program.
    """
    if not exercise.is_file():
        raise CannotRun(f"There is no file {exercise}.")
    steps = steps_of(lab.module("check"))
    check_file = lab.folder / "check.py"
    verdicts: list[Event] = []

    def take(event: Event) -> None:
        if event.get("state") in ("passed", "failed", "cannot"):
            verdicts.append(event)
        elif "crashed" in event or "failed" in event:
            reason = event.get("crashed") or event["failed"]
            raise CannotRun(f"The check itself broke. This is a bug in the lab:\n{reason}")

    def perform(net: Network) -> None:
        asyncio.run(run_steps(Check(net, check_file, exercise), steps, net.emit))

    if why_no_wire():
        _need_free_port(lab.port)
        perform(labs.on_loopback(_SIDES, lab.port, take))
    else:
        capture = capture or capture_path(lab.slug, "check")
        world = World(_SIDES, capture=capture, comment="check", seconds=sum(step.seconds for step in steps) + 5)

        def inside_world(inside: Inside) -> None:
            perform(labs.on_the_wire(inside, lab.port, 1))

        sandbox.run(world, inside_world, take)
    return steps, verdicts


def _need_free_port(port: int) -> None:
    """On plain loopback another server on the port would be graded in place of the learner's."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise CannotRun(
                    f"Port {port} of this machine is in use; is the lab's server running? Stop it first."
                ) from None


def report(lab: Lab, exercise: Path, *, own: bool = True) -> int:
    """Grade, print, note the progress (of the learner's *own* file); return the exit code."""
    start = time.monotonic()
    steps, verdicts = grade(lab, exercise)
    console.heading(f"{lab.slug}: checking {_relative(exercise)}")
    for verdict in verdicts:
        good = verdict["state"] == "passed"
        console.say(f"  {console.mark(good) if verdict['state'] != 'cannot' else '-'} {steps[verdict['step']].title}")
    passed = sum(v["state"] == "passed" for v in verdicts)
    failed = next((v for v in verdicts if v["state"] == "failed"), None)
    if own:
        progress.note(lab.slug, "check", passed=passed, of=len(steps))
    if failed is not None:
        for step in steps[failed["step"] + 1 :]:
            console.say(console.style(f"  · {step.title}", "dim"))
        _explain(lab, steps[failed["step"]], failed)
        return 1
    unknown = [v for v in verdicts if v["state"] == "cannot"]
    if unknown or len(verdicts) < len(steps):
        reason = unknown[0]["reason"] if unknown else "the check ended early"
        console.say(f"\n{passed} of {len(steps)} steps passed; the rest could not run: {reason}")
        return 2
    console.say(f"\n{console.style('All passed', 'green', 'bold')} in {time.monotonic() - start:.1f} s.")
    if after := getattr(lab.module("check"), "AFTER", ""):
        console.say()
        console.paragraph(after)
    console.say(f"\nNext: `make {lab.slug}-quiz`, then the interview questions in {_relative(lab.folder)}/README.md")
    return 0


def _explain(lab: Lab, step: Step, verdict: Event) -> None:
    console.heading(f"✗ {step.title}")
    console.paragraph(verdict["what"])
    if verdict["story"]:
        console.say("\n  What was done (> to your program, < from it, = what was seen, ! an error):")
        for number, line in enumerate(verdict["story"], 1):
            console.say(f"    {number:2}. {line}")
    _compare(verdict["got"], verdict["wanted"])
    if verdict["printed"]:
        console.say("\n  Your program printed:")
        for line in verdict["printed"].splitlines()[-12:]:
            console.say(f"    | {line}")
    _cite(lab, verdict["filter"], verdict["at"])
    console.say()
    console.paragraph(f"Rule: {step.rfc}")
    if verdict["reproduce"]:
        console.say(f"  By hand:  make {lab.slug}-exercise   and in a second terminal")
        console.say(f"            {verdict['reproduce']}")
    console.say(f"  Stuck?  make {lab.slug}-hint")


def _compare(got: dict[str, str] | None, wanted: dict[str, str] | None) -> None:
    """Show what came and what was wanted, with a caret under the first byte that differs."""
    if got is None and wanted is None:
        return
    console.say()
    if got and wanted and "bytes" in got and "bytes" in wanted:
        left, right = bytes.fromhex(got["bytes"]), bytes.fromhex(wanted["bytes"])
        first = next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
        start = max(0, first - 8)
        console.say(f"  wanted  {_dump(right, start)}")
        console.say(f"  got     {_dump(left, start)}")
        if left != right:
            ahead = 2 if start else 0
            console.say(f"          {' ' * (ahead + 3 * (first - start))}^ byte {first}")
        return
    for name, value in (("wanted", wanted), ("got", got)):
        if value is not None:
            text = _dump(bytes.fromhex(value["bytes"]), 0) if "bytes" in value else value["text"]
            console.say(f"  {name:7} {text[:600]}")


def _dump(data: bytes, start: int, most: int = 16) -> str:
    """Bytes from *start* as hex and as text."""
    piece = data[start : start + most]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
    lead, trail = ("… " if start else ""), (" …" if start + most < len(data) else "")
    return f"{lead}{piece.hex(' ') or '(nothing)'}{trail}   {text}".rstrip()


def _cite(lab: Lab, display_filter: str, until: float) -> None:
    """Name the frame of the learner's own capture that shows it: the last one before the verdict."""
    if why_no_wire():
        return
    capture = capture_path(lab.slug, "check")
    if next(pcapng.read(capture), None) is None:
        return  # A step without a network.
    console.say(f"\n  Capture:  {_relative(capture)}")
    if not display_filter:
        return
    try:
        found = evidence.frames(capture, f"({display_filter}) && frame.time_epoch <= {until:.6f}")
    except CannotRun as error:
        console.say(f"  (No frame to cite: {error})")
        return
    if found:
        console.say(f"  Evidence: frame {found[-1].number}: {found[-1].info}")
    else:
        console.say("  Evidence: until then no packet of your program matches; that is the finding.")
    console.say(f"  Filter:   {display_filter}")


def hint(lab: Lab) -> int:
    """Climb the ladder of hints by one, for the step at which the learner is."""
    notes = progress.load().get(lab.slug, {}).get("check", {})
    steps = steps_of(lab.module("check"))
    at = int(notes.get("passed", 0))
    if not notes:
        console.say(f"Try first: edit {_relative(lab.folder)}/exercise.py and run `make {lab.slug}-check`.")
        return 0
    if at >= len(steps):
        console.say(f"You have solved it. `make {lab.slug}-quiz` comes next.")
        return 0
    level = notes.get("hint", 0) + 1 if notes.get("hint_step") == at else 1
    again = level > 3
    level = min(level, 3)
    progress.note(lab.slug, "check", hint=level, hint_step=at)
    step = steps[at]
    console.heading(f"Hint {level} of 3 for: {step.title}")
    for name, text in zip(("Symptom", "Where to look", "The code"), step.hints[:level], strict=False):
        console.say(console.style(f"  {name}", "bold"))
        if name == "The code":
            for line in text.strip("\n").splitlines():
                console.say(f"    {line}")
        else:
            console.paragraph(text, "    ")
    if again:
        console.say(f"\nThat was the last hint. One way to write it is {_relative(lab.folder)}/solution.py.")
    elif level < 3:
        console.say(f"\nStill stuck? The next `make {lab.slug}-hint` says more.")
    return 0


def watch(files: list[Path], again: Callable[[], Any]) -> None:
    """Call *again* now and whenever one of the files is saved, until Ctrl-C."""
    stamp = None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            now = [file.stat().st_mtime_ns if file.exists() else 0 for file in files]
            if now != stamp:
                stamp = now
                again()
                console.say(console.style("\nWatching. Save the file to check again, Ctrl-C to stop.", "dim"))
            time.sleep(0.3)


def _relative(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)
