"""Finds the labs: every folder labs/NN-slug is one."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from labkit.lab import Experiment, experiments_of
from labkit.learner import load
from labkit.sandbox import CannotRun

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Lab:
    """A lab: its slug, its number, its folder."""

    slug: str
    number: int
    folder: Path

    @property
    def port(self) -> int:
        return 7000 + self.number

    @property
    def title(self) -> str:
        """The first heading of the sheet, without the lab's number and slug."""
        first = (self.folder / "README.md").read_text(encoding="utf-8").splitlines()[0]
        return first.rpartition(f"{self.slug}:")[2].strip("# ")

    def module(self, name: str) -> ModuleType:
        """Import one of the lab's files ("experiments", "check")."""
        return load(self.folder / f"{name}.py", f"labs_{self.slug}_{name}")

    def experiments(self) -> list[Experiment]:
        return experiments_of(self.module("experiments"))

    def experiment(self, name: str) -> Experiment:
        for one in self.experiments():
            if one.name == name.replace("_", "-"):
                return one
        known = ", ".join(one.name for one in self.experiments())
        raise CannotRun(f"Lab {self.slug} has no experiment {name!r}. It has: {known}.")

    def questions(self) -> list[dict[str, Any]]:
        text = (self.folder / "questions.toml").read_text(encoding="utf-8")
        found: list[dict[str, Any]] = tomllib.loads(text)["question"]
        return found


def labs(root: Path = ROOT) -> list[Lab]:
    """All labs, by number."""
    found = []
    for folder in sorted((root / "labs").glob("[0-9][0-9]-*")):
        if (folder / "experiments.py").is_file():
            number, _, slug = folder.name.partition("-")
            found.append(Lab(slug, int(number), folder))
    return found


def lab(slug: str) -> Lab:
    """The lab with that slug; CannotRun with the list of labs when there is none."""
    known = labs()
    for one in known:
        if one.slug == slug:
            return one
    raise CannotRun(f"There is no lab {slug!r}. There are: {', '.join(one.slug for one in known)}.")
