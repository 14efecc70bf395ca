"""Words on the screen: colour only on a terminal, plain in a pipe, and lines that fit."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

# What to write where the output cannot carry a sign.
_LETTERS = {
    "─": "-", "▶": ">", "◀": "<", "├": "|", "┤": "|", "│": "|", "┆": ":", "✗": "x", "✓": "ok", "…": "...",
    "×": "x", "→": "->", "·": "-", "≥": ">=", "≤": "<=", "“": '"', "”": '"', "’": "'", "–": "-", "—": "-",
}  # fmt: skip

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def coloured() -> bool:
    """Colour on a terminal that can, unless NO_COLOR is set (no-color.org)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def style(text: str, *names: str) -> str:
    if not names or not coloured():
        return text
    return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


def fancy() -> bool:
    """True when the output can carry arrows and check marks."""
    return "utf" in (sys.stdout.encoding or "").lower()


def mark(good: bool) -> str:
    if good:
        return style("✓" if fancy() else "ok", "green")
    return style("✗" if fancy() else "FAILED", "red")


def width() -> int:
    """Columns to use: those of the terminal, from 80 to 120; 100 in a pipe."""
    columns = shutil.get_terminal_size((100, 24)).columns
    return max(80, min(120, columns))


def plain(text: str) -> str:
    """Replace what the output's encoding cannot carry."""
    if fancy():
        return text
    for sign, letters in _LETTERS.items():
        text = text.replace(sign, letters)
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


def say(text: str = "") -> None:
    print(plain(text))


def paragraph(text: str, indent: str = "  ") -> None:
    """Print prose, wrapped; blank lines part paragraphs."""
    for part in textwrap.dedent(text).strip().split("\n\n"):
        say(textwrap.fill(" ".join(part.split()), min(width(), 100), initial_indent=indent, subsequent_indent=indent))


def complain(text: str) -> None:
    """Print to stderr, wrapped between words on a terminal; elsewhere one message is one line."""
    if sys.stderr.isatty():
        text = textwrap.fill(text, width(), break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)


def heading(text: str) -> None:
    say()
    say(style(text, "bold"))
