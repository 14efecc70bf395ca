"""The exercise of lab 06: its solution beside the RFC's examples, aioquic, the lab's own QUIC; what its check catches.

The check holds a learner's answers against the solution's. So it is the solution that is held against others here.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from types import ModuleType

import pytest
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic import packet as aioquic_packet
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace
from aioquic.tls import Epoch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import catalog
from labkit.check import CheckFailed
from labkit.grade import grade
from labkit.learner import load
from protocols import quic_frames, quic_packets, quic_recovery
from tests.clone import as_shipped
from tests.conftest import TICK

LAB = catalog.ROOT / "labs" / "06-quic"
check = load(LAB / "check.py", "labs_quic_check")
asking, solution = check.asking, check.asking.solution
road, steps_road = (sys.modules[f"labs_quic_{name}"] for name in ("road", "steps_road"))
QuicError = solution.QuicError
NUMBERS = st.integers(0, 2**62 - 1)
quick = settings(max_examples=60, deadline=None)


# -- Integers and packet numbers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "value"),  # RFC 9000 §A.1
    [("c2197c5eff14e88c", 151288809941952652), ("9d7f3e7d", 494878333), ("7bbd", 15293), ("25", 37), ("4025", 37)],
)
def test_integers_are_read_as_the_rfc_reads_them(wire, value):
    assert solution.decode_varint(bytes.fromhex(wire), 0) == (value, len(wire) // 2)
    if wire != "4025":
        assert solution.encode_varint(value).hex() == wire


@quick
@given(NUMBERS, st.binary(max_size=3), st.binary(max_size=3))
def test_integers_are_what_aioquic_writes(value, before, behind):
    wire = solution.encode_varint(value)
    assert wire == encode_uint_var(value) == quic_packets.encode_varint(value)
    whole = before + wire + behind
    at = len(before)
    assert solution.decode_varint(whole, at) == (value, at + len(wire)) == quic_packets.decode_varint(whole, at)
    for cut in range(len(wire)):
        with pytest.raises(QuicError):
            solution.decode_varint(whole[: at + cut], at)


@quick
@given(st.binary(max_size=9))
def test_any_bytes_are_the_integer_that_aioquic_reads(data):
    buffer = Buffer(data=data)
    try:
        wanted = buffer.pull_uint_var(), buffer.tell()
    except ValueError:  # BufferReadError
        with pytest.raises(QuicError):
            solution.decode_varint(data, 0)
    else:
        assert solution.decode_varint(data, 0) == wanted


def test_packet_numbers_of_the_rfc():
    assert solution.encode_number(0xAC5C02, 0xABE8B3).hex() == "5c02"  # §A.2
    assert solution.encode_number(0xACE8FE, 0xABE8B3).hex() == "ace8fe"
    assert solution.decode_number(bytes.fromhex("9b32"), 0xA82F30EA) == 0xA82F9B32  # §A.3


@quick
@given(NUMBERS, st.integers(1, 31).flatmap(lambda bits: st.integers(1, 2**bits)), st.data())
def test_a_packet_number_is_found_again(number, distance, data):
    acked = max(-1, number - distance)
    wire = solution.encode_number(number, acked)
    assert wire == quic_packets.encode_packet_number(number, acked)
    largest = data.draw(st.integers(acked, number - 1))
    assert solution.decode_number(wire, largest) == number


@quick
@given(st.integers(1, 4), NUMBERS, st.data())
def test_any_bytes_are_the_packet_number_that_aioquic_finds(size, largest, data):
    wire = data.draw(st.binary(min_size=size, max_size=size))
    ours = solution.decode_number(wire, largest)
    assert ours == aioquic_packet.decode_packet_number(int.from_bytes(wire), 8 * size, largest + 1)
    assert ours == quic_packets.decode_packet_number(largest, int.from_bytes(wire), 8 * size)


# -- ACK frames ----------------------------------------------------------------------------------------


@quick
@given(st.sets(st.integers(0, 60) | NUMBERS, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_ack_frames_are_what_aioquic_writes(numbers, chance):
    books, theirs = solution.Received(), RangeSet()
    for number in chance.sample(sorted(numbers), len(numbers)):
        assert books.receive(number, True, 0.0)
        theirs.add(number, number + 1)
    pairs = [(one.start, one.stop - 1) for one in reversed(list(theirs))]
    assert books.ranges() == pairs
    frame = books.ack(0.0)
    buffer = Buffer(capacity=2000)
    aioquic_packet.push_ack_frame(buffer, theirs, 0, 2000)
    assert frame == b"\x02" + buffer.data
    assert frame == quic_frames.encode(quic_frames.Ack(tuple(range(a, b + 1) for a, b in pairs), 0, None))
    assert solution.decode_ack(b"\x01" + frame + b"\x01", 1) == (pairs, 0.0, 1 + len(frame))


@quick
@given(st.lists(st.integers(0, 70) | NUMBERS, min_size=3, max_size=12).map(lambda fields: b"".join(
    map(encode_uint_var, fields))), st.sampled_from((2, 3)))  # fmt: skip
def test_any_fields_are_the_frame_that_aioquic_reads(fields, kind):
    buffer = Buffer(data=fields)
    try:
        ranges, delay = aioquic_packet.pull_ack_frame(buffer)
        if kind == 3:
            for _ in range(3):
                buffer.pull_uint_var()
    except ValueError:
        with pytest.raises(QuicError) as caught:
            solution.decode_ack(bytes([kind]) + fields, 0)
        assert caught.value.code == solution.FRAME_ENCODING_ERROR
        return
    found = solution.decode_ack(bytes([kind]) + fields, 0)
    assert found.end == 1 + buffer.tell()
    assert found.delay == pytest.approx(delay * 8e-6)
    merged = RangeSet()
    for first, last in found.ranges:
        merged.add(first, last + 1)
    assert list(merged) == list(ranges)


@quick
@given(st.lists(st.tuples(st.integers(0, 120), st.booleans()), max_size=80), st.sampled_from((1, 2, 5)))
def test_ranges_are_the_numbers_that_came(packets, every):
    """Beside a set; with steps of more than one there are too many ranges, and the lowest are forgotten for good."""
    books, had = solution.Received(), set()
    for number, known in packets:
        number *= every
        new = books.receive(number, True, 0.0)
        assert not (new and number in had)
        had |= {number} if new else set()
        if known and books.ranges():
            books.forget(books.ranges()[-1][1])
        kept = {one for first, last in books.ranges() for one in range(first, last + 1)}
        assert kept <= had
        assert len(books.ranges()) <= solution.MOST_RANGES
        assert books.largest == max(had, default=-1)
        assert all(upper[0] > lower[1] + 1 for upper, lower in zip(books.ranges(), books.ranges()[1:], strict=False))


# -- Losses --------------------------------------------------------------------------------------------


class Aioquic:
    """Its loss detection, with the solution's methods."""

    def __init__(self) -> None:
        self.recovery = QuicPacketRecovery(
            congestion_control_algorithm="reno", initial_rtt=0.333, max_datagram_size=1200,
            peer_completed_address_validation=True, send_probe=lambda: None,
        )  # fmt: skip
        self.recovery.handshake_confirmed = True
        self.space = QuicPacketSpace(is_application_data=True)
        self.recovery.spaces = [self.space]
        self.acked, self.lost = [], []

    def send(self, number, now):
        sent = QuicSentPacket(
            Epoch.ONE_RTT, True, True, False, number, aioquic_packet.QuicPacketType.ONE_RTT, now, 1000
        )
        sent.delivery_handlers.append((self.delivered, (number,)))
        self.recovery.on_packet_sent(packet=sent, space=self.space)

    def delivered(self, state, number):
        (self.acked if state == QuicDeliveryState.ACKED else self.lost).append(number)

    def receive_ack(self, ranges, now):
        self.acked, self.lost = [], []
        found = RangeSet()
        for first, last in ranges:
            found.add(first, last + 1)
        self.recovery.on_ack_received(ack_rangeset=found, ack_delay=0.0, now=now, space=self.space)
        return self.acked, self.lost


@quick
@given(st.randoms(use_true_random=False))
def test_losses_are_those_that_aioquic_and_the_lab_s_own_see(chance):
    ours, theirs, lab, trip = solution.Sent(), Aioquic(), quic_recovery.Sent(), quic_recovery.RoundTrip()
    now, number, arrived = 1.0, 0, set()
    for _ in range(12):
        for _ in range(chance.randint(1, 6)):
            now += chance.choice((0.0, 0.0, 0.001, 0.03))
            ours.send(number, True, now)
            theirs.send(number, now)
            assert lab.send(now) == number
            if chance.random() < 0.7:
                arrived.add(number)
            number += 1
        now += chance.uniform(0.005, 0.1)
        arrived |= {chance.randrange(number)}
        ranges = []
        for one in sorted(arrived, reverse=True):
            if ranges and ranges[-1][0] == one + 1:
                ranges[-1] = (one, ranges[-1][1])
            else:
                ranges.append((one, one))
        acked, (their_acked, their_lost) = (
            ours.receive_ack(solution.Ack(ranges, 0.0, 0), now),
            theirs.receive_ack(ranges, now),
        )
        outcome = lab.receive_ack([range(first, last + 1) for first, last in ranges], now, trip)
        assert sorted(acked) == sorted(their_acked) == sorted(outcome.acked)
        if their_acked:  # It looks for losses only then.
            assert sorted(ours.lost(now)) == sorted(their_lost) == sorted(outcome.lost)
            timer = ours.timer()
            assert timer == pytest.approx(theirs.space.loss_time) if timer else theirs.space.loss_time is None
            assert timer == pytest.approx(outcome.retry_at) if timer else outcome.retry_at is None
        else:
            ours.lost(now)
            theirs.recovery._detect_loss(now=now, space=theirs.space)


# -- What the check catches ----------------------------------------------------------------------------


class Here:
    """A check whose learner's program runs in this process, without a network: a step takes a millisecond."""

    def __init__(self, exercise):
        self.exercise, self.story = exercise, []

    def did(self, text):
        self.story.append(text)

    def fail(self, what, **details):
        raise CheckFailed(what, **details)

    def start(self, role, *arguments, host):
        found = getattr(check, role)(self.exercise, *arguments)

        class Program:
            async def result(self, _):
                return found

        return Program()


@pytest.fixture(autouse=True)
def _clock_signal():
    """The steps' limit on processor time is a signal."""
    before = signal.getsignal(signal.SIGPROF)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def verdict(exercise) -> tuple[str, CheckFailed | None]:
    """The step at which an exercise fails, of those without a socket, and how."""
    for step in check.STEPS[:-2]:
        try:
            asyncio.run(step.body(Here(exercise)))
        except CheckFailed as error:
            return step.name, error
    return "", None


def exercise_of(text: str, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = f"{name}.py"
    exec(compile(text, module.__file__, "exec"), vars(module))
    return module


SOLUTION = (LAB / "solution.py").read_text(encoding="utf-8")

# Wrong solutions that are too much like a rogue to be one: the solution with other words in it, what catches it, and
# words of the sentence that says so.
MUTANTS = {
    "keeps_the_length_bits": (
        "varint_read",
        "the first two bits, 01, are its length and not its value",
        (
            "return int.from_bytes(data[at : at + size]) & (1 << 8 * size - 2) - 1, at + size",
            "return int.from_bytes(data[at : at + size]), at + size",
        ),
    ),
    "little_endian": (
        "varint_read",
        "7b bd is 15293",
        (
            "int.from_bytes(data[at : at + size]) & (1 << 8 * size - 2) - 1",
            'int.from_bytes(bytes([data[at] & 0x3F]) + data[at + 1 : at + size], "little")',
        ),
    ),
    "forgets_where_it_began": (
        "varint_read",
        "`at` says where the integer begins",
        ("(1 << 8 * size - 2) - 1, at + size", "(1 << 8 * size - 2) - 1, size"),
    ),
    "one_bit_too_many": (
        "varint_written",
        "64 fits into 14 bits",
        (
            "if 0 <= value < 1 << 8 * size - 2:\n            return (power",
            "if 0 <= value < 1 << 8 * size - 1 - (size > 1):\n            return (power",
        ),
    ),
    "one_below_the_bound": (
        "varint_written",
        "63 fits into 6 bits",
        (
            "if 0 <= value < 1 << 8 * size - 2:\n            return (power",
            "if 0 <= value < (1 << 8 * size - 2) - (size < 8):\n            return (power",
        ),
    ),
    "always_four_bytes": (
        "number_written",
        "one byte is enough",
        ("    for size in (1, 2, 3, 4):\n", "    for size in (4,):\n"),
    ),
    "by_the_number": (
        "number_written",
        "0x734f packets are on their way, so two bytes",
        ("0 < unacknowledged <= 1 << 8 * size - 1:", "0 < unacknowledged and number < 1 << 8 * size - 1:"),
    ),
    "beyond_the_last": (
        "number_written",
        "There is no packet number beyond 2**62 - 1",
        ("0 <= number <= MAX_VARINT and 0 < unacknowledged", "0 <= number and 0 < unacknowledged"),
    ),
    "only_upwards": (
        "number_read",
        "fe is 0x1fe, which comes late",
        ("    if candidate > expected + window // 2 and candidate >= window:\n        return candidate - window\n", ""),
    ),
    "around_the_largest": (
        "number_edges",
        "128 above it",
        ("expected - window // 2", "largest - window // 2"),
        ("expected + window // 2", "largest + window // 2"),
    ),
    "below_zero": (
        "number_read",
        "240 - 256 would be below zero",
        (" and candidate >= window:", ":"),
    ),
    "joins_one_side": (
        "ranges_kept",
        "1 comes between 0 and 2: the two ranges become one",
        ("            elif one[1] == number - 1:", "            elif one[1] == number - 1 and last == number:"),
    ),
    "lowest_first": (
        "ranges_kept",
        "two ranges, the higher one first",
        ("sorted([*apart, (first, last)], reverse=True)", "sorted([*apart, (first, last)])"),
    ),
    "old_is_a_copy": (
        "ranges_kept",
        "Each of these packets comes for the first time",
        ("        if number < self._least or any(", "        if number <= self.largest or any("),
    ),
    "thanks_for_copies": (
        "ack_due",
        "a copy asks for none",
        (
            "            return False\n        joined",
            "            self._due = now\n            return False\n        joined",
        ),
    ),
    "counts_the_largest": (
        "ack_written",
        "a first range of 0 beside the largest",
        ("len(others), last - first]", "len(others), last - first + 1]"),
        ("lower[1] - lower[0]]", "lower[1] - lower[0] + 1]"),
    ),
    "counts_all_ranges": (
        "ack_written",
        "no more ranges",
        ("len(others), last", "len(others) + 1, last"),
    ),
    "delay_of_the_last": (
        "ack_written",
        "That 1 came later does not count",
        (
            "        if number > self.largest:\n            self.largest, self._came = number, now\n",
            "        self.largest, self._came = max(number, self.largest), now\n",
        ),
    ),
    "knows_no_ecn": (
        "ack_read",
        "Type 0x03 has three more integers",
        ("for _ in range(3 if kind == ACK_ECN else 0)", "for _ in range(0)"),
    ),
    "acks_each_at_once": (
        "ack_due",
        "its ACK may wait for MAX_ACK_DELAY",
        ("at_once = not in_order or self._waiting >= 2", "at_once = not in_order or self._waiting >= 1"),
    ),
    "keeps_calm_about_gaps": (
        "ack_due",
        "3 came and 2 did not: the sender should know at once",
        ("in_order = number > self._eliciting and joined <= self._eliciting + 1", "in_order = joined >= 0"),
    ),
    "hurries_while_anything_is_missing": (
        "ack_due",
        "no reason to hurry",
        ("joined <= self._eliciting + 1", "len(self._ranges) == 1"),
    ),
    "drops_the_highest": (
        "ranges_bounded",
        "the lowest must go, and not the highest",
        ("            self._least = self._ranges.pop()[1] + 1", "            self._ranges.pop(0)"),
    ),
    "never_forgets": (
        "ack_forgotten",
        "Up to 4 the peer knows",
        ("        self._least = max(self._least, number + 1)\n        self._ranges = [", "        _ = ["),
    ),
    "forgets_whole_ranges": (
        "ack_forgotten",
        "Up to 4 the peer knows; 5-9 it may not",
        ("[(max(first, self._least), last) for", "[(first, last) for"),
        ("if last >= self._least]", "if first >= self._least]"),
    ),
    "acknowledges_twice": (
        "acked_once",
        "The same ACK again",
        (
            "        went = {number: self._on_the_way.pop(number) for number in acked}",
            "        went = {number: self._on_the_way[number] for number in acked}",
        ),
    ),
    "only_the_first_range": (
        "acked_once",
        "Three ranges",
        ("for first, last in ack.ranges)]", "for first, last in ack.ranges[:1])]"),
    ),
    "looks_at_the_largest_only": (
        "never_sent",
        "5 was skipped",
        (" or any(a <= last and first <= b for a, b in self._skipped):", ":"),
    ),
    "lost_at_the_first_gap": (
        "lost_by_number",
        "0 was overtaken by one",
        (
            "PACKET_THRESHOLD, TIME_THRESHOLD, GRANULARITY, INITIAL_RTT = 3,",
            "PACKET_THRESHOLD, TIME_THRESHOLD, GRANULARITY, INITIAL_RTT = 1,",
        ),
    ),
    "lost_after_four": (
        "lost_by_number",
        "three later, and 0 is lost",
        ("number <= self._largest_acked - PACKET_THRESHOLD", "number < self._largest_acked - PACKET_THRESHOLD"),
    ),
    "lost_again_and_again": (
        "lost_by_number",
        "lost() tells each once",
        (
            "        for number in lost:\n            del self._on_the_way[number]\n        return lost",
            "        return lost",
        ),
    ),
    "sends_acks_again": (
        "lost_by_number",
        "0 is not in flight, an ACK",
        ("if n < largest and not eliciting]", "if n < 0 and not eliciting]"),
    ),
    "one_round_trip": (
        "lost_by_number",
        "0 was overtaken by one",
        ("INITIAL_RTT = 3, 9 / 8,", "INITIAL_RTT = 3, 1,"),
    ),
    "from_the_ack": (
        "lost_by_time",
        "lost 112.5 ms after that",
        (
            "        self._largest_acked = max(self._largest_acked, largest)\n",
            "        self._largest_acked = max(self._largest_acked, largest)\n        self._heard = now\n",
        ),
        (
            "return min((went + self._patience() for went in self._overtaken().values()), default=None)",
            "return self._heard + self._patience() if self._overtaken() else None",
        ),
    ),
    "finer_than_timers": (
        "lost_by_time",
        "1 ms (§6.1.2)",
        (
            "max(TIME_THRESHOLD * max(self._smoothed, self._latest), GRANULARITY)",
            "TIME_THRESHOLD * max(self._smoothed, self._latest)",
        ),
    ),
    "latest_only": (
        "round_trips",
        "The larger of smoothed and latest counts",
        ("max(self._smoothed, self._latest)", "self._latest"),
    ),
    "smoothed_only": (
        "round_trips",
        "the latest is larger, and counts",
        ("max(self._smoothed, self._latest)", "self._smoothed"),
    ),
    "believes_the_delay": (
        "round_trips",
        "it is not believed",
        ("        if rtt >= self._least + delay:", "        if rtt:"),
    ),
    "any_delay": (
        "round_trips",
        "it promised 25 at most",
        ("min(ack.delay, MAX_ACK_DELAY)", "ack.delay"),
    ),
    "ignores_the_delay": (
        "round_trips",
        "of which 16 are the peer's delay; 20 ms",
        ("            rtt -= delay\n", "            pass\n"),
    ),
    "samples_any_ack": (
        "round_trips",
        "the peer owes it no haste",
        ("if largest in went and any(eliciting for _, eliciting in went.values()):", "if largest in went:"),
    ),
    "lets_the_index_fail": (
        "varint_cut",
        "IndexError",
        ("    if at >= len(data):\n        raise QuicError(FRAME_ENCODING_ERROR)\n    size", "    size"),
    ),
    "never_goes_round": (
        "number_read",
        "After 0x1fe, 02 is 0x202",
        (" and candidate < (1 << 62) - window:", " and window < 0:"),
        (" and candidate >= window:", " and window < 0:"),
    ),
    "delay_in_microseconds": (
        "ack_written",
        "8.004 ms / 8 µs = 1000",
        ("int((now - self._came) / DELAY_UNIT)", "int((now - self._came) / 1e-6)"),
    ),
    "waits_for_the_second": (
        "ack_due",
        "its ACK may wait for MAX_ACK_DELAY, 25 ms",
        ("due = now if at_once else now + MAX_ACK_DELAY", "due = now if at_once else None"),
        ("self._due = due if self._due is None else min(due, self._due)", "self._due = due"),
    ),
    "puts_it_off": (
        "ack_due",
        "does not put that off",
        ("due if self._due is None else min(due, self._due)", "due"),
    ),
    "late_is_an_error": (
        "lost_by_number",
        "that is no error",
        (
            "        for number in lost:\n            del self._on_the_way[number]\n",
            "        for number in lost:\n            del self._on_the_way[number]\n"
            "            self._skipped.append((number, number))\n",
        ),
    ),
    "timer_for_all": (
        "lost_by_time",
        "Nothing was overtaken",
        (" if number < self._largest_acked}", "}"),
    ),
    "samples_old_news": (
        "round_trips",
        "that is no sample",
        ("if largest in went and any(", "if went and any("),
        ("self._measure(now - went[largest][0]", "self._measure(now - went[max(went)][0]"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(name):
    step, words, *changes = MUTANTS[name]
    text = SOLUTION
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(CheckFailed) as caught:
        asyncio.run(getattr(check, step).body(Here(exercise_of(text, name))))
    assert words in str(caught.value)


def test_the_solution_passes_in_this_process_too():
    assert verdict(solution) == ("", None)


def test_pieces_that_are_not_written_yet_fail_no_step_before_their_own():
    """A learner goes from A to D: no step asks for what a later one is about."""
    starter = (LAB / "exercise.py").read_text(encoding="utf-8")
    order = [
        (3, ["encode_varint", "decode_varint"]), (6, ["encode_number", "decode_number"]),
        (8, ["Received.receive", "Received.ranges", "Received._insert", "Received.__init__"]), (9, ["Received.ack"]),
        (10, ["decode_ack"]), (12, ["Received.due"]), (13, ["Received.forget"]),
        (15, ["Sent.__init__", "Sent.send", "Sent.receive_ack", "Sent._measure"]),
        (18, ["Sent.lost", "Sent.timer", "Sent._patience", "Sent._overtaken"]),
    ]  # fmt: skip
    exercise = exercise_of(starter, "starter")
    for passed, names in order:
        for name in names:
            kind, _, method = name.rpartition(".")
            setattr(getattr(exercise, kind) if kind else exercise, method, written(exercise, name))
        caught, error = verdict(exercise)
        assert caught == (check.STEPS[passed].name if passed < 18 else ""), error


def written(exercise, name):
    """A function of the solution's, that finds the other names in the exercise."""
    kind, _, method = name.rpartition(".")
    function = getattr(getattr(solution, kind) if kind else solution, method)
    return type(function)(function.__code__, vars(exercise), function.__name__, function.__defaults__)


def test_a_failure_shows_the_bytes_and_how_to_try_it():
    text = SOLUTION.replace("first - lower[1] - 2", "first - lower[1] - 1")
    here = Here(exercise_of(text, "off_by_one"))
    with pytest.raises(CheckFailed) as caught:
        asyncio.run(check.ack_written.body(here))
    error = caught.value
    assert here.story == [
        "= a new Received: it knows nothing of what others were told",
        "> receive(0 1 2 5 6 7 8, eliciting, 0 ms)", "< True each", "> ack(0 ms)", "< 02 08 00 01 03 02 02",
    ]  # fmt: skip
    assert (error.got.hex(" "), error.wanted.hex(" ")) == ("02 08 00 01 03 02 02", "02 08 00 01 03 01 02")
    line = error.reproduce.removeprefix("echo '").partition("'")[0]
    assert line.startswith("receive 0; receive 1; receive 2; receive 5;")
    assert asking.heard(solution, line).endswith("ack(0 ms) -> 02 08 00 01 03 01 02\n")


def test_whoever_never_returns_is_stopped():
    text = SOLUTION.replace(
        "    expected = largest + 1\n", "    while True:\n        pass\n    expected = largest + 1\n"
    )
    step, error = verdict(exercise_of(text, "for_ever"))
    assert step == "number_read"
    assert "decode_number() had not returned" in str(error)


# -- By hand -------------------------------------------------------------------------------------------


def scripts_of(step):
    """The scripts that a step plays."""

    class Gathered(Here):
        def start(self, role, scripts, host):
            gathered.extend(asking.json.loads(scripts))
            return super().start(role, scripts, host=host)

    gathered = []
    asyncio.run(step.body(Gathered(solution)))
    return [[asking.Call(name, asking.unpacked(given)) for name, given in one] for one in gathered]


@pytest.mark.parametrize("step", check.STEPS[:-2], ids=lambda step: step.name)
def test_what_a_step_does_can_be_typed(step):
    for script in scripts_of(step)[:40]:
        typed = [asking.typed(one) for one in asking.spoken(script).split("; ")]
        for one, other in zip(script, typed, strict=True):
            assert one.name == other.name
            assert asking.alike(asking.packed(one.arguments), asking.packed(other.arguments))


@pytest.mark.parametrize("step", check.STEPS[:-2], ids=lambda step: step.name)
def test_time_never_goes_back_in_a_script(step):
    for script in scripts_of(step):
        times = [one.arguments[-1] for one in script if "T" in asking.FORMS[one.name].upper()]
        assert times == sorted(times), asking.spoken(script)


@pytest.mark.parametrize(
    "text", ["hello", "decode_varint", "decode_varint xy", "receive_ack", "\xff", "encode_varint one"]
)
def test_what_nobody_understands_is_named(text):
    assert asking.heard(solution, text).startswith(f"What is {text!r}? help says what there is.")
    assert asking.heard(solution, f"receive 1; {text}; due").startswith(f"What is {text!r}?")


@pytest.mark.parametrize("text", ["help", " help\n", "receive 1; due; ack 0.1; help"])
def test_help_lists_all_calls(text):
    said = asking.heard(solution, text).splitlines()
    assert {line.split()[0] for line in said[:-1]} == set(asking.FORMS)
    assert "receive number [yes|no] [seconds]" in said


WORDS = st.sampled_from(
    (*asking.FORMS, "0", "1", "-1", "2-5,1", "7-", "no", "0x10", "nan", "inf", "1e400", "02", "-", "é")
)


@quick
@given(st.text(max_size=30) | st.lists(WORDS | st.just(";"), max_size=12).map(" ".join))
def test_whatever_is_typed_is_answered(text):
    assert isinstance(asking.heard(solution, text), str)


def test_by_hand_it_answers_datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "labkit.learner", str(LAB / "check.py"), check.BY_HAND, str(LAB / "solution.py")]
    process = subprocess.Popen([*command, "127.0.0.1", str(port)], cwd=catalog.ROOT)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port))
            sock.settimeout(0.1)
            end, answer = time.monotonic() + 20, b""
            while not answer and time.monotonic() < end:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    sock.send(b"send 0; send 1; send 2; send 3\nreceive_ack 1-3 0 0.1; lost 0.1")
                    answer = sock.recv(2000)
    finally:
        process.terminate()
        process.wait(10)
    assert answer.decode().splitlines()[-2:] == ["receive_ack([1-3], 0 ms, 100 ms) -> [1, 2, 3]", "lost(100 ms) -> [0]"]


# -- The road ------------------------------------------------------------------------------------------


async def through(fates, count, most):
    """What arrives, as many as *most*, of so many datagrams that go down a lane at once."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    sender, arriving, leaving, receiver = sockets
    for sock in sockets:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
    lane = road.Lane("there", lambda number: fates.get(number, road.FINE), arriving, leaving)
    lane.open(receiver.getsockname())
    loop = asyncio.get_running_loop()
    loop.add_reader(arriving, lane.readable)
    found = []
    try:
        for number in range(count):
            sender.sendto(b"%d" % number, arriving.getsockname())
        async with asyncio.timeout(200 * TICK):
            while len(found) < most:
                found.append(int(await loop.sock_recv(receiver, 100)))
        await asyncio.sleep(TICK)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)  # Nothing more comes.
    finally:
        loop.remove_reader(arriving)
        for sock in sockets:
            sock.close()
    return found


async def test_the_road_does_as_it_is_told():
    fates = {1: road.Fate(copies=0), 3: road.Fate(behind=2), 7: road.Fate(copies=2), 9: road.Fate(behind=4)}
    assert await through(fates, 10, 10) == [0, 2, 4, 5, 3, 6, 7, 7, 8, 9]  # 9 is held until its time is over.


def notes_of(*calls):
    return [[one.name, asking.packed(one.arguments), said] for one, said in calls]


def test_the_road_s_judge_finds_the_call_that_was_wrong():
    script = [asking.call("send", n, True, 0.0) for n in range(5)]
    script += [asking.call("receive_ack", [[1, 3]], 0.0, 0.1), asking.call("lost", 0.1)]
    found = asking.play(solution, script)
    end = {"packets": 5, "lost": [0], "whole": True, "done": True, "came": 0}
    good = {**end, "notes": notes_of(*zip(script, found, strict=True))}
    lanes = [road.Lane("client → server", lambda _: road.FINE, None, None)]
    lanes[0].fates.append((0, road.Fate(copies=0)))
    here = Here(solution)
    steps_road.judge(here, [good, good], lanes, (0, 0))
    found[-1] = {"value": [0, 1]}
    wrong = {**end, "notes": notes_of(*zip(script, found, strict=True))}
    with pytest.raises(CheckFailed, match="At the server: lost") as caught:
        steps_road.judge(here, [good, wrong], lanes, (0, 0))
    assert (caught.value.got, caught.value.wanted) == ("[0, 1]", "[0]")
    with pytest.raises(CheckFailed, match="Not all of the content has arrived at the client"):
        steps_road.judge(here, [{**good, "whole": False}, good], lanes, (0, 0))
    with pytest.raises(CheckFailed, match="an end was never told"):
        steps_road.judge(here, [good, {**good, "done": False}], lanes, (0, 0))


def test_of_a_long_way_the_calls_are_told_that_matter():
    script = []
    for n in range(60):
        script += [asking.call("send", n, True, 0.001 * n), asking.call("receive", n, True, 0.001 * n)]
    script += [asking.call("receive_ack", [[0, 6], [8, 59]][::-1], 0.0, 0.1), asking.call("lost", 0.1)]
    found = asking.play(solution, script)
    assert found[-1] == {"value": [7]}
    found[-1] = {"value": []}
    notes = notes_of(*zip(script, found, strict=True))
    here = Here(solution)
    lane = road.Lane("client → server", lambda _: road.FINE, None, None)
    lane.fates.append((7, road.Fate(copies=0)))
    with pytest.raises(CheckFailed, match="At the client: lost"):
        steps_road.judge(here, [{"notes": notes}] * 2, [lane], (0, 0))
    assert here.story[:3] == [
        "= client → server: 7 lost", "= of 122 calls, the last about packet 7:", "> send(7, eliciting, 7 ms)",
    ]  # fmt: skip
    assert here.story[3] == "> receive_ack([8-59, 0-6], 0 ms, 100 ms)"
    assert here.story[-2:] == ["> lost(100 ms)", "< []"]
    assert len(here.story) < 12  # More of it is not shown.


GIVEN_UP = [
    # what was said before the last call; what the last may answer, and what it may not
    (
        "send 0; send 1; send 2; send 3; receive_ack 1-3 0 1.1; lost 1.1; receive_ack 0-3 0 1.2",
        ([], [0]),
        ([1], [0, 0]),
    ),
    ("send 0 no 1; send 1 yes 1; receive_ack 1 0 1.1; receive_ack 0-1 0 1.2", ([], [0]), ([1], [0, 1])),
    ("send 0 yes 1; send 1 yes 1; receive_ack 1 0 1.1; receive_ack 0-1 0 1.2", ([0],), ([], [0, 1])),
]


@pytest.mark.parametrize(("typed", "good", "bad"), GIVEN_UP)
def test_what_was_given_up_may_be_named_when_it_comes(typed, good, bad):
    script = [asking.typed(one) for one in typed.split("; ")]
    found = asking.play(solution, script)
    for answer in good:
        assert asking.first_wrong(script, [*found[:-1], {"value": answer}]) is None
    for answer in bad:
        assert asking.first_wrong(script, [*found[:-1], {"value": answer}]) == len(script) - 1
    again = [*script, script[-1]]
    assert asking.first_wrong(again, [*found[:-1], {"value": [0]}, {"value": [0]}]) == len(script)


KEEPS_ALL = '''

class Sent(Sent):
    """Believes the word: "its numbers that no ACK had before"; what was lost or overtaken is in it, too."""

    def __init__(self):
        super().__init__()
        self._all, self._told = set(), set()

    def send(self, number, eliciting, now):
        self._all.add(number)
        super().send(number, eliciting, now)

    def receive_ack(self, ack, now):
        super().receive_ack(ack, now)
        new = {n for n in self._all - self._told if any(a <= n <= b for a, b in ack.ranges)}
        self._told |= new
        return sorted(new)


class Received(Received):
    """Another way to the same: when an ACK is due is worked out when somebody asks."""

    def __init__(self):
        super().__init__()
        self._dues = []

    def receive(self, number, eliciting, now):
        self._due = None
        new = super().receive(number, eliciting, now)
        if self._due is not None:
            self._dues.append(self._due)
        return new

    def due(self):
        return min(self._dues, default=None)

    def ack(self, now):
        frame = super().ack(now)
        if frame:
            self._dues.clear()
        return frame
'''


def test_books_that_keep_what_was_given_up_pass_on_the_road_too(tmp_path):
    path = tmp_path / "exercise.py"
    path.write_text(SOLUTION + KEEPS_ALL, encoding="utf-8")
    assert verdict(exercise_of(SOLUTION + KEEPS_ALL, "keeps_all")) == ("", None)
    _, verdicts = grade(catalog.lab("quic"), path, tmp_path / "check.pcapng")
    assert {one["state"] for one in verdicts} == {"passed"}, verdicts


# -- The journey ---------------------------------------------------------------------------------------


def test_a_journey_is_told_packet_by_packet():
    journey = load(LAB / "journey.py", "labs_quic_journey")
    script = [asking.call("send", n, True, 0.001) for n in range(5)]
    script += [
        asking.call("receive_ack", [[1, 3]], 0.0, 0.1), asking.call("lost", 0.1), asking.call("send", 5, True, 0.101),
        asking.call("receive_ack", [[0, 4]], 0.0, 0.11), asking.call("lost", 0.11),
    ]  # fmt: skip
    notes = notes_of(*zip(script, asking.play(solution, script), strict=True))
    end = {"carried": [[n, n] for n in range(5)] + [[5, 0]], "notes": notes}
    assert list(journey.folded(journey.story(end))) == [
        (1.0, ">", "packets 0-4: pieces 0-4"),
        (100.0, "<", "ACK 1-3"),
        (100.0, "=", "packet 0 is lost: 3 has arrived, 3 later"),
        (101.0, ">", "packet 5: piece 0, again: 0 had it first"),
        (110.0, "<", "ACK 0-4"),
        (110.0, "!", "packet 0 is in it: it was only late"),
    ]


@pytest.mark.parametrize(
    ("options", "status", "wanted"),
    [
        (["--file", str(LAB / "solution.py")], 0, "= packet 5 is lost: "),
        (["--file", str(LAB / "solution.py"), "--pieces", "3", "--lost", "2"], 0, ": piece 2, again: 2 had it first"),
        (["--file", str(LAB / "solution.py"), "--pieces", "3", "--twice", "0"], 0, "3,000 bytes of 3,000 have arrived"),
        (["--file", str(LAB / "solution.py"), "--pieces", "3", "--lost", "999"], 0, "! There was no packet 999: the"),
        (["--late", "x"], 2, "--late wants two numbers"),
        (["--lost", "-1"], 2, "packets are numbered from 0"),
        (["--file", "nope.py"], 2, "There is no file nope.py."),
    ],
)
def test_a_journey_on_sockets(options, status, wanted):
    command = [sys.executable, "-m", "labs.06-quic.journey", *options]
    done = subprocess.run(command, cwd=catalog.ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == status, done.stderr
    assert wanted in done.stdout + done.stderr


def test_a_journey_with_nothing_written_yet(tmp_path):
    (tmp_path / "exercise.py").write_text(as_shipped("labs/06-quic/exercise.py"), encoding="utf-8")
    command = [sys.executable, "-m", "labs.06-quic.journey", "--file", str(tmp_path / "exercise.py")]
    done = subprocess.run(command, cwd=catalog.ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert "make quic-check" in done.stdout
