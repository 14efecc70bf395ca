"""The link model is pure: given times and packets, it says when each arrives, or that it does not."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.link import MS, Direction, Drop, Link, Nat
from labkit.packets import ACK, SYN, decode

SECOND = 1000 * MS


def ip(body: bytes, protocol: int, offset: int = 0, more: bool = False) -> bytes:
    fragment = offset // 8 | (0x2000 if more else 0)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, fragment, 64, protocol, 0)
    return header + socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2") + body


def tcp(payload: bytes = b"", to: int = 7001, flags: int = ACK, source: int = 40000) -> bytes:
    return ip(struct.pack("!HHIIBBHHH", source, to, 0, 0, 5 << 4, flags, 1000, 0, 0) + payload, 6)


def udp(payload: bytes = b"", to: int = 7002, source: int = 40000) -> bytes:
    return ip(struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload, 17)


def through(link: Link, packets: list[bytes], every: int = MS, seed: str = "1") -> list[tuple[int, ...]]:
    """When each copy of each packet arrives, one packet sent every so many ns."""
    direction = Direction(link, seed)
    return [direction.offer(i * every, packet).arrivals for i, packet in enumerate(packets)]


links = st.builds(
    Link,
    delay_ms=st.floats(0, 1000),
    jitter_ms=st.floats(0, 100),
    loss=st.floats(0, 1),
    duplicate=st.floats(0, 1),
    rate_mbit=st.none() | st.floats(0.01, 1000),
    queue=st.integers(1, 50),
)


@settings(max_examples=50, deadline=None)
@given(links, st.lists(st.integers(0, 1000), max_size=60), st.integers(0, 5 * MS))
def test_without_reordering_a_link_keeps_the_order(link: Link, sizes: list[int], every: int) -> None:
    arrivals = [at for each in through(link, [udp(bytes(size)) for size in sizes], every) for at in each]
    assert arrivals == sorted(arrivals)


@settings(max_examples=50, deadline=None)
@given(links, st.integers(0, 1 << 32))
def test_nothing_arrives_before_its_delay(link: Link, seed: int) -> None:
    for i, arrivals in enumerate(through(link, [udp(b"x")] * 30, seed=str(seed))):
        assert all(at >= i * MS + int(link.delay_ms * MS) for at in arrivals)


@settings(max_examples=50, deadline=None)
@given(links, st.integers(0, 1 << 32))
def test_the_same_seed_and_the_same_traffic_have_the_same_fate(link: Link, seed: int) -> None:
    packets = [udp(bytes(i)) for i in range(40)]
    assert through(link, packets, seed=str(seed)) == through(link, packets, seed=str(seed))


def test_another_seed_has_another_fate() -> None:
    packets = [udp()] * 200
    assert through(Link(loss=0.5), packets, seed="1") != through(Link(loss=0.5), packets, seed="2")


def test_a_packet_keeps_its_fate_whatever_else_the_link_does() -> None:
    """Chance is drawn alike for every packet, so adding jitter does not change which packets are lost."""
    packets = [udp()] * 500
    lost = [not arrivals for arrivals in through(Link(loss=0.2), packets)]
    assert lost == [not arrivals for arrivals in through(Link(loss=0.2, jitter_ms=3, duplicate=0.5), packets)]


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_the_share_of_lost_packets_is_as_given(loss: float) -> None:
    lost = sum(not arrivals for arrivals in through(Link(loss=loss), [udp()] * 20_000))
    assert lost / 20_000 == pytest.approx(loss, abs=0.01)


def test_the_share_of_doubled_and_reordered_packets_is_as_given() -> None:
    arrivals = through(Link(duplicate=0.25, reorder=0.1, reorder_ms=2.5), [udp()] * 20_000)
    assert sum(len(each) == 2 for each in arrivals) / 20_000 == pytest.approx(0.25, abs=0.01)
    late = [i for i, each in enumerate(arrivals) if each[0] > i * MS]
    assert len(late) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert all(arrivals[i][0] == i * MS + 2.5 * MS for i in late)  # the next two overtake it


def test_jitter_is_spread_evenly() -> None:
    extra = [each[0] - i * SECOND for i, each in enumerate(through(Link(jitter_ms=10), [udp()] * 5000, SECOND))]
    assert 0 <= min(extra) < 0.1 * MS
    assert 9.9 * MS < max(extra) <= 10 * MS
    assert sum(extra) / len(extra) == pytest.approx(5 * MS, rel=0.05)


def test_the_rate_is_exact() -> None:
    """1000 packets of 1250 bytes are 10 Mbit: at 10 Mbit/s the last has left after a second."""
    packets = [udp(bytes(1250 - 28))] * 1000
    arrivals = through(Link(rate_mbit=10, queue=1000), packets, every=0)
    assert [each[0] for each in arrivals] == [(i + 1) * MS for i in range(1000)]


def test_an_idle_link_saves_no_rate() -> None:
    direction = Direction(Link(rate_mbit=1), "1")
    assert direction.offer(5 * SECOND, udp(bytes(125 - 28))).arrivals == (5 * SECOND + MS,)


@given(st.integers(1, 40))
def test_the_queue_is_bounded(queue: int) -> None:
    direction = Direction(Link(rate_mbit=1, queue=queue), "1")
    verdicts = [direction.offer(0, udp(bytes(125 - 28))) for _ in range(50)]
    assert [bool(verdict.arrivals) for verdict in verdicts] == [i < queue for i in range(50)]
    assert verdicts[-1].note == f"dropped: queue of {queue} packets is full"
    assert direction.offer(MS, udp()).arrivals  # One has left, so there is room again.


def test_a_packet_over_the_mtu_is_dropped() -> None:
    direction = Direction(Link(mtu=576), "1")
    assert direction.offer(0, udp(bytes(576 - 28))).arrivals == (0,)
    assert direction.offer(0, udp(bytes(577 - 28))).note == "dropped: larger than the link's MTU of 576 bytes"


LATER_FRAGMENT = ip(b"rest", 17, offset=1480)


@pytest.mark.parametrize(
    ("rule", "packets", "dropped"),
    [
        (Drop(2), [udp(), udp(), udp()], [1]),
        (Drop((1, 3)), [udp(), udp(), udp()], [0, 2]),
        (Drop(), [udp(), tcp()], [0, 1]),
        (Drop(protocol="tcp"), [udp(), tcp()], [1]),
        (Drop(1, to_port=7001), [tcp(to=80), tcp(), tcp()], [1]),
        (Drop(from_port=53), [udp(source=53), udp()], [0]),
        (Drop(data=True), [tcp(), tcp(b"x"), tcp()], [1]),
        (Drop(1, flags=SYN | ACK), [tcp(flags=SYN), tcp(flags=SYN | ACK), tcp(flags=ACK)], [1]),
        (Drop.segment(2, 7001), [tcp(), tcp(b"a"), tcp(b"a", to=80), tcp(b"b"), tcp(b"c")], [3]),
        (Drop.datagrams(100), [udp(bytes(100)), udp(bytes(101)), tcp(bytes(101))], [1]),
        (Drop(fragment=True), [ip(bytes(16), 17, more=True), LATER_FRAGMENT, udp()], [1]),
    ],
    ids=str,
)
def test_packets_are_dropped_by_name(rule: Drop, packets: list[bytes], dropped: list[int]) -> None:
    direction = Direction(Link(drop=(rule,)), "1")
    verdicts = [direction.offer(0, packet) for packet in packets]
    assert [i for i, verdict in enumerate(verdicts) if not verdict.arrivals] == dropped
    assert all(verdicts[i].note.startswith("dropped: ") for i in dropped)
    assert str(rule)


def test_two_rules_count_each_for_itself() -> None:
    direction = Direction(Link(drop=(Drop(1, "tcp"), Drop(3))), "1")
    assert [bool(direction.offer(0, tcp()).arrivals) for _ in range(4)] == [False, True, False, True]


def test_a_changed_link_holds_from_then_on() -> None:
    direction = Direction(Link(delay_ms=10), "1")
    assert direction.offer(0, udp()).arrivals == (10 * MS,)
    direction.change(Link(cut=True))
    assert direction.offer(1, udp()).note == "dropped: the cable is cut"
    direction.change(Link())
    assert direction.perfect
    assert direction.offer(2, udp()).arrivals == (10 * MS,)  # It does not overtake what is on its way.


@pytest.mark.parametrize("data", [b"", b"\x45", b"\x60" + bytes(60), bytes(100)])
def test_what_is_not_ipv4_matches_no_rule(data: bytes) -> None:
    assert Direction(Link(drop=(Drop(),)), "1").offer(0, data).arrivals == (0,)


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": -0.1}, {"loss": 2}, {"loss": float("nan")}, {"duplicate": 1.5}, {"reorder": -1}, {"delay_ms": -1},
        {"delay_ms": float("inf")}, {"jitter_ms": -1}, {"reorder_ms": -1}, {"rate_mbit": 0}, {"rate_mbit": -3},
        {"queue": 0}, {"mtu": 67}, {"mtu": 9001}, {"drop": ("the third",)},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused(arguments: dict) -> None:
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=name):
        Link(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"nth": 0}, {"nth": (1, -1)}, {"protocol": "TCP"}, {"to_port": 70000}, {"fragment": True, "to_port": 1}],
    ids=str,
)
def test_a_rule_that_can_never_hit_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"counted|protocol|port"):
        Drop(**arguments)


def test_a_link_says_what_it_is() -> None:
    assert str(Link()) == "perfect"
    assert str(Link(delay_ms=25, loss=0.02, rate_mbit=8)) == "25 ms, 2 % loss, 8 Mbit/s, queue 100"
    assert Link(mtu=1400).is_perfect
    assert not Link(cut=True).is_perfect


HERE, THERE, OUTSIDE = (socket.inet_aton(f"10.0.0.{i}") for i in (1, 2, 254))


def ends(data: bytes) -> tuple[str, int, str, int]:
    packet = decode(data)
    assert packet is not None
    return packet.source, packet.source_port, packet.destination, packet.destination_port


def answer_to(data: bytes) -> bytes:
    """A datagram back to whom this one seems to come from."""
    _, port, _, to = ends(data)
    answer = udp(b"answer", to=port, source=to)
    return answer[:12] + data[16:20] + data[12:16] + answer[20:]


def test_a_nat_gives_each_flow_a_port_and_finds_it_again() -> None:
    nat = Nat(HERE, OUTSIDE)
    first, note = nat.leaving(udp(b"hello", source=50000))
    second, _ = nat.leaving(udp(b"hello", source=50001))
    assert ends(first) == ("10.0.0.254", 61001, "10.0.0.2", 7002)
    assert note == "the NAT sends it from 10.0.0.254 port 61001"
    assert ends(second)[1] == 61002
    assert ends(nat.leaving(udp(b"more", source=50000))[0]) == ends(first)
    back, note = nat.arriving(answer_to(first))
    assert ends(back) == ("10.0.0.2", 7002, "10.0.0.1", 50000)
    assert note == "it came to the NAT for 10.0.0.254 port 61001"


def test_tcp_and_udp_have_ports_of_their_own() -> None:
    nat = Nat(HERE, HERE)
    ports = [ends(nat.leaving(packet)[0])[1] for packet in (tcp(source=50000), udp(source=50000), tcp(source=50000))]
    assert ports == [61001, 61002, 61001]


def test_a_nat_that_has_forgotten_gives_another_port_and_drops_what_comes_for_the_old_one() -> None:
    nat = Nat(HERE, HERE)
    before, _ = nat.leaving(udp(source=50000))
    nat.rebind(HERE)
    dropped = (b"", "dropped: the NAT knows nobody at 10.0.0.1 port 61001")
    assert nat.arriving(answer_to(before)) == dropped
    after, _ = nat.leaving(udp(source=50000))
    assert ends(after)[1] == 61002
    assert nat.arriving(answer_to(before)) == dropped
    assert ends(nat.arriving(answer_to(after))[0])[3] == 50000


def test_a_nat_with_another_address_knows_the_old_one_no_more() -> None:
    nat = Nat(HERE, HERE)
    before, _ = nat.leaving(udp(source=50000))
    nat.rebind(OUTSIDE)
    after, _ = nat.leaving(udp(source=50000))
    assert ends(after)[0] == "10.0.0.254"
    to_the_old = answer_to(after)[:16] + HERE + answer_to(after)[20:]
    assert nat.arriving(to_the_old)[1] == "dropped: the NAT knows nobody at 10.0.0.1 port 61002"
    assert nat.arriving(answer_to(before))[0] == b""


def test_what_has_no_ports_gets_the_address_only() -> None:
    nat = Nat(HERE, OUTSIDE)
    for packet in (ip(bytes([8, 0]) + bytes(6), 1), ip(b"rest of it", 17, offset=1480)):
        assert nat.leaving(packet)[0][20:] == packet[20:]
        assert nat.leaving(packet)[0][12:16] == OUTSIDE
        back = nat.arriving(packet[:12] + THERE + OUTSIDE + packet[20:])[0]
        assert (back[16:20], back[20:]) == (HERE, packet[20:])


def test_ports_never_run_out() -> None:
    nat = Nat(HERE, HERE)
    ports = [ends(nat.leaving(udp(source=1 + i % 60000))[0])[1] for i in range(4535)]
    nat.rebind(HERE)
    assert ports == list(range(61001, 65536))
    assert ends(nat.leaving(udp(source=9))[0])[1] == 61001


@given(st.binary(max_size=40), st.sampled_from([1, 6, 17, 99]), st.integers(0, 100), st.booleans())
def test_a_nat_takes_any_packet(body: bytes, protocol: int, offset: int, more: bool) -> None:
    nat = Nat(HERE, OUTSIDE)
    packet = ip(body, protocol, 8 * offset, more)
    assert len(nat.leaving(packet)[0]) == len(packet)
    nat.arriving(packet)
