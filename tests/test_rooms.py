"""The rooms of the house: who may import whom, and that every lab has all its parts."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from labkit import catalog
from labkit.check import steps_of
from tests.clone import as_shipped

ROOT = catalog.ROOT
ROOMS = ("protocols", "servers", "clients", "certs", "labkit", "labs", "tests")
MAY_IMPORT = {
    "protocols": {"protocols"},
    "servers": {"servers", "protocols", "certs"},
    "clients": {"clients", "protocols", "certs"},
    "certs": {"certs", "protocols"},
    "labkit": {"labkit", "protocols", "certs"},
    "labs": {"labs", "labkit", "servers", "clients", "protocols", "certs"},
}
LABS = catalog.labs()
SECTIONS = ["The one idea", "Read", "Run", "Capture", "Predict", "Exercises", "Explain it", "Break it", "Go further",
            "References"]  # fmt: skip


def imports(path: Path) -> set[str]:
    """The top-level names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def files(room: str) -> list[Path]:
    return [path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room):
    for path in files(room):
        strangers = (imports(path) & set(ROOMS)) - MAY_IMPORT[room]
        assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"


def test_cores_have_no_input_and_output():
    for path in files("protocols"):
        forbidden = imports(path) & {"socket", "asyncio", "ssl", "time", "select", "threading", "os"}
        assert not forbidden, f"{path.name} imports {forbidden}"


def test_numbers_and_slugs_are_unique():
    assert LABS
    assert len({lab.number for lab in LABS}) == len({lab.slug for lab in LABS}) == len(LABS)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.slug)
def test_a_lab_has_all_its_parts(lab):
    for name in ("README.md", "experiments.py", "questions.toml", "exercise.py", "solution.py", "check.py"):
        assert (lab.folder / name).is_file(), f"{lab.folder.name}/{name} is missing"
    for path in (f"servers/{lab.slug}.py", f"clients/{lab.slug}.py", f"tests/test_{lab.slug}.py"):
        assert (ROOT / path).is_file(), f"{path} is missing"
    assert len(list((lab.folder / "rogues").glob("*.py"))) >= 5
    assert len(lab.questions()) >= 8
    starter = as_shipped(f"labs/{lab.folder.name}/exercise.py")
    assert len(starter.splitlines()) <= 70
    assert "TODO" in starter


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.slug)
def test_the_sheet_has_its_sections_in_order(lab):
    text = (lab.folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {lab.number:02} · {lab.slug}")
    assert re.findall(r"^## (.+)$", text, re.M) == SECTIONS
    assert text.count("<details>") >= 8


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.slug)
def test_the_sheet_links_to_what_exists(lab):
    text = (lab.folder / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#L(\d+))?", text)
    assert links
    for target, line in links:
        if "://" in target:
            continue
        path = (lab.folder / target).resolve()
        assert path.exists(), f"the sheet links to {target}, which is not there"
        lines = path.read_text(encoding="utf-8").splitlines() if line else []
        assert not line or (int(line) <= len(lines) and lines[int(line) - 1].strip()), f"{target}#L{line} shows nothing"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.slug)
def test_no_hint_is_empty(lab):
    steps = steps_of(lab.module("check"))
    assert steps
    for step in steps:
        assert len(step.hints) == 3
        assert all(len(hint.strip()) > 10 for hint in step.hints), f"step {step.name} has an empty hint"
        assert step.rfc


def test_no_key_and_no_capture_is_committed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in listed if re.search(r"\.(key|pem|p12|pcapng?|keylog)$", name)]
