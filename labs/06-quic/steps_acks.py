"""Steps C of this lab's check: what has come, kept as ranges, and the ACK frame that says so."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

asking: Any = sys.modules.get("labs_quic_asking") or load(Path(__file__).with_name("asking.py"), "labs_quic_asking")
call, hold, PATIENCE, solution = asking.call, asking.hold, asking.PATIENCE, asking.solution

CHANCE = random.Random(9000)


NEW = "A packet whose number comes for the first time is new: receive() returns True."


def came(*numbers: int, eliciting: bool = True, now: float = 0.0, why: str = NEW) -> list[Any]:
    """Packets that come, in this order, all at the same time."""
    return [call("receive", number, eliciting, now, why=why) for number in numbers]


@step(
    "what has come is kept as ranges",
    rfc="RFC 9000 §13.2.3: a receiver keeps ACK ranges, not numbers",
    symptom="Packets came in some order, and your ranges are not what they should be. Do it on paper: a number that "
    "comes stands alone, or it makes the range below it longer, or the one above it, or it joins the two.",
    where="receive() looks for a range that ends at number - 1 and one that begins at number + 1. ranges() returns "
    "pairs (smallest, largest), both included, the highest range first. `largest` is the largest that ever came.",
    code="""
for one in self._ranges:
    if one[0] == number + 1: last = one[1]
    elif one[1] == number - 1: first = one[0]
    else: apart.append(one)
self._ranges = sorted([*apart, (first, last)], reverse=True)""",
    seconds=PATIENCE,
)
async def ranges_kept(c: Check) -> None:
    def kept(numbers: tuple[int, ...], why: str) -> list[Any]:
        script = came(*numbers, why="Each of these packets comes for the first time: receive() returns True.")
        return [*script, call("ranges", why=why), call("largest", why="`largest` is the largest number that has come.")]

    await hold(
        c,
        [call("largest", why="Before anything has come, `largest` is -1."),
         call("ranges", why="Before anything has come, there are no ranges: an empty list.")],
        kept((0,), "Packet 0 came: it is a range of one."),
        kept((0, 1, 2, 3), "0 to 3 came in order: that is one range, and it stays one, be it a million packets long."),
        kept((0, 1, 2, 5, 6), "3 and 4 are missing: two ranges, the higher one first."),
        kept((5, 4), "4 comes after 5: it makes the range longer at its lower end."),
        kept((0, 2, 1), "1 comes between 0 and 2: the two ranges become one."),
        kept((9, 3, 6, 0, 12), "None is beside another: five ranges, the highest first, in whatever order they came."),
        kept((7, 2, 3, 9, 8, 4), "8 joins 7 and 9; 4 makes 2-3 longer."),
        kept((2**40, 2**40 + 1, 3), "Numbers may be large and gaps wide: a range costs the same."),
    )  # fmt: skip
    scripts = []
    for _ in range(30):
        numbers = CHANCE.sample(range(20), 14)
        script = came(*numbers, why="Each of these packets comes for the first time: receive() returns True.")
        scripts.append([*script, call("ranges", why="These packets came, in an order that is random.")])
    await hold(c, *scripts, random=True)


@step(
    "a packet that comes twice is not new",
    rfc="RFC 9000 §12.3: a receiver must discard a packet whose number it has had",
    symptom="The network doubled a packet, and yours takes the copy for a new one; or it takes a new one for a copy.",
    where="Before anything else, look whether the number lies in one of your ranges: then return False and change "
    "nothing, not the ranges, not when an ACK is due. Both ends of a range are in it.",
    code="if any(first <= number <= last for first, last in self._ranges): return False",
    seconds=PATIENCE,
)
async def copies_known(c: Check) -> None:
    def copy(*numbers: int) -> list[Any]:
        return came(*numbers, why="This number has come before: receive() returns False, and the packet is dropped.")

    new = "This number comes for the first time, though higher ones were here before: receive() returns True."
    await hold(
        c,
        [*came(0), *copy(0)],
        [*came(4, 5, 6), *copy(4, 6, 5), *came(3, 7, why=new), *copy(3, 7)],
        [*came(0, 1, 9, 5), *copy(1, 9), *came(2, why=new), *copy(2), call("ranges", why="Copies change no range.")],
    )  # fmt: skip


@step(
    "the ACK frame is written",
    rfc="RFC 9000 §19.3, §19.3.1: type, Largest Acknowledged, ACK Delay, ACK Range Count, First ACK Range, then pairs "
    "of Gap and ACK Range Length",
    symptom="Your frame says something else than it should. Write down what each of its numbers counts, and read the "
    "definitions of Gap and of ACK Range Length again, word by word.",
    where="All are variable-length integers. A length counts the packets of a range without its largest: 5-8 has 3. A "
    "gap counts the missing packets but one: from 5-8 down to 0-2, 3 and 4 are missing, and the gap is 1. The delay is "
    "how long ago the largest came, in units of DELAY_UNIT.",
    code="""
frame = [ACK, last, delay, len(others), last - first]
for lower in others:
    frame += [first - lower[1] - 2, lower[1] - lower[0]]
    first = lower[0]
return b"".join(map(encode_varint, frame))""",
    seconds=PATIENCE,
)
async def ack_written(c: Check) -> None:
    def written(numbers: tuple[int, ...], why: str, delay: float = 0.0) -> list[Any]:
        return [*came(*numbers), call("ack", delay, why=why)]

    await hold(
        c,
        [call("ack", 0.0, why='Nothing has come, so there is nothing to say: b"".')],
        written((0,), "Packet 0 came: largest 0, delay 0, no more ranges, and a first range of 0 beside the largest."),
        written((0, 1, 2, 3), "0-3 came: the largest is 3, and the first range has 3 packets beside it."),
        written((0, 1, 2, 5, 6, 7, 8), "5-8 and 0-2 came. 3 and 4 are missing, that are two, and a Gap says one less: "
                "it is never empty. So Gap 1, then ACK Range Length 2."),
        written((0, 2), "Only 1 is missing: Gap 0."),
        written((90, 60, 61, 62, 10), "Three ranges: each gap counts from the smallest of the range above it."),
        written((2**40, 0), "A gap may need eight bytes."),
        written((0, 1), "The largest came 8.004 ms ago: 8.004 ms / 8 µs = 1000, which takes two bytes.", 0.008004),
        [*came(3, now=1.0), *came(1, now=1.01), call("ack", 1.016004, why="The largest, 3, came 16.004 ms ago: 2000. "
         "That 1 came later does not count: from the delay the peer learns its round trip, by the largest.")],
        [*came(7), *came(7, now=0.02, why="7 comes again: receive() returns False."), call("ack", 0.020004, why="The "
         "delay counts from when 7 came first, 20.004 ms ago: not from its copy.")],
        [*came(0, 1, 4), call("ack", 0.0, why="0-1 and 4 came."), *came(5, now=0.01), call("ack", 0.01, why="An ACK "
         "says all again that came, not only what is new: the ACK before may be lost (§13.2.3).")],
        [*came(0, 1, eliciting=False), *came(2), call("ack", 0.0, why="Packets that ask for no ACK stand in it, too, "
         "when one goes (§13.2.1).")],
    )  # fmt: skip
    scripts = [written(tuple(CHANCE.sample(range(100), 30)), "These came, in an order that is random.")
               for _ in range(20)]  # fmt: skip
    await hold(c, *scripts, random=True)


@step(
    "an ACK frame is read",
    rfc="RFC 9000 §19.3.1: largest = previous smallest - gap - 2; below zero it is a FRAME_ENCODING_ERROR",
    symptom="Yours reads other ranges out of a frame than its sender had, or lets something pass that cannot be.",
    where="The way back: smallest = largest - length, and the next largest = smallest - gap - 2. Look for numbers "
    "below zero before you go on. Type 0x03 has three more integers behind its ranges, and `end` is behind them. A "
    "count may be as large as 2**62 - 1: do not make room for what is not there.",
    code="""
if length > largest: raise QuicError(FRAME_ENCODING_ERROR)
ranges.append((largest - length, largest))
...
largest -= length + gap + 2""",
    seconds=PATIENCE,
)
async def ack_read(c: Check) -> None:
    def read(frame: str, why: str, at: int = 0, mark: tuple[int, int, str] = (0, 0, "")) -> list[Any]:
        return [call("decode_ack", bytes.fromhex(frame), at, why=why, mark=mark)]

    below = "QuicError(FRAME_ENCODING_ERROR)."
    await hold(
        c,
        read("0200000000", "The largest is 0, and it is alone."),
        read("0203000003", "The largest is 3, and the first range has 3 packets beside it: 0-3."),
        read("02080001030102", "8 and 3 beside it: 5-8. A gap of 1 is two missing packets, 4 and 3. Then 2 and 2 "
             "beside it: 0-2.", mark=(5, 6, "the gap: one less than are missing")),
        read("0205000100" + "0001", "A gap of 0 is one missing packet: after 5 alone, 4 is missing, and 2-3 came."),
        read("020843e8010301" + "02", "The delay is 1000 units of 8 µs: 8 ms.", mark=(2, 4, "ACK Delay")),
        read("01" * 3 + "0203000003" + "0f00", "The frame begins at 3: a PING is before it, a STREAM frame behind.", 3),
        read("0308000103" + "0102" + "0a0140c8", "Type 0x03 has three more integers: packets with ECT(0), ECT(1), CE. "
             "The frame ends behind them.", mark=(7, 11, "ECN Counts")),
        read("02" + "c000010000000000" + "0000" + "80100000", "A range of 2**20 + 1 packets is two numbers, like any."),
        read("0203000004", "The first range would begin at -1: " + below, mark=(4, 5, "3 - 4")),
        read("02080001030202", "5-8, then a gap of three: the next range would be from 1 to -1. " + below),
        read("02030001030000", "Below 0-3 no range can be: the next would begin at -2. " + below),
        read("0208000103", "A second range is promised, and not there: " + below),
        read("020800010301", "The second range has a gap and no length: " + below),
        read("020800ffffffffffffffff00", "2**62 - 1 ranges are promised and not there: " + below),
        read("03030000030a01", "Of three ECN counts two are there: " + below),
        read("02", "The frame ends after its type: " + below),
    )  # fmt: skip
    scripts = []
    for _ in range(60):
        numbers, books = CHANCE.sample(range(2 ** CHANCE.randint(6, 40)), 25), solution.Received()
        for number in numbers:
            books.receive(number, True, 0.0)
        scripts.append(read(books.ack(CHANCE.random()).hex(), "A frame with many ranges, made by the solution."))
    await hold(c, *scripts, random=True)


@step(
    "an ACK goes when it must, and never for an ACK",
    rfc="RFC 9000 §13.2.1, §13.2.2: at once for what is out of order; for every second packet; within max_ack_delay; "
    "and nothing in response to what asks for nothing",
    symptom="Your ACK is due too early, too late or without need. Three things decide: does the packet ask for an ACK; "
    "is it the next of those that do; how many of them has no ACK answered yet?",
    where="Not eliciting: due() stays what it was. Else: if a number is below the largest eliciting one, or something "
    "is missing between the two, the ACK is due now; and also for the second since the last ACK. A single one waits "
    "for MAX_ACK_DELAY. What is due is never put off by a packet that comes later. ack() makes due() None again.",
    code="""
if eliciting:
    self._waiting += 1
    in_order = number > self._eliciting and start_of_its_range <= self._eliciting + 1
    due = now if not in_order or self._waiting >= 2 else now + MAX_ACK_DELAY
    self._due = due if self._due is None else min(due, self._due)
    self._eliciting = max(self._eliciting, number)""",
    seconds=PATIENCE,
)
async def ack_due(c: Check) -> None:
    def due(why: str) -> Any:
        return call("due", why=why)

    ack = call("ack", 1.0, why="Here an ACK goes.")
    await hold(
        c,
        [due("Nothing has come: due() is None.")],
        [*came(0, now=1.0), due("One packet came at 1000 ms: its ACK may wait for MAX_ACK_DELAY, 25 ms, and then one "
                                "ACK does for two.")],
        [*came(0, now=1.0), *came(1, now=1.01), due("The second packet came at 1010 ms: the ACK is due at once.")],
        [*came(0, now=1.0), *came(1, now=1.5), due("The first packet came at 1000 ms, and no ACK has gone "
         "since: it was due at 1025 ms, and the second packet does not put that off (§13.2.1).")],
        [*came(0, 1, now=1.0), ack, due("The ACK has gone: due() is None."), *came(2, now=2.0),
         due("The first packet after an ACK came at 2000 ms: 25 ms from then.")],
        [*came(0, 1, now=0.9), ack, *came(3, now=2.0), due("3 came and 2 did not: the sender should know at once.")],
        [*came(0, 1, 3, now=0.9), ack, *came(2, now=2.0), due("2 came after 3: the sender, who may take it for lost, "
                                                               "should know at once.")],
        [*came(0, 1, now=0.9), ack, *came(0, 1, now=1.05, why="0 and 1 come again."), due("0 and 1 came again after "
         "the ACK: a copy asks for none. The network made it; a sender of QUIC never uses a number twice.")],
        [*came(0, eliciting=False), due("A packet that has nothing but an ACK asks for none. If it did, two ends would "
                                        "acknowledge each other's ACKs for ever.")],
        [*came(0, 5, 2, eliciting=False), due("Also with gaps, and out of order: what asks for nothing gets nothing.")],
        [*came(0, now=1.0), *came(1, 2, 3, eliciting=False, now=1.01),
         due("One packet asks for an ACK, since 1000 ms; those after it ask for nothing and change nothing: 1025 ms.")],
        [*came(0, now=0.9), *came(1, eliciting=False, now=0.9), ack, *came(2, now=2.0),
         due("1, which is not eliciting, is no gap between 0 and 2: the ACK may wait for 25 ms.")],
        [*came(0, now=0.9), ack, *came(5, eliciting=False, now=1.05), *came(1, now=2.0),
         due("1 is the next of those that ask; that 5 came early, which asks for nothing, is no reason to hurry "
             "(§13.2.1).")],
        [*came(0, 1, 3, now=0.9), ack, *came(4, now=2.0), due("2 is missing still, but nothing is between 3 and 4, and "
                                                               "of the gap the sender was told: 25 ms.")],
    )  # fmt: skip


@step(
    "no peer owns your memory: 32 ranges, and what was forgotten is never new",
    rfc="RFC 9000 §13.2.3: a receiver limits its ranges, and must not accept again what it forgets",
    symptom="A peer left out every other number, and your ranges are too many; or you forgot one, and a copy of a "
    "packet in it was new to you again: its bytes would count twice.",
    where="When there are more than MOST_RANGES, the lowest goes: its packets are old. Remember one number in its "
    "place: what is not above it is never new.",
    code="""
if len(self._ranges) > MOST_RANGES:
    self._least = self._ranges.pop()[1] + 1
...
if number < self._least: return False""",
    seconds=PATIENCE,
)
async def ranges_bounded(c: Check) -> None:
    old = "This packet was in a range that was dropped. A copy of it is not new: receive() returns False (§13.2.3)."
    every_other = came(*range(0, 64, 2))
    await hold(
        c,
        [*every_other, call("ranges", why="32 ranges are not too many.")],
        [*every_other, *came(64), call("ranges", why="The 33rd range came: the lowest must go, and not the highest.")],
        [*every_other, *came(64), *came(0, why=old), *came(62, 64, why="This one is remembered: a copy.")],
        [*came(*range(1000)), *came(*range(2000, 2064, 2)), *came(0, 500, 999, why=old)],
        [*every_other, *came(63, 64, why="63 joins, 64 lengthens, and the ranges are 32 still."),
         *came(0, why="0 was not dropped: there were never more than 32 ranges. It is a copy."),
         call("ranges", why="62-64 are one range: nothing had to go.")],
        [*came(*range(0, 400, 2)), call("ranges", why="200 ranges would be here by now: the highest 32 are kept."),
         call("largest", why="`largest` is what it was.")],
        [*came(*range(0, 400, 2)), call("ack", 0.0, why="And so the ACK frame has 32 ranges: it must fit into a "
                                        "packet.")],
    )  # fmt: skip


@step(
    "what the peer knows is forgotten",
    rfc="RFC 9000 §13.2.4: when an ACK is acknowledged, what it acknowledged need not be said again",
    symptom="The peer has acknowledged an ACK of yours; what it said need not be in the next one. Yours says it still, "
    "or has forgotten more than that, or takes a copy of what it forgot for new.",
    where="forget(number) drops all up to and including the number; a range that it cuts loses its lower part. What "
    "was dropped is never new again, and `largest` stays: the next packet number is read by it.",
    code="""
self._least = max(self._least, number + 1)
self._ranges = [(max(first, self._least), last)
                for first, last in self._ranges if last >= self._least]""",
    seconds=PATIENCE,
)
async def ack_forgotten(c: Check) -> None:
    def forget(number: int) -> Any:
        return call("forget", number, why="forget() returns nothing.")

    old = "This one is forgotten, and never new again: receive() returns False."
    await hold(
        c,
        [*came(*range(10)), forget(4), call("ranges", why="Up to 4 the peer knows; 5-9 it may not.")],
        [*came(0, 1, 4, 5, 8), forget(5), call("ranges", why="0-1 and 4-5 are known; 8 is left.")],
        [*came(0, 1, 4, 5, 8), forget(6), call("ranges", why="0-1 and 4-5 are known; 8 is left.")],
        [*came(*range(10)), forget(4), *came(0, 4, why=old), *came(5, why="5 is remembered: a copy.")],
        [*came(0, 1, 2), forget(2), call("ranges", why="All is known: no ranges."),
         call("largest", why="`largest` stays when ranges are forgotten: decode_number() needs it (§13.2.3)."),
         call("ack", 0.0, why='There is nothing to say: b"".')],
        [*came(0, 1, 2), call("ack", 0.0, why="The ACK of 0-2 goes."), forget(2), *came(3, now=1.0),
         call("ranges", why="3 comes after all was forgotten."),
         call("due", why="3 follows 2, which has been here: nothing is missing, and its ACK may wait for 25 ms.")],
        [*came(*range(10)), forget(6), forget(3), call("ranges", why="An older ACK is acknowledged later: what was "
         "forgotten stays forgotten."), *came(5, why=old)],
        [*came(*range(20)), forget(10), call("ack", 0.0, why="The frame says 11-19 and no more.")],
    )  # fmt: skip
