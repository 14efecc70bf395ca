"""HTTP/2 seen from outside: what one connection for all requests gains, where it still blocks, and how it is abused.

The server is the lab's own (servers/http2.py), over TLS as everywhere on the web; it speaks HTTP/1.1 to those who ask
for that, so that the two can be compared. The client is a connection by hand (byhand.py), which does nothing that the
experiment does not want, or the lab's client (clients/http2.py), where it is the client that is shown.
"""

from __future__ import annotations

import asyncio
import select
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import hpack

from certs.contexts import client_context, server_context
from clients.http2 import Client
from labkit.lab import SYN, Drop, Link, Network, experiment
from labkit.learner import load
from protocols import http2_frames as http2
from protocols.errors import RemoteProtocolError
from protocols.http2_frames import ErrorCode, Flag, Frame, FrameType, SettingCode
from servers import http2 as server
from servers import site

HERE = Path(__file__).parent
byhand = load(HERE / "byhand.py", "labs_http2_byhand")
scripted = load(HERE / "scripted.py", "labs_http2_scripted")
naive = load(HERE / "naive.py", "labs_http2_naive")
Talk, Talk1 = byhand.Talk, byhand.Talk1

SECRET = "6f1d5a4c9be27d03"
BROWSER = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate"),
    ("cookie", f"session={SECRET}"),
]
T = TypeVar("T")


def serving(net: Network, **options: object) -> AbstractAsyncContextManager[object]:
    """servers/http2.py on the server host."""
    tls = server_context(alpn=("h2", "http/1.1"))
    return net.server.running(server.serve(net.server.address, net.port, ssl=tls, **options))


@contextmanager
def alone(net: Network) -> Iterator[None]:
    """The same server, in a process of its own (alone.py)."""
    command = [sys.executable, "-m", "labs.05-http2.alone", net.server.address, str(net.port)]
    process = net.server.popen(*command, cwd=HERE.parent.parent, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def memory(talk) -> float:
    """What the server's process holds, in MB."""
    [answer] = talk.ask("/memory")
    return int(answer.body) / 1e6


def ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def syns(net: Network) -> int:
    """Connections that the client has begun."""
    return len({p.source_port for p in net.packets() if p.flags & SYN and p.source == "client"})


# -- One connection ------------------------------------------------------------------------------------


@experiment(
    title="Before the first answer",
    link=Link(delay_ms=25),
    question="A first small request on a new TLS connection: what does HTTP/2 cost, compared with HTTP/1.1?",
    choices=("a round trip and some bytes", "some bytes", "nothing: binary is shorter than text"),
    answer="some bytes",
)
async def first_request(net: Network) -> None:
    """Which version is spoken is settled inside the TLS handshake: the client's hello lists what it can (ALPN), the
    server's answer picks. And the client waits for nothing: its preface, its SETTINGS and its first request leave
    one after the other. So HTTP/2 costs no round trip: TCP takes one, TLS one, the request one. It costs bytes before
    it saves any: a preface of 24 that no HTTP/1.1 server can take for a request, SETTINGS from both ends and an
    acknowledgement for each, nine bytes ahead of every frame. (RFC 7301 §3; RFC 9113 §3.2, §3.4, §4.1)
    """

    def over_1() -> tuple[Talk1, int, int]:
        talk = Talk1(net)
        talk.ask("/")
        return talk, 0, talk.sent

    def over_2() -> tuple[Talk, int, int]:
        talk = Talk(net)
        ahead = talk.sent
        talk.send(request := talk.request("/"))
        size = talk.sent - ahead
        talk.until(request)
        return talk, ahead, size

    async with serving(net):
        talks = []
        for name, first_answer, before, request in (("HTTP/1.1", over_1, 0, 36), ("HTTP/2", over_2, 33, 22)):
            tries: list[float] = []
            while not tries or (min(tries) > 198 and len(tries) < 4):
                if tries:
                    net.note(f"{name} took {tries[-1]:.0f} ms. This machine may be busy: once more.")
                start = time.perf_counter()
                talk, ahead, size = first_answer()
                tries.append(ms_since(start))
                talks.append(talk)
            net.measure(f"until the first answer, {name}", min(tries), "ms", at_least=150, at_most=198)
            net.exactly(f"bytes of the request, {name}", size, request, "bytes")
            net.exactly(f"bytes ahead of it, {name}", ahead, before, "bytes")
        net.set_link(Link())  # The good-byes need not take as long.
        for talk in talks:
            talk.close()


@experiment(
    title="The same again",
    question="A browser's request with nine fields, packed by HPACK, takes 135 bytes. The same again: how many?",
    choices=("135", "9", "0"),
    answer="9",
)
async def same_headers(net: Network) -> None:
    """Both ends of a connection keep the same table of fields. 61 are in it from the beginning (`:method: GET`), and
    what is sent for the first time is added, and Huffman coded. From then on the whole field is a number: a byte. A
    path or a cookie that changed is sent in full, with a number for its name. The table is bounded, 4096 bytes unless
    SETTINGS say otherwise, and what is oldest goes: after a hundred other paths the fields are strangers again.
    HTTP/1.1 sends all of it each time, and a page asks for a hundred things. (RFC 7541 §2.3, §4.1, §4.4, §6.1, §6.2.1)
    """
    other = [*BROWSER[:-1], ("cookie", f"session={SECRET[::-1]}")]
    async with serving(net):
        one, talk = Talk1(net), Talk(net)
        net.exactly("HTTP/1.1, each time", len(one.wire("/", BROWSER)), 270, "bytes")
        for name, path, fields, size in (
            ("the first time", "/", BROWSER, 135),
            ("the same again", "/", BROWSER, 9),
            ("another path", "/bytes/3", BROWSER, 16),
            ("another cookie", "/", other, 27),
            ("the first one, after 100 other paths", "/", BROWSER, 126),
        ):
            if "after" in name:
                talk.ask(*(f"/tile/{i}" for i in range(100)))
            request = talk.request(path, fields)
            talk.send(request)
            talk.until(request)
            net.exactly(name, len(request.payload), size, "bytes")
        one.close()
        talk.close()


@experiment(
    title="Guessing a cookie",
    question="A script chooses the paths a browser asks for. Which packing tells an onlooker the cookie, by lengths?",
    choices=("DEFLATE's", "HPACK's", "neither: it is inside TLS"),
    answer="DEFLATE's",
)
async def guessing(net: Network) -> None:
    """DEFLATE (gzip, and the headers of SPDY before HTTP/2) replaces whatever it has seen before: a path that repeats
    the beginning of the cookie makes the request shorter, and each digit that is right makes it shorter again. So a
    secret is guessed digit by digit, through TLS: CRIME, 2012. HPACK replaces whole fields only: half a guess gains
    nothing, and a whole one only if name and value are both right. Against that, a sender marks a secret as never
    indexed: neither it nor a proxy behind it puts the field into a table. (RFC 7541 §6.2.3, §7.1; RFC 9113 §10.6)
    """
    wrong = SECRET[::-1]  # The same digits, so that Huffman's codes have the same length.
    packed, deflated = {}, {}
    async with serving(net):
        talk = Talk(net)

        def size(path: str, fields: list[tuple[str, str]]) -> int:
            """What HPACK makes of a request, on the wire."""
            request = talk.request(path, fields)
            talk.send(request)
            talk.until(request)
            return len(request.payload)

        size("/", BROWSER)
        for right, guess in ((0, wrong), (8, SECRET[:8] + wrong[8:]), (16, SECRET)):
            path = f"/?session={guess}"
            packed[right] = size(path, BROWSER)
            text = "".join(f"{name}: {value}\n" for name, value in [(":path", path), *BROWSER])
            deflated[right] = len(zlib.compress(text.encode(), 9))
        net.measure("saved by 8 right digits, DEFLATE", deflated[0] - deflated[8], "bytes", at_least=2)
        net.measure("saved by 8 more, DEFLATE", deflated[8] - deflated[16], "bytes", at_least=2)
        net.exactly("saved by 8 right digits, HPACK", packed[0] - packed[8], 0, "bytes")
        net.exactly("saved by 8 more, HPACK", packed[8] - packed[16], 0, "bytes")
        plain, marked = [("x-key", SECRET)], [hpack.NeverIndexedHeaderTuple("x-pin", SECRET)]
        net.exactly("saved by a whole field, the second time", size("/", plain) - size("/", plain), 18, "bytes")
        net.exactly("saved by one that is never indexed", size("/", marked) - size("/", marked), 0, "bytes")
        talk.close()


@experiment(
    title="Slow, then fast, once more",
    question="A slow request (0.3 s) and a fast one leave together, on one connection. Where does the fast one wait?",
    choices=("on HTTP/1.1 only", "on both: it is one connection", "on neither: they were sent together"),
    answer="on HTTP/1.1 only",
)
async def slow_and_fast(net: Network) -> None:
    """HTTP/1.1's answers carry no number, so they come in the order of the requests (lab 03, head of line). Each frame
    of HTTP/2 names its stream: answers come when they are ready, even frame by frame in turns, and the client sorts
    them. So the line's head has gone from HTTP. It has not gone from TCP underneath: see `lost-segment`.
    (RFC 9112 §9.3.2; RFC 9113 §2, §5)
    """
    async with serving(net):
        one, talk = Talk1(net), Talk(net)
        start = time.perf_counter()
        one.socket.sendall(one.wire("/slow?seconds=0.3") + one.wire("/"))
        one.answer()
        one.answer()
        net.measure("the fast one, HTTP/1.1", ms_since(start), "ms", at_least=300, at_most=1900)
        start = time.perf_counter()
        slow, fast = talk.ask("/slow?seconds=0.3", "/")
        net.measure("the fast one, HTTP/2", 1000 * (fast.ended - start), "ms", at_most=250)
        net.measure("the slow one, HTTP/2", 1000 * (slow.ended - start), "ms", at_least=300, at_most=1900)
        one.close()
        talk.close()


# -- Windows -------------------------------------------------------------------------------------------


@experiment(
    title="Nobody reads",
    question="A client asks for 200,000 bytes, for 16 on another stream, and reads neither. How much of each comes?",
    choices=("65,535 and 16", "65,535 and 0", "200,000 and 16"),
    answer="65,535 and 0",
)
async def unread(net: Network) -> None:
    """Each stream has a window, and the connection has one for all of them together. Both begin with 65,535 bytes of
    DATA. So one stream that nobody reads can spend the connection's, and then the others get their HEADERS, which no
    window counts, and not a byte of their bodies: not even when their own window is opened. Therefore a receiver gives
    the connection's window back for whatever arrives, read or not, or has it larger than those of the streams. Then
    who stalls holds one stream only. (RFC 9113 §5.2, §6.9.1, §6.9.2)
    """
    async with serving(net):
        talk = Talk(net, unread=byhand.EVERYTHING)
        large, small = talk.request("/bytes/200000"), talk.request("/")
        talk.send(large, small)
        talk.settle()
        stalled, sibling = talk.answers[large.stream], talk.answers[small.stream]
        net.exactly("bytes of a stream that nobody reads", len(stalled.body), 65535, "bytes")
        net.exactly("status of its sibling", sibling.status, 200)
        net.exactly("bytes of its sibling", len(sibling.body), 0, "bytes")
        talk.open(small.stream, 1000)
        talk.settle()
        net.exactly("bytes of its sibling, its own window opened", len(sibling.body), 0, "bytes")
        talk.open(0, 1000)
        talk.until(small)
        net.exactly("bytes of its sibling, the connection's window opened", len(sibling.body), 16, "bytes")
        talk.close()

        talk = Talk(net, {SettingCode.INITIAL_WINDOW_SIZE: 16384}, unread={1})
        talk.send(talk.request("/bytes/200000"))
        [sibling] = talk.ask("/bytes/200000")
        net.exactly("16,384 for each: bytes of the unread one", len(talk.answers[1].body), 16384, "bytes")
        net.exactly("16,384 for each: bytes of its sibling", len(sibling.body), 200000, "bytes")
        talk.close()


@experiment(
    title="A window for each round trip",
    link=Link(delay_ms=20),
    question="A perfect link, 40 ms there and back. How fast can a download be, in HTTP/2's default window?",
    choices=("as fast as the link is", "at most 1.6 MB/s", "at most 65 kB/s"),
    answer="at most 1.6 MB/s",
)
async def window_size(net: Network) -> None:
    """A sender may have one window under way, and the next WINDOW_UPDATE comes back a round trip after the data left:
    65,535 bytes per round trip, however fast the link is. That is 1.6 MB/s at most at 40 ms, and a fifth of it at 200.
    The window has to be as large as bandwidth times round trip, or it is HTTP/2 that is slow, and not the network. TCP
    has learnt that (lab 01: it scales its window, and lets it grow); HTTP/2's stays as it is set, and browsers open it
    to some megabytes at once. That is no gift: a window is what a receiver promises to have room for. (RFC 9113 §5.2.3,
    §6.9.2; RFC 7323 §2)
    """
    size = 6 * 65535
    talks = []
    async with serving(net):
        for name, window, warm, least, most in (
            ("393,210 bytes in the default window", 65535, size, 240, 900),
            ("the same in a window of 16 MiB", 1 << 24, size, 40, 230),
        ):
            talks.append(talk := Talk(net, {SettingCode.INITIAL_WINDOW_SIZE: window}))
            if window > 65535:
                talk.open(0, window - 65535)  # SETTINGS are about streams only.
            talk.ask(f"/bytes/{warm}")  # TCP's slow start, which costs round trips of its own, is over then.
            start = time.perf_counter()
            talk.ask(f"/bytes/{size}")
            net.measure(name, ms_since(start), "ms", at_least=least, at_most=most)
        net.set_link(Link())  # The good-byes need not take as long.
        for talk in talks:
            talk.close()


# -- One connection or many ----------------------------------------------------------------------------


@experiment(
    title="A page of many tiles",
    link=Link(delay_ms=15),
    question="60 small images, 30 ms there and back: six connections of HTTP/1.1, or one of HTTP/2. Which is first?",
    choices=("the six: they share the work", "the one", "neither: the bytes are the same"),
    answer="the one",
)
async def tiles(net: Network) -> None:
    """On HTTP/1.1 a connection has one request under way, so 60 on six connections take ten round trips, one after the
    other. On HTTP/2 all 60 leave together, and the answers come as fast as TCP's slow start lets them: that is what is
    left to wait for. One connection is one handshake, one congestion window that learns the path once, and one table
    of fields. Six begin with six initial windows, which is why they were not so bad. (RFC 9113 §1, §9.1; RFC 6928)
    """
    paths = [f"/tile/{i}?n=60" for i in range(60)]

    def one_after_the_other(mine: list[str]) -> int:
        talk = Talk1(net)
        for path in mine:
            talk.ask(path, BROWSER)
        talk.close()
        return talk.sent

    def over_six() -> tuple[float, int]:
        start = time.perf_counter()
        with ThreadPoolExecutor(6) as pool:
            sent = sum(pool.map(one_after_the_other, [paths[i::6] for i in range(6)]))
        return ms_since(start), sent

    def over_one() -> tuple[float, int]:
        start = time.perf_counter()
        talk = Talk(net)
        requests = [talk.request(path, BROWSER) for path in paths]
        talk.send(*requests)
        talk.until(*requests)
        took = ms_since(start)
        talk.close()
        return took, sum(map(len, map(http2.encode, requests)))

    async with serving(net):
        for name, load_page, connections, least, most, size in (
            ("six of HTTP/1.1", over_six, 6, 360, 1500, 16910),
            ("one of HTTP/2", over_one, 1, 90, 355, 1856),
        ):
            before, tries = syns(net), [load_page()]
            while min(tries)[0] > most and len(tries) < 4:
                net.note(f"{name} took {tries[-1][0]:.0f} ms. This machine may be busy: once more.")
                tries.append(load_page())
            took, sent = min(tries)
            net.measure(f"the page, {name}", took, "ms", at_least=least, at_most=most)
            net.exactly(f"bytes of all requests, {name}", sent, size, "bytes")
            net.exactly(f"handshakes, {name}", (syns(net) - before) / len(tries), connections)


@experiment(
    title="One lost segment",
    link=Link(delay_ms=30),
    question="Six answers are under way, and the first segment is lost. How many wait until it has come again?",
    choices=("one", "all six, on one connection of HTTP/2", "all six, on six connections, too"),
    answer="all six, on one connection of HTTP/2",
)
async def lost_segment(net: Network) -> None:
    """TCP gives its reader every byte in order. The other five answers were there, in the kernel's memory (it even said
    so, by SACK), but behind a gap, and TCP knows nothing of streams. So the line has a head again, one layer below: the
    more requests share a connection, the more of them wait for one loss. With six connections only one waits. HTTP/3
    therefore has its streams in the transport, QUIC, where a gap holds up one stream only. (RFC 9293 §3.4; RFC 9114
    §1.1; RFC 9000 §2)
    """
    clear = Link(delay_ms=30)
    losing = Link(delay_ms=30, drop=(Drop(1, "tcp", from_port=net.port, data=True, larger_than=900),))

    def asked(talk) -> float:
        talk.ask("/bytes/1000")
        return ms_since(start)

    async with serving(net):
        with ThreadPoolExecutor(7) as pool:
            talk, *six = pool.map(lambda kind: kind(net), [Talk, *6 * [Talk1]])
            start = time.perf_counter()
            first = list(pool.map(asked, [talk, *six]))
            net.measure("an answer, nothing lost", min(first), "ms", at_least=60, at_most=118)

            net.set_link(losing, "server", "client")
            start = time.perf_counter()
            waits = [1000 * (answer.ended - start) for answer in talk.ask(*["/bytes/1000"] * 6)]
            net.measure("six streams: the first answer", min(waits), "ms", at_least=120, at_most=600)

            net.set_link(clear, "server", "client")
            net.set_link(losing, "server", "client")  # It counts anew.
            start = time.perf_counter()
            waits = sorted(pool.map(asked, six))
            net.measure("six connections: the first answer", waits[0], "ms", at_least=60, at_most=118)
            net.measure("six connections: the fifth", waits[4], "ms", at_least=60, at_most=118)
            net.measure("six connections: the last", waits[5], "ms", at_least=120, at_most=900)
            net.set_link(Link())  # The good-byes need not take as long.
            for one in (talk, *six):
                one.close()
    net.exactly("segments lost, each time", sum(p.dropped for p in net.packets()) / 2, 1)


@experiment(
    title="Me first",
    link=Link(delay_ms=10),
    question="While 393,210 bytes are under way an image is asked for. How much of the rest comes before it?",
    choices=("all, unless the image says that it is urgent", "half: streams take turns", "none: small things first"),
    answer="all, unless the image says that it is urgent",
)
async def priorities(net: Network) -> None:
    """`priority: u=0` is the most urgent of eight levels, and 3 is what a request has that says nothing. What has left
    the server cannot be overtaken: here the connection's window at most, for the client opens it again only for what
    has arrived. From then on what it lets out is the urgent one's. Of two that are equally urgent the older one is
    finished first, since half an image is of no use, unless both say that their parts are (`i`). That is what has
    become of the first plan, a tree of dependencies and weights that many servers never followed. (RFC 9218 §4, §10;
    RFC 9113 §5.3)
    """
    size = 6 * 65535
    talks = []
    async with serving(net):
        for name, fields, least, most in (
            ("both urgent alike", [], 0, 0),
            ("the image more urgent", [("priority", "u=0")], 100_000, size),
        ):
            talk = Talk(net, {SettingCode.INITIAL_WINDOW_SIZE: size})  # So the connection's window decides alone.
            talks.append(talk)
            download = talk.request(f"/bytes/{size}")
            talk.send(download)
            came = talk.answers[download.stream].body
            while len(came) < 100_000:
                talk.receive()
            talk.ask("/bytes/30000", fields=fields)
            net.measure(f"bytes still to come, {name}", size - len(came), "bytes", at_least=least, at_most=most)
        net.set_link(Link())  # The good-byes need not take as long.
        for talk in talks:
            talk.close()


# -- The end of a connection ---------------------------------------------------------------------------


@experiment(
    title="Closing time",
    question="A server says good-bye. One request is under way, one crosses it, one comes later. Which are served?",
    choices=("all three", "the first two", "the first"),
    answer="the first two",
)
async def drain(net: Network) -> None:
    """GOAWAY says which stream is the last that will be served. Requests may have left before the client hears it, so
    the server first names the highest number there is, and a round trip later the true one. What came until then is
    finished. To send more after the first GOAWAY is forbidden; who does it all the same is refused, and knows for sure
    that nothing was done. HTTP/1.1 has no such word: there the server closes, and hopes that nothing was on its way
    (lab 03, hung up). (RFC 9113 §6.8, §8.7)
    """
    manager = server.serve(net.server.address, net.port, ssl=server_context(alpn=("h2",)))
    await net.server.run(manager.__aenter__())
    talk = Talk(net)
    early = talk.request("/slow?seconds=0.4")
    talk.send(early)
    talk.ping()  # Its answer comes when the request is there, too.
    ending = asyncio.create_task(net.server.run(manager.__aexit__(None, None, None)))

    def last_words() -> None:
        select.select([talk.socket.socket], [], [], 10)  # The first GOAWAY has come, and nobody has read it yet:
        crossing = talk.request("/")  # so this is a request that left before it was heard.
        talk.send(crossing)
        while len(talk.goaways) < 2:
            talk.receive()
        late = talk.request("/")
        talk.send(late)
        served, crossed, refused = talk.until(early, crossing, late)
        net.exactly("the last stream, says the first GOAWAY", talk.goaways[0][0], 2**31 - 1)
        net.exactly("the last stream, says the second", talk.goaways[1][0], crossing.stream)
        net.exactly("status of what was under way", served.status, 200)
        net.exactly("status of what crossed the first GOAWAY", crossed.status, 200)
        net.exactly("error code of the late one (REFUSED_STREAM)", refused.reset, ErrorCode.REFUSED_STREAM)
        talk.to_the_end()
        talk.close()

    await asyncio.to_thread(last_words)
    await ending


@experiment(
    title="May I ask again?",
    question="The server ends a connection, and a POST is unanswered. When may a client send it again by itself?",
    choices=("always: it was not answered", "when a GOAWAY does not cover it", "never: it may have been served"),
    answer="when a GOAWAY does not cover it",
)
async def goaway(net: Network) -> None:
    """GOAWAY names the last stream that the server may have looked at. What is above it was certainly not served: a
    client sends it again on a new connection, whatever it is, a POST, too. What is covered is still answered. A
    connection that ends without a word tells nothing, as with HTTP/1.1: only what may be served twice is sent again
    (GET, PUT, DELETE), and of the POST its caller has to decide. REFUSED_STREAM promises for one stream what GOAWAY
    promises for all above. (RFC 9113 §6.8, §8.7; RFC 9110 §9.2.2)
    """
    url = f"https://{'server.lab' if net.on_wire else 'localhost'}:{net.port}"
    asked: list[str] = []  # "POST /order", as often as the server has read it

    async def status(client: Client, request: str) -> int:
        method, path = request.split()
        try:
            return (await client.request(method, url + path)).status
        except (RemoteProtocolError, OSError) as error:
            net.note(f"{request}: {error}")
            return 0

    async def visit(*requests: str) -> list[int]:
        """A first request, and then the others at once."""
        async with Client(ssl=client_context()) as client:
            await status(client, "GET /")
            return await asyncio.gather(*(status(client, request) for request in requests))

    def says_so() -> None:
        first = accept(2)
        first.go_away(first.streams["POST /covered"])
        first.answer("POST /covered")
        second = scripted.Scripted(listening)
        for request in second.requests(1):
            asked.append(request)
            second.answer(request)
        first.close()
        second.close()

    def says_nothing() -> None:
        accept(2).close()
        second = scripted.Scripted(listening)
        for request in second.requests(1):
            asked.append(request)
            second.answer(request)
        second.close()

    def accept(count: int):
        """A connection on which the first request is answered, and the next ones are read."""
        first = scripted.Scripted(listening)
        first.requests(1)
        first.answer("GET /")
        asked.extend(first.requests(count))
        return first

    listening = net.server.listen(net.port)
    _, answers = await asyncio.gather(
        asyncio.to_thread(says_so), net.client.run(visit("POST /covered", "POST /not-covered"))
    )
    net.exactly("GOAWAY: times the POST that it covers was sent", asked.count("POST /covered"), 1)
    net.exactly("GOAWAY: times the POST above it was sent", asked.count("POST /not-covered"), 2)
    net.exactly("GOAWAY: requests answered", answers.count(200), 2)
    _, answers = await asyncio.gather(
        asyncio.to_thread(says_nothing), net.client.run(visit("GET /page", "POST /order"))
    )
    net.exactly("no word: times the GET was sent", asked.count("GET /page"), 2)
    net.exactly("no word: times the POST was sent", asked.count("POST /order"), 1)
    net.exactly("no word: requests answered", answers.count(200), 1)
    listening.close()


# -- Enemies -------------------------------------------------------------------------------------------


@experiment(
    title="Asked, and taken back",
    question="A server allows 100 streams at a time. How many requests can 26 kB, sent at once, make it begin?",
    choices=("100: the others are refused", "1000", "26,000"),
    answer="1000",
)
async def rapid_reset(net: Network) -> None:
    """A request, and RST_STREAM right behind it: the stream is over, so the limit on streams is never reached. But the
    server has parsed it, begun to work, asked another server perhaps, and throws all that away. 26 bytes each, as many
    as the line carries: that made the largest attacks seen until then (CVE-2023-44487, 2023). Nothing in it breaks a
    rule; so a server has to count what brings nothing, and end the connection when there is too much of it. A client
    that changes its mind now and then is left alone. (RFC 9113 §5.1.2, §6.4, §10.5)
    """
    begun: list[str] = []

    def respond(request: site.Request) -> site.Response:
        begun.append(request.target)  # Here the work begins: a query, a file, a request to another server.
        return site.Response(200, [], b"done")

    def attack() -> Talk:
        begun.clear()
        talk = Talk(net)
        talk.ping()
        requests = [talk.request("/") for _ in range(1000)]
        pairs = [(request, http2.rst_stream(request.stream, ErrorCode.CANCEL)) for request in requests]
        before = talk.sent
        talk.send(*(frame for pair in pairs for frame in pair))
        net.exactly("bytes of 1000 requests, each taken back", talk.sent - before, 26009, "bytes")
        talk.answers.clear()  # Nobody waits for any.
        return talk

    tls = server_context(alpn=("h2",))
    async with net.server.running(naive.serve(net.server.address, net.port, respond, tls)):
        talk = attack()
        talk.ping()
        net.exactly("requests begun, naive server", len(begun), 1000)
        net.exactly("GOAWAYs, naive server", len(talk.goaways), 0)
        talk.close()
    async with serving(net, respond=respond):
        talk = attack()
        talk.settle(3)  # To the end of the connection; not for ever, if somebody has changed the server.
        net.measure("requests begun, lab's server", len(begun), at_most=150)
        code = talk.goaways[0][1] if talk.goaways else 0
        net.exactly("error code of its GOAWAY (ENHANCE_YOUR_CALM)", code, ErrorCode.ENHANCE_YOUR_CALM)
        talk.close()


FLOODS = (  # what is sent 2000 times, behind a request that is whole, or has no body yet, or no end of its fields
    ("PING", FrameType.PING, bytes(8), "GET", byhand.END),
    ("SETTINGS", FrameType.SETTINGS, b"", "GET", byhand.END),
    ("CONTINUATION", FrameType.CONTINUATION, b"", "GET", Flag(0)),
    ("empty DATA", FrameType.DATA, b"", "POST", Flag.END_HEADERS),
    ("windows of one byte", FrameType.WINDOW_UPDATE, (1).to_bytes(4), "GET", byhand.END),
)


@experiment(
    title="Nothing, two thousand times",
    question="Every PING must be answered. A client sends 2000 of them, and asks for nothing. What should a server do?",
    choices=("answer all: it must", "end the connection", "leave them unread"),
    answer="end the connection",
    needs_wire=True,
)
async def floods(net: Network) -> None:
    """Each of these frames is allowed, small, and work for whoever gets it: PING and SETTINGS want an answer, DATA may
    be empty, fields may go on in CONTINUATION, and as long as they do there is no request that a limit could be on.
    Several CVEs of 2019 are made of that, and those of CONTINUATION in 2024. There is no rule for how much is too much:
    the RFC lets an endpoint end a connection that it finds suspicious, with ENHANCE_YOUR_CALM. The lab's server gives
    each such frame a price, and each connection an allowance that grows with time. (RFC 9113 §10.5, §10.5.1;
    CVE-2019-9512, 9515, 9518; CVE-2024-27316)
    """
    times: list[float] = []
    done = threading.Event()

    def visit() -> None:
        visitor = Talk(net)
        while not done.is_set():
            start = time.perf_counter()
            visitor.ask("/")
            times.append(ms_since(start))
        visitor.close()

    with alone(net):
        watcher = Talk(net)
        before = memory(watcher)
        visiting = threading.Thread(target=visit)
        visiting.start()
        try:
            for name, kind, payload, method, flags in FLOODS:
                talk = Talk(net)
                begun = talk.request("/upload", method=method, flags=flags)
                stream = begun.stream if kind in (FrameType.CONTINUATION, FrameType.DATA) else 0
                talk.send(begun, *2000 * [Frame(kind, 0, stream, payload)])
                talk.to_the_end()
                [(_, code, words)] = talk.goaways
                net.note(words.decode())
                net.exactly(f"error code of the GOAWAY: {name}", code, ErrorCode.ENHANCE_YOUR_CALM)
                talk.close()
        finally:
            done.set()
            visiting.join()
        net.measure("an answer to somebody else meanwhile, median", statistics.median(times), "ms", at_most=100)
        net.measure("memory that the server has grown by", memory(watcher) - before, "MB", at_most=8)
        watcher.close()


@experiment(
    title="A gigabyte, please",
    question="100 streams, on 5 connections, ask for 10 MB each, and nobody reads. How much does the server hold?",
    choices=("a gigabyte", "some megabytes", "nothing: flow control stops it"),
    answer="some megabytes",
    needs_wire=True,
)
async def stalled_readers(net: Network) -> None:
    """A window is what the reader allows, not what it reads: an attacker allows everything. HTTP/2's flow control
    protects the receiver, and nobody else. The sender has to protect itself: it makes the next piece of an answer when
    the last one has left, and it has left when TCP has taken it. TCP's own window stops that, and the server waits,
    with a piece for each connection, until its deadline. One that writes all answers into a buffer holds a gigabyte.
    (RFC 9113 §5.2.2, §10.5; CVE-2019-9517)
    """
    most = 2**31 - 1
    with alone(net):
        watcher = Talk(net)
        watcher.ask("/bytes/300000")
        before = memory(watcher)
        stalled = []
        for _ in range(5):
            talk = Talk(net, {SettingCode.INITIAL_WINDOW_SIZE: most}, buffer=16384)
            talk.open(0, most - 65535)
            talk.send(*(talk.request("/bytes/10000000") for _ in range(20)))
            stalled.append(talk)
        grown, times = [], []
        for _ in range(12):
            start = time.perf_counter()
            grown.append(memory(watcher) - before)
            times.append(ms_since(start))
            await asyncio.sleep(0.02)
        net.measure("memory that the server has grown by", max(grown), "MB", at_most=40)
        net.measure("an answer to somebody else, median", statistics.median(times), "ms", at_most=100)
        for talk in stalled:
            talk.socket.socket.close()  # Without a word.
        watcher.close()
