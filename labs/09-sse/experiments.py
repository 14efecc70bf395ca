"""Server-sent events seen from outside: each experiment causes one phenomenon and measures it.

The server is servers/sse.py and the client clients/sse.py, each on the event loop of its own host; where one of them
has to do what it never would, there is a few lines of socket instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import pairwise
from typing import Any

from clients.http1 import Client
from clients.sse import EventSource
from labkit.lab import FIN, RST, SYN, Host, Link, Network, experiment
from protocols.http1 import ClientConnection, Data, EndOfMessage
from protocols.sse import Decoder, Event
from servers import http1, sse

# -- The stream ---------------------------------------------------------------------------------------


@experiment(
    title="What an event costs",
    question="An event carries five characters. How large is the packet that brings it?",
    choices=("about 20 bytes", "about 80 bytes", "about 500 bytes: the headers come with it"),
    answer="about 80 bytes",
    needs_wire=True,
)
async def one_event(net: Network) -> None:
    """The headers were sent once, at the beginning of a response that does not end. After that an event is a few
    lines of text in a chunk of HTTP/1.1, which costs 6 bytes: the size in hexadecimal, and two line ends. The
    20 bytes of IP and 32 of TCP are more than both. Each event is written when it is published, so it is a
    segment of its own, and the client says nothing: it only acknowledges. (WHATWG HTML §9.2.6; RFC 9112 §7.1)
    """
    async with serving(net, first=1) as broker, listening(net, url(net)) as got:
        await until(lambda: broker.clients == 1)
        for number in range(1, 10):
            await publish(net, broker, "hello")
            await until(lambda number=number: len(got) == number)  # One at a time.
        events = [p for p in net.packets() if p.source == "server" and b"data: hello" in p.payload]
        net.note(f"the payload of one packet: {events[0].payload!r}")
        net.exactly("segments for nine events", len({p.seq for p in events}), 9)  # One may be sent again.
        net.exactly("bytes of the event's lines", len(events[0].payload.split(b"\r\n")[1]), 19, "bytes")
        net.exactly("bytes with the chunk around them", len(events[0].payload), 25, "bytes")
        net.exactly("bytes of the packet", events[0].length, 77, "bytes")
        first = min(p.number for p in events)
        back = [p for p in net.packets() if p.source == "client" and p.number > first]
        net.exactly("bytes of data from the client meanwhile", sum(len(p.payload) for p in back), 0, "bytes")


@experiment(
    title="Away for a moment",
    question="The stream ends. Five events are published before the client is back. How many of them does it miss?",
    choices=("none", "all five", "those before its request arrived"),
    answer="none",
)
async def comes_back(net: Network) -> None:
    """An event has an id, and a client that connects again sends the last one as Last-Event-ID. The server
    remembers its last events and sends first what came after that one. A second client connects again just
    as fast, and says nothing: it gets what is published from then on, and never learns what it missed.
    (WHATWG HTML §9.2.3, §9.2.4)
    """
    async with serving(net, first=1, retry_ms=50) as broker, listening(net, url(net)) as got:
        async with running(net.client, forgetful(url(net), forgot := [])):
            await until(lambda: broker.clients == 2)
            await publish(net, broker, *"12345")
            await until(lambda: len(got) == len(forgot) == 5)
            await net.server.run(call(broker.disconnect))
            await publish(net, broker, *"abcde")
            await until(lambda: broker.clients == 2)
            await publish(net, broker, *"67890")
            await until(lambda: got[-1].data == forgot[-1].data == "0")
    net.note(f"with Last-Event-ID: {' '.join(event.data for event in got)}")
    net.note(f"without:            {' '.join(event.data for event in forgot)}")
    data, lacking = ([event.data for event in events if event.type == "message"] for events in (got, forgot))
    net.exactly("events that it lost", 15 - len(set(data)), 0)
    net.exactly("events that came twice", len(data) - len(set(data)), 0)
    net.exactly("events that the one without an id lost", 15 - len(set(lacking)), 5)


@experiment(
    title="Half an event",
    question="`id: 2` and half of its data are here when the connection breaks. What does the client ask for then?",
    choices=("what comes after 2", "what comes after 1", "the other half"),
    answer="what comes after 1",
)
async def half_an_event(net: Network) -> None:
    """Only the blank line dispatches an event, and only then is its id the last event ID. What is not whole is
    discarded, and comes again from its beginning. A client that noted the id when it read the line would
    ask for what comes after an event that it never had. (WHATWG HTML §9.2.6: the end of the stream, and
    dispatch, step 1)
    """
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    answers = [
        head + b"retry: 20\nid: 1\ndata: whole\n\nid: 2\ndata: ha",
        head + b"id: 2\ndata: half no more\n\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ]
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(request.lower().partition("last-event-id: ")[2].partition("\r\n")[0])
        writer.write(answers[len(asked) - 1])
        writer.close()

    server = await net.server.run(asyncio.start_server(answer, net.server.address, net.port))
    async with listening(net, url(net)) as got:
        await until(lambda: got[-1:] == [END])
    await net.server.run(call(server.close))
    net.exactly("the last event ID in the second request", int(asked[1]), 1)
    net.exactly("events that the loop was given", len(got) - 1, 2)
    net.expect("the second of them is whole", got[1].data == "half no more")


@experiment(
    title="A polite end",
    question="The server ends the response properly: nothing is missing. What does an EventSource do?",
    choices=("nothing: it is complete", "it reports an error and stops", "it asks again, until it is told 204"),
    answer="it asks again, until it is told 204",
)
async def polite_end(net: Network) -> None:
    """An event stream has no end, so any end is a lost connection: the client waits for the reconnection time,
    which the server may set (`retry: 200`), and asks again; ours waits up to half of it longer, by chance. To
    end it for good the server answers 204 (No Content). Every other status than 200 ends it, too, and so does
    an answer of another type: who came back after those would ask for ever. (WHATWG HTML §9.2.1, §9.2.3)
    """
    opened: list[float] = []
    ended: list[float] = []
    hooks = {"on_open": lambda: opened.append(now()), "on_error": lambda error: ended.append(now())}
    async with serving(net, first=1, retry_ms=200) as broker, listening(net, url(net), **hooks) as got:
        await until(lambda: broker.clients == 1)
        await publish(net, broker, "one")
        await until(lambda: len(got) == 1)
        await net.server.run(call(broker.disconnect))
        await until(lambda: len(opened) == 2)
        net.measure("asked again after", 1000 * (opened[1] - ended[0]), "ms", at_least=199, at_most=700)
        await net.server.run(call(broker.finish))
        await until(lambda: got[-1:] == [END])
        net.measure("stopped after", 1000 * (now() - ended[1]), "ms", at_least=199, at_most=700)
        requests = connections(net)
        await asyncio.sleep(0.4)
        net.expect("the loop has ended, without an error", got[-1] is END)
        if net.on_wire:
            net.exactly("requests", requests, 3)
            net.exactly("requests in the 400 ms after the 204", connections(net) - requests, 0)


@experiment(
    title="Away for too long",
    question="A client missed nine events, and the server remembers five. What should it get?",
    choices=("the five", "a word about the gap, and the five", "an error: it must begin anew"),
    answer="a word about the gap, and the five",
)
async def too_late(net: Network) -> None:
    """A replay buffer has an end, or the server would run out of memory. The standard does not say what becomes
    of a client that comes later. Most servers send what they have and say nothing, so a balance or a cache
    is wrong for ever, and nobody knows. Ours sends an event of type "gap" first: whoever needs every event
    then asks for the whole state again. It is a word of our own, not of the standard. (WHATWG HTML §9.2.4)
    """
    async with serving(net, first=1, history=5) as broker:
        await publish(net, broker, *map(str, range(1, 13)))
        async with listening(net, url(net), last_event_id="3") as got:
            await until(lambda: len(got) >= 6)
    net.note(f"it got: {', '.join(f'{event.type} {event.id}' for event in got)}")
    net.exactly("events of type gap", sum(event.type == "gap" for event in got), 1)
    net.exactly("events replayed", sum(event.type == "message" for event in got), 5)
    net.exactly("events that nobody can have any more", int(got[1].id) - 3 - 1, 4)


# -- What is between ------------------------------------------------------------------------------------


@experiment(
    title="A proxy that means well",
    question="Events are published every 20 ms. Between server and client a proxy fills its buffers. What comes out?",
    choices=("the events, 20 ms apart", "nothing, until the end", "many at once, then nothing for a while"),
    answer="many at once, then nothing for a while",
    hosts=("client", "proxy", "server"),
)
async def bursts(net: Network) -> None:
    """A proxy that waits until a buffer is full saves packets for a page, and makes a stream late: each event
    lies there until others have filled the rest of the buffer. The server can ask it not to: nginx and some
    others obey `X-Accel-Buffering: no`, which our server sends with each stream. The first proxy obeys; the
    second is deaf to it, like a virus scanner or a compressing middlebox. (WHATWG HTML §9.2.5, §9.2.7)
    """
    published: dict[str, float] = {}
    obedient, deaf = Proxy(net, obeys=True), Proxy(net, obeys=False)
    async with serving(net, first=1) as broker, obedient.running(), deaf.running():
        async with (
            listening(net, url(net)) as direct,
            listening(net, obedient.url) as asked,
            listening(net, deaf.url) as late,
        ):
            await until(lambda: broker.clients == 3)
            for number in range(1, 51):
                published[str(number)] = now()
                await publish(net, broker, "tick")
                await asyncio.sleep(0.02)
            await until(lambda: len(direct) == len(asked) == 50)
            # What is still in the buffer of the deaf one is there for as long as nobody publishes more.
    for who, got in (("without a proxy", direct), ("through the one that obeys", asked)):
        net.measure(f"median age of an event, {who}", median_age(got, published), "ms", at_most=100)
    net.measure("the same, through the deaf one", median_age(late, published), "ms", at_least=120, at_most=2000)
    net.measure("events at once, through the deaf one", max(together(late)), at_least=15, at_most=30)
    net.measure("events still in its buffer at the end", 50 - len(late), at_least=1, at_most=20)


@experiment(
    title="The cable is cut",
    question="Somebody cuts the cable. When does a client notice that only reads, and has no deadline?",
    choices=("at once: recv() fails", "after a minute: TCP asks", "it does not"),
    answer="it does not",
    needs_wire=True,
)
async def half_open(net: Network) -> None:
    """A TCP connection on which nobody sends is nothing but two memories: no packet says that it lives, and so
    none is missed when it is dead. Whoever only reads waits for ever (keep-alive probes are off by default,
    and come after two hours). Here the server sends a comment every 100 ms, and a client that has heard
    nothing for 350 ms gives the connection up, asks again until somebody answers, and has lost nothing.
    (WHATWG HTML §9.2.7: authors can include a comment line every 15 seconds or so; RFC 9293 §3.8.4; tcp(7))
    """
    lost: list[float] = []
    options = {"read_timeout": 0.35, "connect_timeout": 0.2, "max_wait": 0.05, "jitter": 0.0}
    async with serving(net, first=1, heartbeat_seconds=0.1, retry_ms=50) as broker:
        async with (
            listening(net, url(net), on_error=lambda error: lost.append(now()), **options) as got,
            listening(net, url(net), read_timeout=None) as patient,
        ):
            await until(lambda: broker.clients == 2)
            await publish(net, broker, "before")
            await until(lambda: len(got) == len(patient) == 1)
            net.cut()
            cut = now()
            await publish(net, broker, "meanwhile")
            await until(lambda: bool(lost))
            noticed = 1000 * ([*lost, now()][0] - cut)
            net.measure("the client with a deadline noticed after", noticed, "ms", at_least=200, at_most=900)
            await asyncio.sleep(max(0, cut + 1 - now()))
            net.exactly("after a second, the one without has noticed", len(patient) - 1, 0)
            unanswered = [p for p in net.packets() if p.dropped and p.source == "server" and b":" in p.payload]
            net.measure("packets of the server that nobody acknowledged", len(unanswered), at_least=1)
            net.set_link(Link())
            await until(lambda: len(got) == 2)
            net.measure("back, once the cable was whole, after", 1000 * (now() - cut - 1), "ms", at_most=1500)
            net.expect("and nothing was lost", [event.data for event in got] == ["before", "meanwhile"])


@experiment(
    title="Six is the limit",
    question="Six tabs of a browser each hold a stream of one site, over HTTP/1.1. A seventh asks for a page. And?",
    choices=("it gets a seventh connection", "it waits until a stream ends", "it is refused"),
    answer="it waits until a stream ends",
)
async def seventh(net: Network) -> None:
    """Browsers open at most six connections to one host and port, and a stream occupies one for as long as it
    lives: six tabs, and the site hangs in every further one, with no error to be seen. Our HTTP client has
    the same limit, so it shows here what a test sees in Chromium. The cures: HTTP/2, where all streams share
    one connection; one stream for all tabs, in a shared worker. (WHATWG HTML §9.2.7; RFC 9112 §9.4)
    """
    base = f"http://{net.server.address}:{net.port}"

    async def browse(client: Client, streams: contextlib.AsyncExitStack) -> tuple[float, float]:
        first = await streams.enter_async_context(contextlib.AsyncExitStack())
        await first.enter_async_context(client.stream("GET", f"{base}/events"))
        for _ in range(5):
            await streams.enter_async_context(client.stream("GET", f"{base}/events"))
        start = now()
        page = asyncio.create_task(client.request("GET", f"{base}/"))
        await asyncio.sleep(0.3)
        assert not page.done()
        await first.aclose()
        closed = now()
        await page
        return now() - start, now() - closed

    async def all_of_it() -> tuple[float, float]:
        async with Client(max_per_host=6) as client, contextlib.AsyncExitStack() as streams:
            return await browse(client, streams)

    async with serving(net, first=1):
        waited, then = await net.client.run(all_of_it())
    net.measure("the seventh was answered after", 1000 * waited, "ms", at_least=300, at_most=900)
    net.measure("that is, after a stream had ended", 1000 * then, "ms", at_most=400)
    if net.on_wire:
        syns = [p for p in reversed(net.packets()) if p.flags & SYN and p.source == "client"]
        begun = {p.source_port: p.time for p in syns}.values()  # The first of each: one may be sent again.
        ended = next(p.time for p in net.packets() if p.flags & (FIN | RST))
        net.exactly("connections before one ended", sum(time < ended for time in begun), 6)
        net.exactly("connections after that", sum(time > ended for time in begun), 1)


# -- Who is too slow --------------------------------------------------------------------------------------


@experiment(
    title="One who does not read",
    question="Of two clients one stops reading. What should a server do with the events for it?",
    choices=(
        "keep them until it reads",
        "wait with publishing until it has caught up",
        "keep a few, then send it away",
    ),
    answer="keep a few, then send it away",
)
async def slow_reader(net: Network) -> None:
    """TCP's window closes, so the server cannot send. Keeping all costs memory without end, a thousand times with
    a thousand slow clients; waiting makes one slow client the speed of all. So at most 20 events wait for one
    client (the experiment looks after every ten); then its stream ends, and its queue is forgotten. What is lost?
    Nothing: when it reads on, it sees the end, comes back, says what it has, and gets the rest from the history
    that all share. (RFC 9293 §3.8.6 is why the server notices; WHATWG HTML §9.2.4 is why it does not matter)
    """
    slow = net.client.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # Its kernel shall not read for it.
    waiting, published, took = 0, 0, list[float]()
    async with serving(net, first=1, history=5000, queue=20) as broker, listening(net, url(net)) as fast:
        slow.connect((net.server.address, net.port))
        http = ClientConnection()
        slow.sendall(http.send_request("GET", "/events", [("Host", "server.lab")]))
        await until(lambda: broker.clients == 2)
        while broker.clients == 2 and published < 4000:
            start = now()
            await publish(net, broker, *["x" * 4000] * 10)
            took.append(now() - start)
            published += 10
            await until(lambda published=published: len(fast) == published)
            waiting = max(waiting, broker.longest_queue)
        net.measure("events published before it was sent away", published, at_least=20, at_most=2000)
        net.measure("events that waited for it, at most", waiting, at_least=1, at_most=20)
        got = await read_all(slow, http)
        net.measure("events that had reached it", len(got), at_least=1, at_most=2000)
        async with listening(net, url(net), last_event_id=got[-1].id) as rest:
            await until(lambda: len(got) + len(rest) >= published)
    numbers = [int(event.id) for event in [*got, *rest]]
    net.exactly("events it lost, after coming back", published - len(set(numbers)), 0)
    net.exactly("events that came twice", len(numbers) - len(set(numbers)), 0)
    net.exactly("events that the other one lost", published - len({event.id for event in fast}), 0)
    net.measure("publishing ten events took", 1000 * statistics.median(took), "ms", at_most=100)


# -- Other ways to be told ----------------------------------------------------------------------------------


@experiment(
    title="Polling, long polling, streaming",
    link=Link(delay_ms=25),
    question="The same events by polling, long polling and a stream. Which one costs the most bytes for an event?",
    choices=("polling", "long polling", "the stream: it must stay open"),
    answer="polling",
    seconds=20,
)
async def three_ways(net: Network) -> None:
    """Polling, here 100 ms after each answer, asks mostly in vain, and still hears of an event half an interval late
    on average. A long poll is answered when there is something: no question in vain, but a whole request and
    response for each event, and while the answer is under way nobody asks: an event that comes then waits for
    a round trip. The stream has neither: an event is one packet, and is here after one way. (RFC 6202 §2.2,
    §3.2, §5.5; WHATWG HTML §9.2)
    """
    published: dict[str, float] = {}
    got: dict[str, list[Event]] = {"polling": [], "long polling": [], "the stream": []}
    async with serving(net, first=1) as broker, also_on(net, broker, 1), also_on(net, broker, 2):
        base = f"http://{net.server.address}"
        async with (
            running(net.client, polling(f"{base}:{net.port}/poll", got["polling"], 0.1)),
            running(net.client, polling(f"{base}:{net.port + 1}/long-poll", got["long polling"], 0)),
            listening(net, f"{base}:{net.port + 2}/events", got=got["the stream"]),
        ):
            await until(lambda: broker.clients == 2)
            pauses = random.Random(9)
            for number in range(1, 9):
                await asyncio.sleep(pauses.uniform(0.12, 0.36))
                published[str(number)] = now()
                await publish(net, broker, "something new")
            await until(lambda: all(len(events) == 8 for events in got.values()))
    packets = net.packets()
    bytes_of = {}
    for offset, (way, events) in enumerate(got.items()):
        mine = [p for p in packets if net.port + offset in (p.source_port, p.target_port)]
        bytes_of[way] = sum(p.length for p in mine) / 8
        age = median_age(events, published)
        limits = {"polling": (30, 400), "long polling": (25, 150), "the stream": (25, 150)}[way]
        net.measure(f"{way}: median age of an event", age, "ms", at_least=limits[0], at_most=limits[1])
        most = {"polling": 90, "long polling": 45, "the stream": 40}[way]
        net.measure(f"{way}: packets", len(mine), at_least=10, at_most=most)
        net.measure(f"{way}: bytes per event, all headers in", bytes_of[way], "bytes", at_least=100, at_most=2000)
    net.measure("bytes of polling to those of the stream", bytes_of["polling"] / bytes_of["the stream"], at_least=1.5)
    net.measure("bytes of long polling to those of the stream", bytes_of["long polling"] / bytes_of["the stream"],
                at_least=1.4)  # fmt: skip


# -- How it is done -----------------------------------------------------------------------------------------

END = Event("", "end of the stream")  # what listening() notes when the loop has ended


def now() -> float:
    return time.perf_counter()


def url(net: Network) -> str:
    return f"http://{net.server.address}:{net.port}/events"


async def until(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until *holds()*; what follows asserts it."""
    end = now() + seconds
    while not holds() and now() < end:  # noqa: ASYNC110 - other hosts' event loops ring no bell on this one
        await asyncio.sleep(0.001)


async def call(function: Callable[[], object]) -> None:
    """As a coroutine, so that a host's event loop runs it."""
    function()


@contextlib.asynccontextmanager
async def serving(net: Network, **options: Any) -> AsyncIterator[sse.Broker]:
    """servers/sse.py on the server's host."""
    server = sse.serve(net.server.address, net.port, **options)
    broker = await net.server.run(server.__aenter__())
    try:
        yield broker
    finally:
        await net.server.run(server.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def also_on(net: Network, broker: sse.Broker, offset: int) -> AsyncIterator[None]:
    """The same server on another port, so that its packets can be told apart."""
    server = http1.serve(net.server.address, net.port + offset, respond=broker.respond)
    await net.server.run(server.__aenter__())
    try:
        yield
    finally:
        await net.server.run(call(broker.disconnect))
        await net.server.run(server.__aexit__(None, None, None))


async def publish(net: Network, broker: sse.Broker, *data: str) -> None:
    async def publish_all() -> None:
        for text in data:
            broker.publish(text)

    await net.server.run(publish_all())


@contextlib.asynccontextmanager
async def running(host: Host, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run it beside the block, and end it with the block."""
    task = asyncio.create_task(host.run(work))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def listening(
    net: Network, address: str, got: list[Event] | None = None, **options: Any
) -> AsyncIterator[list[Event]]:
    """clients/sse.py on the client's host; the events, as they come. When they came: arrivals."""
    events: list[Event] = [] if got is None else got
    source = EventSource(address, **options)

    async def listen() -> None:
        async with source:
            async for event in source:
                arrivals[id(event)] = now()
                events.append(event)
            events.append(END)

    async with running(net.client, listen()):
        yield events


arrivals: dict[int, float] = {}  # id() of an event → when it came


def median_age(events: list[Event], published: dict[str, float]) -> float:
    """Milliseconds between publishing and arrival; where none has arrived, what the wait for it took."""
    ages = [arrivals[id(event)] - published[event.id] for event in events if event.id in published]
    return 1000 * statistics.median(ages or [5])


def together(events: list[Event]) -> list[int]:
    """How many events came at once, for each time that some came."""
    sizes = [1]
    for earlier, later in pairwise(arrivals[id(event)] for event in events):
        if later - earlier < 0.005:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes


async def forgetful(address: str, got: list[Event]) -> None:
    """A client that connects again, too, but each time as if it were new."""

    def give_up(error: Exception) -> None:
        raise error

    while True:
        with contextlib.suppress(ConnectionError):
            async with EventSource(address, on_error=give_up) as source:
                async for event in source:
                    got.append(event)
        await asyncio.sleep(0.05)


async def polling(address: str, got: list[Event], pause: float) -> None:
    """Ask for what is new, over one connection, with a pause between an answer and the next question."""
    decoder = Decoder()
    async with Client(timeout=30) as client:
        while True:
            answer = await client.request("GET", f"{address}?since={decoder.last_event_id}")
            for item in decoder.receive_data(answer.body):
                if isinstance(item, Event):
                    arrivals[id(item)] = now()
                    got.append(item)
            await asyncio.sleep(pause)


def connections(net: Network) -> int:
    """How many connections the client has begun."""
    if not net.on_wire:
        return 0
    return len({p.source_port for p in net.packets() if p.flags & SYN and p.source == "client"})


class Proxy:
    """Passes bytes on in both directions; those of the server when 512 of them are there."""

    BUFFER = 512

    def __init__(self, net: Network, obeys: bool) -> None:
        self.net, self.obeys, self.url = net, obeys, ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        host = self.net["proxy"]
        server = await host.run(asyncio.start_server(self.serve, host.address, 0))
        self.url = "http://{}:{}/events".format(*server.sockets[0].getsockname())
        try:
            yield
        finally:
            await host.run(call(server.close))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(self.net.server.address, self.net.port)
        to_server.write(await reader.readuntil(b"\r\n\r\n"))
        head = await from_server.readuntil(b"\r\n\r\n")
        writer.write(head)
        least = 1 if self.obeys and b"x-accel-buffering: no" in head.lower() else self.BUFFER
        waiting = b""
        gone = asyncio.ensure_future(reader.read())  # The client has no more to say, but may go.
        while not gone.done():
            piece = asyncio.ensure_future(from_server.read(65536))
            await asyncio.wait([piece, gone], return_when=asyncio.FIRST_COMPLETED)
            if not piece.done() or not piece.result():
                piece.cancel()
                break
            waiting += piece.result()
            if len(waiting) >= least:
                writer.write(waiting)
                waiting = b""
        gone.cancel()
        to_server.transport.abort()
        writer.transport.abort()


async def read_all(sock: socket.socket, http: ClientConnection) -> list[Event]:
    """Read the rest of an event stream, up to its proper end."""
    decoder, events = Decoder(), list[Event]()
    with sock:
        sock.setblocking(False)
        while not isinstance(event := http.next_event(), EndOfMessage):
            if event is None:
                http.receive_data(await asyncio.get_running_loop().sock_recv(sock, 65536))
            elif isinstance(event, Data):
                events += [item for item in decoder.receive_data(event.data) if isinstance(item, Event)]
    return events
