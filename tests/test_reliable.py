"""protocols/reliable.py: both ends joined in memory, on a clock of ours, over a network that does what it likes."""

import heapq
import random
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import reliable
from protocols.errors import LocalProtocolError
from protocols.reliable import (
    GIVE_UP,
    GRANULARITY,
    INITIAL,
    LINGER,
    MAX_WINDOW,
    MAXIMUM,
    MINIMUM,
    PAYLOAD,
    Receiver,
    Sender,
    Timeout,
)

ACK = bytes([2])


def ack(number: int, bitmap: int = 0) -> bytes:
    return ACK + number.to_bytes(2, "big") + bitmap.to_bytes(8, "big")


def data(number: int, payload: bytes, last: bool = False) -> bytes:
    return bytes([last]) + number.to_bytes(2, "big") + payload


def transfer(content, *, first=0, window=1, loss=0.0, duplicate=0.0, jitter=0.0, seed=1, delay=0.02):
    """Send *content* over a network with a clock of its own. Returns what arrived, the time, and the sender."""
    chance, order = random.Random(seed), count()
    sender, receiver = Sender(content, first=first, window=window), Receiver(first=first, window=window)
    on_the_way, now, got = [], 0.0, bytearray()
    while not (sender.done and receiver.done):
        for end, other in ((sender, receiver), (receiver, sender)):
            for datagram in end.datagrams_to_send(now):
                for _ in range(1 + (chance.random() < duplicate)):
                    if chance.random() >= loss:
                        arrival = now + delay + chance.random() * jitter
                        heapq.heappush(on_the_way, (arrival, next(order), other, datagram))
        events = [end.timer() for end in (sender, receiver) if not end.done]
        events += [on_the_way[0][0]] if on_the_way else []
        now = max(now, min((time for time in events if time is not None), default=now))
        assert now < 300, "it hangs"
        while on_the_way and on_the_way[0][0] <= now:
            _, _, end, datagram = heapq.heappop(on_the_way)
            got += end.receive_datagram(datagram, now) or b""
    assert not sender.gave_up
    return bytes(got), now, sender


CONTENT = random.Random(7).randbytes(40 * PAYLOAD + 1)


@pytest.mark.parametrize("size", [0, 1, PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 3 * PAYLOAD])
def test_files_of_every_shape(size):
    got, _, sender = transfer(CONTENT[:size])
    assert got == CONTENT[:size]
    assert sender.sent == max(1, -(-size // PAYLOAD))


@pytest.mark.parametrize("first", [0, 65500, 65535])
@pytest.mark.parametrize("window", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(6))
def test_a_bad_network_costs_time_and_never_a_byte(window, first, seed):
    got, _, _ = transfer(CONTENT, first=first, window=window, loss=0.15, duplicate=0.15, jitter=0.05, seed=seed)
    assert got == CONTENT


def test_a_number_is_used_again_after_65536_packets(monkeypatch):
    monkeypatch.setattr(reliable, "PAYLOAD", 1)
    content = random.Random(8).randbytes(65600)
    got, _, _ = transfer(content, window=64, delay=0.001)
    assert got == content


def test_a_window_of_sixteen_is_sixteen_times_as_fast():
    _, alone, _ = transfer(CONTENT[: 32 * PAYLOAD], window=1)
    _, together, _ = transfer(CONTENT[: 32 * PAYLOAD], window=16)
    # The receiver has the last packet one delay (0.02 s) before the sender knows it, and lingers from then on.
    assert (alone - LINGER + 0.02) / (together - LINGER + 0.02) == pytest.approx(16)


def test_without_loss_nothing_is_sent_twice():
    _, _, sender = transfer(CONTENT, window=8, jitter=0.02)
    assert sender.sent == 41


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=30), st.builds(ack, st.integers(0, 65535), st.integers(0, 2**64 - 1)))))
def test_garbage_does_not_upset_a_sender(datagrams):
    sender = Sender(CONTENT, first=3, window=4)
    sender.datagrams_to_send(0)
    for datagram in datagrams:
        sender.receive_datagram(datagram, 0.1)
        for sent in sender.datagrams_to_send(0.1):
            assert len(sent) <= PAYLOAD + 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=30), st.builds(data, st.integers(0, 65535), st.binary(max_size=5)))))
def test_garbage_does_not_upset_a_receiver_nor_fill_its_memory(datagrams):
    receiver = Receiver(first=65533, window=8)
    for datagram in datagrams:
        receiver.receive_datagram(datagram, 0)
        assert len(receiver._early) <= 8
        assert len(receiver.datagrams_to_send(0)) <= 1


@pytest.mark.parametrize("lie", [b"", b"\2", ack(2)[:-1], ack(2) + b"?", ack(2), ack(60000), data(0, b"mirrored")])
def test_a_sender_believes_no_lie(lie):
    sender = Sender(CONTENT)
    sender.datagrams_to_send(0)
    sender.receive_datagram(lie, 0.01)
    assert sender.ignored == 1
    assert sender.datagrams_to_send(0.01) == []


@pytest.mark.parametrize("lie", [b"", b"\0\0", data(1, b"beyond the window"), data(9, bytes(PAYLOAD + 1)), ack(0)])
def test_a_receiver_takes_and_answers_no_garbage(lie):
    receiver = Receiver()
    assert receiver.receive_datagram(lie, 0) == b""
    assert receiver.ignored == 1
    assert receiver.datagrams_to_send(0) == []


def test_an_acknowledgement_that_was_overtaken_changes_nothing():
    sender = Sender(CONTENT, window=4)
    sender.datagrams_to_send(0)
    sender.receive_datagram(ack(3), 0.1)
    assert len(sender.datagrams_to_send(0.1)) == 3
    sender.receive_datagram(ack(1), 0.1)
    assert sender.datagrams_to_send(0.1) == []
    assert sender.ignored == 1


def test_only_what_is_missing_is_sent_again():
    sender = Sender(CONTENT, window=8)
    flight = sender.datagrams_to_send(0)
    sender.receive_datagram(ack(0, 0b1101111), 0.02)  # 0 and 5 are missing
    assert sender.timer() == MINIMUM
    assert sender.datagrams_to_send(MINIMUM) == [flight[0], flight[5]]


def test_the_bitmap_names_a_whole_window():
    sender = Sender(CONTENT * 2, window=64)
    flight = sender.datagrams_to_send(0)
    assert len(flight) == 64
    sender.receive_datagram(ack(0, 2**63 - 1), 0.02)
    assert sender.datagrams_to_send(MINIMUM) == flight[:1]


def test_a_receiver_says_what_came_early_and_writes_it_in_order():
    receiver = Receiver(first=65535, window=4)
    assert receiver.receive_datagram(data(1, b"c"), 0) == b""
    assert receiver.datagrams_to_send(0) == [ack(65535, 0b10)]
    assert receiver.receive_datagram(data(0, b"b"), 0) == b""
    assert receiver.receive_datagram(data(65535, b"a"), 0) == b"abc"
    assert receiver.datagrams_to_send(0) == [ack(2)] * 2


def test_a_copy_is_acknowledged_and_not_written():
    receiver = Receiver()
    assert receiver.receive_datagram(data(0, b"once"), 0) == b"once"
    assert receiver.receive_datagram(data(0, b"once"), 0) == b""
    assert receiver.datagrams_to_send(0) == [ack(1)] * 2


def test_a_receiver_lingers_for_those_who_missed_its_last_acknowledgement():
    receiver = Receiver()
    assert receiver.timer() is None
    assert receiver.receive_datagram(data(0, b"all", last=True), 10) == b"all"
    receiver.datagrams_to_send(10)
    assert receiver.complete
    assert not receiver.done
    assert receiver.timer() == 10 + LINGER
    receiver.receive_datagram(data(0, b"all", last=True), 10.5)
    assert receiver.datagrams_to_send(10.5) == [ack(1)]
    receiver.datagrams_to_send(10 + LINGER)
    assert not receiver.done
    receiver.datagrams_to_send(10.5 + LINGER)
    assert receiver.done


def test_a_sender_backs_off_and_gives_up_in_the_end():
    sender = Sender(b"anybody?")
    now, times = 0.0, []
    while not sender.done:
        if sender.datagrams_to_send(now):
            times.append(now)
        now = sender.timer()
    assert sender.gave_up
    waits = [b - a for a, b in pairwise(times)]
    assert waits[:4] == [INITIAL, 2 * INITIAL, 4 * INITIAL, min(8 * INITIAL, MAXIMUM)]
    assert times[-1] >= GIVE_UP


def test_one_loss_of_a_window_doubles_the_timeout_once():
    sender = Sender(CONTENT, window=8)
    sender.datagrams_to_send(0)
    sender.receive_datagram(ack(1), 0.02)
    sender.datagrams_to_send(0.02)  # number 8, later than the seven that are lost with it
    before = sender.timeout.seconds
    sender.datagrams_to_send(before)
    sender.datagrams_to_send(before + 0.02)
    sender.datagrams_to_send(2 * before + 0.02)
    assert sender.timeout.seconds == 2 * before


def test_a_packet_sent_twice_is_no_sample():
    sender = Sender(CONTENT)
    sender.datagrams_to_send(0)
    sender.datagrams_to_send(INITIAL)
    sender.receive_datagram(ack(1), INITIAL + 0.001)
    assert sender.timeout.smoothed is None
    assert sender.timeout.seconds == 2 * INITIAL
    sender.datagrams_to_send(INITIAL + 0.001)
    sender.receive_datagram(ack(2), INITIAL + 0.2)
    assert sender.timeout.smoothed == pytest.approx(0.199)


def test_the_timeout_by_the_formulas_of_rfc_6298():
    timeout = Timeout()
    timeout.sample(0.2)
    assert timeout.seconds == pytest.approx(0.2 + 4 * 0.1)  # §2.2
    timeout.sample(0.4)  # §2.3: RTTVAR = 3/4 · 0.1 + 1/4 · |0.2 - 0.4|, SRTT = 7/8 · 0.2 + 1/8 · 0.4
    assert timeout.seconds == pytest.approx(0.225 + 4 * 0.125)
    for _ in range(50):
        timeout.sample(0.001)
    assert timeout.seconds == MINIMUM
    for _ in range(10):
        timeout.back_off()
    assert timeout.seconds == MAXIMUM


@pytest.mark.parametrize("wrong", [{"window": 0}, {"window": 65}, {"first": -1}, {"first": 65536}])
def test_what_the_wire_cannot_say_is_refused(wrong):
    with pytest.raises(LocalProtocolError):
        Sender(b"", **wrong)
    with pytest.raises(LocalProtocolError):
        Receiver(**wrong)


def test_the_figures_that_the_sheet_and_the_rfcs_name():
    """Both ends of a transfer must agree on some of them, so a change is one of the protocol."""
    assert (PAYLOAD, MAX_WINDOW) == (1000, 64)
    assert (GIVE_UP, LINGER) == (10.0, 1.0)
    assert (INITIAL, MINIMUM, MAXIMUM, GRANULARITY) == (0.5, 0.1, 4.0, 0.01)


def test_a_steady_round_trip_still_leaves_time_for_a_late_timer():
    timeout = Timeout()
    for _ in range(60):
        timeout.sample(0.3)
    assert timeout.seconds == pytest.approx(0.3 + GRANULARITY)


def test_an_ack_for_several_measures_the_newest():
    """The oldest waited for the ACK of the others, and its copy may have been lost: its time says less."""
    sender = Sender(CONTENT, window=2)
    sender.datagrams_to_send(0)
    sender.receive_datagram(ack(1), 0.1)
    sender.datagrams_to_send(0.1)  # number 2; number 1 left at 0
    sender.receive_datagram(ack(3), 0.2)
    assert sender.timeout.smoothed == pytest.approx(0.1)


def test_a_sender_gives_up_after_ten_seconds_without_progress_and_not_before():
    sender = Sender(CONTENT)
    sender.datagrams_to_send(0)
    sender.receive_datagram(ack(1), 6)
    sender.datagrams_to_send(6 + GIVE_UP)
    assert not sender.gave_up
    sender.receive_datagram(ack(1), 6 + GIVE_UP)  # a copy of an ACK is no progress
    sender.datagrams_to_send(6.01 + GIVE_UP)
    assert sender.gave_up
    assert sender.done


def test_a_window_counts_from_the_first_that_is_missing():
    sender = Sender(CONTENT, window=8)
    sender.datagrams_to_send(0)
    sender.receive_datagram(ack(0, 0b111_1111), 0.02)  # Only number 0 is missing, but the receiver has no more room.
    assert sender.datagrams_to_send(0.02) == []


def test_a_copy_of_an_ack_sends_nothing():
    """Else each copy makes a copy, for ever: the Sorcerer's Apprentice (RFC 1123 §4.2.3.1)."""
    sender = Sender(CONTENT)
    sender.datagrams_to_send(0)
    sender.receive_datagram(ack(1), 0.02)
    assert len(sender.datagrams_to_send(0.02)) == 1
    sender.receive_datagram(ack(1), 0.02)
    assert sender.datagrams_to_send(0.02) == []


def test_a_sample_ends_the_backing_off():
    sender = Sender(CONTENT)
    sender.datagrams_to_send(0)
    sender.datagrams_to_send(INITIAL)
    sender.receive_datagram(ack(1), INITIAL)
    sender.datagrams_to_send(INITIAL)
    sender.receive_datagram(ack(2), INITIAL + 0.2)
    assert sender.timeout.seconds == pytest.approx(0.2 + 4 * 0.1)


@pytest.mark.parametrize(
    ("number", "answered"), [(99, True), (107, True), (108, False), (36, True), (35, False), (30000, False)]
)
def test_a_receiver_answers_for_its_window_and_for_what_it_may_have_had(number, answered):
    receiver = Receiver(first=100, window=8)
    receiver.receive_datagram(data(number, b"?"), 0)
    assert len(receiver.datagrams_to_send(0)) == answered
    assert receiver.ignored == (not answered)


def test_a_full_payload_is_taken_and_one_byte_more_is_not():
    receiver = Receiver()
    assert receiver.receive_datagram(data(0, bytes(PAYLOAD + 1)), 0) == b""
    assert len(receiver.receive_datagram(data(0, bytes(PAYLOAD)), 0)) == PAYLOAD


def test_the_last_piece_before_a_gap_ends_nothing():
    receiver = Receiver(window=4)
    assert receiver.receive_datagram(data(1, b"b", last=True), 0) == b""
    receiver.datagrams_to_send(LINGER)
    assert (receiver.complete, receiver.done, receiver.timer()) == (False, False, None)
    assert receiver.receive_datagram(data(0, b"a"), 5) == b"ab"
    assert receiver.complete


def test_nothing_comes_after_the_last_piece():
    receiver = Receiver(window=4)
    assert receiver.receive_datagram(data(2, b"too early"), 0) == b""
    assert receiver.receive_datagram(data(1, b"b", last=True), 0) == b""
    assert receiver.receive_datagram(data(0, b"a"), 0) == b"ab"
    assert receiver.receive_datagram(data(2, b"too late"), 0) == b""
    assert receiver.receive_datagram(data(3, b"too late"), 0) == b""
    assert receiver.datagrams_to_send(0)[-1] == ack(2)
