"""python -m certs: make what is missing, say what is there."""

from __future__ import annotations

import sys

import certs


def main() -> int:
    try:
        why = certs.wanting()
        written = certs.ensure()
    except OSError as error:
        print(f"certs: {error.filename} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    for path in written:
        if path.name in why:
            print(f"made  certs/{path.name:20} {why[path.name]}")
    if not written:
        print("The lab's certificates are there and good for more than a week.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
