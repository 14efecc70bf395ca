"""Runs the experiments of a lab: one world each, one capture for all, and what came out of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from labkit import lab as labs
from labkit import pcapng, sandbox
from labkit.catalog import ROOT, Lab
from labkit.lab import Experiment, Seen, seen
from labkit.sandbox import CannotRun, Event
from protocols.tls_opened import Secrets, key_log

CAPTURES = ROOT / "captures"
TRIES = 3  # of an experiment that is only too slow
ONCE_MORE = "Once more, for a machine that stood still looks like a slow network"


@dataclass
class Outcome:
    """What one experiment did: "passed", "failed" or "skipped", with its measures in order."""

    experiment: Experiment
    state: str = "passed"
    reason: str = ""
    slow: bool = False  # It failed, and nothing is wrong but that upper bounds were passed.
    crash: str = ""  # the traceback
    events: list[Event] = field(default_factory=list)
    packets: list[Seen] = field(default_factory=list)
    secrets: Secrets = field(default_factory=dict)  # of the TLS that was recorded
    capture: Path | None = None
    on_wire: bool = False

    @property
    def measures(self) -> list[Event]:
        return [event for event in self.events if "measure" in event]

    def as_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment.name, "state": self.state, "reason": self.reason, "events": self.events,
            "packets": len(self.packets), "on_wire": self.on_wire,
            "capture": str(self.capture) if self.capture else None,
        }  # fmt: skip


@cache
def why_no_wire() -> str:
    """Why this machine has no wire, "" when it has. LABKIT_NO_WIRE=1 says: pretend there is none."""
    if os.environ.get("LABKIT_NO_WIRE"):
        return "LABKIT_NO_WIRE is set"
    return sandbox.why_not()


def captures_folder() -> Path:
    try:
        CAPTURES.mkdir(exist_ok=True)
    except OSError as error:
        raise CannotRun(f"The folder {CAPTURES} cannot be made: {error.strerror}.") from None
    return CAPTURES


def capture_path(slug: str, part: str = "") -> Path:
    """Where a run is recorded: all of a lab, or only one experiment, which does not overwrite all the others."""
    return captures_folder() / (f"{slug}-{part}.pcapng" if part else f"{slug}.pcapng")


def run_experiment(
    lab: Lab, chosen: Experiment, capture: Path | None, *, append: bool = False, vantage: str | None = "client"
) -> Outcome:
    """Run one experiment, on the wire where there is one, else on plain loopback.

    One that is only too slow is run again, and what was recorded of it is taken back: a machine that stood still
    for a tenth of a second cannot be told from a slow network. It is never run again for another reason.
    Raises CannotRun where neither can be. A failed experiment is an outcome, not an exception.
    """
    kept = sections(capture) if capture and append else 0
    notes: list[Event] = []
    for _ in range(TRIES):
        outcome = _run_once(lab, chosen, capture, kept, vantage)
        outcome.events[:0] = notes
        if not outcome.slow:
            break
        notes.append({"note": f"{ONCE_MORE}: {outcome.reason}"})
    return outcome


def _run_once(lab: Lab, chosen: Experiment, capture: Path | None, kept: int, vantage: str | None) -> Outcome:
    """Run it behind the first *kept* sections of the capture, and in place of all others."""
    outcome = Outcome(chosen)

    def take(event: Event) -> None:
        if "failed" in event:
            outcome.state, outcome.reason, outcome.slow = "failed", event["failed"], event.get("slow", False)
        elif "crashed" in event:
            outcome.state, outcome.crash = "failed", event["crashed"].rstrip()
            outcome.reason = f"it crashed:\n{outcome.crash}"
        elif "skipped" in event:
            outcome.state, outcome.reason = "skipped", event["skipped"]
        elif "lost" in event:
            outcome.events.append({"note": f"This machine was too slow: {event['lost']} packets missed the wire."})
        else:
            outcome.events.append(event)

    if why := why_no_wire():
        if chosen.needs_wire:
            outcome.state, outcome.reason = "skipped", f"it needs the wire ({why})"
        else:
            labs.perform(chosen, labs.on_loopback(chosen.hosts, lab.port, take))
        return outcome

    number = [one.name for one in lab.experiments()].index(chosen.name) + 1
    if capture and kept:
        pcapng.keep_sections(capture, kept)
    world = labs.world_for(chosen, number, capture, kept > 0, vantage)
    sandbox.run(world, lambda inside: labs.perform(chosen, labs.on_the_wire(inside, lab.port, kept + 1)), take)
    outcome.on_wire, outcome.capture = True, capture
    if capture is not None:
        names = {world.address(host): host for host in world.hosts}
        outcome.packets = seen(_section(capture, kept + 1), names)
        outcome.secrets = key_log(pcapng.read_key_log(capture, kept + 1))
    return outcome


def _section(capture: Path, section: int) -> Iterator[pcapng.Record]:
    return (record for record in pcapng.read(capture) if record.section == section)


def sections(capture: Path) -> int:
    """How many sections a capture has; 0 when it is missing or not ours."""
    with contextlib.suppress(OSError, pcapng.BadCapture):
        return pcapng.count_sections(capture)
    return 0
