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
        if _is_well_formed(found):
            return dict(found)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        pass
    with contextlib.suppress(OSError):
        os.replace(path, path.with_name(path.name + ".broken"))
    return {}


_VALUES = {"run": str, "predict": bool, "quiz": bool, "check": int}


def _is_well_formed(found: object) -> bool:
    """{slug: {kind: {name: value}}}, each value of its kind's type."""
    return isinstance(found, dict) and all(
        isinstance(notes, dict)
        and all(
            isinstance(values, dict) and all(isinstance(value, _VALUES.get(kind, ())) for value in values.values())
            for kind, values in notes.items()
        )
        for notes in found.values()
    )


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
    run, predicted, check, quiz = (notes.get(kind, {}) for kind in ("run", "predict", "check", "quiz"))
    if run:
        seen = sum(state == "passed" for state in run.values())
        words.append(f"{seen} experiment{'s' * (seen != 1)} seen")
    if predicted:
        words.append(f"{sum(guess is True for guess in predicted.values())} of {len(predicted)} predicted right")
    if check:
        solved = check.get("passed") == check.get("of")
        words.append("exercise solved" if solved else f"exercise: {check.get('passed')} of {check.get('of')} steps")
    if quiz:
        words.append(f"quiz: {sum(answer is True for answer in quiz.values())} right of {len(quiz)} seen")
    return ", ".join(words) or "not begun"
