"""Step E of this lab's check: two ends around the learner's books, on real sockets, and a bad road between them."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load


def sibling(name: str) -> Any:
    return sys.modules.get(f"labs_quic_{name}") or load(Path(__file__).with_name(f"{name}.py"), f"labs_quic_{name}")


asking, road, transfer = sibling("asking"), sibling("road"), sibling("transfer")
Fate, FINE = road.Fate, road.FINE
SECONDS = transfer.PATIENCE + 5


def judge(c: Check, ends: list[dict[str, Any]], lanes: list[Any], pieces: tuple[int, int]) -> None:
    """Every call that the two ends made must have had the solution's answer; and all must have arrived."""
    told = [f"= {lane.name}: " + ", ".join(f"{number} {fate}" for number, fate in lane.fates[:5]) + ", …"
            * (len(lane.fates) > 5) for lane in lanes if lane.fates]  # fmt: skip
    for side, end in zip(("client", "server"), ends, strict=True):
        script = [asking.call(name, *asking.unpacked(given)) for name, given, _ in end["notes"]]
        found = [said for _, _, said in end["notes"]]
        at = asking.first_wrong(script, found)
        if at is not None:
            asking.show(c, at, script, found, f"At the {side}: {SENTENCES[script[at].name]}", told)
        c.did(f"= the {side} sent {end['packets']} packets, and took these for lost: {end['lost'] or 'none'}")
    for side, end, wanted in zip(("client", "server"), ends, reversed(pieces), strict=True):
        if not end["whole"]:
            c.story += told
            c.fail(f"Not all of the content has arrived at the {side}, or other bytes than were sent.",
                   got=f"{end['came']:,} bytes", wanted=f"{wanted * transfer.PIECE:,} bytes")  # fmt: skip
    if not all(end["done"] for end in ends):
        c.fail("All has arrived, but an end was never told so: are all packets acknowledged?")


SENTENCES = {
    "lost": "lost() says another thing than it should at that moment.",
    "receive_ack": "an ACK came, and receive_ack() reads another thing out of it.",
    "receive": "a packet came, and receive() takes it for something else than it is.",
    "ack": "an ACK was to go, and it says something else than has come.",
    "forget": "an ACK of its own was acknowledged, and forget() fails.",
    "send": "a packet went, and send() fails.",
    "due": "due() returns neither a time nor None.",
    "timer": "timer() returns neither a time nor None.",
    "largest": "`largest` is no number.",
    "encode_number": "a packet went with another number than it should have.",
    "decode_number": "a packet came, and its number was taken for another.",
    "encode_varint": "a frame went with another number than it should have.",
    "decode_varint": "a frame came, and a number in it was read as another.",
    "decode_ack": "a frame came, and decode_ack() reads another thing out of it.",
}

NAMED = {5: Fate(copies=0), 9: Fate(behind=2), 14: Fate(behind=4), 20: Fate(copies=2), 27: Fate(copies=0)}


@step(
    "two ends on real sockets: two lost, one late by two, one by four, one twice",
    rfc="RFC 9002 §6.1; RFC 9000 §13.2, §13.3: what was in a lost packet goes again, in a packet with a new number",
    symptom="Each piece was right alone; together they are not. The client sends 40 pieces to the server over real "
    "sockets; the check passes the datagrams on and does to five of them what networks do. What went wrong first is "
    "told above, in the few calls that are about one packet.",
    where="Those calls are of one end: that packet went or came, and what your code said to that. The last one was "
    "answered wrongly. Play them by hand: `make quic-exercise`, and in another terminal the calls, with a ; between "
    "them. `.venv/bin/python -m labs.06-quic.journey` tells the whole of it, packet by packet.",
    code="""
# What is around your books (transfer.py):
for n in receive_ack(ack, now): what was in n has arrived; if an ACK was, forget(its largest)
for n in lost(now): the piece in n goes again, in a packet with the next number""",
    seconds=SECONDS,
)
async def named_packets(c: Check) -> None:
    ends, lanes = await road.travel(c, lambda n: NAMED.get(n, FINE), lambda _: FINE, (40, 0), transfer.PATIENCE)
    judge(c, ends, lanes, (40, 0))
    missed = {number for number, fate in NAMED.items() if not fate.copies} - set(ends[0]["lost"])
    if missed and not ends[0]["probes"]:
        c.fail(f"Packets 5 and 27 were dropped, and lost() never named {sorted(missed)}.")
    if ends[0]["alone"]:
        c.fail(f"The server sent nothing but ACKs, and the client answered with {ends[0]['alone']} ACKs of its own.")


@step(
    "both ways at once, and everything goes wrong",
    rfc="RFC 9000 §13.2.4, §13.3; RFC 9002 §6.1",
    symptom="Both ends send 80 pieces, and ACKs travel with them; one in sixteen datagrams is lost, some come late, "
    "some twice, and so do the ACKs. What worked for one packet must work for several at a time.",
    where="Here an ACK that is lost must be made good by the next one, and what the peer knows is forgotten. The lines "
    "above tell the first call that was answered wrongly, and which were about the same packet before. Packets with an "
    "ACK alone go both ways, too: they are never lost, but who waits for each of them waits for ever.",
    code="""
acked = [n for n in self._on_the_way if any(first <= n <= last for first, last in ack.ranges)]
for n in acked: del self._on_the_way[n]
for n in [n for n, (_, eliciting) in self._on_the_way.items() if n < ack.ranges[0][1] and not eliciting]:
    del self._on_the_way[n]""",
    seconds=SECONDS,
)
async def bad_road(c: Check) -> None:
    def fates(seed: int) -> Any:
        chance = random.Random(seed)
        kinds = (Fate(copies=0), Fate(behind=1), Fate(behind=2), Fate(behind=5), Fate(copies=2), FINE)
        drawn = chance.choices(kinds, (6, 3, 3, 3, 4, 81), k=4096)
        return lambda number: drawn[number % 4096]

    ends, lanes = await road.travel(c, fates(1), fates(2), (80, 80), transfer.PATIENCE)
    judge(c, ends, lanes, (80, 80))
