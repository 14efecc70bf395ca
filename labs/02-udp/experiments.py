"""UDP, seen from outside: each experiment causes one phenomenon and measures it."""

from __future__ import annotations

import asyncio
import errno
import math
import random
import select
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from clients import udp as client
from labkit.lab import Drop, Host, Link, Network, Seen, experiment
from protocols.reliable import PAYLOAD, Receiver, Sender, Timeout
from servers import udp as server

IP_RECVERR, IP_MTU_DISCOVER, IP_PMTUDISC_DO = 11, 10, 2  # <linux/in.h>, for which Python has no names
PORT_UNREACHABLE, REASSEMBLY_TIMEOUT = (3, 3), (11, 1)  # ICMP type and code (RFC 792)


def bound(host: Host, port: int = 0) -> socket.socket:
    """An unconnected UDP socket at a port of a host."""
    made = host.socket(socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 212992)  # twice the default: room for bursts
    made.bind((host.address, port))
    return made


def pair(net: Network) -> tuple[socket.socket, socket.socket]:
    """A socket on the client, connected to a socket on the server."""
    receiver, sender = bound(net.server, net.port), bound(net.client)
    sender.connect(receiver.getsockname())
    return sender, receiver


def close(*sockets: socket.socket) -> None:
    for one in sockets:
        one.close()


def error_of(call: Callable[[], object]) -> int:
    """The errno with which a system call fails, 0 when it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def until(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for something that the kernel or the wire does; the measure that follows tells if it did."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.002)


def read_all(receiver: socket.socket, quiet: float = 0.25) -> list[bytes]:
    """All datagrams that come until none has come for a while."""
    got = []
    receiver.settimeout(quiet)
    while True:
        try:
            got.append(receiver.recv(65535))
        except TimeoutError:
            return got


def around(numbers: list[int], index: int) -> str:
    """The numbers near the one at an index, for a note: a diagram shows datagrams, not what is in them."""
    first, end = max(0, index - 4), index + 8
    lead, trail = ("… " if first else ""), (" …" if end < len(numbers) else "")
    return lead + " ".join(map(str, numbers[first:end])) + trail


def drive(end: Sender | Receiver, sock: socket.socket, over: Callable[[], bool], seconds: float = 10) -> bytes:
    """Carry datagrams between one end of a transfer and its connected socket until it is over; return what it got."""
    got, stop = bytearray(), time.monotonic() + seconds
    while not over() and time.monotonic() < stop:
        for datagram in end.datagrams_to_send(time.monotonic()):
            sock.send(datagram)
        wait = (end.timer() or stop) - time.monotonic()
        wait = min(max(0.0, wait), 0.01)  # so that it soon sees that it is over
        while select.select([sock], [], [], wait)[0]:
            got += end.receive_datagram(sock.recv(65535), time.monotonic()) or b""
            wait = 0.0  # Take what else is there, then let it answer.
    return bytes(got)


async def transfer(net: Network, packets: int, window: int, timeout: Timeout | None = None) -> tuple[float, Sender]:
    """Transfer a file of so many packets from the client to the server. Returns the seconds it took, and its sender."""
    sending, receiving = pair(net)
    receiving.connect(sending.getsockname())
    data = random.Random(packets).randbytes(packets * PAYLOAD)
    sender, receiver = Sender(data, window=window, timeout=timeout), Receiver(window=window)
    start = time.perf_counter()
    sends = asyncio.to_thread(drive, sender, sending, lambda: sender.done)
    receives = asyncio.to_thread(drive, receiver, receiving, lambda: sender.done)
    _, got = await asyncio.gather(sends, receives)
    seconds = time.perf_counter() - start
    net.expect(f"the file arrived whole, window {window}", got == data and sender.done and not sender.gave_up)
    close(sending, receiving)
    return seconds, sender


@asynccontextmanager
async def serving(net: Network) -> AsyncIterator[server.Server]:
    """servers/udp.py, running on the server host."""
    manager = server.serve(net.server.address, net.port)
    running = await net.server.run(manager.__aenter__())
    try:
        yield running
    finally:
        await net.server.run(manager.__aexit__(None, None, None))


def icmp(packets: list[Seen], kind: tuple[int, int]) -> int:
    return sum(p.icmp == kind for p in packets)


def fragments(packets: list[Seen]) -> list[Seen]:
    return [p for p in packets if p.more_fragments or p.fragment_offset]


def counter(host: Host, group: str, name: str) -> int:
    """A counter of a host's /proc/net/snmp: its group has a line of names and a line of values."""
    names, values = (line.split() for line in host.statistics("snmp").splitlines() if line.startswith(f"{group}:"))
    return int(values[names.index(name)])


def set_reassembly_seconds(host: Host, seconds: int) -> None:
    """How long a host keeps the fragments of a datagram that is not complete."""
    with host.entered():
        Path("/proc/sys/net/ipv4/ipfrag_time").write_text(str(seconds))


def kernel_drops(host: Host, port: int) -> int:
    """The last column of the line of /proc/net/udp that begins with this local port."""
    lines = [line.split() for line in host.statistics("udp").splitlines()[1:]]
    return sum(int(line[-1]) for line in lines if line[1].endswith(f":{port:04X}"))


@experiment(
    title="A question and its answer",
    link=Link(delay_ms=25),
    question="The round trip takes 50 ms. How long for a request and its answer, over UDP and over TCP?",
    choices=("50 ms over both", "50 ms over UDP, 100 ms over TCP", "100 ms over UDP, 150 ms over TCP"),
    answer="50 ms over UDP, 100 ms over TCP",
)
async def no_handshake(net: Network) -> None:
    """UDP has no connection: the first packet already carries the question, the second the answer. TCP spends
    a round trip on its handshake first. So DNS asks over UDP, and QUIC puts its handshake and TLS's
    into the same packets. What UDP leaves out has a price: the server answered an address that nobody has proved
    (see servers/udp.py). (RFC 768; RFC 9293 §3.5)
    """
    asked, heard = bound(net.client), bound(net.server, net.port)
    start = time.perf_counter()
    asked.sendto(b"?", heard.getsockname())
    _, source = heard.recvfrom(100)
    heard.sendto(b"!", source)
    asked.recv(100)
    net.measure("over UDP", 1000 * (time.perf_counter() - start), "ms", at_least=50, at_most=90)
    net.exactly("UDP packets", sum(p.protocol == "udp" for p in net.packets()), 2)

    listening = net.server.listen(net.port)
    start = time.perf_counter()
    stream = net.client.connect(net.server, net.port)
    stream.sendall(b"?")
    accepted, _ = listening.accept()
    accepted.recv(100)
    accepted.sendall(b"!")
    stream.recv(100)
    net.measure("over TCP", 1000 * (time.perf_counter() - start), "ms", at_least=100, at_most=145)
    close(asked, heard, stream, accepted, listening)


@experiment(
    title="Three sends, how many reads?",
    question="Three sends: 5 bytes, none, 6 bytes. What do the receiver's reads return?",
    choices=("one read returns 11 bytes", "reads of 5 and 6 bytes", "reads of 5, 0 and 6 bytes"),
    answer="reads of 5, 0 and 6 bytes",
)
async def boundaries(net: Network) -> None:
    """One send is one datagram is one read: nothing is glued together or split, as TCP's stream would be. A datagram
    of no bytes is a datagram too (28 bytes of headers), so an empty read does *not* mean the end: UDP has no end.
    (RFC 768; udp(7))
    """
    sender, receiver = pair(net)
    for message in (b"three", b"", b"frames"):
        sender.send(message)
    got = [receiver.recv(65535) for _ in range(3)]
    net.exactly("reads", len(got), 3)
    net.exactly("bytes in the second read", len(got[1]), 0, "bytes")
    net.expect("each read returned one whole message", got == [b"three", b"", b"frames"])
    close(sender, receiver)


@experiment(
    title="A buffer smaller than the datagram",
    question="A datagram of 10 bytes waits. You read 4 bytes, then read again. What does the second read return?",
    choices=("the other 6 bytes", "the next datagram", "an error"),
    answer="the next datagram",
)
async def short_read(net: Network) -> None:
    """A read takes a whole datagram off the queue; what does not fit the buffer is gone. recv() does not tell;
    recvmsg() does, by MSG_TRUNC in its flags. On Linux, recv with MSG_TRUNC returns the datagram's real length.
    Read with a buffer of 65,535 bytes and this cannot happen. (recv(2), udp(7))
    """
    sender, receiver = pair(net)
    for message in (b"0123456789", b"abcdefghij", b"next"):
        sender.send(message)
    net.exactly("bytes in the first read, of 10", len(receiver.recv(4)), 4, "bytes")
    second, _, flags, _ = receiver.recvmsg(4)
    net.expect("the second read began with the next datagram", second == b"abcd")
    net.expect("recvmsg() told of the lost 6 bytes by MSG_TRUNC", bool(flags & socket.MSG_TRUNC))
    third, _, flags, _ = receiver.recvmsg(65535)
    net.expect("the third datagram came whole, without MSG_TRUNC", third == b"next" and not flags & socket.MSG_TRUNC)
    close(sender, receiver)


@experiment(
    title="Nobody listens: who is told?",
    question="The port is closed. Which of two sockets hears of it: the connected or the unconnected one?",
    choices=("both, at the first send", "only the connected one, at its next call", "neither: UDP has no errors"),
    answer="only the connected one, at its next call",
    needs_wire=True,
)
async def closed_port(net: Network) -> None:
    """The first send succeeds: it only hands the packet to the kernel. The other host answers with an ICMP "port
    unreachable" that quotes the datagram's header. A connected socket has one peer, so the kernel knows
    whom to tell: its next call fails with ECONNREFUSED, once. An unconnected socket may talk to many, and an
    error number could not say which; so Linux tells it nothing, unless asked to with IP_RECVERR.
    (RFC 1122 §4.1.3.3; RFC 8085 §5.2; ip(7))
    """
    target = (net.server.address, net.port)

    def refused(count: int) -> bool:
        return icmp(net.packets(), PORT_UNREACHABLE) == count

    connected = bound(net.client)
    connected.connect(target)
    net.expect("connected: the first send succeeds", error_of(lambda: connected.send(b"anybody?")) == 0)
    select.select([connected], [], [], 5)  # An error makes a socket readable.
    net.expect("the second fails: ECONNREFUSED", error_of(lambda: connected.send(b"?")) == errno.ECONNREFUSED)
    net.expect("the third succeeds: an error is told once", error_of(lambda: connected.send(b"?")) == 0)
    until(lambda: refused(2))

    unconnected = bound(net.client)
    unconnected.sendto(b"anybody?", target)
    until(lambda: refused(3))
    net.expect("unconnected: the second send succeeds", error_of(lambda: unconnected.sendto(b"?", target)) == 0)
    until(lambda: refused(4))

    curious = bound(net.client)
    curious.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    curious.sendto(b"anybody?", target)
    select.select([curious], [], [], 5)
    error = error_of(lambda: curious.sendto(b"?", target))
    net.expect("unconnected with IP_RECVERR: the second send fails", error == errno.ECONNREFUSED)
    # A failed send sent nothing: it only told the error of the one before.
    net.exactly("datagrams sent", sum(p.protocol == "udp" for p in net.packets()), 5)
    net.exactly("ICMP port unreachable", icmp(net.packets(), PORT_UNREACHABLE), 5)
    close(connected, unconnected, curious)


@experiment(
    title="Whose datagrams a socket takes",
    question="A client waits for its server's answer. A stranger sends to the client's port. Who keeps that out?",
    choices=("UDP: a socket hears only whom it asked", "the kernel, if the socket is connected", "nobody can"),
    answer="the kernel, if the socket is connected",
)
async def stranger(net: Network) -> None:
    """An unconnected socket takes datagrams from anyone who knows its port; here the stranger's comes first and is
    taken for the answer. connect() on a UDP socket sends nothing: it tells the kernel to take only what comes
    from that address and port. That stops strangers, but not one who forges the server's address: against
    those a request carries a random number that the answer must repeat (clients/udp.py does; so does DNS).
    (RFC 8085 §5.1 and §6; RFC 5452 §4; udp(7))
    """
    real, other = bound(net.server, net.port), bound(net.server)
    for kind in ("unconnected", "connected"):
        asking = bound(net.client)
        asking.sendto(b"what is the price?", real.getsockname())
        real.recv(100)
        if kind == "connected":
            asking.connect(real.getsockname())
        other.sendto(b"nothing!", asking.getsockname())
        real.sendto(b"9 pounds", asking.getsockname())
        believed = asking.recv(100)
        net.exactly(f"strangers believed, {kind}", int(believed == b"nothing!"), int(kind == "unconnected"))
        asking.close()
    close(real, other)


@experiment(
    title="The largest datagram",
    question="How many bytes can one UDP datagram over IPv4 carry?",
    choices=("1,472", "65,507", "65,535"),
    answer="65,507",
)
async def too_big(net: Network) -> None:
    """IP's total length has 16 bits: 65,535 bytes, less 20 of IP header, less 8 of UDP header. One more, and send()
    fails with EMSGSIZE and sends nothing. What fits may still be unwise: the next experiments show what becomes
    of a datagram that is larger than a packet. (RFC 768; RFC 791 §3.1; RFC 8085 §3.2)
    """
    sender, receiver = pair(net)
    sender.send(bytes(65507))
    net.exactly("bytes received", len(receiver.recv(65535)), 65507, "bytes")
    net.expect("65,508 bytes: EMSGSIZE", error_of(lambda: sender.send(bytes(65508))) == errno.EMSGSIZE)
    close(sender, receiver)


@experiment(
    title="A full receive buffer",
    question="1000 datagrams go over a perfect cable to a socket with a small buffer, which nobody reads. Who is told?",
    choices=("the sender: send() blocks", "the sender: send() fails", "nobody: a counter goes up"),
    answer="nobody: a counter goes up",
)
async def full_buffer(net: Network) -> None:
    """UDP has no flow control: there is no window in which a receiver could say "wait". What finds the receive buffer
    full is dropped by the receiver's own kernel, after a journey without loss: every packet is in the capture. Neither
    program is told; the last column of /proc/net/udp counts it, and so does `ss -uam` ("d…").
    (RFC 8085 §3.1; socket(7), SO_RCVBUF)
    """
    sender, receiver = pair(net)
    last = bound(net.server)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # Too little: the kernel gives its minimum.
    for _ in range(1000):
        sender.send(bytes(100))
    sender.sendto(b"that was all", last.getsockname())
    last.recv(100)
    net.note("A last datagram, of 12 bytes, went to another socket. A cable keeps the order: the 1000 are there, too.")
    read = len(read_all(receiver))
    drops = kernel_drops(net.server, net.port)
    net.measure("datagrams read, of 1000", read, at_least=1, at_most=30)
    net.measure("dropped, in /proc/net/udp", drops, at_least=970, at_most=999)
    net.exactly("together", read + drops, 1000)
    close(sender, receiver, last)


@experiment(
    title="A cable that loses packets",
    link=Link(delay_ms=1, loss=0.1),
    question="The cable loses 10 % of the packets. 100 datagrams are sent. How many send() calls fail?",
    choices=("none", "about 10", "all after the first loss"),
    answer="none",
)
async def loss(net: Network) -> None:
    """send() says that the kernel took the datagram, nothing about where it got to. No acknowledgement, no
    retransmission: the numbers of those that arrived have gaps, and only because the program put numbers in. The
    wire's seed makes the same packets fall in every run. (RFC 768; RFC 8085 §3.3)
    """
    sender, receiver = pair(net)
    failed = sum(error_of(lambda n=n: sender.send(n.to_bytes(2, "big"))) != 0 for n in range(100))  # type: ignore[misc]
    got = [int.from_bytes(data, "big") for data in read_all(receiver)]
    gap = next((i for i, number in enumerate(got) if i != number), 0)
    net.note(f"numbers read: {around(got, gap)}")
    net.exactly("send() calls that failed", failed, 0)
    dropped = sum(p.dropped for p in net.packets())
    net.measure("datagrams the wire dropped", dropped, at_least=2, at_most=25)
    net.exactly("arrived and dropped", len(got) + dropped, 100)
    net.expect("what arrived is in order, with gaps", got == sorted(got) and got != list(range(100)))
    close(sender, receiver)


@experiment(
    title="Packets that come twice",
    link=Link(delay_ms=1, duplicate=0.1),
    question="The network delivers some packets twice. What does the receiver's program see of it?",
    choices=("nothing: UDP drops copies", "the same message twice", "a checksum error"),
    answer="the same message twice",
)
async def duplication(net: Network) -> None:
    """A UDP header has two ports, a length and a checksum: no number by which to know a copy again. So the program
    reads it twice, and "add 10 to the account" is done twice. A receiver that minds remembers the numbers it has
    seen, or takes only requests that may be repeated. A retry does the same to a server, without any help from the
    network. (RFC 8085 §3.3)
    """
    sender, receiver = pair(net)
    for number in range(100):
        sender.send(number.to_bytes(2, "big"))
    read = read_all(receiver)
    numbers = [int.from_bytes(data, "big") for data in read]
    net.note(f"numbers read: {around(numbers, next((i for i, n in enumerate(numbers) if i != n), 0))}")
    got = Counter(read)
    twice = sum(count == 2 for count in got.values())
    net.exactly("different messages", len(got), 100)
    net.measure("messages read twice", twice, at_least=2, at_most=25)
    doubled = {p.payload for p in net.packets() if p.fate.endswith("duplicated")}
    net.expect("they are those that the wire duplicated", doubled == {data for data in got if got[data] == 2})
    close(sender, receiver)


@experiment(
    title="Packets that take a longer way",
    link=Link(delay_ms=1, reorder=0.1, reorder_ms=5),
    question="1 packet in 10 takes a way that is 5 ms longer. 100 datagrams, one each ms. What does the receiver read?",
    choices=("all in order", "all, some after later ones", "90: late ones are dropped"),
    answer="all, some after later ones",
)
async def reordering(net: Network) -> None:
    """IP may carry each packet on another way, and UDP hands up what comes as it comes. Nothing is lost, but a file
    written in this order is wrong. A number in each datagram and a buffer in the receiver put them in order: that
    is the exercise. (RFC 8085 §3.3)
    """
    sender, receiver = pair(net)
    start = time.monotonic()
    for number in range(100):
        await asyncio.sleep(max(0.0, start + number / 1000 - time.monotonic()))
        sender.send(number.to_bytes(2, "big"))
    got = [int.from_bytes(data, "big") for data in read_all(receiver)]
    late = next((i for i, number in enumerate(got) if number < max(got[: i + 1])), 0)
    net.note(f"numbers read: {around(got, late)}")
    net.exactly("datagrams read", len(got), 100)
    net.expect("each came once", sorted(got) == list(range(100)))
    overtaken = sum(number < max(got[:i]) for i, number in enumerate(got) if i)
    net.measure("read after a later one", overtaken, at_least=2, at_most=25)
    close(sender, receiver)


@experiment(
    title="Larger than a packet",
    question="The cable's MTU is 1500 bytes. A datagram of 4000 bytes is sent. What is on the cable?",
    choices=("1 packet of 4028 bytes", "3 packets, each with a UDP header", "3 packets, one with a UDP header"),
    answer="3 packets, one with a UDP header",
    needs_wire=True,
)
async def fragmentation(net: Network) -> None:
    """IP cuts the datagram (with its UDP header: 4008 bytes) into pieces of 1480 bytes: a multiple of 8 that fits the
    MTU together with 20 bytes of IP header. Only the first has the ports, so a firewall or a load balancer sees
    the others blindly. The receiver's kernel puts them together; the program reads one message.
    (RFC 791 §3.2; RFC 8900 §3)
    """
    sender, receiver = pair(net)
    sender.send(bytes(4000))
    net.exactly("bytes read at once", len(receiver.recv(65535)), 4000, "bytes")
    seen = [p for p in net.packets() if p.protocol == "udp"]
    net.exactly("packets on the cable", len(seen), 3)
    net.exactly("packets with ports", sum(p.target_port == net.port for p in seen), 1)
    net.expect("they begin at bytes 0, 1480 and 2960", [p.fragment_offset for p in seen] == [0, 1480, 2960])
    net.exactly("put together by the server (ReasmOKs)", counter(net.server, "Ip", "ReasmOKs"), 1)
    close(sender, receiver)


@experiment(
    title="One fragment of three is lost",
    question="Of a datagram's 3 fragments the second is lost. What does the receiver's program read?",
    choices=("two thirds of it", "all of it: IP sends the fragment again", "nothing"),
    answer="nothing",
    needs_wire=True,
)
async def lost_fragment(net: Network) -> None:
    """IP retransmits nothing. The kernel keeps the other fragments for a while (30 s on Linux; here 1 s: ipfrag_time of
    the server's own namespace), then drops them, counts that, and, if the first one was among them, tells the
    sender by an ICMP "fragment reassembly time exceeded". Meanwhile they use memory, which is what somebody who
    sends only first fragments attacks. (RFC 791 §3.2; RFC 792; RFC 1122 §3.3.2; RFC 8900 §3)
    """
    sender, receiver = pair(net)
    set_reassembly_seconds(net.server, 1)
    net.set_link(Link(drop=(Drop(1, "udp", fragment=True),)), "client", "server")
    sender.send(bytes(4000))
    until(lambda: icmp(net.packets(), REASSEMBLY_TIMEOUT) == 1)
    net.exactly("datagrams read", len(read_all(receiver, 0.05)), 0)
    arrived = sum(not p.dropped for p in fragments(net.packets()))
    net.exactly("fragments that arrived, for nothing", arrived, 2)
    net.exactly("given up after a timeout (ReasmTimeout)", counter(net.server, "Ip", "ReasmTimeout"), 1)
    net.exactly("failed (ReasmFails)", counter(net.server, "Ip", "ReasmFails"), 1)
    net.exactly("ICMP reassembly time exceeded", icmp(net.packets(), REASSEMBLY_TIMEOUT), 1)
    close(sender, receiver)


@experiment(
    title="The price of size",
    link=Link(delay_ms=1, loss=0.05),
    question="5 % of packets are lost. What part of the datagrams of 14,800 bytes (11 fragments) is lost?",
    choices=("about 5 %", "about 10 %", "about 40 %"),
    answer="about 40 %",
)
async def price_of_size(net: Network) -> None:
    """A datagram of k fragments arrives only if all k do: 0.95 to the power of 11 is 57 %. Of those in one packet 95 %
    arrive. And a lost one has wasted all its fragments that did arrive. So a datagram should fit into one packet on
    any path: QUIC wants 1200 bytes of payload everywhere. (RFC 8085 §3.2; RFC 8900; RFC 9000 §14)
    """
    sender, receiver = pair(net)
    lost = {}
    for size, name in ((1200, "1 packet each"), (14800, "11 fragments each")):
        arrived = 0
        for _ in range(20):  # At most 10 at a time: the receive buffer shall lose none.
            for _ in range(10):
                sender.send(bytes(size))
            arrived += len(read_all(receiver, 0.02))
        lost[size] = 100 * (200 - arrived) / 200
        low, high = {1200: (1, 12), 14800: (30, 58)}[size]
        net.measure(f"datagrams lost, {name}", lost[size], "%", at_least=low, at_most=high)
    ratio = lost[14800] / lost[1200] if lost[1200] else math.inf
    net.measure("as much as with small ones", ratio, "times", at_least=3, at_most=40)
    close(sender, receiver)


@experiment(
    title="Don't fragment",
    question='A socket asks for "don\'t fragment" on a cable with MTU 1500. What is the most that send() takes?',
    choices=("1,472 bytes", "1,480 bytes", "1,500 bytes"),
    answer="1,472 bytes",
    needs_wire=True,
)
async def dont_fragment(net: Network) -> None:
    """1500 less 20 of IP header less 8 of UDP header. With IP_PMTUDISC_DO the kernel sets the DF bit, and refuses what
    exceeds the path's MTU as far as it knows: here that of its own cable. A router further on would answer with
    ICMP "fragmentation needed". QUIC sets DF too, and probes for the path's MTU. (RFC 1191; RFC 8899; RFC 9000 §14)
    """
    sender, receiver = pair(net)
    sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    sender.send(bytes(1472))
    net.exactly("bytes received", len(receiver.recv(65535)), 1472, "bytes")
    net.expect("1,473 bytes: EMSGSIZE", error_of(lambda: sender.send(bytes(1473))) == errno.EMSGSIZE)
    packets = net.packets()
    net.exactly("length of the IP packet", packets[0].length, 1500, "bytes")
    net.exactly("fragments", len(fragments(packets)), 0)
    close(sender, receiver)


@experiment(
    title="A client's patience",
    link=Link(delay_ms=10, drop=(Drop((1, 2), "udp", to_port=7002),)),
    question="The first two requests are lost. The client first waits 100 ms. When does it send the third?",
    choices=("after 100 ms", "after 200 ms", "after 300 ms"),
    answer="after 300 ms",
)
async def retry(net: Network) -> None:
    """Nobody but the client can know that no answer came, so it needs a timer and tries again; and each time it waits
    twice as long, for if the network drops because it is full, quick retries make it fuller. All copies carry one
    number, so the client knows its answer; the server may see a request twice, so it must not matter if it does.
    The usual first wait is 1 s where nothing is known of the path. (RFC 8085 §3.1.1; RFC 6298 §2.1 and §5.5)
    """
    async with serving(net):
        answer = await net.client.run(client.ask("hello", net.server.address, net.port, timeout=0.1))
    sent = [p for p in net.packets() if p.target_port == net.port]
    net.exactly("requests sent", len(sent), 3)
    net.exactly("different requests", len({p.payload for p in sent}), 1)
    waits = [1000 * (b.time - a.time) for a, b in pairwise(sent)] + [math.nan] * 2
    net.measure("first wait", waits[0], "ms", at_least=95, at_most=170)
    net.measure("second wait", waits[1], "ms", at_least=195, at_most=290)
    net.measure("answered after", 1000 * answer.seconds, "ms", at_least=315, at_most=450)
    net.expect("the third request was answered", answer.text == "HELLO" and answer.tries == 3)


@experiment(
    title="Two servers that answer everything",
    link=Link(delay_ms=1),
    question="A forged datagram makes an echo server answer another echo server. How many datagrams follow?",
    choices=("one: the answer", "two: answer and answer to it", "they never stop"),
    answer="they never stop",
)
async def echo_loop(net: Network) -> None:
    """Each takes the other's answer for a request. One packet with a forged source address started it, and that is why
    the old echo and chargen services are off everywhere (CVE-1999-0103; found again in 2024 in TFTP and NTP servers,
    CVE-2024-2169). servers/udp.py answers only what begins with "?", with something that does not; and its answer is
    never larger than the request, so forging a victim's address gains nothing. (RFC 8085 §6)
    """
    one, other = bound(net.client), bound(net.server)
    end = time.monotonic() + 0.4

    def echo(sock: socket.socket) -> None:
        while time.monotonic() < end:
            if select.select([sock], [], [], 0.05)[0]:
                data, peer = sock.recvfrom(65535)
                sock.sendto(data, peer)

    one.sendto(b"hello", other.getsockname())  # What a forger sends who writes "one" as the source.
    await asyncio.gather(asyncio.to_thread(echo, one), asyncio.to_thread(echo, other))
    net.measure("datagrams in 0.4 s, from one", len(net.packets()), at_least=40)

    asking = bound(net.client)
    async with serving(net) as running:
        for data in (b"!HELLO", b"hello", b"", bytes(2000), b"?hello"):
            asking.sendto(data, running.address)
        answers = read_all(asking, 0.2)
    net.expect("our server answered one of five", answers == [b"!HELLO"])
    net.exactly("bytes answered per byte asked", sum(map(len, answers)) / len(b"?hello"), 1)
    close(one, other, asking)


@experiment(
    title="One packet per round trip, or a window of them",
    link=Link(delay_ms=25),
    question="RTT 50 ms, packets of 1000 bytes, each acknowledged before the next is sent. How fast can it be?",
    choices=("20 kB/s", "200 kB/s", "as fast as the cable"),
    answer="20 kB/s",
    needs_wire=True,
)
async def window(net: Network) -> None:
    """Stop-and-wait sends one packet per round trip, and then the cable is empty: 1000 bytes / 50 ms = 20 kB/s, on any
    cable. With a window of 16 packets there are 16 on the way at a time, and it is 16 times as fast. Goodput is at
    most window / RTT; the window that fills a cable is its bandwidth × RTT. labs/02-udp/goodput.py
    plots it. (RFC 9293 §3.8.6 for TCP's window; RFC 7323 §1.1)
    """
    alone, _ = await transfer(net, 12, window=1)
    goodput = {1: 12 * PAYLOAD / alone / 1000}
    for size, packets in ((4, 48), (16, 192)):
        seconds, _ = await transfer(net, packets, window=size)
        goodput[size] = packets * PAYLOAD / seconds / 1000
    net.measure("goodput, stop-and-wait", goodput[1], "kB/s", at_least=10, at_most=20)
    net.measure("goodput, window of 4", goodput[4], "kB/s", at_least=40, at_most=80)
    net.measure("goodput, window of 16", goodput[16], "kB/s", at_least=150, at_most=320)
    net.measure("window of 16, against stop-and-wait", goodput[16] / goodput[1], "times", at_least=8, at_most=32)


class Impatient(Timeout):
    """Never learns, never backs off: the mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.001

    def sample(self, rtt: float) -> None:
        pass

    def back_off(self) -> None:
        pass


@experiment(
    title="A timeout of 1 ms, and one that learns",
    link=Link(delay_ms=10),
    question="RTT 20 ms, no loss. A sender repeats what is not acknowledged in 1 ms. Copies of each packet?",
    choices=("1", "2", "around 10 or more"),
    answer="around 10 or more",
    needs_wire=True,
)
async def impatient(net: Network) -> None:
    """It is acknowledged after 20 ms at the earliest, so it is sent many times for nothing; on a shared network every
    sender would do so, and the copies push out the others' packets: congestion collapse, as seen in 1986. RFC 6298
    measures: smoothed RTT plus four times its variation, doubled at each timeout. Here it sends no copy, or hardly one.
    (RFC 6298 §2 and §5.5; RFC 8085 §3.1.1; Jacobson 1988)
    """
    for name, timeout, low, high in (("1 ms", Impatient(), 4, 25), ("RFC 6298", Timeout(), 1, 1.5)):
        before = len(net.packets())
        await transfer(net, 10, window=1, timeout=timeout)
        copies = sum(len(p.payload) > PAYLOAD for p in net.packets()[before:])
        net.measure(f"copies of each packet, timeout {name}", copies / 10, at_least=low, at_most=high)


@experiment(
    title="Everything at once",
    link=Link(delay_ms=10, jitter_ms=2, loss=0.05, duplicate=0.05, reorder=0.1, reorder_ms=5),
    question="5 % lost, 5 % doubled, 10 % reordered, both ways. A file of 100 packets. What does the receiver write?",
    choices=("some pieces are missing", "some pieces are there twice", "the file"),
    answer="the file",
    seed=2,
)
async def bad_wire(net: Network) -> None:
    """Each packet has a number. The receiver keeps what came early, drops what it has had and acknowledges each; the
    sender repeats what is missing, and only that. The wire may do as it likes: the price is time and packets, never
    a byte. This is protocols/reliable.py, and writing it is the exercise. (RFC 6298; RFC 2018 for TCP's SACK)
    """
    _, sender = await transfer(net, 100, window=16)
    dropped = sum(p.dropped for p in net.packets())
    net.measure("packets the wire dropped", dropped, at_least=3, at_most=40)
    net.measure("packets sent, for 100 of the file", sender.sent, at_least=101, at_most=160)
