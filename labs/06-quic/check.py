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
You have written the books that every QUIC connection keeps, in both directions, and two of them have carried a file
over a bad road. Look at what you never needed: no packet was sent twice. What was *in* it went again, under a new
number, so an ACK never leaves in doubt which copy it is for. TCP, whose numbers are the bytes' own, has that doubt, and
Karn's rule and timestamps because of it. And no ACK was ever taken back: what is acknowledged may be forgotten, where
TCP's SACK is a hint only, and may be withdrawn (RFC 2018 §8).

What production stacks have beside yours: the probe timeout, which alone can tell that the last packets of a flight
were lost (RFC 9002 §6.2; here the check had a fixed one); congestion control, of which loss is the signal (§7);
persistent congestion (§7.6); three spaces of numbers, each with its own books (RFC 9000 §12.3), for the handshake has
other keys. Some notice that a packet which they gave up has come after all, and then raise the threshold (RFC 9002
§6.1): on a path that reorders by ten, yours sends much of it twice. Some send fewer ACKs, by agreement with the peer:
at a gigabit per second ACKs alone are a load. Some leave out numbers on purpose, as one of the steps did, and close
the connection of whoever acknowledges one (§21.4). And beneath all this every packet is encrypted, its number, too
(RFC 9001 §5.4), so that nobody on the way can come to rely on it.

In this lab: protocols/quic_packets.py, quic_frames.py and quic_recovery.py are the same in a few words more, and
aioquic has the rest. Watch your own at work, packet by packet: `.venv/bin/python -m labs.06-quic.journey`; --help says
how to lose others. Or ask them: `make quic-exercise`, and in another terminal
`echo 'send 0; send 1; send 2; send 3; receive_ack 1-3 0 0.1; lost 0.1' | nc -u -w1 127.0.0.1 7006`.
"""
