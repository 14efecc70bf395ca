"""Every lab does what it says: experiments, quiz, sheet, starter, solution, rogues."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from labkit import catalog, quiz
from labkit.check import steps_of
from labkit.grade import grade
from labkit.lab import bounds
from labkit.run import ONCE_MORE, Outcome, run_experiment
from tests.clone import as_shipped
from tests.conftest import need_tool, need_wire

LABS = catalog.labs()
EXPERIMENTS = [(lab, one) for lab in LABS for one in lab.experiments()]
ROGUES = [(lab, path) for lab in LABS for path in sorted((lab.folder / "rogues").glob("*.py"))]
WATCHES_SOCKETS = ("tcp", "udp")  # against the clock: beside other tests an innocent step can fail, then once more
QUESTIONS = [(lab, one) for lab in LABS for one in quiz.questions(lab)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("captures")


@pytest.fixture(scope="session")
def outcome(folder):
    """Runs an experiment once in this session, into one capture per lab, as `make <slug>` does."""

    @cache
    def run(slug: str, name: str) -> Outcome:
        lab = catalog.lab(slug)
        return run_experiment(lab, lab.experiment(name), folder / f"{slug}.pcapng", append=True)

    return run


@pytest.fixture(scope="session")
def answers(outcome, folder):
    """What a lab's capture answers to each question; several tshark work at once."""

    @cache
    def of(slug: str) -> dict[str, Future[str]]:
        lab = catalog.lab(slug)
        asked = quiz.questions(lab)
        for question in asked:
            outcome(slug, question.experiment)
        # The section number of an experiment depends on the order of the tests, its network does not.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return {one.text: pool.submit(quiz.right_answer, lab, one, folder / f"{slug}.pcapng") for one in asked}

    return of


def by_name(value: object) -> str:
    if isinstance(value, catalog.Lab):
        return value.slug
    return value.stem if isinstance(value, Path) else getattr(value, "name", "")


@pytest.mark.alone
@pytest.mark.parametrize(("lab", "experiment"), EXPERIMENTS, ids=by_name)
def test_experiment_shows_what_it_says(lab, experiment, outcome, record_property):
    need_wire()
    found = outcome(lab.slug, experiment.name)
    for note in (event["note"] for event in found.events if "note" in event):
        if note.startswith(ONCE_MORE):
            record_property("again", note)
    assert found.state == "passed", found.reason
    assert found.measures, "an experiment that measures nothing proves nothing"
    assert found.packets, "nothing was recorded"


@pytest.mark.alone
@pytest.mark.parametrize("lab", LABS, ids=by_name)
def test_the_sheet_tables_every_measure_with_its_bounds(lab, outcome):
    """Each row of the Predict table is a measure of the code, and each measure has its row."""
    need_wire()
    text = (lab.folder / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Predict\n")[2].partition("\n## ")[0]
    rows = [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in section.splitlines()
            if line.startswith("|")][2:]  # fmt: skip
    measured = []
    for one in lab.experiments():
        for event in outcome(lab.slug, one.name).measures:
            measured.append((one.name, event["measure"], bounds(event["at_least"], event["at_most"], event["unit"])))
    assert sorted(rows) == sorted(set(measured))


@pytest.mark.alone
@pytest.mark.parametrize("lab", LABS, ids=by_name)
def test_on_plain_loopback_nothing_is_skipped_silently(lab):
    """Without a wire, what needs one is skipped by name; all the rest passes."""
    environment = {**os.environ, "LABKIT_NO_WIRE": "1"}
    command = [sys.executable, "-m", "labkit", "run", lab.slug, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=catalog.ROOT, timeout=60)
    states = {row["experiment"]: row["state"] for row in json.loads(done.stdout)}
    wanted = {one.name: "skipped" if one.needs_wire else "passed" for one in lab.experiments()}
    assert states == wanted, done.stdout


@pytest.mark.alone
@pytest.mark.parametrize(("lab", "question"), QUESTIONS, ids=lambda v: v.slug if by_name(v) else v.text[:30])
def test_question_is_answered_by_a_capture(lab, question, answers):
    need_wire()
    need_tool("tshark")
    right = answers(lab.slug)[question.text].result()
    assert quiz.is_right(question, right, right)
    assert question.hints
    assert all(question.hints)
    assert question.explain


@pytest.mark.parametrize("lab", LABS, ids=by_name)
def test_the_starter_fails_with_a_clear_first_failure(lab, tmp_path):
    starter = tmp_path / "exercise.py"
    starter.write_text(as_shipped(f"labs/{lab.folder.name}/exercise.py"), encoding="utf-8")
    steps, verdicts = grade(lab, starter, tmp_path / "check.pcapng")
    assert verdicts[-1]["state"] == "failed"
    assert len(verdicts) < len(steps)
    assert verdicts[-1]["what"]


@pytest.mark.parametrize(
    "lab",
    [pytest.param(lab, marks=[pytest.mark.alone] if lab.slug in WATCHES_SOCKETS else []) for lab in LABS],
    ids=by_name,
)
def test_the_solution_passes(lab, tmp_path):
    steps, verdicts = grade(lab, lab.folder / "solution.py", tmp_path / "check.pcapng")
    assert [verdict["state"] for verdict in verdicts] == ["passed"] * len(steps), verdicts[-1]


@pytest.mark.parametrize(("lab", "rogue"), ROGUES, ids=by_name)
def test_the_rogue_is_caught(lab, rogue, tmp_path, record_property):
    """A rogue's first line names the step that catches it and words of its message."""
    first = rogue.read_text(encoding="utf-8").splitlines()[0]
    match = re.fullmatch(r'"""Caught by: (\w+): (.+?)(?:""")?', first)
    assert match, f"{rogue.name} does not begin with the line that says what catches it"
    for _ in range(3 if lab.slug in WATCHES_SOCKETS else 1):
        _, verdicts = grade(lab, rogue, tmp_path / "check.pcapng")
        last = verdicts[-1]
        assert last["state"] == "failed", "nothing has caught it"
        name = steps_of(lab.module("check"))[last["step"]].name
        if name == match[1] and match[2].rstrip(".") in last["what"]:
            return
        record_property("again", f"innocent step {name} failed: {last['what']}")
    assert (name, last["what"]) == (match[1], match[2])
