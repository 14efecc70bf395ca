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
