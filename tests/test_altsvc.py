"""RFC 7838: the field's grammar as tables, what is kept and how long, and the client that moves from TCP to QUIC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import certs
from certs.contexts import server_context
from certs.quic import quic_server
from clients.altsvc import Browser
from clients.http1_connection import Origin
from clients.http3 import main
from protocols.altsvc import (
    BROKEN,
    DAY,
    ENDLESS,
    LONGEST,
    MAX_ALTERNATIVES,
    MAX_ORIGINS,
    Alternative,
    Cache,
    decode_protocol,
    encode_protocol,
    field,
    parse,
)
from protocols.errors import RemoteProtocolError
from protocols.http2_client import Response
from protocols.http3_frames import ErrorCode
from servers import http1, http2, http3, site
from tests.conftest import TICK, need_tool
from tests.http3_client_cases import Rst
from tests.test_http3_client import Peer, begin, server_that

H3, H2 = Alternative(b"h3", "", 443), Alternative(b"h2", "", 443)

# -- The grammar (§3) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('h3=":443"', [H3]),
        ('h2=":8000"', [Alternative(b"h2", "", 8000)]),  # the examples of the RFC
        ('h2="new.example.org:80"', [Alternative(b"h2", "new.example.org", 80)]),
        ('h2="alt.example.com:8000", h2=":443"', [Alternative(b"h2", "alt.example.com", 8000), H2]),
        ('h2=":443"; ma=3600', [H2._replace(max_age=3600)]),
        ('h2=":443"; ma=2592000; persist=1', [H2._replace(max_age=2592000, persist=True)]),
        ('w%3Dx%3Ay#z=":1"', [Alternative(b"w=x:y#z", "", 1)]),
        ('x%25y=":1"', [Alternative(b"x%y", "", 1)]),
        # Lists.
        ('h3=":443",h2=":443"', [H3, H2]),
        (', ,h3=":443" \t, ,,', [H3]),
        ('h3=":443";foo="a,b;c\\"=,"; ma=5, h2=":443"', [H3._replace(max_age=5), H2]),
        (", ".join(['h3=":443"'] * 100), [H3] * MAX_ALTERNATIVES),
        # Hosts and ports.
        ('h3="[::1]:443"', [Alternative(b"h3", "[::1]", 443)]),
        ('h3="Example.COM:443"', [Alternative(b"h3", "example.com", 443)]),
        ('h3="\\:4\\43"', [H3]),  # a quoted pair is what it quotes
        ('h3=":00443"', [H3]),
        ('h3=":65535"', [H3._replace(port=65535)]),
        # Parameters.
        ('h3=":443"; ma="60"', [H3._replace(max_age=60)]),
        ('h3=":443" ;\tMA=60', [H3._replace(max_age=60)]),
        ('h3=":443"; ma=60;', [H3._replace(max_age=60)]),  # seen in documentation, so it will be seen on the wire
        ('h3=":443"; ma=0', [H3._replace(max_age=0)]),
        ('h3=":443"; ma=' + "9" * 5000, [H3._replace(max_age=ENDLESS)]),
        ('h3=":443"; v="46,43"; unknown=x', [H3]),
        ('h3=":443"; persist="1"', [H3._replace(persist=True)]),
        ('h3=":443"; persist=2', [H3]),  # MUST be ignored
        ('h3=":443"; persist=true', [H3]),
        # "clear".
        ("clear", []),
        (' clear , h3=":443"', []),
        ('h3=":443", clear', []),
        ('h3=":443"; x="clear"', [H3]),
        ('h3=":443", "clear"', [H3]),
        ('h3=":443", clear; ma=5', [H3]),
        # What is broken is left out; if nothing is left, it is as if there were no field.
        ("Clear", None),
        ("", None),
        (" , ", None),
        ("h3", None),
        ("h3=:443", None),
        ('h3 =":443"', None),
        ('h3= ":443"', None),
        ('=":443"', None),
        ('h3=""', None),
        ('h3="443"', None),
        ('h3="example.com"', None),
        ('h3=":"', None),
        ('h3=":0"', None),
        ('h3=":65536"', None),
        ('h3=":443443443443"', None),
        ('h3=":-1"', None),
        ('h3=":٤٤٣"', None),
        ('h3="user@example.com:443"', None),
        ('h3="https://example.com:443"', None),
        ('h3="a b:443"', None),
        ('h3="a:b:443"', None),
        ('h3="[::g]:443"', None),
        ('h3=":443"; ma=soon', None),
        ('h3=":443"; ma=-5', None),
        ('h3=":443"; ma=1.5', None),
        ('h3=":443"; ma=""', None),
        ('h3=":443"; ma', None),
        ('h3=":443"; ma =5', None),
        ('h3=":443" ma=5', None),
        ('h3=":443', None),
        ('h3=":443\\"', None),
        ('h%33=":443"', None),  # 3 is a character of tokens: MUST NOT be encoded, so this is not another way to say h3
        ('w%3dx=":443"', None),  # in upper case only
        ('h%=":443"', None),
        ('h%ZZ=":443"', None),
        ('h3=:443, h2=":443"', [H2]),
        ('h2=":443", h3=":443', [H2]),
        ('h2=":443", h3=":443, quic=":443"', [H2]),
        ('h3=":443"x, h2=":443"', [H2]),
    ],
)  # fmt: skip
def test_field(value, found):
    assert parse(value) == found


def test_a_field_that_we_write_is_read_as_it_was():
    told = [Alternative(b"h3", "", 7007, 60), Alternative(b"w=x:y#z", "[::1]", 1, 5, True)]
    assert field(*told) == 'h3=":7007"; ma=60, w%3Dx%3Ay#z="[::1]:1"; ma=5; persist=1'
    assert parse(field(*told)) == told
    assert parse(field()) == []


@given(st.binary(min_size=1, max_size=20))
def test_every_name_has_one_way_to_be_written(name):
    assert decode_protocol(encode_protocol(name)) == name


@given(st.text(st.sampled_from('h3=":443"; ma=5,\\clear%2 \x00é'), max_size=60) | st.text())
def test_garbage_raises_nothing(value):
    assert parse(value) is None or all(0 < one.port < 65536 and one.protocol for one in parse(value))


def test_a_long_field_takes_no_long_time():
    """Quadratic, this would take minutes."""
    for text in ('"', 'h3=":1",', "h3=", '\\"', "%", ";", '";', 'h3=":1";a=b;', ",", "clear"):
        parse(text * 20_000)


# -- What is kept (§2.2, §2.4, §3.1, §6) -------------------------------------------------------------

HERE, THERE = ("https", "a.example", 443), ("https", "b.example", 443)


def test_it_is_good_until_it_is_old():
    cache = Cache()
    cache.learn(HERE, 'h3=":443"; ma=60', 1000.0)
    assert cache.find(HERE, (b"h3",), 1059.9) == H3._replace(max_age=60)
    assert cache.find(HERE, (b"h3",), 1060.0) is None
    assert cache.find(THERE, (b"h3",), 1000.0) is None
    cache.learn(HERE, 'h3=":443"', 2000.0)
    assert cache.find(HERE, (b"h3",), 2000.0 + DAY - 1) == H3


def test_the_age_of_the_answer_counts():
    """The example of §3.1: 60 seconds, 30 of them in a cache. The rest of them has gone before it came."""
    cache = Cache()
    cache.learn(HERE, 'h2=":8000"; ma=60', 0.0, age=30)
    assert cache.find(HERE, (b"h2",), 29.0)
    assert cache.find(HERE, (b"h2",), 31.0) is None
    cache.learn(HERE, 'h2=":8000"; ma=60', 0.0, age=60)
    assert cache.find(HERE, (b"h2",), 0.0) is None


def test_the_first_that_we_speak():
    cache = Cache()
    cache.learn(HERE, 'quic=":1", h2=":2", h3=":3", h3=":4"', 0.0)
    assert cache.find(HERE, (b"h3",), 0.0).port == 3
    assert cache.find(HERE, (b"h3", b"h2"), 0.0).port == 2
    assert cache.find(HERE, (), 0.0) is None


def test_what_is_new_replaces_what_was():
    cache = Cache()
    cache.learn(HERE, 'h3=":1", h2=":1"', 0.0)
    cache.learn(HERE, 'h2=":2"', 0.0)
    assert cache.find(HERE, (b"h3",), 0.0) is None
    cache.learn(HERE, "nonsense", 0.0)
    assert cache.find(HERE, (b"h2",), 0.0).port == 2
    cache.learn(HERE, "clear", 0.0)
    assert cache.find(HERE, (b"h2",), 0.0) is None


def test_what_has_failed_is_left_alone_twice_as_long_each_time():
    cache, now = Cache(), 0.0
    cache.learn(HERE, 'h3=":443"; ma=999999999', now)
    one = cache.find(HERE, (b"h3",), now)
    for seconds in (BROKEN, 2 * BROKEN, 4 * BROKEN, 8 * BROKEN):
        assert cache.failed(HERE, one, now) == seconds
        assert cache.find(HERE, (b"h3",), now + seconds - 1) is None
        now += seconds
        assert cache.find(HERE, (b"h3",), now) == one
    for _ in range(100):
        longest = cache.failed(HERE, one, now)
    assert longest == LONGEST
    cache.learn(HERE, 'h3=":443"; ma=5', now)  # The answer over TCP says it again: that makes it no better.
    assert cache.find(HERE, (b"h3",), now) is None
    cache.works(HERE, one)
    assert cache.find(HERE, (b"h3",), now) is not None
    assert cache.failed(HERE, one, now) == BROKEN


def test_another_is_taken_instead():
    cache = Cache()
    cache.learn(HERE, 'h3=":1", h3=":2"', 0.0)
    cache.failed(HERE, cache.find(HERE, (b"h3",), 0.0), 0.0)
    assert cache.find(HERE, (b"h3",), 0.0).port == 2
    cache.forget(HERE, Alternative(b"h3", "", 2))
    assert cache.find(HERE, (b"h3",), 0.0) is None
    assert cache.find(HERE, (b"h3",), BROKEN).port == 1


def test_on_another_network():
    cache = Cache()
    cache.learn(HERE, 'h3=":1", h3=":2"; persist=1', 0.0)
    cache.learn(THERE, 'h3=":1"', 0.0)
    cache.failed(HERE, Alternative(b"h3", "", 2), 0.0)
    cache.network_changed()
    assert cache.find(HERE, (b"h3",), 0.0).port == 2
    assert cache.find(THERE, (b"h3",), 0.0) is None


def test_not_everything_is_remembered():
    cache = Cache()
    for i in range(MAX_ORIGINS + 1):
        cache.learn(("https", f"{i}.example", 443), 'h3=":1"', 0.0)
        cache.failed(("https", f"{i}.example", 443), H3, 0.0)
    assert cache.find(("https", "0.example", 443), (b"h3",), 0.0) is None
    assert cache.find(("https", "1.example", 443), (b"h3",), 0.0)
    assert len(cache._known) == len(cache._failures) == MAX_ORIGINS


# -- The client --------------------------------------------------------------------------------------

LONG = 600 * TICK  # what may happen at once gets this long on a busy machine


class Site:
    """The lab's site, which counts what it is asked, and tells of other places. `told`: what Alt-Svc says over TCP."""

    def __init__(self, told: str = "") -> None:
        self.told, self.seen, self.fields, self.statuses = told, Counter(), [], []

    def tcp(self, request: site.Request) -> site.Response:
        found = self.answer(request, "tcp")
        return found._replace(fields=(*found.fields, ("alt-svc", self.told))) if self.told else found

    def quic(self, request: site.Request) -> site.Response:
        return self.answer(request, "quic")

    def answer_both(self, request: site.Request) -> site.Response:
        return self.answer(request, "either")

    def answer(self, request: site.Request, way: str) -> site.Response:
        self.seen[f"{request.method} {way}"] += 1
        self.fields.append(dict(request.fields))
        found = site.respond(request._replace(method="GET"))  # A POST's answer would be one to wait for.
        assert isinstance(found, site.Response)
        return found._replace(status=self.statuses.pop(0)) if self.statuses and way == "quic" else found


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return server_context(alpn=["h2", "http/1.1"])


@contextlib.asynccontextmanager
async def tcp_server(site: Site, tls: ssl.SSLContext) -> AsyncIterator[str]:
    async with http2.serve(respond=site.tcp, ssl=tls) as server:
        yield f"https://127.0.0.1:{server.address[1]}"


@contextlib.asynccontextmanager
async def browser(**options) -> AsyncIterator[Browser]:
    async with asyncio.timeout(LONG), Browser(**{"timeout": LONG, "patience": LONG, **options}) as it:
        yield it


def deaf() -> socket.socket:
    """Somebody has the port, and says nothing: so a network looks that lets no UDP through."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def came(sock: socket.socket) -> int:
    """How many datagrams have come since the last time."""
    sock.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while sock.recv(1 << 16):
            count += 1
    return count


def hop(us: Browser, url: str) -> str:
    return us.next_hop[url]


async def test_it_moves_to_quic_with_the_next_request(tls):
    """On the same port number; the user sees the same URL, and the server is told which way was taken (§5)."""
    here = Site()
    async with http3.serve(respond=here.answer_both, ssl=tls) as server, browser() as us:
        url = f"https://127.0.0.1:{server.address[1]}"
        for way in ("h2", "h3", "h3"):
            answer = await us.request("GET", url + "/bytes/1000")
            assert (answer.status, len(answer.body), answer.url, hop(us, url)) == (200, 1000, url + "/bytes/1000", way)
        assert (await us.request("POST", url + "/", body=b"x")).status == 200
        assert hop(us, url) == "h3"
    assert ["alt-used" in fields for fields in here.fields] == [False, True, True, True]
    assert here.fields[1]["alt-used"] == url.removeprefix("https://")


async def test_from_http1_too():
    """A server that has no HTTP/2 can have HTTP/3."""
    here = Site()
    async with http3.serve(respond=here.quic) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        only_1 = server_context(alpn=["http/1.1"])
        async with http1.serve(respond=here.tcp, ssl=only_1) as server, browser() as us:
            url = f"https://127.0.0.1:{server.address[1]}"
            for way in ("http/1.1", "h3"):
                async with us.stream("GET", url + "/bytes/100000") as answer:
                    assert sum([len(piece) async for piece in answer.body]) == 100_000
                assert hop(us, url) == way


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_where_udp_is_blocked(tls, method):
    """The request goes over TCP after the time it is given, its user sees no error, and it is run once."""
    here, loop = Site(), asyncio.get_running_loop()
    body = b"x" if method == "POST" else None
    with deaf() as sock:
        here.told = f'h3=":{sock.getsockname()[1]}"; ma=5000'
        async with tcp_server(here, tls) as url, browser(patience=4 * TICK, broken=1000) as us:
            origin = Origin(*("https", "127.0.0.1", int(url.rpartition(":")[2])))
            await us.request("GET", url)
            here.seen.clear()
            start = loop.time()
            answer = await us.request(method, url, body=body)
            took = loop.time() - start
            assert (answer.status, hop(us, url), here.seen) == (200, "h2", {f"{method} tcp": 1})
            assert took >= 4 * TICK
            assert came(sock)
            await us.request(method, url, body=body)  # It is left alone now: no time is lost.
            assert not came(sock)
            one = us.alternatives._known[origin][0][0]
            assert us.alternatives.failed(origin, one, loop.time()) == 2000


async def test_a_hundred_at_once_where_udp_is_blocked(tls):
    """They wait once, all together; and that counts as one failure."""
    here, loop = Site(), asyncio.get_running_loop()
    with deaf() as sock:
        here.told = f'h3=":{sock.getsockname()[1]}"'
        async with tcp_server(here, tls) as url, browser(patience=4 * TICK, broken=1000) as us:
            await us.request("GET", url)
            start = loop.time()
            answers = await asyncio.gather(*(us.request("POST", url, body=b"x") for _ in range(100)))
            assert loop.time() - start < 50 * 4 * TICK
            assert {answer.status for answer in answers} == {200}
            assert here.seen == {"GET tcp": 1, "POST tcp": 100}
            ((count, _),) = us.alternatives._failures.values()
            assert count == 1


async def test_it_is_tried_again_after_a_while(tls):
    here, loop = Site(), asyncio.get_running_loop()
    async with http3.serve(respond=here.quic) as quic:
        with deaf() as sock:
            here.told = f'h3=":{sock.getsockname()[1]}"'
            async with tcp_server(here, tls) as url, browser(patience=2 * TICK, broken=4 * TICK) as us:
                await us.request("GET", url)
                await us.request("GET", url)
                until = loop.time() + 4 * TICK
                port, here.told = sock.getsockname()[1], f'h3=":{quic.address[1]}"'
                assert hop(us, url) == "h2"
                sock.close()
                async with http3.serve("127.0.0.1", port, respond=here.quic):
                    us._quic._patience = us._patience = LONG
                    while hop(us, url) == "h2":
                        here.told = f'h3=":{port}"'
                        await us.request("GET", url)
                        await asyncio.sleep(TICK / 2)
                    assert loop.time() >= until - TICK / 2
                    assert us.alternatives._failures == {}  # It works: what was is forgotten.


async def test_where_nobody_listens(tls):
    """ICMP says so: no time is lost at all."""
    here = Site()
    with deaf() as sock:
        here.told = f'h3=":{sock.getsockname()[1]}"'
    async with tcp_server(here, tls) as url, browser() as us:
        for _ in range(2):
            assert (await us.request("POST", url, body=b"x")).status == 200
        assert (hop(us, url), here.seen) == ("h2", {"POST tcp": 2})


@pytest.mark.parametrize("certificate", ["wrong-name", "unknown-ca", "expired"])
async def test_the_certificate_must_be_the_origins(tls, certificate):
    """§2.1: else whoever can add a field could have all requests from then on."""
    here, there = Site(), Site()
    configuration = quic_server(certificate, alpn=["h3"])
    async with http3.serve(respond=there.quic, configuration=configuration) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            for _ in range(3):
                assert (await us.request("GET", url)).status == 200
            assert (hop(us, url), here.seen, there.seen) == ("h2", {"GET tcp": 3}, {})


async def test_on_another_host(tls):
    """The alternative's name is where to connect; the certificate and the authority are the origin's (§2)."""
    here = Site()
    async with http3.serve("127.0.0.1", respond=here.quic) as quic:
        here.told = f'h3="localhost:{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            await us.request("GET", url)
            await us.request("GET", url)
            assert hop(us, url) == "h3"
    assert here.fields[1]["host"] == url.removeprefix("https://")
    assert here.fields[1]["alt-used"] == f"localhost:{quic.address[1]}"


async def test_it_moves_on_where_an_alternative_says(tls):
    """§3.1: what is new replaces what was. And `alt-used` says where the request goes (§5), not where it might."""
    first, second, here = Site(), Site(), Site()

    def moved(request: site.Request) -> site.Response:
        found = first.quic(request)
        return found._replace(fields=(*found.fields, ("alt-svc", f'h3=":{b.address[1]}"')))

    async with http3.serve(respond=moved) as a, http3.serve(respond=second.quic) as b:
        here.told = f'h3=":{a.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            for _ in range(5):
                await us.request("GET", url)
            assert [one.route for one in us._quic._connections if one.is_usable] == [("127.0.0.1", b.address[1])]
    assert [fields["alt-used"] for fields in first.fields] == [f"127.0.0.1:{a.address[1]}"]
    assert [fields["alt-used"] for fields in second.fields] == [f"127.0.0.1:{b.address[1]}"] * 3


async def test_what_is_under_way_elsewhere_is_finished(tls):
    """Another place is told of while an answer comes from the old one."""
    here = Site()
    async with http3.serve(respond=here.quic) as a, http3.serve(respond=here.quic) as b:
        here.told = f'h3=":{a.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            await us.request("GET", url)
            async with us.stream("GET", f"{url}/bytes/2000000") as answer_from_a:
                us._learn(Origin("https", "127.0.0.1", int(url.rpartition(":")[2])), answer(f'h3=":{b.address[1]}"'))
                await us.request("GET", url)
                assert sum([len(piece) async for piece in answer_from_a.body]) == 2_000_000
    assert [fields["alt-used"][10:] for fields in here.fields[1:]] == [str(a.address[1]), str(b.address[1])]


async def test_one_that_answers_does_not_vouch_for_another(tls):
    """What has failed stays so while its predecessor still answers."""
    here, nobody = Site(), deaf()
    async with http3.serve(respond=here.quic) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser(patience=10 * TICK) as us:
            await us.request("GET", url)
            await us.request("GET", url)
            origin = Origin("https", "127.0.0.1", int(url.rpartition(":")[2]))
            us._learn(origin, answer(f'h3=":{nobody.getsockname()[1]}"'))
            broken = us.alternatives.find(origin, (b"h3",), us._now())
            us.alternatives.failed(origin, broken, -1e9)  # long ago
            assert (await us.request("GET", url)).status == 200
            assert us.alternatives._failures[origin, broken.route][0] == 2
            assert hop(us, url) == "h2"
    assert came(nobody)
    nobody.close()


async def test_421(tls):
    """§6: the alternative does not speak for this origin. Whatever the method, it is asked over TCP, and remembered."""
    here = Site()
    async with http3.serve(respond=here.quic) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            await us.request("GET", url)
            here.told, here.statuses = "", [421]
            for _ in range(2):
                assert (await us.request("POST", url, body=b"x")).status == 200
            assert here.seen == {"GET tcp": 1, "POST quic": 1, "POST tcp": 2}


async def test_clear(tls):
    here = Site()
    async with http3.serve(respond=here.quic) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            await us.request("GET", url)
            await us.request("GET", url)
            assert hop(us, url) == "h3"
            us._learn(Origin("https", "127.0.0.1", int(url.rpartition(":")[2])), answer("clear"))
            await us.request("GET", url)
            assert hop(us, url) == "h2"


def answer(value: str, status: int = 200) -> Response:
    return Response(0, status, {"alt-svc": value}, [("alt-svc", value)])


async def test_what_is_not_learned():
    """From http:// anybody could have said it (§2.1); 421 does not speak for the origin (§6); an old answer is old."""
    async with browser() as us:
        plain, safe = Origin("http", "a.example", 80), Origin("https", "a.example", 443)
        us._learn(plain, answer('h3=":443"'))
        us._learn(safe, answer('h3=":443"', 421))
        us._learn(safe, answer('h3=":443"; ma=30')._replace(fields={"alt-svc": 'h3=":443"; ma=30', "age": "31"}))
        assert us.alternatives._known == {}
        us._learn(safe, answer('h3=":443"; ma=30')._replace(fields={"alt-svc": 'h3=":443"; ma=30', "age": "no"}))
        assert us.alternatives._known


async def test_when_it_is_too_old_the_connection_is_still_good(tls):
    """§2.2: the age limits new connections, not those that there are."""
    here = Site()
    async with http3.serve(respond=here.quic) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            await us.request("GET", url)
            await us.request("GET", url)
            us.alternatives._known.clear()
            await us.request("GET", url)
            assert hop(us, url) == "h3"
            await us._quic._connections[0].close()
            await us.request("GET", url)
            assert hop(us, url) == "h2"


async def test_425_is_asked_again(tls):
    """With the ticket of a browser that was, the first request goes out early; the server wants it later (RFC 8470)."""
    here, tickets = Site(), {}
    async with http3.serve(respond=here.quic) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url:
            async with browser(tickets=tickets) as us:
                await us.request("GET", url)
                await us.request("GET", url)
            assert tickets
            async with browser(tickets=tickets) as us:
                await us.request("GET", url)
                here.seen.clear()
                here.statuses = [425]
                assert (await us.request("GET", url)).status == 200
                assert (hop(us, url), here.seen) == ("h3", {"GET quic": 2})


async def test_early_where_udp_is_blocked(tls):
    """0-RTT into a hole: the request is safe, so it goes over TCP when nothing has come back."""
    here, tickets = Site(), {}
    async with tcp_server(here, tls) as url:
        async with http3.serve(respond=here.quic) as quic, browser(tickets=tickets) as us:
            here.told = f'h3=":{quic.address[1]}"'
            await us.request("GET", url)
            await us.request("GET", url)
        port = quic.address[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", port))
            async with browser(tickets=tickets, patience=4 * TICK) as us:
                await us.request("GET", url)
                here.seen.clear()
                assert (await us.request("GET", url)).status == 200
                assert (hop(us, url), here.seen) == ("h2", {"GET tcp": 1})


class Way(asyncio.DatagramProtocol):
    """A path between one client and the server, which can be blocked in the middle of everything."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server, self._client, self.blocked = server, None, False

    def connection_made(self, transport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address) -> None:
        if address != self._server:
            self._client = address
        if not self.blocked:
            self._transport.sendto(data, self._client if address == self._server else self._server)


@contextlib.asynccontextmanager
async def way_to(server: tuple[str, int]) -> AsyncIterator[tuple[Way, int]]:
    transport, way = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Way(server), local_addr=("127.0.0.1", 0)
    )
    try:
        yield way, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
        await asyncio.sleep(0)


async def move_to_quic(us: Browser, url: str) -> None:
    """With little patience that can take some tries on a busy machine."""
    while us.next_hop.get(url) != "h3":
        await us.request("GET", url)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_path_that_dies(tls, method):
    """It has worked, then nothing comes back any more. A POST asks first whether anybody is there; it is run once."""
    here = Site()
    body = b"x" if method == "POST" else None
    async with http3.serve(respond=here.quic, drain_seconds=TICK) as quic, way_to(quic.address) as (way, port):
        here.told = f'h3=":{port}"'
        async with tcp_server(here, tls) as url, browser(patience=6 * TICK, broken=TICK) as us:
            await move_to_quic(us, url)
            way.blocked = True
            here.seen.clear()
            if method == "POST":
                await asyncio.sleep(7 * TICK)  # Else it is believed to be there: what was heard is too new to ask.
            assert (await us.request(method, url, body=body)).status == 200
            assert (hop(us, url), here.seen) == ("h2", {f"{method} tcp": 1})


async def test_what_may_have_run_is_not_run_again(tls):
    """The server has the POST, and its answer never comes: that is an error, and nothing that can be hidden."""
    here = Site()
    loop = asyncio.get_running_loop()
    quic = http3.serve(respond=lambda request: blocked(request), drain_seconds=TICK)
    async with quic as server, way_to(server.address) as (way, port):

        def blocked(request: site.Request) -> site.Response:
            if request.method == "POST":
                way.blocked = True
            return here.quic(request)

        here.told = f'h3=":{port}"'
        async with tcp_server(here, tls) as url, browser(patience=6 * TICK, broken=TICK) as us:
            await move_to_quic(us, url)
            here.seen.clear()
            start = loop.time()
            with pytest.raises(OSError, match="nothing came back"):
                await us.request("POST", url, body=b"x")
            assert here.seen == {"POST quic": 1}
            assert loop.time() - start < LONG
            assert (await us.request("POST", url, body=b"x")).status == 200  # The next one goes over TCP.
            assert here.seen == {"POST quic": 1, "POST tcp": 1}


async def test_what_is_never_taken_goes_over_tcp(tls):
    """H3_REQUEST_REJECTED, ten times: nothing was done, so it can be done elsewhere, whatever the method."""
    here = Site()

    async def reject(peer: Peer) -> None:
        await begin(peer)
        while True:
            peer.step(Rst(await peer.request(), ErrorCode.REQUEST_REJECTED))

    async with server_that(reject) as other:
        here.told = f'h3=":{other.rstrip("/").rpartition(":")[2]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            for _ in range(2):
                assert (await us.request("POST", url, body=b"x")).status == 200
            assert (hop(us, url), here.seen) == ("h2", {"POST tcp": 2})


async def test_what_the_server_says_wrong_is_told(tls):
    """An answer that is malformed is no reason to ask elsewhere: the connection is good."""
    here = Site()

    def broken(request: site.Request) -> site.Response:
        found = here.quic(request)
        return found._replace(fields=(*found.fields, ("content-length", "5"), ("content-length", "6")))

    async with http3.serve(respond=broken) as quic:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            await us.request("GET", url)
            with pytest.raises(RemoteProtocolError):
                await us.request("GET", url)
            assert us.alternatives._failures == {}


async def test_redirects_find_their_own_way(tls):
    """Another origin has not told us anything: it is asked over TCP."""
    here, there = Site(), Site()
    async with http3.serve(respond=here.quic) as quic, tcp_server(there, tls) as other:
        here.told = f'h3=":{quic.address[1]}"'
        async with tcp_server(here, tls) as url, browser() as us:
            await us.request("GET", url)
            answer = await us.request("GET", f"{url}/redirect?n=2")
            assert (answer.status, hop(us, url)) == (200, "h3")
            assert (await us.request("GET", other)).status == 200
            assert hop(us, other) == "h2"


async def test_http_is_http1():
    async with http1.serve() as server, browser() as us:
        url = f"http://127.0.0.1:{server.address[1]}"
        assert (await us.request("GET", url)).status == 200
        assert us.next_hop == {url: "http/1.1"}


async def test_caddy(tmp_path: Path):
    """Its own alt-svc, obeyed."""
    need_tool("caddy")
    with deaf() as sock:
        port = sock.getsockname()[1]
    (tmp_path / "Caddyfile").write_text(
        f"{{\n admin off\n auto_https off\n storage file_system {tmp_path}\n}}\nhttps://localhost:{port} {{\n"
        f" tls {certs.FOLDER / 'server.pem'} {certs.FOLDER / 'server.key'}\n respond hello\n}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        "caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile",
        cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    url = f"https://localhost:{port}"
    try:
        async with browser() as us:
            while True:
                try:
                    answer = await us.request("GET", url)
                    break
                except OSError:
                    await asyncio.sleep(TICK)
            assert (answer.body, hop(us, url)) == (b"hello", "h2")
            assert ((await us.request("GET", url)).body, hop(us, url)) == (b"hello", "h3")
    finally:
        process.kill()
        await process.wait()


async def test_the_move_can_be_watched(tls, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging, "raiseExceptions", True)  # main() changes it
    async with http3.serve(ssl=tls) as server:
        url = f"https://127.0.0.1:{server.address[1]}/"
        monkeypatch.setattr(sys, "argv", ["clients.http3", "--h2-first", url])
        assert await asyncio.to_thread(main) == 0
    first, move, second = "\n".join(caplog.messages).partition("= Alt-Svc: the next request goes over QUIC")
    assert "HEADERS stream 1" in first
    assert move
    assert "stream 0: HEADERS" in second
