"""Move the sheets' links to where their lines are now: `python -m tests.links`.

A sheet links to lines of code. The line that was meant is the one that had that number when the sheet was committed
last; it is looked for in the file as it is now. What is not found again is told, and is yours to mend.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from labkit import catalog

LINK = re.compile(r"\]\(([^)#\s]+)#L(\d+)\)")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=catalog.ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def mend(sheet: Path) -> int:
    """Rewrite the links of a sheet; return how many point nowhere."""
    commit = git("log", "-1", "--format=%H", "--", str(sheet)).strip()
    lost = 0

    def moved(link: re.Match[str]) -> str:
        nonlocal lost
        path, number = (sheet.parent / link[1]).resolve(), int(link[2])
        was = git("show", f"{commit}:{path.relative_to(catalog.ROOT)}").splitlines()
        now = path.read_text(encoding="utf-8").splitlines()
        meant = was[number - 1] if number <= len(was) else ""
        places = [i for i, line in enumerate(now, 1) if line == meant and line.strip()]
        if not places:
            print(f"{sheet.parent.name}: {link[1]}#L{number} was {meant.strip()!r}, and is nowhere")
            lost += 1
            return link[0]
        return f"]({link[1]}#L{min(places, key=lambda i: abs(i - number))})"

    text = sheet.read_text(encoding="utf-8")
    sheet.write_text(LINK.sub(moved, text), encoding="utf-8")
    return lost


if __name__ == "__main__":
    sys.exit(sum(mend(lab.folder / "README.md") for lab in catalog.labs()) > 0)
