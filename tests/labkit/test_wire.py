"""The wire with real packets between real hosts: what the link says is what they see."""

from __future__ import annotations

import pickle
import select
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from labkit import kernel, pcapng
from labkit.link import Drop, Link, Rebind
from labkit.sandbox import CannotRun, Inside, World, run
from tests.conftest import TICK, need_tool, need_wire

pytestmark = pytest.mark.alone
BOTH = (("client", "server"), ("server", "client"))


@pytest.fixture(autouse=True)
def wire() -> None:
    need_wire()


def play(main: Callable[[Inside], None], **world: Any) -> dict[str, Any]:
    """Run *main* in a world and return all that it emitted in one dict."""
    found: dict[str, Any] = {}
    run(World(**world), main, found.update)
    assert "crashed" not in found, found["crashed"]
    return found


def at(inside: Inside, host: str, kind: int = socket.SOCK_STREAM, port: int = 0) -> socket.socket:
    """A socket on a host, bound to its address."""
    kernel.enter_network(inside.networks[host])
    made = socket.socket(socket.AF_INET, kind)
    made.settimeout(100 * TICK)
    made.bind((inside.world.address(host), port))
    if kind == socket.SOCK_STREAM and host == "server":
        made.listen()
    return made


def order(inside: Inside, links: dict[tuple[str, str], Link] | Rebind) -> None:
    inside.control.send(pickle.dumps(links))
    assert inside.control.recv(16) == b"done"


def datagrams(inside: Inside, count: int, size: int = 4, pause: float = 0) -> list[int]:
    """Send numbered datagrams from client to server; which arrived, in order of arrival."""
    server, client = at(inside, "server", socket.SOCK_DGRAM), at(inside, "client", socket.SOCK_DGRAM)
    client.connect(server.getsockname())
    for i in range(count):
        client.send(i.to_bytes(4, "big").ljust(size, b"."))
        if pause:
            time.sleep(pause)
    order(inside, {})
    arrived = []
    while select.select([server], [], [], 4 * TICK)[0]:
        arrived.append(int.from_bytes(server.recv(9000)[:4], "big"))
    return arrived


def transfer(inside: Inside, size: int) -> bytes:
    """Send so many bytes over TCP from client to server; what arrived."""
    listening, client = at(inside, "server"), at(inside, "client")
    client.connect(listening.getsockname())
    server, _ = listening.accept()
    server.settimeout(200 * TICK)
    sender = threading.Thread(target=lambda: (client.sendall(bytes(size)), client.shutdown(socket.SHUT_WR)))
    sender.start()
    received = 0
    while data := server.recv(1 << 18):
        received += len(data)
    sender.join()
    assert received == size
    return data


def test_the_delay_is_as_given_to_a_millisecond() -> None:
    """Each of 40 datagrams takes its 20 ms and, at the median, less than one more."""

    def main(inside: Inside) -> None:
        server, client = at(inside, "server", socket.SOCK_DGRAM), at(inside, "client", socket.SOCK_DGRAM)
        taken = []
        for _ in range(40):
            start = time.perf_counter()
            client.sendto(b"x", server.getsockname())
            server.recv(10)
            taken.append(1000 * (time.perf_counter() - start))
        inside.emit({"taken": taken})

    for _attempt in range(5):  # On a busy machine nobody is woken in time; one quiet second is enough.
        taken = play(main, links=dict.fromkeys(BOTH, Link(delay_ms=20)))["taken"]
        assert min(taken) >= 20
        if statistics.median(taken) < 21:
            return
    pytest.fail(f"the median of a delay of 20 ms was {statistics.median(taken):.2f} ms")


def test_each_direction_has_its_own_delay() -> None:
    def main(inside: Inside) -> None:
        server, client = at(inside, "server", socket.SOCK_DGRAM), at(inside, "client", socket.SOCK_DGRAM)
        start = time.perf_counter()
        client.sendto(b"ping", server.getsockname())
        server.recv(10)
        there = time.perf_counter()
        server.sendto(b"pong", client.getsockname())
        client.recv(10)
        inside.emit({"there": there - start, "back": time.perf_counter() - there})

    found = play(main, links={("server", "client"): Link(delay_ms=4000 * TICK)})
    assert found["back"] >= 4 * TICK > found["there"]


def test_the_same_seed_loses_the_same_packets() -> None:
    links = {("client", "server"): Link(loss=0.3)}
    main = lambda inside: inside.emit({"arrived": datagrams(inside, 200)})  # noqa: E731
    first, again, other = (play(main, links=links, seed=seed)["arrived"] for seed in (1, 1, 2))
    assert first == again != other
    assert 100 < len(first) < 180


def test_duplicates_and_reordering_arrive() -> None:
    both = Link(duplicate=0.2, reorder=0.2, reorder_ms=3)
    arrived = play(
        lambda inside: inside.emit({"arrived": datagrams(inside, 200, pause=0.0005)}), links={BOTH[0]: both}
    )["arrived"]
    assert set(arrived) == set(range(200))
    assert len(arrived) > 210
    assert arrived != sorted(arrived)


def test_a_rate_takes_its_time_and_a_full_queue_drops() -> None:
    def main(inside: Inside) -> None:
        start = time.perf_counter()
        arrived = datagrams(inside, 50, size=972)  # 1000 bytes of packet: 8 ms each at 1 Mbit/s
        inside.emit({"arrived": arrived, "seconds": time.perf_counter() - start})

    found = play(main, links={BOTH[0]: Link(rate_mbit=1, queue=20)})
    assert found["arrived"][:20] == list(range(20))
    assert len(found["arrived"]) < 40
    assert found["seconds"] >= 20 * 0.008


def test_the_mtu_is_that_of_the_direction() -> None:
    """The client sends no packet over 576 bytes to the server, and takes 9000 from it."""

    def main(inside: Inside) -> None:
        listening, client = at(inside, "server"), at(inside, "client")
        client.connect(listening.getsockname())
        inside.emit({"mss": client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)})
        server, far = at(inside, "server", socket.SOCK_DGRAM), at(inside, "client", socket.SOCK_DGRAM)
        ip_mtu_discover, do = 10, 2  # <linux/in.h>: set don't fragment
        far.setsockopt(socket.IPPROTO_IP, ip_mtu_discover, do)
        far.sendto(bytes(576 - 28), server.getsockname())
        try:
            far.sendto(bytes(577 - 28), server.getsockname())
        except OSError as error:
            inside.emit({"refused": error.strerror})
        server.sendto(bytes(9000 - 28), far.getsockname())
        inside.emit({"large": len(far.recv(10000)), "small": len(server.recv(10000))})

    links = {("client", "server"): Link(mtu=576), ("server", "client"): Link(mtu=9000)}
    assert play(main, links=links) == {
        "mss": 576 - 40 - 12, "refused": "Message too long", "large": 8972, "small": 548,
    }  # fmt: skip


def test_a_link_that_shrinks_becomes_a_black_hole_for_large_packets(tmp_path: Path) -> None:
    def main(inside: Inside) -> None:
        order(inside, {BOTH[0]: Link(mtu=1000)})
        inside.emit({"large": datagrams(inside, 1, size=1200), "small": datagrams(inside, 1, size=900)})

    found = play(main, links={}, capture=tmp_path / "x.pcapng")
    assert found == {"large": [], "small": [0]}
    assert [r.comment for r in pcapng.read(tmp_path / "x.pcapng") if r.comment] == [
        "wire: dropped: larger than the link's MTU of 1000 bytes"
    ]


def test_a_segment_dropped_by_name_is_sent_again(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    links = {("client", "server"): Link(drop=(Drop.segment(3, to_port=7001),))}

    def main(inside: Inside) -> None:
        listening, client = at(inside, "server", port=7001), at(inside, "client")
        client.connect(listening.getsockname())
        server, _ = listening.accept()
        client.sendall(bytes(10_000))
        left = 10_000
        while left:
            left -= len(server.recv(left))

    play(main, links=links, capture=capture)
    packets = [(record.decoded(), record.comment) for record in pcapng.read(capture)]
    dropped = [packet for packet, comment in packets if comment.startswith("wire: dropped")]
    assert [comment for _, comment in packets if comment] == ["wire: dropped: the 3rd data segment to port 7001"]
    assert sum(packet.seq == dropped[0].seq and packet.payload != b"" for packet, _ in packets) == 2
    assert any(packet.sack for packet, _ in packets)


def test_hosts_find_each_other_by_name() -> None:
    hosts = tuple(f"host{i}" for i in range(12))

    def main(inside: Inside) -> None:
        found = {}
        for host in hosts:
            kernel.enter_network(inside.networks[host])
            server = socket.create_server((inside.world.address(host), 7001))
            kernel.enter_network(inside.networks["host0"])
            with socket.create_connection((f"{host}.lab", 7001), timeout=100 * TICK) as client:
                found[host] = client.getpeername()[0]
            server.close()
        inside.emit(found)

    assert play(main, hosts=hosts, number=9) == {host: f"10.0.9.{i + 1}" for i, host in enumerate(hosts)}


def test_one_copy_of_each_packet_or_every_view(tmp_path: Path) -> None:
    """From the client's view each packet once; from all views a delivered packet twice, a lost one once."""

    def record(vantage: str | None) -> list[str]:
        links = {("client", "server"): Link(drop=(Drop(2),))}
        play(lambda inside: datagrams(inside, 3), links=links, capture=tmp_path / "x", vantage=vantage)
        return [record.interface for record in pcapng.read(tmp_path / "x")]

    assert record("client") == ["client"] * 3
    assert sorted(record("server")) == ["client", "server", "server"]  # The lost one never reached the server.
    assert sorted(record(None)) == ["client"] * 3 + ["server"] * 2


def test_the_capture_is_in_order_and_true_to_the_clock(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    before = time.time()
    play(lambda inside: transfer(inside, 1_000_000), capture=capture, links=dict.fromkeys(BOTH, Link(delay_ms=1)))
    times = [record.time for record in pcapng.read(capture)]
    assert times == sorted(times)
    assert before < times[0] < times[-1] < time.time()


def test_a_packet_to_nobody_is_on_record(tmp_path: Path) -> None:
    def main(inside: Inside) -> None:
        at(inside, "client", socket.SOCK_DGRAM).sendto(b"anybody?", ("10.0.0.77", 7001))

    play(main, capture=tmp_path / "x.pcapng")
    assert [r.comment for r in pcapng.read(tmp_path / "x.pcapng")] == ["wire: dropped: no host has this address"]


def test_all_that_was_sent_is_on_record_when_asked(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"

    def main(inside: Inside) -> None:
        client = at(inside, "client", socket.SOCK_DGRAM)
        for round_ in range(1, 4):
            for _ in range(500):
                client.sendto(b"x", ("10.0.0.2", 7001))
            order(inside, {})
            seen = sum(p.protocol == "udp" for r in pcapng.read(capture) for p in [r.decoded()] if p)
            inside.emit({f"round {round_}": seen})

    assert play(main, capture=capture) == {"round 1": 500, "round 2": 1000, "round 3": 1500}


def test_memory_does_not_grow_with_the_traffic(tmp_path: Path) -> None:
    def main(inside: Inside) -> None:
        def peak() -> int:
            lines = Path("/proc/1/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        transfer(inside, 5_000_000)
        before = peak()
        transfer(inside, 100_000_000)
        inside.emit({"grown": peak() - before})

    assert play(main, capture=tmp_path / "x.pcapng")["grown"] < 8000  # kB, for 100 MB of traffic
    assert (tmp_path / "x.pcapng").stat().st_size > 105_000_000


def rebound(inside: Inside) -> None:
    """A datagram to the server and back, three times: no NAT yet, one that has forgotten, one with another address."""
    server, client = at(inside, "server", socket.SOCK_DGRAM, 7002), at(inside, "client", socket.SOCK_DGRAM, 50000)
    client.connect(server.getsockname())
    peers: list[tuple[str, int]] = []
    for address in (None, False, True):
        if address is not None:
            order(inside, Rebind("client", address))
        client.send(b"hello")
        _, peer = server.recvfrom(10)
        if peers:
            server.sendto(b"too late", peers[-1])
        server.sendto(b"answer", peer)
        assert client.recv(20) == b"answer"  # With a checksum that the kernel takes.
        peers.append(peer)
    inside.emit({"peers": peers})


def told(capture: Path) -> list[tuple[str, int, str, int, str]]:
    """Who sent to whom, as the capture has it, and what the wire's comment says behind the delay."""
    found = []
    for record in pcapng.read(capture):
        packet = record.decoded()
        assert packet is not None
        note = record.comment.removeprefix("wire: ").removeprefix("delayed 1.0 ms").removeprefix(", ")
        found.append((packet.source, packet.source_port, packet.destination, packet.destination_port, note))
    return found


def test_a_nat_that_forgets_changes_port_and_address(tmp_path: Path) -> None:
    """Seen from the client nothing has changed; the comments tell, and what is sent to the old ports is lost."""
    capture, links = tmp_path / "x.pcapng", dict.fromkeys(BOTH, Link(delay_ms=1))
    peers = play(rebound, capture=capture, links=links)["peers"]
    assert peers == [["10.0.0.1", 50000], ["10.0.0.1", 61001], ["10.0.0.254", 61002]]
    there, back = ("10.0.0.1", 50000, "10.0.0.2", 7002), ("10.0.0.2", 7002, "10.0.0.1", 50000)
    assert told(capture) == [
        (*there, ""),
        (*back, ""),
        (*there, "the NAT sends it from 10.0.0.1 port 61001"),
        (*back, "dropped: the NAT knows nobody at 10.0.0.1 port 50000"),
        (*back, "it came to the NAT for 10.0.0.1 port 61001"),
        (*there, "the NAT sends it from 10.0.0.254 port 61002"),
        ("10.0.0.2", 7002, "10.0.0.1", 61001, "dropped: the NAT knows nobody at 10.0.0.1 port 61001"),
        (*back, "it came to the NAT for 10.0.0.254 port 61002"),
    ]


def test_the_servers_side_of_a_nat(tmp_path: Path) -> None:
    capture, links = tmp_path / "x.pcapng", dict.fromkeys(BOTH, Link(delay_ms=1))
    play(rebound, capture=capture, links=links, vantage="server")
    from_client = [(source, port, note) for source, port, _, to, note in told(capture) if to == 7002]
    assert from_client == [
        ("10.0.0.1", 50000, ""),
        ("10.0.0.1", 61001, "the NAT sends it from 10.0.0.1 port 61001"),
        ("10.0.0.254", 61002, "the NAT sends it from 10.0.0.254 port 61002"),
    ]
    to_client = [(target, port) for source, _, target, port, _ in told(capture) if source == "10.0.0.2"]
    assert to_client == [("10.0.0.1", 50000)] * 2 + [("10.0.0.1", 61001)] * 2 + [("10.0.0.254", 61002)]


def test_what_is_lost_on_the_way_to_a_nat_is_seen_as_it_would_have_come(tmp_path: Path) -> None:
    def main(inside: Inside) -> None:
        order(inside, Rebind("client", False))
        server, client = at(inside, "server", socket.SOCK_DGRAM, 7002), at(inside, "client", socket.SOCK_DGRAM, 50000)
        client.sendto(b"hello", server.getsockname())
        server.sendto(b"answer", server.recvfrom(10)[1])

    play(main, capture=tmp_path / "x.pcapng", links={BOTH[1]: Link(drop=(Drop(1),))})
    assert told(tmp_path / "x.pcapng")[-1] == ("10.0.0.2", 7002, "10.0.0.1", 50000, "dropped: the 1st packet")


def test_tcp_goes_through_a_nat_and_does_not_survive_that_it_forgets() -> None:
    """RFC 9293 §3.10.7.1: a segment to which there is no connection is answered with RST."""

    def main(inside: Inside) -> None:
        order(inside, Rebind("client", True))
        transfer(inside, 1_000_000)
        listening, client = at(inside, "server"), at(inside, "client")
        client.connect(listening.getsockname())
        server, peer = listening.accept()
        client.sendall(b"hello")
        heard = server.recv(10).decode()
        order(inside, Rebind("client", False))
        client.sendall(b"are you there?")
        try:
            client.recv(10)
        except ConnectionResetError:
            inside.emit({"peer": peer[0], "heard": heard, "reset": True})
        server.setblocking(False)
        try:
            inside.emit({"more": server.recv(10).decode()})
        except BlockingIOError:
            inside.emit({"more": None})  # The server waits for a client that has gone.

    assert play(main) == {"peer": "10.0.0.254", "heard": "hello", "reset": True, "more": None}


def test_an_order_the_wire_does_not_understand_is_a_bug_that_is_told() -> None:
    def main(inside: Inside) -> None:
        inside.control.send(pickle.dumps({("client", "nobody"): Link()}))
        inside.control.recv(16)

    with pytest.raises(CannotRun, match="This is a bug in labkit"):
        play(main)


def certificate(folder: Path) -> Path:
    """A self-signed certificate for server.lab, with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server.lab")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("server.lab")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_wireshark_opens_a_capture_decrypted(tmp_path: Path) -> None:
    """The TLS 1.3 secrets are in the file, ahead of the packets they open: nothing to configure."""
    need_tool("tshark")
    pem, capture = certificate(tmp_path), tmp_path / "tls.pcapng"

    def main(inside: Inside) -> None:
        listening = at(inside, "server", port=7443)
        trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trust.load_cert_chain(pem)

        def serve() -> None:
            raw, _ = listening.accept()
            with trust.wrap_socket(raw, server_side=True) as server:
                server.sendall(server.recv(100).upper())

        server = threading.Thread(target=serve)
        server.start()
        kernel.enter_network(inside.networks["client"])
        context = ssl.create_default_context(cafile=pem)
        raw = socket.create_connection(("server.lab", 7443), timeout=100 * TICK)
        with context.wrap_socket(raw, server_hostname="server.lab") as client:
            client.sendall(b"a secret")
            inside.emit({"answer": client.recv(100).decode(), "version": client.version()})
        server.join()

    found = play(main, capture=capture, links=dict.fromkeys(BOTH, Link(delay_ms=2)))
    assert found == {"answer": "A SECRET", "version": "TLSv1.3"}
    shown = subprocess.run(
        ["tshark", "-r", capture, "-Y", "data", "-Tfields", "-e", "data.data"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert [bytes.fromhex(line) for line in shown.stdout.split()] == [b"a secret", b"A SECRET"]
