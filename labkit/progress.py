"""What a learner has done, in one small file that can be thrown away."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from labkit.catalog import ROOT
from labkit.sandbox import CannotRun

Notes = dict[str, Any]
FILE = ROOT / ".progress.json"


def load(path: Path | None = None) -> dict[str, Notes]:
    """All progress, by slug. A broken file is put aside as <name>.broken, and a fresh one begun."""
    path = path or FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(value, dict) for value in found.values()):
            return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError):
        os.replace(path, path.with_name(path.name + ".broken"))
    return {}


def save(progress: dict[str, Notes], path: Path | None = None) -> None:
    """Write all or nothing: a new file takes the old one's place."""
    path = path or FILE
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(progress, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CannotRun(f"Your progress cannot be written to {path}: {error.strerror}.") from None


def note(slug: str, kind: str, **values: Any) -> None:
    """Merge *values* into what is known of a lab: note("tcp", "check", passed=3, of=8)."""
    progress = load()
    progress.setdefault(slug, {}).setdefault(kind, {}).update(values)
    with contextlib.suppress(CannotRun):  # A read-only folder must not stop a run.
        save(progress)


def reset(slug: str) -> None:
    progress = load()
    if progress.pop(slug, None) is not None:
        save(progress)


def summary(notes: Notes) -> str:
    """One lab's progress in a few words."""
    words = []
    if runs := notes.get("run"):
        words.append(f"{sum(1 for state in runs.values() if state == 'passed')} experiments seen")
    if predicted := notes.get("predict"):
        words.append(f"predicted {sum(predicted.values())} of {len(predicted)}")
    if check := notes.get("check"):
        words.append("exercise solved" if check.get("passed") == check.get("of") else
                     f"exercise at step {check.get('passed', 0) + 1} of {check.get('of')}")  # fmt: skip
    if quiz := notes.get("quiz"):
        words.append(f"quiz {sum(quiz.values())} of {len(quiz)}")
    return ", ".join(words) or "not begun"
