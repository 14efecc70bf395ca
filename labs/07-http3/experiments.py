"""HTTP/3 seen from outside and from inside: what it gains when packets are lost, what that costs, how one gets there.

The server is the lab's own (servers/http3.py for UDP, servers/http2.py beside it on the same port of TCP). The client
is a connection by hand (byhand.py), where each packet has to be what the experiment wants, or the lab's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import takewhile
from pathlib import Path

from certs.contexts import client_context, server_context
from clients.altsvc import Browser
from clients.http1 import Client as Client1
from clients.http2 import Client as Client2
from clients.http3 import Client as Client3
from labkit.lab import SYN, Drop, Link, Network, experiment
from labkit.learner import load
from labkit.waterfall import Figure, write
from protocols import http3_frames as http3
from protocols.http3_frames import ErrorCode, Frame, FrameType, SettingCode, StreamType
from servers import http2 as tcp_server
from servers import http3 as server
from servers import site

HERE = Path(__file__).parent
byhand = load(HERE / "byhand.py", "labs_http3_byhand")
racing = load(HERE.parent / "06-quic/racing.py", "labs_quic_racing")
over_tcp = load(HERE.parent / "05-http2/byhand.py", "labs_http2_byhand")
paging = load(HERE / "paging.py", "labs_http3_paging")
Talk, load_page = byhand.Talk, paging.load_page

BROWSER = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate"),
    ("cookie", "session=6f1d5a4c9be27d03"),
]
GOODBYE = 0.5  # seconds that a server waits for clients whose last packet was lost


@contextlib.asynccontextmanager
async def serving(net: Network, **options: object) -> AsyncIterator[object]:
    """servers/http3.py on the server host."""
    manager = server.serve(net.server.address, net.port, drain_seconds=GOODBYE, **options)
    async with net.server.running(manager) as running:
        yield running


@contextlib.asynccontextmanager
async def serving_all(net: Network, respond: Callable = site.respond, **options: object) -> AsyncIterator[object]:
    """All three versions on one port number: h3 on UDP, h2 and HTTP/1.1 on TCP. Give the server on TCP."""
    tls = server_context(alpn=("h2", "http/1.1"))
    on_tcp = tcp_server.serve(net.server.address, net.port, respond=respond, ssl=tls, drain_seconds=GOODBYE)
    async with serving(net, respond=respond, **options), net.server.running(on_tcp) as running:
        yield running


def origin(net: Network) -> str:
    """Where the server is, by a name that its certificate has."""
    return f"https://{'server.lab' if net.on_wire else 'localhost'}:{net.port}"


def picture(net: Network, name: str, drawn: Figure) -> None:
    """A waterfall beside the capture: http3-NAME.svg and .png."""
    if net.capture:
        path = net.capture.with_name(f"http3-{name}.svg")
        write(drawn, path)
        net.note(f"A waterfall of this: captures/{path.name}, and as .png")


def ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


# -- The streams of a connection ------------------------------------------------------------------------


@experiment(
    title="Before the first frame",
    question="A client asks for one page over HTTP/3. How many QUIC streams are in use when the answer is there?",
    choices=("1", "3", "7"),
    answer="7",
)
async def streams(net: Network) -> None:
    """Each request has a stream of its own, in both directions: 0, 4, 8. What concerns the connection cannot be in one
    of them, and there is no stream 0 for it as in HTTP/2. So each end opens three more in which only it sends: one for
    control, which begins with SETTINGS and must never end, and two for QPACK, the table's changes and their receipts.
    The first number on such a stream says what it is for. What nobody knows, streams, frames, settings, is left alone,
    and some numbers are kept free so that this is tried all the time. (RFC 9114 §6.1, §6.2, §7.2.4, §7.2.8, §9; RFC
    9204 §4.2)
    """
    async with serving(net):
        talk = Talk(net)
        first = talk.request("/")
        talk.until(first)
        talk.wait(lambda: len(talk.kinds) == 3, 1)
        ours = {first, talk.control_stream, talk.encoder_stream, talk.decoder_stream}
        net.exactly("streams in use when the page is there", len(ours | set(talk.kinds)), 7)
        talk.open(http3.grease(7), b"nobody knows what this is")
        talk.quic.send_stream_data(talk.control_stream, http3.encode(Frame(http3.grease(3), b"nor this")))
        second = talk.request("/")
        [answer] = talk.until(second)
        known = sorted(kind for kind in talk.kinds.values() if kind in iter(StreamType))
        net.exactly("the stream of the first request", first, 0)
        net.exactly("the stream of the second", second, 4)
        net.exactly("streams that the server opens by itself", len(known), 3)
        net.expect("one is for control, two are QPACK's", known == [0, 2, 3])
        net.exactly("the first frame on its control stream (SETTINGS)", talk.control[0].type, FrameType.SETTINGS)
        table = talk.settings[SettingCode.QPACK_MAX_TABLE_CAPACITY]
        net.exactly("the table that it keeps for us", table, 4096, "bytes")
        net.exactly("streams that may wait for it", talk.settings[SettingCode.QPACK_BLOCKED_STREAMS], 16)
        net.exactly("status, beside a stream and a frame that nobody knows", answer.status, 200)
        net.expect("the answer is a frame HEADERS and one of DATA", known_frames(answer) == [1, 0])
        talk.close()


def known_frames(answer) -> list[int]:
    return [kind for kind in answer.frames if not http3.is_grease(kind)]


@experiment(
    title="The same again, once more",
    question="A browser's request: 270 bytes as text, 135 by HPACK, then 9. And QPACK, before it may use any table?",
    choices=("about 270", "about 135", "about 9"),
    answer="about 135",
)
async def same_headers(net: Network) -> None:
    """QPACK's static table has 99 entries, and Huffman's code is HPACK's. Until the server's SETTINGS are here there
    is no other table, and no need to wait for one. After that a field that was sent once goes into the table, and the
    request names it by number. The price of not depending on order: instructions on a stream of their own, and two
    bytes ahead of each section that say which of them it needs. (RFC 9204 §2.1, §3.1, §4.5.1, appendix A; RFC 7541)
    """
    async with serving_all(net):
        one, two, talk = over_tcp.Talk1(net), over_tcp.Talk(net), Talk(net)
        net.exactly("HTTP/1.1, each time", len(one.wire("/", BROWSER)), 270, "bytes")
        for name, size in (("HTTP/2, the first time", 135), ("HTTP/2, the same again", 9)):
            request = two.request("/", BROWSER)
            two.send(request)
            two.until(request)
            net.exactly(name, len(request.payload), size, "bytes")
        talk.greet()
        for name, size, instructions in (
            ("without a table", 152, 0),
            ("without a table, the same again", 152, 0),
            ("with a table, the first time", 152, 0),
            ("with a table, the same again", 11, 145),
            ("with a table, once more", 11, 0),
        ):
            if name == "with a table, the first time":
                talk.obey_settings()
            talk.ask("/", fields=BROWSER)
            talk.settle(0.02)  # The receipts come on a stream of their own, perhaps after the answer.
            net.exactly(f"HTTP/3, {name}", talk.packed[1], size, "bytes")
            net.exactly(f"HTTP/3, {name}: instructions", talk.packed[0], instructions, "bytes")
        one.close()
        two.close()
        talk.close()


BROKEN = (  # what, on which stream, and the error that it is
    ("a body before the fields", "request", [Frame(FrameType.DATA, b"too early")], ErrorCode.FRAME_UNEXPECTED),
    ("SETTINGS a second time", "control", [http3.settings({})], ErrorCode.FRAME_UNEXPECTED),
    ("a PING of HTTP/2", "control", [Frame(0x06, bytes(8))], ErrorCode.FRAME_UNEXPECTED),
    ("GOAWAY on a request's stream", "request", [http3.numbered(FrameType.GOAWAY, 0)], ErrorCode.FRAME_UNEXPECTED),
    ("the control stream ends", "control", [], ErrorCode.CLOSED_CRITICAL_STREAM),
)


@experiment(
    title="Where it does not belong",
    question="A client sends DATA before HEADERS on a stream. What does the server end: the stream, or the connection?",
    choices=("the stream", "the connection", "nothing: it answers 400"),
    answer="the connection",
)
async def misplaced(net: Network) -> None:
    """Which frame may come where is fixed, and who breaks that is not somebody to go on talking with: a connection
    error, a code in QUIC's CONNECTION_CLOSE. Only what is wrong with one message, its fields, a length that is not
    true, ends one stream. HTTP/2's PING, WINDOW_UPDATE and PRIORITY are forbidden by number, so that nobody translates
    from one version to the other frame by frame: QUIC does their work. (RFC 9114 §4.1, §7.1, §7.2, §7.2.8, §8, §6.2.1)
    """
    async with serving(net):
        for name, where, frames, code in BROKEN:
            talk = Talk(net)
            talk.ask("/")
            stream = talk.control_stream if where == "control" else talk.quic.get_next_available_stream_id()
            talk.quic.send_stream_data(stream, b"".join(map(http3.encode, frames)), end_stream=not frames)
            with contextlib.suppress(ConnectionError):
                talk.wait(lambda talk=talk: talk.ended is not None, 3)
            ended = talk.ended
            net.exactly(f"error code: {name}", ended.error_code if ended else -1, code)
            talk.close()


# -- Head of line ---------------------------------------------------------------------------------------


async def both_lanes(net: Network, count: int, period: float, lossy: Link) -> tuple[racing.Lane, racing.Lane, float]:
    """Six feeds over HTTP/2 and six over HTTP/3, at the same time, on a link that is *lossy* to the client.

    Also for how many ms this machine stood still.
    """
    async with serving_all(net, racing.respond, path_mtu=False) as on_tcp, contextlib.AsyncExitStack() as stack:
        clients = (Client2(ssl=client_context()), Client3())
        for client in clients:
            stack.push_async_callback(net.client.run, client.__aexit__(None, None, None))
        warm = (client.request("GET", f"{origin(net)}/bytes/60000") for client in clients)
        await asyncio.gather(*map(net.client.run, warm))  # TCP's slow start, and QUIC's, are over then.
        racing.use_reno([talk.transport for talk in on_tcp.talks])
        net.set_link(lossy, "server", "client")
        began = time.time()
        work = (racing.follow_all(client, origin(net), count, period) for client in clients)
        feeds, still = await racing.with_a_clock(asyncio.gather(*map(net.client.run, work)))
        net.set_link(Link())  # The good-byes need not take as long.
    return (*racing.lanes(net, ("HTTP/2 over TCP", "HTTP/3 over QUIC"), feeds, began), still)


@experiment(
    title="One packet lost, six streams",
    link=Link(delay_ms=50),
    question="Six live feeds share a connection, and one packet is lost. How many stand still, over TCP and over QUIC?",
    choices=("6 and 6", "6 and 1", "1 and 1"),
    answer="6 and 1",
    seconds=20,
)
async def head_of_line(net: Network) -> None:
    """The other pieces had arrived, over TCP, too: in the kernel, behind a gap, and TCP gives out bytes in their order
    only. QUIC's packets have no such order. Each says of which stream its bytes are and where in it they belong, so a
    gap is one stream's gap, and the others are read on. Both notice the loss by the three packets behind it, both need
    a round trip to mend it: the stream that was hit stands still as long as over TCP. The difference is who stands
    with it. Both use Reno here, and neither is held up by it: six feeds need little. (RFC 9293 §3.4; RFC 9000 §2.2;
    RFC 9002 §6.1.1; RFC 9114 §1.1)
    """
    lossy = Link(delay_ms=50, drop=tuple(racing.a_piece(30, kind, net.port) for kind in ("tcp", "udp")))
    tcp, quic, still = await both_lanes(net, racing.PIECES, racing.PERIOD, lossy)
    for line in racing.table(tcp, quic, still=still):
        net.note(line)
    net.exactly("packets lost, each", (len(tcp.lost) + len(quic.lost)) / 2, 1)
    racing.measure_one_loss(net, tcp, quic, "HTTP/2", "HTTP/3")
    drawn = racing.figure(
        "One lost packet, six feeds", "1000 bytes on each stream every 40 ms; round trip 100 ms. "
        "Both at the same time, on the same link.", tcp, quic, still=still,
    )  # fmt: skip
    picture(net, "head-of-line", drawn)


@experiment(
    title="Five of a hundred",
    link=Link(delay_ms=20),
    question="5 % of all packets are lost. How many pieces of six feeds are late for each lost one, TCP and QUIC?",
    choices=("1 and 1", "several and 1", "6 and 6"),
    answer="several and 1",
    seconds=20,
)
async def losses(net: Network) -> None:
    """A lost piece is late by a round trip and a little. Over QUIC nothing else is, unless the same feed has sent its
    next piece meanwhile. Over TCP all that was sent meanwhile is late with it, whichever feed it is of: here some
    four. So what QUIC gains grows with the streams that are active, and with the packets per round trip; one lone
    download gains nothing. All this is read from the packets: what was lost, and what lay behind a gap. What the
    readers saw may be worse, over both: the congestion window halves at each loss and holds pieces back. (RFC 9000
    §2.2; RFC 9002 §7.3; RFC 5681 §3.2)
    """
    tcp, quic, still = await both_lanes(net, 20, 0.1, Link(delay_ms=20, loss=0.05))
    for name, lane in (("HTTP/2", tcp), ("HTTP/3", quic)):
        net.measure(f"packets with a piece that were lost, {name}", len(lane.lost), at_least=1, at_most=60)
        late, all_ = racing.late(lane.feeds), sum(len(feed.delays) for feed in lane.feeds)
        net.note(f"{name}: its readers saw {late} of {all_} pieces more than {racing.LATE} ms late")
    for line in racing.stood(still):
        net.note(line)
    net.measure("late pieces for each, the median, HTTP/2", tcp.late, at_least=2)
    net.measure("late pieces for each, the median, HTTP/3", quic.late, at_least=0.5, at_most=3)
    net.measure("HTTP/2 for one of HTTP/3", tcp.late / quic.late, at_least=1.5)
    drawn = racing.figure("5 % of all packets lost, six feeds", "1000 bytes on each stream every 100 ms; round trip "
                          "40 ms. Both at the same time, on the same link.", tcp, quic, still=still)  # fmt: skip
    picture(net, "losses", drawn)


VERSIONS = (  # and how fast none can be, in ms at a round trip of 30: see the docstring
    ("six of HTTP/1.1", lambda: Client1(ssl=client_context()), 270),
    ("HTTP/2", lambda: Client2(ssl=client_context()), 120),
    ("HTTP/3", lambda: Client3(), 90),
)


def round_trips(net: Network, since: float) -> int:
    """How many there are, on the first connection from then on, until TLS's first word from the server is there.

    One for each packet in which the client asks for something: a SYN, a ClientHello. Sent again, it counts once.
    """
    packets = [p for p in net.packets() if p.time >= since]
    opens = (p for p in packets if p.source == "client" and (p.flags & SYN or (p.protocol == "udp" and p.payload)))
    port = next(opens).source_port
    mine = [p for p in packets if port in (p.source_port, p.target_port)]
    before = takewhile(lambda p: p.source == "client" or not p.payload, mine)
    return len({(p.flags & SYN, len(p.payload)) for p in before if p.source == "client"} - {(0, 0)})  # no bare ACKs


@experiment(
    title="A page of many tiles, over all three",
    link=Link(delay_ms=15),
    question="A new connection, TLS 1.3. How many round trips before its first request, over HTTP/2 and HTTP/3?",
    choices=("1 and 0", "2 and 1", "2 and 2"),
    answer="2 and 1",
    seconds=30,
)
async def tiles(net: Network) -> None:
    """TCP's handshake first, and then TLS's; QUIC's is TLS's, too, so its first request leaves a round trip earlier.
    That need not make the page of 36 tiles faster: this QUIC is a program in Python (see `cost`), and on a busy machine
    it often comes in last. Both servers finish one tile after the other, for half an
    image is of little use, and what was lost goes first; if all had turns, packet by packet, all would be under way
    for long, and each loss would hit another. Where packets are lost, a loss holds up all tiles behind it over HTTP/2,
    and over HTTP/3 those of which a piece was in the packet; HTTP/1.1 has six lines that are held up by themselves,
    and needs a round trip for each tile anyway. How long the whole page takes depends most on where the last loss is,
    by chance: look at the waterfall rather than at one number. (RFC 9113 §9.1; RFC 9114 §1.1; RFC 9218 §10)
    """
    trips = {"HTTP/2": 2, "HTTP/3": 1}
    async with serving_all(net):
        for loss in (0.0, 0.03):
            net.set_link(Link(delay_ms=15, loss=loss))
            panels = []
            for name, make, least in VERSIONS:
                began = time.time()
                page = await net.client.run(load_page(make(), origin(net)))
                panels.append(page.panel(name))
                words = f"the page, {name}" + (", 3 % lost" if loss else "")
                net.measure(words, page.took, "ms", at_least=least, at_most=6000 if loss else 1500)
                if name in trips and not loss:
                    count = round_trips(net, began)
                    net.exactly(f"round trips before its first request, {name}", count, trips[name])
        net.set_link(Link())
    about = "Round trip 30 ms, 3 % of the packets lost; each on connections of its own, from their first packet."
    picture(net, "tiles", Figure(f"A page of {paging.TILES} tiles", about, tuple(panels)))


@experiment(
    title="1.5 MB, and who works for it",
    question="1.5 MB over HTTP/2, then over HTTP/3, on a perfect link. Which needs more of the processor?",
    choices=("HTTP/2: two layers of order", "about the same: both encrypt", "HTTP/3, by a multiple"),
    answer="HTTP/3, by a multiple",
    needs_wire=True,
)
async def cost(net: Network) -> None:
    """TCP is the kernel's: a program hands it 64 KB at a time, and the network card may even do the cutting. QUIC is
    part of the program: each packet of some 1200 to 1450 bytes is built, numbered, encrypted, sent, acknowledged and
    remembered there, here even in Python. Others, in C or Rust, do far better, and send many datagrams with one system
    call (GSO). What QUIC gains is time, on paths that lose; what it costs is processor, on all paths. (RFC 9000 §12,
    §13)
    """
    size = 1_500_000

    async def used() -> float:
        return time.thread_time()

    async with serving_all(net), contextlib.AsyncExitStack() as stack:
        spent = {}
        for name, client in (("HTTP/2", Client2(ssl=client_context())), ("HTTP/3", Client3())):
            stack.push_async_callback(net.client.run, client.__aexit__(None, None, None))
            await net.client.run(client.request("GET", f"{origin(net)}/"))
            hosts = (net.server, net.client)
            before = [await host.run(used()) for host in hosts]
            start = time.perf_counter()
            answer = await net.client.run(client.request("GET", f"{origin(net)}/bytes/{size}"))
            took = time.perf_counter() - start
            spent[name] = [await host.run(used()) - one for host, one in zip(hosts, before, strict=True)]
            net.exactly(f"bytes, {name}", len(answer.body), size, "bytes")
            net.note(f"{name}: {size / took / 1e6:.0f} MB/s on this machine, both ends and the wire together")
            for host, one in zip(hosts, spent[name], strict=True):
                net.measure(
                    f"{name}, the {host.name}'s processor", 1000 * one / (size / 1e6), "ms per MB", at_least=0.1
                )
        for host, mine, theirs in zip(hosts, spent["HTTP/3"], spent["HTTP/2"], strict=True):
            net.measure(f"the {host.name}: HTTP/3 for one of HTTP/2", mine / theirs, at_least=3)


# -- QPACK, priorities, the end of a stream ---------------------------------------------------------------


@experiment(
    title="A line with a head, once more",
    link=Link(delay_ms=30),
    question="A packet with a QPACK instruction is lost. Of two requests behind it one needs it. Which of them wait?",
    choices=("both", "the one that needs it", "none: streams are independent"),
    answer="the one that needs it",
)
async def qpack_blocked(net: Network) -> None:
    """HPACK changes its table with each HEADERS frame, so these have to be read in their order: over QUIC every lost
    packet with fields would stop all streams. QPACK's instructions have a stream of their own, and each section says
    how many of them it needs. If they are not here it waits, and nobody else does. The sender decides: refer to what
    may not have arrived, in fewer bytes, and risk to wait; or write it out until the receipt is here. How many may
    wait at a time the receiver says: 0 is allowed, and then nothing ever waits. (RFC 9204 §2.1.2, §2.2.1, §5)
    """
    value = "what both ends shall remember"
    async with serving(net):
        talk = Talk(net)
        talk.greet()
        talk.quic.send_stream_data(talk.encoder_stream, byhand.capacity(4096))
        talk.ask("/")
        talk.settle(0.1)
        net.set_link(Link(delay_ms=30, drop=(Drop(1, "udp", to_port=net.port),)), "client", "server")
        start = time.perf_counter()
        talk.quic.send_stream_data(talk.encoder_stream, byhand.insert("x-note", value))
        talk.flush()  # A packet of its own: it is lost.
        referring = talk.by_hand(byhand.section("/", needs=1))
        talk.flush()
        plain = talk.by_hand(byhand.section("/"))
        answers = talk.until(referring, plain)
        blocked, free = (1000 * (answer.ended - start) for answer in answers)
        net.exactly("status of both", statistics.mean(answer.status for answer in answers), 200)
        net.measure("the one that needs nothing", free, "ms", at_least=60, at_most=112)
        net.measure("the one that needs what is lost", blocked, "ms", at_least=118, at_most=500)
        long = len(byhand.section("/")) + 4 + len("x-note" + value)
        net.measure("bytes that it saves each time", long - len(byhand.section("/", needs=1)), "bytes", at_least=30)
        net.exactly("packets lost", sum(p.dropped for p in net.packets()), 1)
        talk.close()


@experiment(
    title="Me first, again",
    link=Link(delay_ms=5),
    back=Link(delay_ms=5, rate_mbit=10, queue=1000),
    question="400 kB are under way, and an urgent image is asked for. What can it overtake?",
    choices=("all of the rest", "what has not left the server yet", "nothing: first come, first served"),
    answer="what has not left the server yet",
)
async def priorities(net: Network) -> None:
    """`priority: u=0` is the most urgent of eight levels; a request that says nothing has 3. The field is HTTP's, the
    same in every version, and a proxy can pass it on. If it is to change when the request has left, there is a frame
    on the control stream, PRIORITY_UPDATE: a browser says so when an image comes into view. What the congestion
    window has let out is in a router's queue, and cannot be overtaken. What waits for that window can, if whoever fills
    the packets knows the order: QUIC itself has no priorities, so HTTP/3 has to tell it. (RFC 9000 §2.3; RFC 9218 §4,
    §7, §7.2, §10)
    """
    size = 400_000

    def respond(request: site.Request) -> site.Response | Awaitable[site.Response]:
        """/whole is there at once, and not piece by piece as it is wanted, so that the server always has the choice."""
        return site.Response(200, [], bytes(size)) if request.target == "/whole" else site.respond(request)

    async with serving(net, respond=respond):
        for name, fields, update, least, most in (
            ("both urgent alike", [], b"", 0, 85_000),
            ("the image more urgent", [("priority", "u=0")], b"", 100_000, size),
            ("the image made urgent later", [], b"u=0", 100_000, size),
        ):
            talk = Talk(net)
            talk.greet()
            download = talk.request("/whole")
            came = talk.answers[download].body
            talk.wait(lambda came=came: len(came) > 100_000)
            image = talk.request("/bytes/30000", fields)
            talk.flush()
            if update:
                frame = http3.priority_update(image, update)
                talk.quic.send_stream_data(talk.control_stream, http3.encode(frame))
            talk.until(image)
            net.measure(f"bytes still to come, {name}", size - len(came), "bytes", at_least=least, at_most=most)
            talk.close()


@experiment(
    title="Never mind",
    link=Link(delay_ms=5),
    back=Link(delay_ms=5, rate_mbit=20, queue=1000),
    question="Two downloads are under way. The client gives up one of them. What happens to the other?",
    choices=("it ends, too", "it goes on", "it begins again"),
    answer="it goes on",
)
async def given_up(net: Network) -> None:
    """A stream of QUIC can be ended by itself, in each direction: STOP_SENDING asks the other end to send no more, and
    it answers with RESET_STREAM. Nothing else on the connection notices, except that there is more room. HTTP/3 only
    lends the codes: H3_REQUEST_CANCELLED by a client that has changed its mind. On HTTP/1.1 the connection had to be
    closed for that; and a server that fails half-way can still say so. (RFC 9000 §2.4, §3.5, §19.4, §19.5; RFC 9114
    §4.1.1, §8.1)
    """

    logging.getLogger("servers.http3").addHandler(logging.NullHandler())  # The mistake is meant; nobody need be told.

    async def breaks() -> AsyncIterator[bytes]:
        yield bytes(1000)
        raise RuntimeError("the disk has gone")

    def respond(request: site.Request) -> site.Response | Awaitable[site.Response]:
        return site.Response(200, [], breaks()) if request.target == "/breaks" else site.respond(request)

    size = 400_000
    async with serving(net, respond=respond):
        talk = Talk(net)
        talk.greet()
        unwanted, wanted = talk.request(f"/bytes/{size}"), talk.request(f"/bytes/{size}", [("priority", "i")])
        broken = talk.request("/breaks")
        given, kept = talk.answers[unwanted], talk.answers[wanted]
        talk.wait(lambda: len(given.body) > 50_000)
        talk.quic.stop_stream(unwanted, ErrorCode.REQUEST_CANCELLED)
        talk.until(unwanted, wanted, broken)
        net.exactly(
            "error code with which it ends (H3_REQUEST_CANCELLED)", given.reset or 0, ErrorCode.REQUEST_CANCELLED
        )
        net.measure("bytes of it that came", len(given.body), "bytes", at_least=50_000, at_most=size - 1)
        net.exactly("bytes of the other", len(kept.body), size, "bytes")
        failed = talk.answers[broken].reset or 0
        net.exactly("error code of one that fails half-way (H3_INTERNAL_ERROR)", failed, ErrorCode.INTERNAL_ERROR)
        net.exactly("status of a request after all that", talk.ask("/")[0].status, 200)
        talk.close()


@experiment(
    title="In the first flight",
    link=Link(delay_ms=40),
    question="A client that was here before sends a GET and a POST in its very first flight. Which is served?",
    choices=("both", "the GET", "none: the handshake comes first"),
    answer="the GET",
)
async def early(net: Network) -> None:
    """With a ticket of last time the client has a key before the server has said a word, and its request travels
    beside the ClientHello: the answer is there after one round trip. But whoever records that first flight can send it
    again, and the server cannot tell. So a GET may be served, since twice is no harm; a POST is told 425, Too Early,
    and the client asks again when the handshake is done. The server could also wait itself. (RFC 8446 §8; RFC 9001
    §9.2; RFC 8470 §5.2)
    """
    async with serving(net):
        first = Talk(net)
        start = time.perf_counter()
        [answer] = first.ask("/")
        net.measure(
            "until the first answer, a new client", 1000 * (answer.ended - start), "ms", at_least=160, at_most=400
        )
        first.wait(lambda: bool(first.tickets), 2)
        talk = Talk(net, ticket=first.tickets[0])
        start = time.perf_counter()
        talk.flush()  # Each in a packet of its own.
        get = talk.request("/")
        talk.flush()
        post = talk.request("/", method="POST", body=b"an order")
        answer, refused = talk.until(get, post)
        net.measure(
            "until the first answer, with a ticket", 1000 * (answer.ended - start), "ms", at_least=80, at_most=159
        )
        talk.greet()
        net.expect("the server took the early data", bool(talk.early))
        net.exactly("status of the GET", answer.status, 200)
        net.exactly("status of the POST (Too Early)", refused.status, 425)
        again = talk.request("/", method="POST", body=b"an order")
        net.exactly("status of the same POST after the handshake", talk.until(again)[0].status, 200)
        for one in (first, talk):
            one.close()


@experiment(
    title="Closing time, with GOAWAY",
    link=Link(delay_ms=5),
    question="A server says good-bye. One request is under way, one crosses it, one comes later. Which are served?",
    choices=("all three", "the first two", "the first"),
    answer="the first two",
)
async def drain(net: Network) -> None:
    """Streams end by themselves, so what is left to agree on is which of them were looked at: GOAWAY names the first
    request that will not be served. As in HTTP/2 it comes twice: once with the highest number there is, so that
    nothing on its way is lost, and when that was heard once with the true one. What is above it was refused unread
    (H3_REQUEST_REJECTED), and may be asked again elsewhere, even a POST. (RFC 9114 §5.2, §4.1.1; RFC 9110 §9.2.2)
    """
    manager = server.serve(net.server.address, net.port)
    await net.server.run(manager.__aenter__())
    talk = Talk(net)
    talk.greet()
    under_way = talk.request("/slow?seconds=0.4")
    talk.settle(0.15)
    ending = asyncio.create_task(net.server.run(manager.__aexit__(None, None, None)))

    def last_words() -> None:
        select.select([talk.socket], [], [], 5)  # The first GOAWAY has come, and nobody has read it yet:
        crossing = talk.request("/")  # so this is a request that left before it was heard.
        talk.flush()
        talk.wait(lambda: len(talk.goaways) == 2)
        late = talk.request("/")
        served, crossed, refused = talk.until(under_way, crossing, late)
        net.note(f"The first GOAWAY: no request is served from stream {talk.goaways[0]:,} on")
        net.exactly("the first GOAWAY, below 2^62", (1 << 62) - talk.goaways[0], 4)
        net.exactly("the second GOAWAY", talk.goaways[1], crossing + 4)
        net.exactly("status of what was under way", served.status, 200)
        net.exactly("status of what crossed the first GOAWAY", crossed.status, 200)
        code = refused.reset or 0
        net.exactly("error code of the late one (H3_REQUEST_REJECTED)", code, ErrorCode.REQUEST_REJECTED)
        with contextlib.suppress(ConnectionError):
            talk.wait(lambda: talk.ended is not None, 3)
        net.exactly(
            "error code of the end (H3_NO_ERROR)", talk.ended.error_code if talk.ended else -1, ErrorCode.NO_ERROR
        )
        talk.close()

    await asyncio.to_thread(last_words)
    await ending


# -- How one gets there -----------------------------------------------------------------------------------


@experiment(
    title="Also to be had elsewhere",
    seconds=30,
    link=Link(delay_ms=50),
    question="A browser that was never here opens an https URL. Over which version does its first request go?",
    choices=("HTTP/3, if the server has it", "HTTP/2", "both at once"),
    answer="HTTP/2",
)
async def alt_svc(net: Network) -> None:
    """Nothing in a URL says HTTP/3, and TLS's ALPN chooses among what runs over TCP. So the first request goes over
    TCP, and its answer has a field: `alt-svc: h3=":7007"; ma=86400`, the same is to be had over HTTP/3, on this port
    of UDP, for a day. The next one goes there, with a new handshake, of one round trip less; from then on all of them.
    A browser keeps that also when it is closed. (What is new: a record of the DNS, HTTPS, can say it before the first
    packet.) TCP and UDP each have ports of their own: 7007 is two, and on the one of TCP ALPN picks 1.1 or 2. (RFC
    7838 §2, §3; RFC 9114 §3.1.1; RFC 9460 §7.1)
    """
    async with serving_all(net, respond=server.announcing(site.respond, net.port)):
        for left in (2, 1, 0):
            browser, times, versions = Browser(patience=5), [], []
            for _ in range(3):
                start = time.perf_counter()
                answer = await net.client.run(browser.request("GET", f"{origin(net)}/"))
                times.append(ms_since(start))
                versions.append(browser.next_hop[origin(net)])
            if (times[1] < 298 and times[2] < 198) or not left:
                break
            net.note(f"That took {times[1]:.0f} and {times[2]:.0f} ms. This machine may be busy: once more.")
            await net.client.run(browser.__aexit__(None, None, None))
        net.note(f"alt-svc: {answer.fields['alt-svc']}")
        net.expect("the first request went over h2, the others over h3", versions == ["h2", "h3", "h3"])
        net.measure("the first request", times[0], "ms", at_least=300, at_most=2000)
        net.measure("the second request", times[1], "ms", at_least=200, at_most=298)
        net.measure("the third request", times[2], "ms", at_least=100, at_most=198)
        old = Client1(ssl=client_context(alpn=("http/1.1",)))
        answer = await net.client.run(old.request("GET", f"{origin(net)}/"))
        net.exactly("status over HTTP/1.1, on the same port number", answer.status, 200)
        net.set_link(Link())  # The good-byes need not take as long.
        for client in (browser, old):
            await net.client.run(client.__aexit__(None, None, None))
    ports = {(p.protocol, p.target_port) for p in net.packets() if p.source == "client" and p.protocol != "icmp"}
    net.exactly("ports of the server that were used, of TCP and of UDP", len(ports), 2)
    net.exactly("numbers that these ports have", len({number for _, number in ports}), 1)


@experiment(
    title="A network that lets no UDP through",
    link=Link(delay_ms=25),
    question="Alt-Svc has promised HTTP/3, and a firewall swallows all UDP. What does a user of this lab's client see?",
    choices=("an error", "a page that is late once", "nothing: TCP is tried at the same time"),
    answer="a page that is late once",
)
async def no_udp(net: Network) -> None:
    """Some networks drop UDP but for the DNS, and say nothing. So whoever moves to QUIC has to notice that nothing
    comes back, and to go on over TCP as if nothing had been; here after 0.3 s, which is what it costs, once: then QUIC
    is left alone for five minutes, and twice as long after the next failure. Browsers let the two race, with a head
    start for QUIC, so it costs less time, and more packets. A protocol that is not let through everywhere is one that
    needs another to fall back on. (RFC 9114 §3.1; RFC 7838 §2.4)
    """
    patience = 0.3
    async with serving_all(net, respond=server.announcing(site.respond, net.port)):
        browser = Browser(patience=patience)
        await net.client.run(browser.request("GET", f"{origin(net)}/"))
        net.set_link(Link(delay_ms=25, drop=(Drop(None, "udp"),)))
        for name, least, most in (("while it is found out", 1000 * patience + 50, 700), ("from then on", 50, 140)):
            start = time.perf_counter()
            answer = await net.client.run(browser.request("GET", f"{origin(net)}/"))
            net.measure(f"a request, {name}", ms_since(start), "ms", at_least=least, at_most=most)
            net.exactly(f"its status, {name}", answer.status, 200)
            net.expect(f"it went over h2, {name}", browser.next_hop[origin(net)] == "h2")
        net.set_link(Link())
        await net.client.run(browser.__aexit__(None, None, None))
    tried = [p for p in net.packets() if p.protocol == "udp" and p.dropped]
    net.measure("datagrams that were swallowed", len(tried), at_least=1, at_most=12)
    net.exactly("datagrams of the server", sum(p.protocol == "udp" and p.source == "server" for p in net.packets()), 0)
