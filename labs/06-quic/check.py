"""The check of this lab: the books of a connection, piece by piece, and then two of them on real sockets.

How it asks and judges is in asking.py, the steps are in steps_*.py, the road between the sockets is in road.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from labkit.check import Step, steps_of
from labkit.learner import load


def sibling(name: str) -> Any:
    """Another page of this check; the learner's process, a fork, finds it loaded already."""
    return sys.modules.get(f"labs_quic_{name}") or load(Path(__file__).with_name(f"{name}.py"), f"labs_quic_{name}")


asking, transfer = sibling("asking"), sibling("transfer")

# What runs in the learner's own process is looked for here by its name.
BY_HAND = "by_hand_role"
calls_role, by_hand_role = asking.calls_role, asking.by_hand_role
end_role = transfer.end_role

STEPS: list[Step] = [
    step for name in ("steps_numbers", "steps_acks", "steps_losses", "steps_road") for step in steps_of(sibling(name))
]
globals().update({step.name: step for step in STEPS})  # A check's steps are the names of its module.

AFTER = """
"""
