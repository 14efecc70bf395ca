"""The check of this lab: frames, streams and their rules, each alone with its bytes, then in a server.

How it asks and judges is in asking.py, the steps are in steps_*.py, the server around a learner's pieces is talk.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from labkit.check import Step, steps_of
from labkit.learner import load


def sibling(name: str) -> Any:
    """Another page of this check; the learner's process, a fork, finds it loaded already."""
    return sys.modules.get(f"labs_http3_{name}") or load(Path(__file__).with_name(f"{name}.py"), f"labs_http3_{name}")


asking, talk = sibling("asking"), sibling("talk")

# What runs in the learner's own process is looked for here by its name.
BY_HAND = "server_role"
calls_role, server_role = asking.calls_role, talk.server_role

PAGES = ("steps_frames", "steps_streams", "steps_requests", "steps_socket")
STEPS: list[Step] = [step for name in PAGES for step in steps_of(sibling(name))]
globals().update({step.name: step for step in STEPS})  # A check's steps are the names of its module.

AFTER = """
You have written HTTP/3: frames on streams, one stream that carries SETTINGS, and the order in which a request's frames
come. aioquic, which knows nothing of you, has been served by it. Look at what you never needed: no flag that says where
a stream ends, no number of a stream in a frame, no window, no PING, no reset. QUIC has them. And nothing of yours would
notice if the packets of two streams changed places: that is why one that is lost holds up one stream only.

What you refused is as much as what you read. A body that is cut off never passed for a whole one (FRAME_ERROR), no
length made you wait or keep anything (EXCESSIVE_LOAD), and whatever meant nothing was passed over, so that somebody can
invent something tomorrow.

What production code has beside yours: it answers 431 where you end the connection, for fields that are too long are one
request's fault; it says what a head may contain (RFC 9114 §4.3), and that DATA is as long as Content-Length says
(§4.1.2), which keeps requests from being smuggled; frames that are allowed and bring nothing have a price, or a client
sends them for ever (§10.5). It gives back QUIC's windows when somebody has read, and not before. It reads
PRIORITY_UPDATE (RFC 9218), which to you was a type that nobody knows. And it says goodbye: GOAWAY, twice.

In this lab: protocols/http3_frames.py has the frames, protocols/http3.py the rest, and its tests have a case for nearly
each MUST of the RFC; this exercise's solution passes all that are in its scope. Ask your own server: `make
http3-exercise`, and in another terminal `make http3-client ARGS=https://localhost:7007/hello`, or with somebody else's
client, `gtlsclient -q --exit-on-all-streams-close localhost 7007 https://localhost:7007/hello`.
"""
