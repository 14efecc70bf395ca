"""`make <slug>`: ask, run, show the packets and the measured values, explain, and say what comes next."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shutil
import sys
import textwrap
from pathlib import Path

from labkit import console, ladder, progress
from labkit.catalog import Lab
from labkit.lab import Experiment, bounds
from labkit.run import Outcome, capture_path, run_experiment, why_no_wire
from labkit.sandbox import CannotRun


def run_lab(lab: Lab, only: str | None, *, as_json: bool, vantage: str | None) -> int:
    """Run the experiments of a lab, or only one; return the exit code."""
    chosen = [lab.experiment(only)] if only else lab.experiments()
    hosts = sorted({host for one in chosen for host in one.hosts})
    if vantage is not None and vantage not in hosts:
        raise CannotRun(f"There is no host {vantage!r} to look from. There are: {', '.join(hosts)}, and all.")
    capture = capture_path(lab.slug, chosen[0].name if only else "")
    asking = not as_json and sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("PREDICT") != "0"
    if not as_json:
        _introduce(lab, len(chosen), asking)
    outcomes = []
    guesses: dict[str, bool] = {}
    lock = None if only else _lock(lab)
    for index, one in enumerate(chosen):
        if as_json:
            outcomes.append(run_experiment(lab, one, capture, append=index > 0, vantage=vantage))
            continue
        is_skipped = one.needs_wire and why_no_wire() != ""  # Then nobody is asked.
        _announce(one, index + 1, len(chosen), asking and not is_skipped)
        guess = None if is_skipped else _predict(one, asking)
        outcome = run_experiment(lab, one, capture, append=index > 0, vantage=vantage)
        outcomes.append(outcome)
        progress.note(lab.slug, "run", **{one.name: outcome.state})
        _show(outcome)
        if outcome.state == "passed":
            if guess is not None:
                guesses[one.name] = guess == one.answer
                progress.note(lab.slug, "predict", **{one.name: guess == one.answer})
            _score(one, guess)
    if lock is not None:
        os.close(lock)
    if as_json:
        print(json.dumps([outcome.as_json() for outcome in outcomes], indent=1))
    else:
        _conclude(lab, outcomes, capture, guesses)
    if any(outcome.state == "failed" for outcome in outcomes):
        return 1
    return 2 if all(outcome.state == "skipped" for outcome in outcomes) else 0


def _lock(lab: Lab) -> int:
    """Keep the lab's capture to this run. The lock is on the lab's folder, and ends with the process."""
    fd = os.open(lab.folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise CannotRun(f"Another `make {lab.slug}` is running. Wait for its end.") from None
    return fd


def _introduce(lab: Lab, count: int, asking: bool) -> None:
    console.heading(f"Lab {lab.number:02} · {lab.slug}: {lab.title}")
    where = "plain loopback" if why_no_wire() else f"{'a wire of its own' if count == 1 else 'a wire of their own'}"
    console.say(f"  {count} experiment{'s' * (count != 1)} on {where}; the sheet is labs/{lab.folder.name}/README.md")
    if why := why_no_wire():
        console.say(f"  No wire here ({why}).")
        console.say("  Experiments that need one are skipped, the others run on loopback. `make doctor` says more.")
    else:
        console.say("  Diagrams: time, sequence numbers and lengths as the client sees them;")
        console.say("  on the right, what the wire did to the packet (+25.0 ms: it took so long).")
    if asking:
        console.say("  Before each: a question. Type the number of your answer, or Enter to pass.")
        console.say("  (PREDICT=0: no questions.)")


def _announce(one: Experiment, number: int, count: int, asking: bool) -> None:
    """Say what comes. The title may give the answer away, so who is asked sees it afterwards."""
    console.heading(f"[{number}/{count}]" + ("" if asking else f" {one.title}   ({one.name})"))
    links = {str(link) for link in one.links.values()}
    if links and not why_no_wire():
        if len(links) == 1 and len(one.links) == len(one.hosts) * (len(one.hosts) - 1):
            console.say(f"  Link, each way: {links.pop()}")
        else:
            for (source, target), link in one.links.items():
                console.say(f"  Link {source} → {target}: {link}")


def _predict(one: Experiment, asking: bool) -> str | None:
    """Ask the question; return the choice, None for a pass. Where nobody can answer, only tell it."""
    choices = in_order(one)
    if not asking:
        console.paragraph(f"Question: {one.question}")
        line = "    " + "  |  ".join(choices)
        for text in [line] if len(line) <= console.width() else [_hung("    |  ", choice) for choice in choices]:
            console.say(text)
        return None
    console.paragraph(one.question)
    for number, choice in enumerate(choices, 1):
        console.say(_hung(f"    {number}  ", choice))
    guess = None
    while guess is None:
        try:
            given = input("  Your answer: ").strip()
        except EOFError:
            console.say()
            break
        if not given:
            break
        if given.isdigit() and 1 <= int(given) <= len(choices):
            guess = choices[int(given) - 1]
        elif given in choices:
            guess = given
        else:
            console.say(f"  The number in front of it, please, 1 to {len(choices)}, or Enter to pass.")
    console.heading(f"  {one.title}   ({one.name})")
    return guess


def in_order(one: Experiment) -> list[str]:
    """The choices as they are shown: always in the same order, yet one that does not tell the author's habits."""
    choices = list(one.choices)
    random.Random(one.name).shuffle(choices)
    return choices


def _hung(mark: str, text: str) -> str:
    """The text after its mark, wrapped below its own beginning. Colours take no room."""
    indent = " " * len(re.sub(r"\x1b\[\d*m", "", mark))
    return mark + textwrap.fill(text, console.width(), initial_indent=indent, subsequent_indent=indent)[len(indent) :]


def _show(outcome: Outcome) -> None:
    if outcome.packets:
        console.say()
        drawn = ladder.draw(outcome.packets, outcome.experiment.hosts, console.width() - 2, secrets=outcome.secrets)
        for line in drawn:
            console.say(f"  {line}")
    console.say()
    for event in outcome.events:
        if "measure" in event:
            low, high = event["at_least"], event["at_most"]
            good = (low is None or event["value"] >= low) and (high is None or event["value"] <= high)
            value = f"{_number(event['value'])} {event['unit']}".rstrip()
            asserted = console.style(f"({bounds(low, high, event['unit'])})", "dim")
            line = f"{event['measure']}: {value}"
            fits = len(line) + len(bounds(low, high, event["unit"])) + 9 <= console.width()
            line = f"{event['measure']}: {console.style(value, 'bold')}"
            console.say(f"  {console.mark(good)} {line}" + (f"   {asserted}" if fits else f"\n      {asserted}"))
        elif "seen" in event:
            console.say(_hung(f"  {console.mark(event['holds'])} ", event["seen"]))
        elif "note" in event:
            console.say(_hung("  = ", event["note"]))
    if outcome.state == "skipped":
        mark = f"  {console.style('skipped', 'yellow')} "
        console.say(_hung(mark, f"{outcome.experiment.name}: {outcome.reason}"))
    elif outcome.crash:
        console.say(_hung(f"  {console.mark(False)} ", f"It crashed: {outcome.crash.splitlines()[-1]}"))
        again = f"labkit run … --exp {outcome.experiment.name} --json"
        console.paragraph(f"If you changed something, that may be why; else it is our bug. Traceback: {again}", "    ")
    elif outcome.state == "failed":
        console.say(_hung(f"  {console.mark(False)} ", f"This run did not show it: {outcome.reason}"))
        again = f"run it again, with EXP={outcome.experiment.name}."
        console.paragraph("If you have changed something, that is your finding. If not, a busy machine can do that: "
                          f"{again}", "    ")  # fmt: skip


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.1f}"


def _score(one: Experiment, guess: str | None) -> None:
    if guess is None:
        console.say(f"\n  Answer: {one.answer}")
    elif guess == one.answer:
        console.say(f"\n  {console.mark(True)} You predicted {guess}.")
    else:
        console.say()
        console.say(_hung(f"  {console.mark(False)} You said:  ", guess))
        console.say(_hung("    It is:     ", one.answer))
    console.say()
    console.paragraph(one.why)


def _conclude(lab: Lab, outcomes: list[Outcome], capture: Path, guesses: dict[str, bool]) -> None:
    counts = {state: sum(o.state == state for o in outcomes) for state in ("passed", "failed", "skipped")}
    console.heading(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    if guesses:
        console.say(f"  You predicted {sum(guesses.values())} of {len(guesses)} right.")
    if counts["skipped"]:
        console.say(f"  Skipped: {', '.join(o.experiment.name for o in outcomes if o.state == 'skipped')}")
    if counts["failed"]:
        console.say(f"  Failed: {', '.join(o.experiment.name for o in outcomes if o.state == 'failed')}")
    recorded = any(outcome.packets for outcome in outcomes)
    if recorded:
        packets = sum(len(outcome.packets) for outcome in outcomes)
        where = os.path.relpath(capture)
        console.say(f"  Capture: {where}, {packets:,} packets; {_networks(lab, outcomes)}")
        one = f" EXP={outcomes[0].experiment.name}" if len(outcomes) == 1 else ""
        console.say(f"           make wireshark-{lab.slug}{one}")
        if shutil.which("tshark"):
            console.say(f"           tshark -r {where} | head -40")
    check = progress.load().get(lab.slug, {}).get("check", {})
    if check and check.get("passed") == check.get("of"):
        console.say(
            f"  Next:    make {lab.slug}-quiz, and the questions of an interview in labs/{lab.folder.name}/README.md"
        )
    else:
        console.say(f"  Next:    read labs/{lab.folder.name}/README.md, edit labs/{lab.folder.name}/exercise.py,")
        console.say(f"           and run  make {lab.slug}-check")


def _networks(lab: Lab, outcomes: list[Outcome]) -> str:
    if len(outcomes) > 1:
        return "experiment n runs on 10.0.n.0/24"
    names = [one.name for one in lab.experiments()]
    return f"on 10.0.{names.index(outcomes[0].experiment.name) + 1}.0/24"


def no_such_capture(lab: Lab, capture: Path) -> CannotRun:
    return CannotRun(f"There is no capture {os.path.relpath(capture)} yet. Run `make {lab.slug}` first.")
