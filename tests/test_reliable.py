"""protocols/reliable.py: both ends joined in memory, on a clock of ours, over a network that does what it likes."""

import heapq
import random
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import reliable
from protocols.errors import LocalProtocolError
from protocols.reliable import GIVE_UP, INITIAL, LINGER, MAXIMUM, MINIMUM, PAYLOAD, Receiver, Sender, Timeout

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
