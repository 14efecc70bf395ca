"""HTTP/1.1 seen from outside: where messages end, what a connection costs, and who is hurt when two programs disagree.

The server is the lab's own (servers/http1.py), started inside the experiment. Requests are written by hand where
their bytes matter, and by the lab's client where they do not. A connection that is written by hand is read with the
lab's core (protocols/http1.py), which knows where an answer ends.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from clients.http1 import Client
from labkit.lab import SYN, Host, Link, Network, experiment
from labkit.learner import load
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import ClientConnection, Data, Pairs, Response, ServerConnection
from servers import http1 as server
from servers import site

naive = load(Path(__file__).with_name("proxy.py"), "labs_http1_proxy")

HOST = [("Host", "server.lab")]
T = TypeVar("T")


class Talk:
    """One connection to the server, by hand: `wire` makes the bytes of a request, `answer` reads one response."""

    def __init__(self, host: Host, to: Host, port: int) -> None:
        self.socket = host.connect(to, port)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.conn = ClientConnection()
        self.received = 0  # bytes

    def wire(self, target: str, fields: Pairs = (), method: str = "GET", body: bytes | None = None) -> bytes:
        """The bytes of a request. They are not sent yet, but the answers to them are to be asked for in this order."""
        return self.conn.send_request(method, target, [*HOST, *fields], body)

    def answer(self) -> tuple[Response, bytes]:
        """Read until the next response is whole. Interim ones (100) are a response of their own."""
        body = b""
        while True:
            event = self.conn.next_event()
            if event is None:
                data = self.socket.recv(65536)
                self.received += len(data)
                self.conn.receive_data(data)
            elif isinstance(event, Response):
                head = event
                if head.status < 200:
                    return head, b""
            elif isinstance(event, Data):
                body += event.data
            else:
                return head, body

    def upload(self, size: int, fields: Pairs = ()) -> tuple[bytes, bytes]:
        """The head and the body of an upload of so many bytes."""
        wire = self.wire("/upload", fields, "PUT", bytes(size))
        return wire[:-size], wire[-size:]

    def ask(self, target: str, fields: Pairs = ()) -> tuple[Response, bytes]:
        """Send a GET; return its response."""
        self.socket.sendall(self.wire(target, fields))
        return self.answer()


def serving(net: Network, **options: object) -> AbstractAsyncContextManager[server.Server]:
    """servers/http1.py on the server host."""
    return net.server.running(server.serve(net.server.address, net.port, **options))


def close(*sockets: socket.socket) -> None:
    for one in sockets:
        one.close()


def ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


# -- Where a message ends ------------------------------------------------------------------------------


@experiment(
    title="A byte at a time",
    question="A request of 36 bytes is written one byte at a time. When does the server answer, and how often?",
    choices=("36 times, 400 each", "once, after the first line", "once, after the last byte"),
    answer="once, after the last byte",
)
async def byte_by_byte(net: Network) -> None:
    """The head of a request ends with an empty line, and only then is there a request. How the bytes before it were
    cut, by write(), by segments, by read(), has no meaning: a parser keeps what it has, and goes on. A program that
    takes one read for one request works in its author's test, and fails behind a slow modem, a proxy, or TLS.
    (RFC 9112 §2.1; RFC 9293 §2.2)
    """
    async with serving(net):
        talk = Talk(net.client, net.server, net.port)
        wire = talk.wire("/")
        for byte in wire[:-1]:
            talk.socket.send(bytes([byte]))
            await asyncio.sleep(0.002)
        net.exactly("bytes answered to all but the last byte", len(heard(talk.socket, 0.05)), 0, "bytes")
        talk.socket.send(wire[-1:])
        response, _ = talk.answer()
        net.exactly("status of the answer to the last", response.status, 200)
        net.exactly("bytes after that answer", len(heard(talk.socket, 0.05)), 0, "bytes")
        talk.socket.close()
    if net.on_wire:
        segments = {p.seq for p in net.packets() if p.source == "client" and p.payload}  # Each once, if sent twice.
        net.measure("segments of a 36-byte request", len(segments), at_least=15, at_most=36)


def heard(sock: socket.socket, seconds: float) -> bytes:
    """What comes within so many seconds, if anything does."""
    sock.settimeout(seconds)
    try:
        return sock.recv(65536)
    except TimeoutError:
        return b""
    finally:
        sock.settimeout(10)


@experiment(
    title="Two requests in one write",
    question="Two requests leave in one write, the second cut in its middle. How many answers before the rest is sent?",
    choices=("none: the write was not whole", "one", "two: the path of the second is known"),
    answer="one",
)
async def two_in_one_write(net: Network) -> None:
    """A client may send its next request before the answer to the last (pipelining), and TCP puts both into one
    segment. What lies behind the end of the first request is the beginning of the second: a server that throws it
    away loses a request, and one that waits for a full buffer answers too late. Each answer begins where the one
    before it ends, too. (RFC 9112 §9.3.2)
    """
    async with serving(net):
        talk = Talk(net.client, net.server, net.port)
        wire = talk.wire("/bytes/3") + talk.wire("/bytes/5")
        talk.socket.sendall(wire[:-10])
        _, first = talk.answer()
        net.exactly("bytes of the first answer's body", len(first), 3, "bytes")
        net.exactly("bytes of the second answer so far", len(heard(talk.socket, 0.1)), 0, "bytes")
        talk.socket.sendall(wire[-10:])
        _, second = talk.answer()
        net.exactly("bytes of the second answer's body", len(second), 5, "bytes")
        talk.socket.close()
    if net.on_wire:
        net.exactly("segments with two requests in them", sum(p.payload.count(b"GET ") == 2 for p in net.packets()), 1)


@experiment(
    title="Bytes around a body",
    question="A body of 1000 bytes goes out in 100 chunks. How many bytes are added to it?",
    choices=("none", "about 100, one per chunk", "about 500, five per chunk"),
    answer="about 500, five per chunk",
)
async def framing(net: Network) -> None:
    """Who knows the length says it once, in Content-Length. Who does not (the body is still being made) sends
    chunks: each with its size in hexadecimal and two CRLFs, and a last one of size 0 for the end. Five bytes for a
    chunk of up to 15, seven for one of a kilobyte: with chunks of a reasonable size it is nothing, byte by byte it
    is five times the body. (RFC 9112 §6.2, §7.1)
    """

    async def respond(request: site.Request) -> site.Response:
        pieces = int(request.target.strip("/"))

        async def body() -> AsyncIterator[bytes]:
            for _ in range(pieces):
                yield bytes(1000 // pieces)

        return site.Response(200, [], body() if pieces else bytes(1000))

    async with serving(net, respond=respond):
        for pieces, name, added in ((0, "Content-Length", 0), (1, "one chunk", 12), (100, "100 chunks", 505),
                                    (1000, "1000 chunks", 5005)):  # fmt: skip
            with net.client.connect(net.server, net.port) as sock:
                sock.sendall(b"GET /%d HTTP/1.1\r\nHost: server.lab\r\nConnection: close\r\n\r\n" % pieces)
                _, _, body = all_of(sock).partition(b"\r\n\r\n")
            net.exactly(f"added to 1000 bytes: {name}", len(body) - 1000, added, "bytes")


def all_of(sock: socket.socket) -> bytes:
    """What comes until the other side ends."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


@experiment(
    title="Half a body",
    question="The server dies in the middle of a body. In how many of the three kinds of framing can the client tell?",
    choices=("in none: the connection ends cleanly", "in two", "in all three"),
    answer="in two",
)
async def half_a_body(net: Network) -> None:
    """With Content-Length bytes are missing, with chunks the last one is. But a body that ends with the connection,
    as in HTTP/1.0, ends wherever the connection ends: the kernel of a server that was killed sends a FIN like any
    other. The half file is stored, cached, and served to others as the whole one. Chunks are for just that: a
    length that nobody knows yet, and an end that everybody can see. (RFC 9112 §6.3, §8)
    """
    halves = {
        "Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "the end of the connection": b"HTTP/1.0 200 OK\r\n\r\nhello",
    }
    noticed = 0
    listening = net.server.listen(net.port)
    for framed_by, half in halves.items():
        talk = Talk(net.client, net.server, net.port)
        talk.socket.sendall(talk.wire("/"))
        dying, _ = listening.accept()
        dying.recv(65536)
        dying.sendall(half)
        dying.close()
        try:
            _, body = talk.answer()
            net.exactly(f"bytes taken for the whole body: {framed_by}", len(body), 5, "bytes")
        except RemoteProtocolError as error:
            net.note(f"framed by {framed_by}: {error}")
            noticed += 1
        talk.socket.close()
    listening.close()
    net.exactly("halves that were noticed, of three", noticed, 2)


# -- What a connection costs ---------------------------------------------------------------------------


@experiment(
    title="A connection for each request",
    link=Link(delay_ms=25),
    question="Five requests, one after the other; the round trip takes 50 ms. How long with a connection for each?",
    choices=("250 ms", "300 ms, as with one connection", "500 ms"),
    answer="500 ms",
)
async def keep_alive(net: Network) -> None:
    """Each connection begins with a handshake, so that each request costs two round trips. Kept alive, the
    connection costs one handshake in all; and its congestion window stays grown (lab 01, slow start). HTTP/1.1
    keeps alive unless somebody says `Connection: close`. With TLS it would be one or two round trips more for each.
    (RFC 9112 §9.3)
    """
    url = f"http://{net.server.address}:{net.port}/"

    async def a_connection_each() -> float:
        start = time.perf_counter()
        for _ in range(5):
            async with Client() as client:
                await client.request("GET", url)
        return ms_since(start)

    async def one_for_all() -> float:
        start = time.perf_counter()
        async with Client() as client:
            for _ in range(5):
                await client.request("GET", url)
        return ms_since(start)

    async with serving(net):
        for name, work, least, most, handshakes in (
            ("a connection each", a_connection_each, 500, 900, 5),
            ("one for all", one_for_all, 300, 495, 1),
        ):
            before, tries = syns(net), [await net.client.run(work())]
            while min(tries) > most and len(tries) < 4:  # This machine is busy.
                tries.append(await net.client.run(work()))
            net.measure(name, min(tries), "ms", at_least=least, at_most=most)
            net.exactly(f"handshakes, {name}", (syns(net) - before) / len(tries), handshakes)


def syns(net: Network) -> int:
    """Connections that the client has begun."""
    return len({p.source_port for p in net.packets() if p.flags & SYN and p.source == "client"})


@experiment(
    title="The server hung up",
    back=Link(delay_ms=250),
    question="The server's FIN is under way when the client sends its next request. May the client send that again?",
    choices=("yes, it was lost", "only if it may be served twice", "no: it may have been served"),
    answer="only if it may be served twice",
)
async def hung_up(net: Network) -> None:
    """A server ends a connection that was idle for too long, here after 150 ms, and its FIN takes 250 ms. What the
    client sends meanwhile is never answered, and the client cannot know whether it was never read or served just
    before the end. So it sends a GET again by itself, for a GET may be served twice; a POST, which may be an order,
    it must not, and its caller gets the error. Clients make it rarer: they keep a connection for a shorter time
    than servers do. (RFC 9110 §9.2.2; RFC 9112 §9.3.1, §9.5)
    """
    url = f"http://{net.server.address}:{net.port}"

    async def second_request(method: str) -> str:
        async with Client() as client:
            await client.request("GET", f"{url}/")  # When its answer is here, the server has hung up.
            try:
                return str((await client.request(method, f"{url}/?second")).status)
            except (RemoteProtocolError, ConnectionError) as error:
                return f"{type(error).__name__}: {error}"

    async def both() -> list[str]:
        return await asyncio.gather(second_request("GET"), second_request("POST"))

    async with serving(net, idle_seconds=0.15):
        get, post = await net.client.run(both())
        net.set_link(Link())  # The good-byes need not take as long.
    net.note(f"GET: {get}. POST: {post}")
    net.exactly("status of the GET", int(get), 200)
    net.expect("the POST ended in an error", post.startswith(("RemoteProtocolError", "Connection")))
    sent = [p.payload for p in net.packets() if p.source == "client"]
    net.exactly("times the GET was sent", sum(b"GET /?second" in payload for payload in sent), 2)
    net.exactly("times the POST was sent", sum(b"POST /?second" in payload for payload in sent), 1)


@experiment(
    title="Slow, then fast",
    question="A slow request (0.4 s) and a fast one leave together, on one connection. When is the fast one answered?",
    choices=("at once: it is ready first", "after 0.4 s, behind the slow one", "never: a server reads one request"),
    answer="after 0.4 s, behind the slow one",
)
async def head_of_line(net: Network) -> None:
    """Answers carry no number: which request an answer belongs to is told by its place in the queue alone. So they
    come in the order of the requests, and one that is slow holds up all behind it. That is why browsers do not
    pipeline, and open up to six connections instead, and why HTTP/2 gave each request a stream with a number.
    (RFC 9112 §9.2, §9.3.2, §9.4)
    """
    async with serving(net):
        alone, piped = (Talk(net.client, net.server, net.port) for _ in range(2))
        times = []
        for _ in range(3):
            start = time.perf_counter()
            alone.ask("/")
            times.append(ms_since(start))
        net.measure("the fast one, alone", min(times), "ms", at_most=150)
        start = time.perf_counter()
        piped.socket.sendall(piped.wire("/slow?seconds=0.4") + piped.wire("/"))
        _, first = piped.answer()
        _, second = piped.answer()
        net.measure("the fast one, behind the slow one", ms_since(start), "ms", at_least=400, at_most=1900)
        net.expect("the slow one's answer came first", first.startswith(b"That took") and second.startswith(b"Hello"))
        alone.socket.close()
        piped.socket.close()


@experiment(
    title="May I?",
    link=Link(delay_ms=25),
    question="The server takes 100 kB at most, the client has 300 kB. How much of it travels if the client asks first?",
    choices=("nothing", "100 kB", "one window, until the refusal arrives"),
    answer="nothing",
)
async def expect_continue(net: Network) -> None:
    """`Expect: 100-continue` says: here is my head, tell me whether you want the body. A server that does not want
    it answers 413, and nothing has been sent in vain. A yes costs one round trip, so it is for large bodies. A
    client that sends at once and looks for the answer afterwards sends all of it; and it can read the refusal only
    because the server goes on reading what it throws away (lab 01, lingering close). (RFC 9110 §10.1.1;
    RFC 9112 §9.6)
    """
    asking = [("Expect", "100-continue")]
    async with serving(net, max_body=100_000):
        blind = Talk(net.client, net.server, net.port)
        head, body = blind.upload(300_000)
        blind.socket.sendall(head + body)
        net.exactly("status, without asking", blind.answer()[0].status, 413)

        polite = Talk(net.client, net.server, net.port)
        asked, _ = polite.upload(300_000, asking)
        polite.socket.sendall(asked)
        net.exactly("status, after asking", polite.answer()[0].status, 413)

        talk = Talk(net.client, net.server, net.port)
        at_once, after_asking = [], []
        for _ in range(3):  # The best of three, for this machine may be busy.
            start = time.perf_counter()
            talk.socket.sendall(b"".join(talk.upload(1000)))
            talk.answer()
            at_once.append(ms_since(start))
            start = time.perf_counter()
            small, rest = talk.upload(1000, asking)
            talk.socket.sendall(small)
            assert talk.answer()[0].status == 100
            talk.socket.sendall(rest)
            talk.answer()
            after_asking.append(ms_since(start))
        net.measure("an upload that is welcome", min(at_once), "ms", at_least=50, at_most=98)
        net.measure("the same, after asking", min(after_asking), "ms", at_least=100, at_most=180)
        ports = [one.socket.getsockname()[1] for one in (blind, polite)]
        close(blind.socket, polite.socket, talk.socket)
    net.exactly("bytes of body sent for nothing", length_of(net, ports[0]) - len(head), len(body), "bytes")
    net.exactly("bytes of body sent after asking", length_of(net, ports[1]) - len(asked), 0, "bytes")


def length_of(net: Network, port: int) -> int:
    """How many bytes the client has sent from this port. Counted by their numbers: some may have been sent twice."""
    sent = [p for p in net.packets() if p.source_port == port and p.payload]
    return max((p.seq - sent[0].seq) % 2**32 + len(p.payload) for p in sent)


# -- Bytes that need not travel ------------------------------------------------------------------------


@experiment(
    title="The second visit",
    question="The client has the page already, and asks whether it has changed. It has not. What does the answer hold?",
    choices=("the page again", "a head, and no body", "nothing: there is no answer"),
    answer="a head, and no body",
)
async def not_modified(net: Network) -> None:
    """The first answer had an ETag, a name for just these bytes. The second request quotes it in If-None-Match:
    answer only if it is another one now. 304 says that it is the same, with a head and never a body, whatever its
    fields may say. A round trip it costs all the same: only a cache that may use its copy without asking saves
    that. (RFC 9110 §13.1.2, §15.4.5; RFC 9112 §6.3)
    """
    async with serving(net):
        talk = Talk(net.client, net.server, net.port)
        first, page = talk.ask("/text")
        before = talk.received
        second, body = talk.ask("/text", [("If-None-Match", first.fields["etag"])])
        net.measure("bytes of the first answer", before, "bytes", at_least=5000)
        net.exactly("status of the second", second.status, 304)
        net.exactly("bytes of its body", len(body), 0, "bytes")
        net.measure("bytes of all of it", talk.received - before, "bytes", at_least=50, at_most=400)
        changed, again = talk.ask("/text", [("If-None-Match", '"another"')])
        net.expect("with another tag the page comes again", changed.status == 200 and again == page)
        talk.socket.close()


@experiment(
    title="Packed",
    question="The same page, plain and gzip. What must its ETag be?",
    choices=("the same: it is the same page", "another: it is other bytes", "none: it was changed on its way"),
    answer="another: it is other bytes",
)
async def packed(net: Network) -> None:
    """A client that can unpack says so in Accept-Encoding, and gets text for half of its bytes or less. The packed
    page is another representation, with another tag: one tag for both, and a resumed download would join the first
    half of one with the second half of the other. And `Vary: Accept-Encoding` tells caches that the answer depends
    on that field, so that nobody gets gzip who did not ask for it. (RFC 9110 §8.4.1, §8.8.3.3, §12.5.3, §12.5.5)
    """
    async with serving(net):
        one, other = (Talk(net.client, net.server, net.port) for _ in range(2))
        plain, page = one.ask("/text")
        gzip, small = other.ask("/text", [("Accept-Encoding", "gzip")])
        net.expect("it says that it is gzip", gzip.fields["content-encoding"] == "gzip")
        net.measure("100 bytes become", 100 * len(small) / len(page), "bytes", at_least=5, at_most=50)
        net.exactly("different tags", len({plain.fields["etag"], gzip.fields["etag"]}), 2)
        says = {answer.fields["vary"].lower() for answer in (plain, gzip)}
        net.expect("both say Vary: Accept-Encoding", says == {"accept-encoding"})
        close(one.socket, other.socket)


@experiment(
    title="A download that broke off",
    question="Of 200,000 bytes 80,000 came, then the connection broke. How many must come again?",
    choices=("200,000", "120,000", "80,000"),
    answer="120,000",
)
async def resume(net: Network) -> None:
    """`Range: bytes=80000-` asks for the rest, and 206 says that it is a part, and which. If-Range names the tag of
    what the client has: if the file is another one by now, the whole of it comes, with 200, and not a second half
    that does not fit. A server may ignore Range: only a 206 is a part. (RFC 9110 §14.2, §13.1.5, §15.3.7)
    """
    size, had = 200_000, 80_000
    async with serving(net):
        broken = Talk(net.client, net.server, net.port)
        broken.socket.sendall(broken.wire(f"/bytes/{size}"))
        received = b""
        while len(received) < had + 1000:
            received += broken.socket.recv(4096)
        head, _, body = received.partition(b"\r\n\r\n")
        broken.socket.close()  # With unread data: this is an RST.
        tag = head.lower().partition(b"etag: ")[2].split(b"\r\n")[0].decode()

        talk = Talk(net.client, net.server, net.port)
        response, rest = talk.ask(f"/bytes/{size}", [("Range", f"bytes={had}-"), ("If-Range", tag)])
        net.exactly("status", response.status, 206)
        net.exactly("bytes that came the second time", len(rest), size - had, "bytes")
        net.expect("Content-Range says which", response.fields["content-range"] == f"bytes {had}-{size - 1}/{size}")
        net.expect("both together are the whole", body[:had] + rest == talk.ask(f"/bytes/{size}")[1])
        other, whole = talk.ask(f"/bytes/{size}", [("Range", f"bytes={had}-"), ("If-Range", '"another"')])
        net.exactly("status, if the file is another by now", other.status, 200)
        net.exactly("bytes then", len(whole), size, "bytes")
        talk.socket.close()


# -- Enemies -------------------------------------------------------------------------------------------


@experiment(
    title="Very, very slow",
    question="100 clients send a byte of a request now and then. The server serves 100 at a time, and waits. What now?",
    choices=("nothing: they use no bandwidth", "nobody else is served", "everybody else is served more slowly"),
    answer="nobody else is served",
    seconds=30,
)
async def slowloris(net: Network) -> None:
    """A connection costs its client next to nothing, and the server a place. Who holds all places with requests
    that never end shuts the door on all others, with a byte for each now and then. A deadline for each read does
    not help, for something always comes: it must be one for the whole head. Then all places are free again when it
    is over. The attacker can begin anew, but now has to pay for it. The clock starts before the first attacker
    connects, so nobody is served in less than the deadline; the upper bound has room for a busy machine, and shows
    that the bytes, four a second from each, do not put the deadline off. (CWE-400, CWE-770; RFC 9112 §9.5)
    """
    for seconds in (3600.0, 0.5):
        async with serving(net, head_seconds=seconds, linger_seconds=0.2, max_connections=100):
            start = time.perf_counter()
            attack = [net.client.connect(net.server, net.port) for _ in range(100)]
            for sock in attack:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: server.lab\r\nX: ")
            dripping = asyncio.create_task(drip(attack))
            status = await asyncio.to_thread(status_within, net, 0.7 if seconds > 1 else 9)
            waited = ms_since(start)
            dripping.cancel()
            close(*attack)
        if seconds > 1:
            net.exactly("status for everybody else, without a deadline", status, 503)
        else:
            net.exactly("status for everybody else, with a deadline", status, 200)
            net.measure("a deadline of 500 ms for a head: served after", waited, "ms", at_least=500, at_most=8000)


async def drip(attack: list[socket.socket]) -> None:
    """A byte for each, four times a second."""
    while True:
        await asyncio.sleep(0.25)
        for sock in attack:
            try:
                sock.send(b"x")
            except OSError:
                pass  # The server has ended this one.


def status_within(net: Network, seconds: float) -> int:
    """Ask as an ordinary client does, again and again, until an answer is 200 or the time is up; the last status."""
    status, end = 0, time.perf_counter() + seconds
    while status != 200 and time.perf_counter() < end:
        talk = Talk(net.client, net.server, net.port)
        status = talk.ask("/")[0].status
        talk.socket.close()
        time.sleep(0.02)
    return status


@experiment(
    title="Two readings of one request",
    hosts=("client", "victim", "proxy", "server"),
    question="The proxy believes a request's Content-Length, the backend its Transfer-Encoding. Who is hurt?",
    choices=("its sender", "whoever asks next", "nobody: the backend answers 400"),
    answer="whoever asks next",
)
async def desync(net: Network) -> None:
    """To the proxy (proxy.py) the body is the 35 bytes that Content-Length says. To the backend it is chunked and
    ends after 5, so that the other 30 are the beginning of the next request on their connection, which all clients
    share: `GET /poison …, Ignore: `. What the victim sends is glued to it, and becomes the value of a field; her
    answer is the answer to the attacker's request. A server that refuses both fields together ends the connection
    with its 400, and with it whatever was left in it. (RFC 9112 §6.1, §6.3, §11.2; CL.TE, CWE-444)
    """
    proxy_port = net.port + 100
    attack = b"POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: 35\r\nTransfer-Encoding: chunked\r\n\r\n"
    attack += b"0\r\n\r\nGET /poison HTTP/1.1\r\nIgnore: "
    backend = (net.server.address, net.port)
    for name, behind, her_own, status, hurt in (
        ("naive", naive.backend(*backend), b"you asked for GET /\n", 200, 1),
        ("lab's", server.serve(*backend), b"Hello, network!\n", 400, 0),
    ):
        async with (
            net.server.running(behind),
            net["proxy"].running(naive.proxy(net["proxy"].address, proxy_port, backend)),
        ):
            attacker = net.client.connect(net["proxy"], proxy_port)
            attacker.sendall(attack)
            answered = int(attacker.recv(65536).split()[1])
            victim = Talk(net["victim"], net["proxy"], proxy_port)
            _, answer = victim.ask("/", [("Cookie", "session=secret")])
            net.note(f"before the {name} server: the victim asked for / and read {answer.decode()!r}")
            net.exactly(f"status the attacker gets from the {name} server", answered, status)
            net.exactly(f"victims with another's answer, {name} server", int(answer != her_own), hurt)
            close(attacker, victim.socket)
    if net.on_wire:
        to_backend = [p for p in net.packets() if (p.source, p.target) == ("proxy", "server")]
        streams = [b"".join(p.payload for p in to_backend if p.source_port == port)
                   for port in {p.source_port for p in to_backend}]  # fmt: skip
        glued = sum(b"Ignore: GET / HTTP/1.1\r\n" in stream for stream in streams)
        net.exactly("requests that were glued to another's end", glued, 1)


@experiment(
    title="An answer with a line too many",
    question="A server copies text with CR and LF in it from a user into a header field. What can the user make of it?",
    choices=("a field that looks odd", "a field of their own", "a whole answer of their own"),
    answer="a whole answer of their own",
)
async def response_splitting(net: Network) -> None:
    """A field ends at CRLF, the head at an empty line. Who may write these bytes writes the rest of the answer, and
    another answer behind it: the client takes it for the one to its next request, or a cache stores it for
    everybody. So a sender checks what it sends as strictly as what it receives: no CR, LF or NUL in any value. The
    lab's core raises an error at home, and not a byte leaves. (RFC 9110 §5.5; RFC 9112 §11.1; CWE-113)
    """
    evil = "en\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfalse page!"
    listening = net.server.listen(net.port)
    talk = Talk(net.client, net.server, net.port)
    talk.socket.sendall(talk.wire("/go") + talk.wire("/account"))
    accepted, _ = listening.accept()
    requests = accepted.recv(65536)
    accepted.sendall(f"HTTP/1.1 302 Found\r\nLocation: /{evil}\r\nContent-Length: 0\r\n\r\n".encode())  # Wrong.
    answers = [talk.answer(), talk.answer()]
    net.exactly("answers read, where one was sent", len(answers), 2)
    net.expect("and for /account it took the attacker's page", answers[1][1] == b"false page!")
    talk.socket.close()
    accepted.close()
    listening.close()

    core, sent = ServerConnection(), b""
    core.receive_data(requests)
    core.next_event()
    try:
        sent = core.send_response(302, [("Location", f"/{evil}")], b"")
    except LocalProtocolError as error:
        net.note(f"the lab's core: {error}")
    net.exactly("bytes that the lab's core makes of it", len(sent), 0, "bytes")
