"""Steps D of this lab's check: what an ACK acknowledges, and what is lost, by number and by time."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

asking: Any = sys.modules.get("labs_quic_asking") or load(Path(__file__).with_name("asking.py"), "labs_quic_asking")
call, hold, PATIENCE = asking.call, asking.hold, asking.PATIENCE

CHANCE = random.Random(9002)
LOSS = "RFC 9002 §6.1: unacknowledged, in flight, and sent before one that is acknowledged"


def went(*numbers: int, now: float = 1.0, eliciting: bool = True) -> list[Any]:
    """Packets that go, in this order, all at the same time."""
    return [call("send", number, eliciting, now, why="send() returns nothing.") for number in numbers]


FIRST = "An ACK came: receive_ack() returns the numbers that it acknowledges for the first time."
SO_FAR = "lost() returns the numbers that are lost by now, each once."


def ack(*ranges: int | tuple[int, int], now: float = 1.1, delay: float = 0.0, why: str = FIRST) -> Any:
    """An ACK that comes, the highest range first; a number is a range of one."""
    pairs = tuple((one, one) if isinstance(one, int) else one for one in ranges)
    return call("receive_ack", pairs, delay, now, why=why)


def lost(now: float = 1.1, why: str = SO_FAR) -> Any:
    return call("lost", now, why=why)


def timer(why: str) -> Any:
    return call("timer", why=why)


@step(
    "an ACK tells what has arrived, and tells it once",
    rfc="RFC 9002 §A.7: OnAckReceived; RFC 9000 §13.2.3: ACKs repeat what earlier ones said",
    symptom="An ACK came, and receive_ack() returns other numbers than those that it acknowledges for the first time.",
    where="Remember each packet that went, until it is acknowledged. An ACK has ranges, both ends included; each names "
    "packets that went, and some that you have forgotten already, for an earlier ACK named them, too. What you gave up "
    "(a lost packet; an ACK alone that a later packet has overtaken) may be in your answer or not.",
    code="""
acked = [n for n in self._on_the_way
         if any(first <= n <= last for first, last in ack.ranges)]
for n in acked: del self._on_the_way[n]""",
    seconds=PATIENCE,
)
async def acked_once(c: Check) -> None:
    await hold(
        c,
        [*went(0), ack(0, why="Packet 0 is acknowledged.")],
        [*went(*range(6)), ack((0, 3), why="0-3 are acknowledged: four packets."),
         ack((0, 3), why="The same ACK again: nothing is new, an empty list."),
         ack((0, 5), why="Of 0-5, 4 and 5 are acknowledged for the first time.")],
        [*went(*range(9)), ack((6, 7), 4, (0, 1), why="Three ranges: 7, 6, 4, 1 and 0."),
         ack(8, (6, 7), 4, (0, 1), why="8 is new in it."),
         ack((0, 4), why="An ACK that was overtaken comes late: 2 and 3 are new in it, all the same.")],
        [*went(0, 1, 2, eliciting=False), *went(3), ack((0, 3), why="Packets that asked for no ACK are acknowledged "
                                                                     "with the others.")],
    )  # fmt: skip
    scripts = []
    for _ in range(20):
        script, arrived = went(*range(40), now=1.0), set()
        for _ in range(8):
            arrived |= set(CHANCE.sample(range(40), 5))
            ranges: list[list[int]] = []
            for number in sorted(arrived, reverse=True):
                if ranges and ranges[-1][0] == number + 1:
                    ranges[-1][0] = number
                else:
                    ranges.append([number, number])
            script.append(ack(*map(tuple, ranges), now=1.05, why="Packets arrive in an order that is random, and each "
                                                                 "ACK has all so far."))  # fmt: skip
        scripts.append(script)
    await hold(c, *scripts, random=True)


@step(
    "an ACK for what was never sent",
    rfc="RFC 9000 §13.1: it should be a connection error of type PROTOCOL_VIOLATION; §21.4: optimistic ACKs",
    symptom="A peer acknowledged a packet that never went, and yours believed it, or broke. Who does so wants you to "
    "send faster than the path can carry.",
    where="Numbers above the last that went, and those that send() skipped on purpose: an honest peer cannot have seen "
    "them. Look before you change anything, and never walk through a range number by number.",
    code="""
for first, last in ack.ranges:
    if last >= self._next or any(a <= last and first <= b for a, b in self._skipped):
        raise QuicError(PROTOCOL_VIOLATION)""",
    seconds=PATIENCE,
)
async def never_sent(c: Check) -> None:
    violation = "QuicError(PROTOCOL_VIOLATION)."
    above = f"0-2 went, and 3 is acknowledged, which never did: {violation}"
    skipped = f"5 was skipped, so that an ACK for it shows who guesses. Here one is: {violation}"
    seven = (*range(5), 6, 7)
    await hold(
        c,
        [ack(0, why=f"Nothing went, and 0 is acknowledged: {violation}")],
        [*went(0, 1, 2), ack(3, why=above)],
        [*went(0, 1, 2), ack((0, 3), why=above)],
        [*went(0, 1, 2), ack((0, 2**62 - 1), why=f"All numbers that there are, acknowledged at once: {violation}")],
        [*went(*seven), ack((6, 7), (0, 4), why="All that went is acknowledged, and 5, which was skipped, is not.")],
        [*went(*seven), ack((0, 7), why=skipped)],
        [*went(*seven), ack((6, 7), (0, 5), why=skipped)],
        [*went(*seven), ack((5, 7), why=skipped)],
        [*went(*seven), ack((6, 7), (0, 4)), *went(8, now=1.1),
         ack((0, 8), now=1.2, why=f"{skipped} All others were acknowledged before.")],
        [*went(10, 11, 12), ack((10, 12), why="The first number may be another than 0; none was skipped after it."),
         ack((9, 12), why=f"Numbers began with 10: 9 never went. {violation}")],
    )  # fmt: skip


@step(
    "lost: three later packets count, two do not",
    rfc=f"{LOSS}; §6.1.1: kPacketThreshold is 3",
    symptom="Yours declares a packet lost that was only overtaken, or waits for one that will not come. What counts is "
    "the distance of its number to the largest that was acknowledged.",
    where="Lost is what is on the way when largest acknowledged - number >= 3. Not the largest that was sent: the "
    "later ones are still on their way themselves. Not how many ACKs came. And lost() tells each once.",
    code="""
lost = [n for n in self._on_the_way if n <= self._largest_acked - PACKET_THRESHOLD]
for n in lost: del self._on_the_way[n]""",
    seconds=PATIENCE,
)
async def lost_by_number(c: Check) -> None:
    ten = went(*range(10))
    two = "0 was overtaken by two packets: the network has swapped some, and nothing is lost."
    once = "They were lost before; lost() tells each once."
    await hold(
        c,
        [*ten, lost(why="Ten went, nothing is acknowledged, and so nothing is known: no packet is lost.")],
        [*ten, ack(1), lost(why="0 was overtaken by one: nothing is lost.")],
        [*ten, ack((1, 2)), lost(why=two)],
        [*ten, ack((1, 2)), lost(why=two), ack((0, 2), now=1.101, why="0 comes late, and is acknowledged as any."),
         ack((0, 6), now=1.101), lost(1.101, why="0 to 6 are all acknowledged: nothing is lost.")],
        [*ten, ack(1), ack((1, 2), now=1.101), ack((1, 2), now=1.102), ack((1, 2), now=1.103), lost(1.103, why=two +
         " That four ACKs came without it says nothing: they all end with 2.")],
        [*ten, ack((1, 3)), lost(why="1, 2 and 3 have arrived and 0 has not: three later, and 0 is lost.")],
        [*ten, ack((1, 3)), lost(), lost(why=once), ack((1, 4), now=1.101), lost(1.101, why=once)],
        [*ten, ack(3), lost(why="3 alone is acknowledged: it is three above 0, so 0 is lost; 1 and 2 not yet.")],
        [*ten, ack(7), lost(why="7 is acknowledged: 0-4 are three or more below it. 5 and 6 are not; 8 and 9, which "
                                "went later, may still come.")],
        [*ten, ack((5, 6), (0, 3)), ack((0, 3), now=1.101), lost(1.101, why="The second ACK was overtaken by the "
         "first: 6 is the largest that was acknowledged, and stays it. 4 is two below: not lost.")],
        [*ten, ack(6, (0, 2)), ack((0, 2), now=1.101), lost(1.101, why="The second ACK was overtaken by the first: 6 "
         "is the largest that was acknowledged, and stays it. 3 is lost.")],
        [*ten, ack((5, 9), (1, 3)), lost(why="0 and 4 are missing, both three or more below 9.")],
        [*ten, ack(9), lost(), ack(9, (2, 5), now=1.101, why="2-5 were declared lost, and they were only late: that is "
         "no error. What was in them has gone again, so receive_ack() may name them or not; 9 was named before.")],
        [*went(0, 1, 2, 13, 14, 15), ack(15), lost(why="Numbers count, not packets: 0, 1 and 2 are far below 15, and "
                                                       "13 and 14 are near.")],
        [*went(0, eliciting=False), *went(1, 2, 3, 4), ack((2, 4)), lost(why="1 is lost. 0 is not in flight, an ACK "
         "alone; nobody sends it again (RFC 9002 §2).")],
    )  # fmt: skip


@step(
    "lost: sent 9/8 of a round trip ago, when a later one has arrived",
    rfc=f"{LOSS}; §6.1.2: max(9/8 × max(smoothed_rtt, latest_rtt), 1 ms)",
    symptom="No three packets came after it, and so yours waits for ever, or not long enough. Where the last packets "
    "of a flight are concerned, only time can tell.",
    where="When a packet is acknowledged that was sent later, the wait begins: it ends 9/8 of a round trip after the "
    "packet *went*. timer() says when; lost(now) takes those whose time has come. What no later one has overtaken "
    "has no timer here: the probe timeout (PTO), which is not in this exercise, takes care of that.",
    code="""
patience = max(TIME_THRESHOLD * max(self._smoothed, self._latest), GRANULARITY)
overtaken = {n: went for n, (went, eliciting) in self._on_the_way.items()
             if eliciting and n < self._largest_acked}
lost = [n for n, went in overtaken.items()
        if n <= self._largest_acked - PACKET_THRESHOLD or went + patience <= now]
timer = min((went + patience for went in overtaken.values()), default=None)""",
    seconds=PATIENCE,
)
async def lost_by_time(c: Check) -> None:
    none = "Nothing was overtaken: timer() is None."
    at = "1 was acknowledged after 100 ms; 0 went at 1000 ms and is lost 112.5 ms after that, at 1112.5 ms."
    await hold(
        c,
        [timer("Nothing went: timer() is None."), *went(0, 1, 2), timer(none)],
        [*went(0, 1), ack((0, 1)), timer("All has arrived: timer() is None.")],
        [*went(0, 1, 2), ack(0), timer("1 and 2 went after the largest that is acknowledged: nothing overtook them, "
                                       "and only a probe could tell. timer() is None.")],
        [*went(0, 1), ack(1), timer(at), lost(1.11, why=f"{at} It is 1110 ms."), lost(1.113, why=f"{at} It is past."),
         timer("0 is lost, and there is nothing else: timer() is None.")],
        [*went(0, 1), ack(1), ack((0, 1), now=1.105, why="0 comes late, in time."), timer("0 has arrived: timer() is "
         "None."), lost(1.2, why="0 has arrived: nothing is lost, however late it is.")],
        [*went(0, now=1.0), *went(1, now=1.05), *went(2, now=1.06), ack(2, now=1.16),
         lost(1.16, why="The round trip is 100 ms: 0 went 160 ms ago and is lost, 1 went 110 ms ago and is not."),
         timer("1 went at 1050 ms: lost at 1162.5 ms. It is when the packet went that counts, not the ACK.")],
        [*went(0, now=1.0), *went(1, now=1.02), *went(2, now=1.03), ack(2, now=1.13),
         lost(1.13), timer("1 went at 1020 ms, and 9/8 of 100 ms later it is lost: 1132.5 ms.")],
        [*went(0, 1), ack(1, now=1.0002), timer("The round trip is 0.2 ms, and no timer is that fine: 1 ms (§6.1.2), "
                                                "at 1001 ms.")],
        [*went(0), ack(0), *went(1, now=2.0, eliciting=False), *went(2, now=2.0), ack(2, (0, 0), now=2.1),
         timer("1 is an ACK alone: it is not in flight, and nothing waits for it. timer() is None.")],
    )  # fmt: skip


@step(
    "the round trip, as ACKs tell it",
    rfc="RFC 9002 §5.1: a sample, if the largest is new and one of the new is eliciting; §5.3: smoothed_rtt, ACK delay",
    symptom="Your timer is off, for the round trip behind it is. The step makes round trips of its own and looks at "
    "timer(); which ACKs did you take a sample from, and what did you subtract?",
    where="latest = now less when the *largest* of the ACK went, but only if it is acknowledged for the first time. "
    "The first sample is smoothed_rtt. From later ones the ACK's delay is subtracted, at most MAX_ACK_DELAY of it, "
    "unless that makes less than the shortest round trip so far; and smoothed_rtt moves by an eighth. latest_rtt keeps "
    "the delay.",
    code="""
if largest in went and any(eliciting for _, eliciting in went.values()):
    self._latest = rtt = now - went[largest][0]
    self._least = min(self._least, rtt)
    if rtt >= self._least + delay: rtt -= delay
    self._smoothed = 7/8 * self._smoothed + 1/8 * rtt""",
    seconds=PATIENCE,
)
async def round_trips(c: Check) -> None:
    def trips(*samples: tuple[float, float], why: str) -> list[Any]:
        """Round trips, each (seconds, ACK delay), and then the timer of a packet that was overtaken."""
        script: list[Any] = []
        for number, (rtt, delay) in enumerate(samples):
            script += [*went(number, now=number + 1.0), ack((0, number), now=number + 1.0 + rtt, delay=delay)]
        last, number = samples[-1], len(samples)
        script[-2:] = went(number - 1, number, now=float(number))
        script.append(ack(number, *([(0, number - 2)] if number > 1 else []), now=number + last[0], delay=last[1]))
        smoothed = asking.smoothed(script)
        return [*script, timer(f"{why} So smoothed_rtt is {1000 * smoothed:.5g} ms.")]

    await hold(
        c,
        trips((0.08, 0.0), why="One sample, of 80 ms: both are that, and the timer is 9/8 of it."),
        trips((0.08, 0.02), why="The first sample, 80 ms, is taken as it is, whatever its ACK's delay."),
        trips((0.1, 0.0), (0.02, 0.0), why="100 ms, then 20. The larger of smoothed and latest counts."),
        trips((0.02, 0.0), (0.1, 0.0), why="20 ms, then 100: the latest is larger, and counts."),
        trips((0.1, 0.0), (0.12, 0.0), (0.02, 0.0), (0.02, 0.0), why="100, 120, 20 and 20 ms."),
        trips((0.02, 0.0), (0.1, 0.016), (0.02, 0.0), why="20 ms; 100 ms, of which 16 are the peer's delay; 20 ms."),
        trips((0.02, 0.0), (0.1, 0.016), why="20 ms; 100 ms, of which 16 are the peer's delay: latest_rtt has them."),
        trips((0.1, 0.0), (0.18, 0.08), (0.02, 0.0), why="100 ms; 180 ms, of which the peer calls 80 its delay, but it "
              "promised 25 at most; 20 ms."),
        trips((0.1, 0.0), (0.11, 0.024), (0.02, 0.0), why="100 ms; 110 ms, with a delay of 24: that would leave 86, "
              "less than any round trip so far, so it is not believed; 20 ms."),
        [*went(0, 1), ack(1, now=1.08), ack((0, 1), now=1.5), *went(2, 3, now=2.0), ack(3, (0, 1), now=2.08),
         timer("In the ACK at 1500 ms 0 is new, and the largest, 1, is known since 1080 ms: that is no sample. So both "
               "samples are of 80 ms, and the timer is 90 ms after 2 went.")],
        [*went(0), ack(0, now=1.08), *went(1, now=2.0, eliciting=False), ack((0, 1), now=2.9),
         *went(2, 3, now=3.0), ack(3, (0, 1), now=3.08), timer("In the ACK at 2900 ms only packet 1 is new, which "
         "asked for none: the peer owes it no haste, and 900 ms are no round trip. The timer: 90 ms after 2 went.")],
    )  # fmt: skip
