""".venv/bin/python -m certs: make what is missing; and with list, show NAME, show FILE: tell what is there.

Exit codes: 0 all is well, 2 it could not be done (one sentence says why).
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509

import certs
from certs import show
from certs.contexts import ensure


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=".venv/bin/python -m certs", description="The lab's certificates. Alone: makes what is missing."
    )
    parser.add_argument("--folder", type=Path, default=certs.FOLDER, help="where they are (default: certs/)")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("list", help="all of them, and what is wrong with the bad ones")
    one = commands.add_parser("show", help="one of them, and all up to its root; or all that are in a file")
    one.add_argument("name", help="such as server, or captures/tls-check-chain.pem")
    options = parser.parse_args()
    code = 0
    try:
        if options.command == "list":
            _print(show.listing())
        elif options.command == "show":
            code = _show(options.name, options.folder)
        else:
            _make(options.folder)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # The reader has gone (| head): nothing is wrong.
    except OSError as error:
        print(f"certs: {error.filename or 'the output'} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    return code


def _make(folder: Path) -> None:
    why = certs.wanting(folder)
    written = certs.ensure(folder)
    for path in written:
        if path.name in why:  # not the keys, they come with their certificates
            print(f"made  {path.name:20} {why[path.name]}")
    if not written:
        print("The lab's certificates are all there, and good for more than a week.")
    elif "root.pem" in why:
        print("\nThe root is new. Where you trust the lab's old one, put this one in its place: certs/root.pem")
    print("What is what:  .venv/bin/python -m certs list")
    print("One of them:   .venv/bin/python -m certs show server")


def _show(name: str, folder: Path) -> int:
    if name not in certs.KINDS:
        if (file := Path(name)).is_file():
            return _show_file(file)
        print(f"certs: there is no certificate {name!r}, and no such file. There are:", file=sys.stderr)
        print(textwrap.fill(", ".join(certs.KINDS), 78, break_on_hyphens=False), file=sys.stderr)
        return 2
    ensure(folder)
    _print(show.shown(name, folder))
    return 0


def _show_file(file: Path) -> int:
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError:
        print(f"certs: {file} has no certificates in PEM.", file=sys.stderr)
        return 2
    _print(show.shown_all(found))
    return 0


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


if __name__ == "__main__":
    sys.exit(main())
