"""The check of this lab: frames, a flow-control ledger and HPACK, each alone with its bytes, then in a server."""

from __future__ import annotations

from pathlib import Path

from labkit.check import Step
from labkit.learner import load

BY_HAND = "server_role"

AFTER = """
You have written what every HTTP/2 connection turns on, and a server made of it has spoken to the client of another
author. Two of your limits are what keeps such a server alive: the size of a frame is refused before its payload comes,
and an integer of HPACK has an end.

Ask your own server: `make http2-exercise`, and in another terminal `curl --http2-prior-knowledge
http://127.0.0.1:7005/hello`.

What production code has beside yours: a limit on a header list after it is decompressed (one byte of block can stand
for nearly 4 KB of fields, again and again: the HPACK bomb), on CONTINUATION frames, and on how many streams are opened
and reset (CVE-2023-44487, rapid reset). A sender that shares the connection's window fairly among its streams; a
receiver that gives back what was read, not what has come. In this lab: protocols/http2.py and servers/http2.py; frames
are in protocols/http2_frames.py, field blocks in protocols/http2_hpack.py, and h2 has the rest.
"""

PAGES = ("roles", "steps_frames", "steps_ledger", "steps_fields", "steps_socket")
for _name in PAGES:  # What runs in the learner's process, and the steps in their order.
    _page = load(Path(__file__).with_name(f"{_name}.py"), f"labs_http2_{_name}")
    globals().update({name: one for name, one in vars(_page).items() if isinstance(one, Step) or "_role" in name})
