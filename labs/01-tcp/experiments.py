"""TCP seen from outside: each experiment causes one phenomenon and measures it.

Most of them hold both ends of the connection in one thread, so the code reads in the order in which
things happen. Nothing here looks inside the kernel except through what it offers every program:
TCP_INFO (tcp(7)), /proc/net/tcp and /proc/net/netstat (proc(5)).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable
from itertools import pairwise

from labkit.lab import ACK, FIN, RST, SYN, Drop, Host, Link, Network, Seen, experiment, median_ms
from protocols.frames import Decoder, encode

MSS = 1448  # payload of a full segment at MTU 1500: 20 bytes of IP, 20 of TCP and 12 of timestamps are off


# -- Beginning and end -------------------------------------------------------------------------------


@experiment(
    title="Before the first byte",
    link=Link(delay_ms=50),
    question="The cable takes 50 ms each way. How long after connect() was called is the first answer here?",
    choices=("100 ms", "150 ms", "200 ms"),
    answer="200 ms",
)
async def handshake(net: Network) -> None:
    """connect() returns when the SYN-ACK is back: one round trip. Only then does the question leave, and
    its answer takes a second one. Each side picks a random initial sequence number and acknowledges the
    other's plus one, for a SYN counts as one byte of the stream. Random, because whoever can guess the
    number can write into your connection without seeing it. (RFC 9293 §3.5, §3.4.1; RFC 6528 §3)
    """
    listening = net.server.listen(net.port)
    start = time.perf_counter()
    client = net.client.connect(net.server, net.port)
    net.measure("connect() took", ms_since(start), "ms", at_least=100, at_most=190)
    client.sendall(b"question")
    server, _ = listening.accept()
    server.sendall(server.recv(64).upper())
    client.recv(64)
    net.measure("first answer after", ms_since(start), "ms", at_least=200, at_most=290)
    close(client, server, listening)

    packets = net.packets()
    syn, syn_ack = (p for p in packets if p.flags & SYN)
    net.exactly("packets before the first data", next(i for i, p in enumerate(packets) if p.payload), 3)
    net.exactly("the SYN-ACK acknowledges the client's number plus", (syn_ack.ack - syn.seq) % 2**32, 1)
    net.expect("each side chose its own initial sequence number", syn.seq != syn_ack.seq)


@experiment(
    title="Who closes first",
    question="The client closes first, then the server. Who still remembers the connection afterwards?",
    choices=("the client, for a minute", "the server, for a minute", "both, until the FINs are acknowledged"),
    answer="the client, for a minute",
)
async def farewell(net: Network) -> None:
    """A connection is two streams, and each side ends its own with a FIN. The side that sent the first FIN
    also sends the last ACK, and cannot know that it arrived: so it stays in TIME_WAIT, ready to
    acknowledge a repeated FIN, and keeps late segments from entering a new connection between the same
    ports. The RFC wants two segment lifetimes of 2 minutes; Linux waits 60 s. (RFC 9293 §3.6, §3.4.2)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()
    port = client.getsockname()[1]

    client.close()
    net.exactly("bytes in the server's last recv()", len(server.recv(64)), 0, "bytes")
    await until(lambda: state(net.client, port) == "FIN_WAIT2")
    net.expect("after the first FIN the client is in FIN_WAIT2", state(net.client, port) == "FIN_WAIT2")
    net.expect("and the server in CLOSE_WAIT, until it closes, too", state(net.server, net.port, port) == "CLOSE_WAIT")

    server.close()
    await until(lambda: state(net.client, port) == "TIME_WAIT")
    net.expect("after the second FIN the client is in TIME_WAIT", state(net.client, port) == "TIME_WAIT")
    await until(lambda: state(net.server, net.port, port) == "")  # The last ACK may still be on its way.
    net.expect("and the server has forgotten the connection", state(net.server, net.port, port) == "")
    net.measure("seconds of TIME_WAIT to come", time_wait_left(net.client, port), "s", at_least=50, at_most=60)
    listening.close()
    if net.on_wire:
        net.exactly("packets with FIN", sum(p.flags & FIN > 0 for p in net.packets()), 2)


# -- A stream, not messages --------------------------------------------------------------------------


@experiment(
    title="One send on a slow link",
    link=Link(delay_ms=60, rate_mbit=0.3),
    question="The client sends 4000 bytes in one call. What does the server's recv(65536) return?",
    choices=("all 4000 bytes", "what has arrived so far", "nothing until all 4000 are there"),
    answer="what has arrived so far",
)
async def one_send_three_reads(net: Network) -> None:
    """TCP cut the 4000 bytes into segments of at most 1448, and on a slow link they arrive one after the
    other; recv() returns as soon as there is anything at all. Where one message ends is for the
    application to say: here a length before each message. The decoder keeps the unfinished tail until
    the rest arrives, and so one message comes out. (RFC 9293 §3.7, §3.9.1.3)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()
    client.sendall(encode(b"x" * 3996))
    pieces: list[int] = []
    messages: list[bytes] = []
    decoder = Decoder()
    while sum(pieces) < 4000:
        data = server.recv(65536)
        pieces.append(len(data))
        messages += decoder.receive_data(data)
    net.note(f"recv() returned {', '.join(map(str, pieces))} bytes")
    net.measure("calls of recv() for one send()", len(pieces), at_least=2, at_most=3)
    net.exactly("segments with data", sum(len(p.payload) > 0 for p in net.packets()), 3)
    net.exactly("messages out of the decoder", len(messages), 1)
    close(client, server, listening)


@experiment(
    title="Three sends in a row",
    question="Three calls of send(), then one of recv(). How many of the three messages does it return?",
    choices=("the first", "all three, as one piece", "the last: it overwrites the others"),
    answer="all three, as one piece",
)
async def three_sends_one_read(net: Network) -> None:
    """A socket's buffer is a queue of bytes: it remembers no calls, on neither side. recv() returns all that
    is there, so a program that takes each read for one message works in its author's test and joins
    messages under load. The length in front of each tells them apart again. (RFC 9293 §3.7)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()
    for message in (b"one", b"two", b"three"):
        client.sendall(encode(message))
    await until(lambda: len(server.recv(65536, socket.MSG_PEEK)) == 23)  # All arrived; none taken yet.
    data = server.recv(65536)
    net.exactly("bytes in one recv()", len(data), 23, "bytes")
    net.exactly("messages out of the decoder", len(list(Decoder().receive_data(data))), 3)
    close(client, server, listening)


@experiment(
    title="Header, then body",
    question="A request is written as header, then body. How long is one exchange without any network delay?",
    choices=("less than 1 ms", "about 5 ms", "40 ms or more"),
    answer="40 ms or more",
)
async def nagle(net: Network) -> None:
    """Nagle's algorithm holds back a small segment while another is unacknowledged; the server delays that
    acknowledgement, hoping to send it along with an answer; and the answer needs the held-back half. They
    wait for each other until the delayed-ACK timer fires, 40 ms on Linux, which may stretch it to 200 ms.
    TCP_NODELAY turns Nagle off. Writing header and body in one call is better still: one segment, and no
    algorithm has anything to decide. (RFC 9293 §3.7.4, §3.8.6.3; RFC 896)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()

    def exchange(*parts: bytes) -> None:
        for part in parts:
            client.sendall(part)
        wanted = sum(map(len, parts))
        while wanted:
            wanted -= len(server.recv(wanted))
        server.sendall(b"answer")
        client.recv(64)

    for _ in range(10):  # A new connection acknowledges at once for a while (Linux: quickack).
        exchange(b"header", b"body")
    waited = median_ms(lambda: exchange(b"header", b"body"), 9)
    net.measure("one exchange, two writes", waited, "ms", at_least=38, at_most=220)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    at_once = median_ms(lambda: exchange(b"header", b"body"), 25)
    net.measure("the same with TCP_NODELAY", at_once, "ms", at_most=10)
    net.measure("times faster", waited / at_once, at_least=5)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    joined = median_ms(lambda: exchange(b"headerbody"), 25)
    net.measure("one write, with Nagle", joined, "ms", at_most=10)
    close(client, server, listening)


# -- Endings that lose data, and one that does not ---------------------------------------------------


@experiment(
    title="Close with unread data",
    question="The server answers and closes, but has not read all that the client sent. What does the client see?",
    choices=("the answer, then the end", "the answer, then an error", "nothing at all: the connection hangs"),
    answer="the answer, then an error",
)
async def reset(net: Network) -> None:
    """Bytes that arrived and were never read are lost by close(), and TCP will not let that pass for a clean
    end: the kernel sends RST instead of FIN. Here the answer came first and can be read; the next recv()
    is ECONNRESET. A client that is still sending meets the error in send() and may never look for the
    answer; and on some systems the RST wipes it out. (RFC 9293 §3.6.1; RFC 2525 §2.17; RFC 9112 §9.6)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()
    client.sendall(b"request and a body that nobody reads")
    server.recv(7)
    server.sendall(b"error: go away")
    server.close()
    net.exactly("bytes of the answer", len(client.recv(64)), 14, "bytes")
    net.expect("the next recv() fails with ECONNRESET", errno_of(client.recv, 64) == errno.ECONNRESET)
    net.expect("and the next send() with EPIPE", errno_of(client.send, b"x") == errno.EPIPE)
    close(client, listening)
    if net.on_wire:
        last = [p for p in net.packets() if p.source == "server"][-1]
        net.expect("the server's last packet is RST", last.flags & RST > 0)
        net.exactly("FINs of the server", sum(p.flags & FIN > 0 and p.source == "server" for p in net.packets()), 0)


def resets_before_both_fins(packets: list[Seen]) -> int:
    """Later ones say nothing: the ACK of a FIN that was sent twice finds its socket gone (RFC 1337)."""
    ended: set[str] = set()
    resets = 0
    for packet in packets:
        resets += packet.flags & RST > 0 and len(ended) < 2
        if packet.flags & FIN:
            ended.add(packet.source)
    return resets


@experiment(
    title="Last words that arrive",
    question="How can a server refuse a body it will not read, and still have its answer arrive?",
    choices=(
        "set SO_LINGER and close",
        "flush, wait a second, close",
        "FIN first, then read and drop until the peer's FIN",
    ),
    answer="FIN first, then read and drop until the peer's FIN",
)
async def lingering_close(net: Network) -> None:
    """shutdown(SHUT_WR) sends the FIN and leaves the reading half open. The server reads and throws away until
    the client has ended, too (never longer than a bounded while: the peer may be an enemy), and then
    closes with nothing unread, so there is no RST. SO_LINGER does not do it: it waits for what *we* sent,
    not for what we have yet to read. (RFC 9112 §9.6; RFC 9293 §3.6.1)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()
    client.sendall(b"request and a body that nobody reads")
    server.recv(7)
    server.sendall(b"error: go away")
    server.shutdown(socket.SHUT_WR)

    client.sendall(b" and more of it")  # The client has not looked yet; this would have met the RST.
    net.exactly("bytes of the answer", len(client.recv(64)), 14, "bytes")
    net.exactly("bytes in the next recv(): a clean end", len(client.recv(64)), 0, "bytes")
    client.shutdown(socket.SHUT_WR)
    dropped = 0
    while data := server.recv(65536):
        dropped += len(data)
    net.exactly("bytes the server threw away", dropped, 44, "bytes")
    close(server, client, listening)
    if net.on_wire:
        net.exactly("packets with RST before both had ended", resets_before_both_fins(net.packets()), 0)


@experiment(
    title="Half-close",
    question="The client ends its half with shutdown(SHUT_WR). How much can the server still send?",
    choices=("nothing", "what it had sent before the FIN arrived", "as much as it likes"),
    answer="as much as it likes",
)
async def half_close(net: Network) -> None:
    """A FIN ends one direction only. The server reads b"", which says that the question is complete, and
    answers at leisure; the client reads until the server's own FIN. That is how `sort` works behind a
    socket: it can answer only when it has everything. A server that takes b"" for "the peer is gone"
    drops the answer. asyncio calls it write_eof(). (RFC 9293 §3.6.1)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()
    port = client.getsockname()[1]
    client.sendall(b"pear\napple\n")
    client.shutdown(socket.SHUT_WR)

    question = b""
    while data := server.recv(64):
        question += data
    await until(lambda: state(net.client, port) == "FIN_WAIT2")
    net.expect("the client is in FIN_WAIT2", state(net.client, port) == "FIN_WAIT2")
    net.expect("the server is in CLOSE_WAIT", state(net.server, net.port, port) == "CLOSE_WAIT")
    server.sendall(b"".join(sorted(question.splitlines(keepends=True))) * 1000)
    server.close()
    answer = b""
    while data := client.recv(65536):
        answer += data
    net.exactly("bytes answered after the client's FIN", len(answer), 11_000, "bytes")
    close(client, listening)
    if net.on_wire:
        net.exactly("packets with RST before both had ended", resets_before_both_fins(net.packets()), 0)


# -- Queues and windows ------------------------------------------------------------------------------


@experiment(
    title="Nobody accepts",
    question="listen(1), and nobody calls accept(). Three clients connect. How many connect() calls return at once?",
    choices=("none", "one", "two"),
    answer="two",
)
async def backlog(net: Network) -> None:
    """The kernel shakes hands by itself and keeps the connection in the accept queue; a client can even send
    its request to a program that sleeps. Linux lets backlog + 1 connections wait. When the queue is full
    it answers no SYN at all, and the client tries again after 1 s: the third gets in a second late,
    though a place was free long before. Hence those odd latencies of whole seconds: 1, 2, 3, 4 since
    Linux 6.5 (tcp_syn_linear_timeouts), 1, 3, 7 before it. (RFC 6298 §2, §5.5; listen(2); ip-sysctl)
    """
    listening = net.server.listen(net.port, backlog=1)
    start = time.perf_counter()
    first, second = (net.client.connect(net.server, net.port) for _ in range(2))
    net.measure("two connect() calls took", ms_since(start), "ms", at_most=400)
    first.sendall(b"request")
    await acknowledged(first)
    net.expect("a request was acknowledged, and no program has accepted the connection", info(first)["unacked"] == 0)

    dropped = counter(net.server, "ListenOverflows")
    start = time.perf_counter()
    third = net.client.socket(timeout=None)
    third.setblocking(False)
    connecting = asyncio.ensure_future(asyncio.get_running_loop().sock_connect(third, (net.server.address, net.port)))
    await asyncio.sleep(0.2)
    net.expect("after 200 ms the third is still in SYN_SENT", state(net.client, third.getsockname()[1]) == "SYN_SENT")
    accepted = [listening.accept()[0]]  # Now there is a place again.
    await connecting
    net.measure("the third connect() took", ms_since(start), "ms", at_least=950, at_most=1600)
    net.measure("SYNs the server dropped", counter(net.server, "ListenOverflows") - dropped, at_least=1)
    accepted += [listening.accept()[0] for _ in range(2)]
    if net.on_wire:
        port = third.getsockname()[1]
        syns = [p for p in net.packets() if p.flags & (SYN | ACK) == SYN and p.source_port == port]
        net.exactly("SYNs of the third client", len(syns), 2)
    close(first, second, third, *accepted, listening)


@experiment(
    title="The reader stops",
    question="The server never calls recv(). What becomes of a client that keeps sending?",
    choices=("it can send on: TCP buffers", "its packets are lost", "send() fills two buffers, then waits"),
    answer="send() fills two buffers, then waits",
    needs_wire=True,
)
async def backpressure(net: Network) -> None:
    """First the server's receive buffer fills, and each ACK offers a smaller window, down to zero; then the
    client's send buffer; then send() takes no more. Nothing is lost. From now on the client asks at
    growing intervals whether the window has opened, for the one ACK that says so could be lost and then
    both would wait for ever. This is how a slow consumer slows its producer. (RFC 9293 §3.8.6, §3.8.6.1)
    """
    listening = net.server.listen(net.port)
    client = net.client.connect(net.server, net.port)
    server, _ = listening.accept()
    client.settimeout(0.2)
    accepted = 0
    try:
        while True:
            accepted += client.send(bytes(65536))
    except TimeoutError:
        net.note("send() has taken nothing for 200 ms")
    net.measure("taken by send(), read by nobody", accepted / 1e3, "kB", at_least=100, at_most=64_000)

    stopped = info(client)["rwnd_limited"]
    await asyncio.sleep(1.6)
    limited = (info(client)["rwnd_limited"] - stopped) / 1e6
    net.measure("of 1.6 s, limited by the receiver's window", limited, "s", at_least=1, at_most=2.5)
    from_server = [p for p in net.packets() if p.source == "server"]
    net.measure("ACKs with window 0", sum(p.window == 0 for p in from_server), at_least=2)
    probes = window_probes(net.packets())
    net.measure("window probes", len(probes), at_least=2, at_most=6)
    first, second = (later - earlier for earlier, later in pairwise([p.time for p in probes][:3]))
    net.measure("each pause is longer, times", second / first, at_least=1.5, at_most=3)

    server.settimeout(2)
    client.close()
    read = 0
    while data := server.recv(1 << 20):
        read += len(data)
    net.exactly("bytes lost", accepted - read, 0, "bytes")
    close(server, listening)


@experiment(
    title="Address already in use",
    question="A server closed its connection first and ended. Whose SO_REUSEADDR lets it start again at once?",
    choices=("the new socket's alone", "the old socket's alone", "both: the old one's and the new one's"),
    answer="both: the old one's and the new one's",
)
async def address_in_use(net: Network) -> None:
    """Who closed first is in TIME_WAIT, and the port stays taken although nobody listens. SO_REUSEADDR says
    "I can live with that" and must be set before bind(). Linux asks both: the new socket, and the one in
    TIME_WAIT, which has the option from the listener that accepted it. A socket that still *listens* is
    never overruled; that would be SO_REUSEPORT. (RFC 9293 §3.6.1; socket(7), ip(7))
    """
    refused = 0
    for old, new, who in ((0, 0, "neither has it"), (0, 1, "only the new socket"), (1, 0, "only the old one")):
        error = await restart(net, old=old, new=new)
        net.expect(f"bind() fails with EADDRINUSE: {who}", error == errno.EADDRINUSE)
        refused += error == errno.EADDRINUSE
    net.expect("bind() succeeds: both have it", await restart(net, old=1, new=1) == 0)
    listening = net.server.listen(0)
    error = errno_of(net.server.listen, listening.getsockname()[1])
    net.expect("bind() fails with EADDRINUSE: both have it, but the old one still listens", error == errno.EADDRINUSE)
    net.exactly("bind() refused, of five", refused + (error == errno.EADDRINUSE), 4)
    listening.close()


async def restart(net: Network, *, old: int, new: int) -> int:
    """A server closes its only connection and ends; the errno with which another may take its port, or 0."""
    listening = net.server.listen(0, SO_REUSEADDR=old)
    port = listening.getsockname()[1]
    client = net.client.connect(net.server, port)
    server, _ = listening.accept()
    server.close()  # The server ends first: TIME_WAIT is on its side.
    # The client's ACK must be out before its FIN: overtaken by it, it would meet nobody, be answered with
    # an ACK, and that with an RST, which ends TIME_WAIT early (RFC 1337: TIME-WAIT assassination).
    await until(lambda: state(net.server, port, client.getsockname()[1]) == "FIN_WAIT2")
    close(client, listening)
    await until(lambda: state(net.server, port) == "TIME_WAIT")
    return errno_of(lambda: net.server.listen(port, SO_REUSEADDR=new).close())


# -- Loss --------------------------------------------------------------------------------------------


@experiment(
    title="One segment lost, in the middle",
    link={
        ("client", "server"): Link(delay_ms=25, drop=(Drop.segment(3, to_port=7001),)),
        ("server", "client"): Link(delay_ms=25),
    },
    question="Of ten segments the third is lost. How does the client find out?",
    choices=("a timer expires", "the server asks for it", "the ACKs repeat themselves"),
    answer="the ACKs repeat themselves",
)
async def fast_retransmit(net: Network) -> None:
    """Each segment that arrives after the hole makes the server acknowledge again what it still waits for,
    and its SACK option names what it has beyond. Three segments reported beyond the hole, classically by
    three duplicate ACKs, are proof enough: the client repeats the one missing segment at once, one round
    trip after it was sent, long before any timer. The server's program notices only a pause.
    (RFC 5681 §3.2; RFC 2018 §3; RFC 6675 §4, §5)
    """
    listening = net.server.listen(net.port)
    client = connect_with(net, "cubic")
    server, _ = listening.accept()
    client.sendall(bytes(10 * MSS))
    receive(server, 10 * MSS)
    close(client, server, listening)

    first, again = copies(net.packets())
    acks = [p for p in net.packets() if p.source == "server" and p.ack == first.seq]
    net.measure("duplicate ACKs with SACK", sum(bool(p.sack) for p in acks), at_least=1, at_most=7)
    sack = next(p.sack for p in acks if p.sack)
    net.expect("the first SACK block begins right behind the hole", sack[0][0] == (first.seq + MSS) % 2**32)
    edges = [p.sack[0][1] for p in acks if p.sack and p.time <= again.time]
    beyond = max((edge - first.seq - MSS) % 2**32 for edge in edges) / MSS
    net.measure("segments known beyond the hole by then", beyond, at_least=3, at_most=7)
    net.measure("sent again after", 1000 * (again.time - first.time), "ms", at_least=50, at_most=190)
    net.exactly("segments sent again", retransmissions(net.packets()), 1)
    net.exactly("timeouts", counter(net.client, "TCPTimeouts"), 0)


@experiment(
    title="One segment lost, at the end",
    link={
        ("client", "server"): Link(delay_ms=25, drop=(Drop.segment(10, to_port=7001),)),
        ("server", "client"): Link(delay_ms=25),
    },
    question="Now the last of the ten segments is lost. What is different?",
    choices=("nothing", "it takes several round trips: a timer must expire", "the connection breaks"),
    answer="it takes several round trips: a timer must expire",
)
async def tail_loss(net: Network) -> None:
    """No segment follows the lost one, so no duplicate ACK comes: silence, and only a timer ends it. Linux
    sends a tail-loss probe, the last segment once more, after two round trips; plus 200 ms when a single
    segment is out, for its ACK may only be delayed; but no later than the retransmission timeout would
    come. That one also begins again with a window of one segment, which the probe does not. A short
    answer is all tail. (RFC 8985 §7.2; RFC 6298 §5; RFC 5681 §3.1)
    """
    listening = net.server.listen(net.port)
    client = connect_with(net, "cubic")
    server, _ = listening.accept()
    client.sendall(bytes(10 * MSS))
    receive(server, 10 * MSS)
    close(client, server, listening)

    first, again = copies(net.packets())
    acks = [p for p in net.packets() if p.source == "server" and p.ack == first.seq]
    net.exactly("duplicate ACKs with SACK", sum(bool(p.sack) and p.time < again.time for p in acks), 0)
    net.measure("sent again after", 1000 * (again.time - first.time), "ms", at_least=200, at_most=700)
    net.exactly("segments sent again", retransmissions(net.packets()), 1)
    net.measure("tail-loss probes", counter(net.client, "TCPLossProbes"), at_least=1)


@experiment(
    title="A new connection on a long cable",
    link=Link(delay_ms=50),
    question="A new connection on a long cable sends 434 kB, 300 segments. How many round trips does it take?",
    choices=("1: all at once", "about 5", "about 30: ten segments each"),
    answer="about 5",
)
async def slow_start(net: Network) -> None:
    """The client knows nothing of the path, so it begins with ten segments and sends two for each one that
    is acknowledged: the flight doubles every round trip. So a short transfer is ruled by round trips, not
    by bandwidth, and a connection that is kept open is worth more than a new one. (Reno here; the
    kernel's default may be another.) (RFC 5681 §3.1; RFC 6928 §2)
    """
    size = 300 * MSS  # fits in flights of 10 + 20 + 40 + 80 + 160 segments
    listening = net.server.listen(net.port, SO_RCVBUF=1 << 20)  # The receiver's window shall not be the limit.
    client = connect_with(net, "reno")
    server, _ = listening.accept()
    start = time.perf_counter()
    await asyncio.gather(asyncio.to_thread(client.sendall, bytes(size)), asyncio.to_thread(receive, server, size))
    net.measure("all arrived after", ms_since(start) / 100, "round trips", at_least=4.4, at_most=12)
    close(client, server, listening)

    flights = flights_of(net.packets())
    net.note("segments per round trip: " + ", ".join(map(str, flights)))
    net.exactly("segments in the first flight", flights[0], 10)
    for i in range(1, 4):
        net.measure(f"flight {i + 1} to flight {i}", flights[i] / flights[i - 1], at_least=1.8, at_most=2.1)


@experiment(
    title="What one loss costs",
    link=Link(delay_ms=10),
    question="One segment is lost. What part of its congestion window does CUBIC keep?",
    choices=("0.5", "0.7", "none: it begins again with one segment"),
    answer="0.7",
)
async def loss_window(net: Network) -> None:
    """To TCP a loss means that a queue overflowed, so it sends less. Reno, the older, halves its congestion
    window; CUBIC keeps 0.7 of it and climbs back along a cubic curve. On a link that loses at random (a
    bad radio) both give way for nothing; that is what BBR was made for. (RFC 5681 §3.2; RFC 9438 §4.6)
    """
    listening = net.server.listen(net.port)
    for name, low, high in (("reno", 0.48, 0.52), ("cubic", 0.66, 0.72)):
        net.set_link(Link(delay_ms=10))
        client = connect_with(net, name)
        server, _ = listening.accept()
        for _ in range(2):  # Let the window grow.
            flight = info(client)["cwnd"] * MSS
            client.sendall(bytes(flight))
            receive(server, flight)
            await acknowledged(client)
        before = info(client)["cwnd"]
        net.set_link(Link(delay_ms=10, drop=(Drop.segment(1, to_port=net.port),)), "client")
        client.sendall(bytes(before * MSS))  # One whole flight, and its first segment is lost.
        receive(server, before * MSS)
        await acknowledged(client)
        after = info(client)["ssthresh"]
        net.note(f"{name}: window {before} segments before the loss, {after} after it")
        net.measure(f"{name} keeps", after / before, at_least=low, at_most=high)
        close(client, server)
    listening.close()


# -- How it is measured ------------------------------------------------------------------------------


def ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def close(*sockets: socket.socket) -> None:
    for one in sockets:
        one.close()


def receive(sock: socket.socket, size: int) -> None:
    """Read and drop so many bytes."""
    while size:
        size -= len(sock.recv(min(size, 1 << 20)))


async def until(holds: Callable[[], bool], seconds: float = 3) -> None:
    """Wait until *holds()*; what follows asserts it."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:  # noqa: ASYNC110 - the kernel rings no bell for this
        await asyncio.sleep(0.002)


def errno_of(call: Callable[..., object], *arguments: object) -> int:
    """The errno with which the call fails, 0 when it does not."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0


def connect_with(net: Network, congestion_control: str) -> socket.socket:
    """The client's socket, connected, with that congestion control; the kernel's default differs by machine."""
    sock = net.client.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
    sock.connect((net.server.address, net.port))
    return sock


# struct tcp_info of <linux/tcp.h>: the name, the offset and the format of what is read here.
_TCP_INFO = {"unacked": (24, "I"), "ssthresh": (76, "I"), "cwnd": (80, "I"), "rwnd_limited": (176, "Q")}


def info(sock: socket.socket) -> dict[str, int]:
    """What the kernel tells of a connection (segments; microseconds), as `ss -ti` shows it."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return {name: struct.unpack_from(kind, data, offset)[0] for name, (offset, kind) in _TCP_INFO.items()}


async def acknowledged(sock: socket.socket) -> None:
    """Wait until all that was sent is acknowledged."""
    await until(lambda: info(sock)["unacked"] == 0)


# <net/tcp_states.h>
_STATES = {1: "ESTABLISHED", 2: "SYN_SENT", 5: "FIN_WAIT2", 6: "TIME_WAIT", 8: "CLOSE_WAIT", 10: "LISTEN"}


def rows(host: Host, port: int, peer: int | None = None) -> list[list[str]]:
    """The lines of /proc/net/tcp for that local port (and the peer's)."""
    lines = [line.split() for line in host.statistics("tcp").splitlines()[1:]]
    return [
        line for line in lines
        if int(line[1].split(":")[1], 16) == port and peer in (None, int(line[2].split(":")[1], 16))
    ]  # fmt: skip


def state(host: Host, port: int, peer: int | None = None) -> str:
    """The state of the connection, "" when there is none."""
    return next((_STATES.get(int(line[3], 16), line[3]) for line in rows(host, port, peer)), "")


def time_wait_left(host: Host, port: int) -> float:
    """Seconds: the timer's column counts in hundredths."""
    return int(rows(host, port)[0][5].split(":")[1], 16) / 100


def counter(host: Host, name: str) -> int:
    """A counter of /proc/net/netstat, as `nstat -az` shows it."""
    for names, values in pairwise(host.statistics("netstat").splitlines()):
        if name in names.split():
            return int(values.split()[names.split().index(name)])
    return 0


def copies(packets: list[Seen]) -> tuple[Seen, Seen]:
    """The first sending of the segment that the wire dropped, and the second."""
    lost = next(p for p in packets if p.dropped)
    first, again, *_ = (p for p in packets if p.source == "client" and p.payload and p.seq == lost.seq)
    return first, again


def retransmissions(packets: list[Seen]) -> int:
    sent = [p.seq for p in packets if p.source == "client" and p.payload]
    return len(sent) - len(set(sent))


def window_probes(packets: list[Seen]) -> list[Seen]:
    """What the client sent after its last data: empty segments, one byte behind what is acknowledged."""
    mine = [p for p in packets if p.source == "client"]
    last = max(i for i, p in enumerate(mine) if p.payload)
    return mine[last + 1 :]


def flights_of(packets: list[Seen]) -> list[int]:
    """Segments per round trip. A segment belongs to the flight after the one whose ACK set it free."""
    start = next(p.seq for p in packets if p.source == "client")  # Numbers begin anywhere, and 0 follows 2**32 - 1.
    flight: dict[int, int] = {}  # bytes of the stream → the flight of the segment that ends there
    free, acknowledged = 1, 0
    sizes: dict[int, int] = {}
    for p in packets:
        if p.source == "server" and (ack := (p.ack - start) % 2**32) in flight and ack > acknowledged:
            free, acknowledged = flight[ack] + 1, ack
        elif p.source == "client" and p.payload:
            flight[(p.seq + len(p.payload) - start) % 2**32] = free
            sizes[free] = sizes.get(free, 0) + 1
    return [sizes[i] for i in sorted(sizes)]
