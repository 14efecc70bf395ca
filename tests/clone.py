"""A copy of the project as a fresh clone has it, so that tests touch no learner's captures and progress."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from labkit.catalog import ROOT


def fresh_clone(folder: Path) -> Path:
    """Copy all files that git tracks or would track; link the environment that is already set up."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder
