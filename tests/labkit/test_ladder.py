"""The ladder: labels, relative numbers, what is chosen of a long run, and that lines are aligned."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from labkit.lab import ACK, FIN, PSH, RST, SYN, Seen
from labkit.ladder import collapse, draw, rungs, select
from protocols.tls_opened import key_log
from tests.labkit.test_inside import MOVED, Talk

BASE = Seen(1, 100.0, "client", "client", "server", "tcp", 5000, 7001, 0, 0, 0, 1000, b"", (), None, 0, False, 40,
            None, "")  # fmt: skip
HOSTS = ("client", "server")


def up(flags, seq, ack=0, payload=b"", **more):
    return replace(BASE, flags=flags, seq=seq, ack=ack, payload=payload, **more)


def down(flags, seq, ack=0, payload=b"", **more):
    swapped = replace(BASE, source="server", target="client", source_port=7001, target_port=5000)
    return replace(swapped, flags=flags, seq=seq, ack=ack, payload=payload, **more)


HANDSHAKE = [up(SYN, 4_294_967_295), down(SYN | ACK, 77, 0), up(ACK, 0, 78)]


def test_numbers_are_relative_and_wrap():
    labels = [rung.label for rung in rungs([*HANDSHAKE, up(PSH | ACK, 0, 78, b"abc"), down(ACK, 78, 3)])]
    assert labels == [
        "SYN seq 0",
        "SYN,ACK seq 0 ack 1",
        "ACK seq 1 ack 1",
        "PSH,ACK seq 1 ack 1 len 3",
        "ACK seq 1 ack 4",
    ]


def test_a_retransmission_says_again():
    found = rungs([*HANDSHAKE, up(ACK, 0, 78, b"abc"), up(ACK, 3, 78, b"def"), up(ACK, 0, 78, b"abc")])
    assert [("again" in rung.label) for rung in found] == [False] * 5 + [True]


def test_a_repeated_syn_says_again():
    assert [rung.label for rung in rungs([up(SYN, 7), up(SYN, 7)])] == ["SYN seq 0", "SYN again seq 0"]


def test_connections_are_numbered_where_there_are_several():
    other = replace(up(SYN, 5), source_port=5001)
    assert [rung.label for rung in rungs([up(SYN, 0), other, up(ACK, 1)])] == [
        "#1 SYN seq 0",
        "#2 SYN seq 0",
        "#1 ACK seq 1",
    ]


def test_no_number_is_cut_where_room_is_scarce():
    rung = rungs([*HANDSHAKE, up(PSH | ACK, 0, 78, b"x" * 1448, window=0)])[3]
    for space in range(8, 60):
        words = rung.fitted(space).split()
        assert len(rung.fitted(space)) <= max(space, 10)
        assert set(words) <= {"PSH,ACK", "ACK", "seq", "1", "ack", "len", "1448", "win", "0", "…"}
    assert rung.fitted(26) == "ACK seq 1 len 1448 win 0"


def test_every_line_fits_the_terminal():
    lost = replace(up(PSH | ACK, 0, 78, b"x" * 1448), fate="dropped: the 3rd data segment to port 7001")
    for columns in (80, 100, 120):
        lines = draw([*HANDSHAKE, lost, *HANDSHAKE], HOSTS, columns)
        assert max(map(len, lines)) <= columns
        assert any("the 3rd data segment to port 7001" in line for line in lines)


def test_zero_window_and_sack_are_told():
    found = rungs([*HANDSHAKE, down(ACK, 78, 0, window=0), down(ACK, 78, 0, sack=((10, 20),))])
    assert "win 0" in found[3].label
    assert "sack 11-21" in found[4].label


def test_a_dropped_packet_never_reaches_the_other_side():
    line = draw([up(SYN, 0, fate="dropped: 2 % loss")], HOSTS, 100)[1]
    assert "✗" in line
    assert "▶" not in line
    assert "dropped: 2 % loss" in line


def test_arrows_end_under_the_hosts():
    lines = draw([*HANDSHAKE, down(FIN | ACK, 78, 0), up(RST, 0)], HOSTS, 100)
    heads = lines[0]
    for line in lines[1:]:
        assert line[heads.index("client") : heads.index("server")].strip()
    assert {line.index("▶") for line in lines[1:] if "▶" in line} == {lines[1].index("▶")}
    assert {line.index("◀") for line in lines[1:] if "◀" in line} == {lines[1].index("├")}


def test_of_a_long_run_the_telling_packets_are_shown():
    long = [*HANDSHAKE, *(up(ACK, 3 * i, 78, b"abc") for i in range(500))]
    long[300] = replace(long[300], fate="dropped: data segment no. 298")
    shown = select(rungs(long), 20)
    assert len(shown) <= 20
    assert {0, 1, 2, 300, 502} <= set(shown)
    text = "\n".join(draw(long, HOSTS, 100, most=20))
    assert "packets, " in text
    assert "dropped: data segment no. 298" in text


def test_three_hosts_and_a_stranger():
    middle = replace(up(SYN, 0), source="balancer", target="server")
    stranger = replace(up(SYN, 0), target="10.9.9.9")
    lines = draw([middle, stranger], ("client", "balancer", "server"), 120)
    assert lines[1].index("├") >= lines[0].index("balancer")
    assert "10.9.9.9" in lines[2]


def test_four_hosts_fit_eighty_columns():
    hosts = ("client", "victim", "proxy", "backend-server")
    packets = [
        replace(up(PSH | ACK, 0, 78, b"x" * 1448), source=a, target=b, source_port=port, fate=fate)
        for port, (a, b) in enumerate((a, b) for a in hosts for b in hosts if a != b)
        for fate in ("", "dropped: the 3rd data segment to port 7001", "delayed 1000.0 ms")
    ]
    lines = draw(packets, hosts, 80, most=100)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == list(hosts)
    assert sum("len 1448" in line for line in lines) > len(packets) / 2


def test_equal_packets_at_once_are_one_line():
    burst = [replace(up(RST, 1), time=100.001 + i / 1000) for i in range(12)]
    later = replace(up(RST, 1), time=100.5)
    found = collapse(rungs([*HANDSHAKE, *burst, later]))
    assert [rung.label for rung in found[3:]] == ["RST seq 2 (×12)", "RST seq 2"]
    for space in range(12, 20):
        assert found[3].fitted(space).endswith("(×12)")


def test_retransmissions_are_not_one_line_for_their_times_matter():
    waits = [replace(up(SYN, 7), time=100 + wait) for wait in (0, 1, 3, 7)]
    assert len(collapse(rungs(waits))) == 4


def test_packets_that_are_counted_together_are_all_accounted_for():
    burst = [up(RST, 1)] * 12
    middle = [up(ACK, i, 78) for i in range(50)]
    lines = draw([*HANDSHAKE, *burst, *middle, *HANDSHAKE], HOSTS, 100, most=10)
    hidden = [int(line.split()[1]) for line in lines if "not shown" in line]
    alone = [line for line in lines[1:] if "not shown" not in line and "(×12)" not in line]
    assert sum(hidden) + len(alone) + 12 == 68


def test_an_answer_is_preferred_to_one_more_handshake():
    packets = []
    for port in range(5000, 5100):
        packets += [replace(packet, source_port=port) for packet in (up(SYN, 0), up(ACK, 1, 1))]
    packets[150:150] = [up(PSH | ACK, 1, 1, b"request"), up(ACK, 8, 1), down(PSH | ACK, 1, 8, b"503 no room")]
    shown = select(rungs(packets), 14)
    assert {0, 1, 150, 152, len(packets) - 1} <= set(shown)
    assert 151 not in shown


def test_an_answer_is_preferred_to_the_ends_of_silences():
    waits = [replace(up(ACK, i, 1), time=100 + i // 10 + i / 1000) for i in range(60)]  # A second after each ten.
    answer = replace(down(PSH | ACK, 1, 8, b"408 too slow"), time=waits[50].time)
    assert "len 12" in "\n".join(draw([*waits[:50], answer, *waits[50:]], HOSTS, 80, most=11))


def test_what_comes_before_the_first_that_was_seen_is_below_zero():
    found = rungs([down(ACK, 5000, 0, b"x" * 100), down(ACK, 3552, 0, b"x" * 100), up(ACK, 0, 3652)])
    assert [rung.label for rung in found] == [
        "ACK seq 0 len 100",
        "ACK seq -1448 len 100",
        "ACK seq 0 ack -1348",
    ]


def test_what_is_recorded_in_another_order_was_not_sent_again():
    """A packet that is dropped on its way here is recorded when it left, and before those that it has overtaken."""
    lost = down(ACK, 1000, 0, b"x" * 100, fate="dropped: the 2nd segment")
    found = rungs([down(ACK, 0, 0, b"x" * 100), lost, down(ACK, 100, 0, b"x" * 900), down(ACK, 1000, 0, b"x" * 100)])
    assert [("again" in rung.label) for rung in found] == [False, False, False, True]


def from_port(p, port):
    return replace(p, fate=f"delayed 5.0 ms, the NAT sends it from 10.0.1.254 port {port}")


def to_nobody(p, port, seconds=0.0):
    """What the server sends to a port that the NAT has forgotten."""
    fate = f"dropped: the NAT knows nobody at 10.0.1.254 port {port}"
    return replace(p, target="10.0.1.254", target_port=port, fate=fate, time=p.time + seconds)


def test_who_is_behind_a_nat_stays_who_he_is():
    first = [from_port(HANDSHAKE[0], 61001), HANDSHAKE[1], from_port(HANDSHAKE[2], 61001)]
    lost = [to_nobody(down(ACK, 78 + 100 * i, 0, b"x" * 100), 61001) for i in range(3)]
    packets = [*first, *lost, from_port(up(ACK, 0, 78, b"abc"), 61002), down(RST, 78)]
    found = rungs(packets)
    assert [rung.label for rung in found[3:6]] == [f"ACK seq {n} ack 1 len 100" for n in (1, 101, 201)]
    assert len({rung.connection for rung in found}) == 1
    assert {rung.packet.target for rung in found[3:6]} == {"client"}
    assert [rung.weight for rung in found[3:6]] == [6, 3, 3]  # The first tells all.
    assert (found[6].weight, found[7].weight) == (6, 5)  # It comes from another port; and is answered with RST.
    lines = draw(packets, HOSTS, 80)
    assert any("✗ ─── ACK seq 1 ack 1 len 300 (×3) ─┤" in line for line in lines)
    assert not any(" > " in line for line in lines)


def test_what_was_lost_for_another_reason_or_later_has_a_line_of_its_own():
    data = [down(ACK, 78 + 100 * i, 0, b"x" * 100) for i in range(4)]
    fates = ["dropped: the 1st segment", "dropped: the 2nd segment", "dropped: 2 % loss", "dropped: 2 % loss"]
    lost = [replace(p, fate=fate) for p, fate in zip(data, fates, strict=True)]
    lost[3] = replace(lost[3], time=lost[3].time + 1)
    found = collapse(rungs([*HANDSHAKE, *lost]))
    assert [rung.times for rung in found] == [1] * 7
    assert [rung.weight for rung in found[3:]] == [6] * 4


def test_each_connection_has_its_beginning_shown():
    packets = []
    for port in (5000, 5001, 5002):
        more = [up(PSH | ACK, 0, 78, b"GET"), *(down(ACK, 78 + 9 * i, 3, b"x" * 9) for i in range(20))]
        for p in [*HANDSHAKE, *more]:
            mine = {"source_port": port} if p.source == "client" else {"target_port": port}
            packets.append(replace(p, **mine))
    unreachable = replace(BASE, protocol="icmp", icmp=(3, 3), source_port=0, target_port=0)
    shown = select(rungs([*packets, *[unreachable] * 6]), 24)
    for start in (0, 24, 48):
        assert {start, start + 1, start + 2, start + 3} <= set(shown)
    assert len(packets) - 1 in shown  # That nobody is there any more is told where there is room for it.
    assert len(shown) <= 24


def test_nothing_to_draw():
    assert draw([], HOSTS, 100) == []


# -- QUIC ----------------------------------------------------------------------------------------------


def as_packets(talk):
    """What was said, as the wire records it."""
    packets = []
    for i, (from_client, (_, port), data) in enumerate(talk.sent):
        p = replace(BASE, protocol="udp", payload=data, length=28 + len(data), time=100 + i / 1000)
        if from_client:
            packets.append(replace(p, source_port=port, target_port=7006))
        else:
            packets.append(replace(p, source="server", target="client", source_port=7006, target_port=port))
    return packets


@pytest.fixture
def quic(tmp_path):
    """A connection that brings 20 kB, as packets of a capture, and its secrets."""
    log = tmp_path / "keys"
    talk = Talk(log)
    talk.go()
    talk.client.send_stream_data(0, b"bytes 20000\n", end_stream=True)
    talk.go(1)
    talk.server.send_stream_data(0, bytes(20000))
    talk.go(8)
    return as_packets(talk), key_log(log.read_text())


def test_packets_that_go_on_with_one_stream_are_one_line(quic):
    packets, secrets = quic
    lines = draw(packets, HOSTS, 100, most=60, secrets=secrets)
    runs = [match for line in lines if (match := re.search(r"pn (\d+)-(\d+) STREAM 0 \+(\d+) B \(×(\d+)\)", line))]
    assert runs
    for first, last, size, times in (map(int, run.groups()) for run in runs):
        assert last - first + 1 == times > 1
        assert 1000 * times < size < 1200 * times
    found = collapse(rungs(packets, secrets))
    assert sum(rung.times for rung in found) == len(packets)
    assert len(found) < len(packets)


def test_a_lost_one_parts_a_run(quic):
    packets, secrets = quic
    plain = next(i for i, rung in enumerate(rungs(packets, secrets)) if rung.run and rungs(packets, secrets)[i + 1].run)
    packets[plain] = replace(packets[plain], fate="dropped: 2 % loss")
    [lost] = [rung for rung in collapse(rungs(packets, secrets)) if rung.packet.dropped]
    assert lost.times == 1
    assert lost.weight == 6


def test_a_move_and_new_keys_are_shown_out_of_a_long_run(tmp_path):
    talk = Talk(tmp_path / "keys")
    talk.go()
    for stream in range(0, 800, 4):
        talk.client.send_stream_data(stream, b"x", end_stream=True)
        if stream == 400:
            talk.address = MOVED
            talk.client.request_key_update()
        talk.go(1)
    packets, secrets = as_packets(talk), key_log((tmp_path / "keys").read_text())
    assert len(packets) > 300
    text = "\n".join(draw(packets, HOSTS, 100, secrets=secrets))
    assert "from port 50001" in text
    assert "PATH_CHALLENGE" in text
    assert text.count("key phase 1") == 2


def test_a_path_that_is_tried_is_shown_among_many_losses(tmp_path):
    talk = Talk(tmp_path / "keys")
    talk.go()
    for stream in range(0, 800, 4):
        talk.client.send_stream_data(stream, b"x" * 900, end_stream=True)
        if stream == 400:
            talk.address = MOVED
        talk.go(1)
    packets, secrets = as_packets(talk), key_log((tmp_path / "keys").read_text())
    for i, p in enumerate(packets[20:], 20):
        if i % 2 and p.source == "client" and 500 < len(p.payload) < 1200:
            packets[i] = replace(p, fate="dropped: the NAT knows nobody at 10.0.1.1 port 5000")
    text = "\n".join(draw(packets, HOSTS, 80, secrets=secrets))
    assert "PATH_CHALLENGE" in text
    assert "PATH_RESPONSE" in text


def test_runs_that_were_lost_together_are_one_line(quic):
    packets, secrets = quic
    fate = "dropped: the NAT knows nobody at 10.0.1.1 port 5000"
    carries = [i for i, rung in enumerate(rungs(packets, secrets)) if rung.run]
    gone = next(i for i in carries if {i - 1, i + 1} <= {*carries})
    lost = [replace(p, fate=fate if i in carries else p.fate) for i, p in enumerate(packets) if i != gone]
    dropped = [rung for rung in collapse(rungs(lost, secrets)) if rung.packet.dropped]
    assert sum(rung.times for rung in dropped) == len(carries) - 1
    assert any(rung.run.last - rung.run.first >= rung.times for rung in dropped)  # also where one between them is not


def test_lines_of_quic_fit_the_terminal(quic):
    packets, secrets = quic
    lost = [replace(p, fate="dropped: the 3rd datagram to port 7006", time=p.time + 1) for p in packets]
    for hosts in (HOSTS, ("client", "middle", "server")):
        for known in (secrets, None):
            for columns in (80, 100, 120):
                lines = draw([*packets, *lost], hosts, columns, most=100, secrets=known)
                assert max(map(len, lines)) <= columns
    assert "Initial pn 0 ClientHello padded to 1200" in draw(packets, HOSTS, 80)[1]


def test_quic_beside_tcp_and_other_udp(quic):
    packets, secrets = quic
    other = replace(BASE, protocol="udp", source_port=5000, target_port=7002, payload=b"hello")
    labels = [rung.label for rung in rungs([up(SYN, 7), *packets[:2], other], secrets)]
    assert labels[0] == "#1 SYN seq 0"
    assert labels[1].startswith("#2 Initial")
    assert labels[2].startswith("#2 Initial")
    assert labels[3] == "UDP 5000 > 7002 len 5"
