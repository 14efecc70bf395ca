"""Ranges of what has arrived, and what is lost: against a plain set, and against aioquic's books."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
from protocols.quic_numbers import ErrorCode
from protocols.quic_recovery import INITIAL_RTT, MAX_RANGES, Ranges, RoundTrip, Sent

few = settings(max_examples=50, deadline=None)


# -- Ranges ------------------------------------------------------------------------------------------


@few
@given(st.lists(st.integers(0, 40)))
def test_ranges_are_what_a_set_would_be(arrivals):
    ranges, seen, theirs = Ranges(), set(), RangeSet()
    for number in arrivals:
        assert ranges.add(number) == (number not in seen)
        seen.add(number)
        theirs.add(number)
        assert list(ranges) == list(theirs)
        assert {n for one in ranges for n in one} == seen
    assert all((number in ranges) == (number in seen) for number in range(42))
    assert list(ranges.acknowledged()) == list(reversed(list(ranges)))


def test_a_gap_that_closes_makes_two_ranges_one():
    ranges = Ranges()
    for number in (0, 2, 4, 3, 1):
        ranges.add(number)
    assert list(ranges) == [range(0, 5)]


def test_one_range_however_many_numbers_and_a_limit_to_what_a_peer_leaves_out():
    ranges = Ranges()
    for number in range(10_000):
        ranges.add(number)
    assert len(ranges) == 1
    for number in range(10_000, 20_000, 2):
        ranges.add(number)
    assert len(ranges) == MAX_RANGES
    assert 19_998 in ranges
    assert 0 not in ranges
    assert not ranges.add(0), "what is forgotten may have been here: it is never new again"


# -- Loss --------------------------------------------------------------------------------------------


def sent(count: int, every: float = 0.0) -> Sent:
    found = Sent()
    for i in range(count):
        assert found.send(i * every) == i
    return found


@pytest.mark.parametrize(("acked", "lost"), [(0, []), (2, []), (3, [0]), (4, [0, 1]), (9, [0, 1, 2, 3, 4, 5, 6])])
def test_three_packets_later_is_lost(acked, lost):
    outcome = sent(10).receive_ack([range(acked, acked + 1)], 0.1, RoundTrip())
    assert (outcome.acked, outcome.lost) == ([acked], lost)


def test_nine_eighths_of_a_round_trip_later_is_lost():
    packets, round_trip = sent(2), RoundTrip()
    outcome = packets.receive_ack([range(1, 2)], 0.1, round_trip)
    assert outcome.lost == []
    assert outcome.retry_at == pytest.approx(0.1125)
    assert packets.detect_loss(0.1124, round_trip).lost == []
    assert packets.detect_loss(0.1125, round_trip) == ([], [0], None)
    assert len(packets) == 0


def test_what_is_above_all_that_was_acknowledged_is_on_its_way_however_long():
    packets, round_trip = sent(4), RoundTrip()
    packets.receive_ack([range(0, 2)], 0.1, round_trip)
    assert packets.detect_loss(1000.0, round_trip) == ([], [], None)


def test_a_second_acknowledgement_tells_nothing_new():
    packets, round_trip = sent(3), RoundTrip()
    assert packets.receive_ack([range(0, 3)], 0.1, round_trip).acked == [0, 1, 2]
    assert packets.receive_ack([range(0, 3)], 5.0, round_trip).acked == []
    assert round_trip.latest == 0.1


def test_whoever_acknowledges_what_was_never_sent_guesses():
    with pytest.raises(RemoteProtocolError) as caught:
        sent(3).receive_ack([range(3, 4)], 0.1, RoundTrip())
    assert caught.value.code == ErrorCode.PROTOCOL_VIOLATION


def test_the_round_trip():
    one = RoundTrip()
    assert (one.smoothed, one.probe_timeout()) == (INITIAL_RTT, pytest.approx(0.333 + 4 * 0.1665 + 0.025))
    one.update(0.1, ack_delay=0.05)  # The first is taken as it is.
    assert (one.smoothed, one.variation, one.least) == (0.1, 0.05, 0.1)
    one.update(0.18, ack_delay=0.02)
    assert (one.smoothed, one.variation) == (pytest.approx(0.1075), pytest.approx(0.0525))
    one.update(0.11, ack_delay=0.02)  # It would make the round trip shorter than the shortest: it is left out.
    assert one.smoothed == pytest.approx(7 / 8 * 0.1075 + 1 / 8 * 0.11)
    assert one.loss_delay == pytest.approx(9 / 8 * max(0.11, one.smoothed))
    assert RoundTrip().probe_timeout(0, tries=3) == 8 * RoundTrip().probe_timeout(0)


@pytest.mark.parametrize("seed", range(10))
def test_a_peer_finds_the_same_lost(seed):
    """The same packets, the same acknowledgements, aioquic's books and ours."""
    chance = random.Random(seed)
    ours, round_trip, arrived = Sent(), RoundTrip(), Ranges()
    theirs, space, their_lost = QuicPacketRecovery(
        congestion_control_algorithm="reno", initial_rtt=INITIAL_RTT, max_datagram_size=1200,
        peer_completed_address_validation=True, send_probe=lambda: None,
    ), QuicPacketSpace(), []  # fmt: skip
    theirs.spaces = [space]
    lost, now, news = [], 0.0, False
    for _ in range(300):
        now += chance.random() / 50
        number = ours.send(now)
        packet = QuicSentPacket(None, True, True, False, number, QuicPacketType.ONE_RTT, now, 1200)
        packet.delivery_handlers.append(
            (lambda state, n: their_lost.append(n) if state.name == "LOST" else None, (number,))
        )
        theirs.on_packet_sent(packet=packet, space=space)
        late = max(0, number - chance.randrange(4))
        if (
            chance.random() < 0.8 and late not in lost
        ):  # An acknowledgement that tells nothing new, aioquic passes over.
            news |= arrived.add(late)
        if news and chance.random() < 0.3:
            now, news = now + 0.03, False
            outcome = ours.receive_ack(arrived.acknowledged(), now, round_trip)
            theirs.on_ack_received(ack_rangeset=RangeSet(arrived), ack_delay=0.0, now=now, space=space)
            lost += outcome.lost
            assert outcome.retry_at == pytest.approx(space.loss_time)
    assert lost == their_lost
    assert len(lost) > 10
