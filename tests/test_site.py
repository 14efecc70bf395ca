"""The one site of all HTTP versions, asked without any wire: what it answers, and that nothing makes it raise."""

from __future__ import annotations

import asyncio
import email
import gzip
import hashlib
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import sse
from protocols.semantics import http_date
from servers import site
from tests.conftest import TICK

THIS = Path(site.__file__).read_bytes()


async def pieces_of(*pieces: bytes):
    for piece in pieces:
        yield piece


async def ask(target: str, method: str = "GET", body: tuple[bytes, ...] = (), **fields: str) -> site.Response:
    """Names of fields are given with _ for -."""
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    return await site.answer(site.Request(method, target, fields, pieces_of(*body)))


async def read(response: site.Response) -> bytes:
    if isinstance(response.body, bytes):
        return response.body
    return b"".join([piece async for piece in response.body])


def field(response: site.Response, name: str) -> str | None:
    values = [value for key, value in response.fields if key == name]
    assert len(values) < 2
    return values[0] if values else None


def pattern(start: int, end: int) -> bytes:
    return bytes(i % 251 for i in range(start, end))


# -- Paths and methods -------------------------------------------------------------------------------


async def test_hello_and_head():
    for method in ("GET", "HEAD"):
        for target in ("/", "/?", "/?any=thing"):
            answer = await ask(target, method)
            assert (answer.status, answer.body) == (200, b"Hello, network!\n")


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("POST", "/text", 405, "GET, HEAD, OPTIONS"),
        ("DELETE", "/", 405, "GET, HEAD, OPTIONS, POST"),
        ("GET", "/upload", 405, "OPTIONS, POST, PUT"),
        ("HEAD", "/upload", 405, "OPTIONS, POST, PUT"),
        ("TRACE", "/", 405, "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/bytes/1", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/", 204, "GET, HEAD, OPTIONS, POST"),
        ("OPTIONS", "/upload?x", 204, "OPTIONS, POST, PUT"),
        ("OPTIONS", "/tile/7", 204, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "*", 204, "GET, HEAD, OPTIONS, POST, PUT"),
        ("OPTIONS", "/nowhere", 404, None),
        ("CONNECT", "example.org:443", 501, None),
        ("BREW", "/", 501, None),
        ("get", "/", 501, None),  # methods are case-sensitive, RFC 9110 §9.1
        ("BREW", "/nowhere", 501, None),
        ("DELETE", "/nowhere", 404, None),
    ],
)
async def test_methods(method, target, status, allow):
    answer = await ask(target, method)
    assert (answer.status, field(answer, "allow")) == (status, allow)
    assert answer.status != 204 or answer.body == b""


@pytest.mark.parametrize(
    "target",
    [
        "/nowhere",
        "//",
        "//text",
        "/text/",
        "/TEXT",
        "/bytes",
        "/bytes/",
        "/bytes/1/",
        "/bytes/x",
        "/bytes/-1",
        "/bytes/1.5",
        "/bytes/*",
        "/bytes%2F5",
        "/bytes/5/../6",
        "/bytes/1234567890123456",
        "/bytes/٣",
        "/bytes/%D9%A3",
        "/tile/100",
        "/tile/-1",
        "/tile/5?n=5",
        "/status/199",
        "/status/999",
        "/status/101",
        "/status/200x",
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/servers/site.py",
        "/bytes/../text",
        "/%",
        "/%zz",
        "/%ff%fe",
        "/%00",
        "/servers/site.py",
        "",
        "text",
        "?",
    ],
)
async def test_what_is_not_there(target):
    assert (await ask(target)).status == 404


async def test_a_path_is_decoded():
    assert (await ask("/%62ytes/%35")).body == pattern(0, 5)
    assert (await ask("/te%78t")).body == site.TEXT


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/slow?seconds=31", "seconds is a number from 0 to 30."),
        ("/slow?seconds=nan", "seconds is a number from 0 to 30."),
        ("/slow?seconds=inf", "seconds is a number from 0 to 30."),
        ("/slow?seconds=-1", "seconds is a number from 0 to 30."),
        ("/slow?seconds=1e1", "seconds is a number from 0 to 30."),
        (f"/slow?seconds={'9' * 5000}", "seconds is a number from 0 to 30."),
        ("/slow?seconds=%FF", "seconds is a number from 0 to 30."),
        ("/tiles?n=0", "n is a number from 1 to 1000."),
        ("/tile/0?n=1001", "n is a number from 1 to 1000."),
        ("/events?n=1001", "n is a number from 0 to 1000."),
        ("/events?interval=61", "interval is a number from 0 to 60."),
        ("/redirect?n=101", "n is a number from 0 to 100."),
        ("/redirect?status=200", "one of 301"),
    ],
)
async def test_a_query_is_bounded(target, words):
    answer = await ask(target)
    assert answer.status == 400
    assert words in answer.body.decode()


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "BREW", ""]),
    st.text(max_size=30)
    | st.builds(
        "{}{}?{}={}".format,
        st.sampled_from(["/", *(route.rstrip("*") for route in site.ROUTES if route not in ("/slow", "/events"))]),
        st.sampled_from(["", "0", "17", "200", "204", "304", "%", "../"]) | st.text(max_size=5),
        st.sampled_from(["n", "to", "status", "&;="]) | st.text(max_size=5),
        st.sampled_from(["1", "50", "/text", "//x"]) | st.text(max_size=10),
    ),
    st.dictionaries(
        st.sampled_from(["range", "if-range", "if-none-match", "if-match", "accept-encoding", "content-range"]),
        st.sampled_from(["*", "bytes=0-1,3-", "bytes=-5", '"17"', "gzip", "*;q=0"]) | st.text(max_size=20),
    ),
)
def test_nothing_makes_it_raise_and_lengths_are_true(method, target, fields):
    async def go() -> None:
        answer = await site.answer(site.Request(method, target, fields, pieces_of(b"ab", b"c")))
        assert 200 <= answer.status < 500 or answer.status == 501
        for name, value in answer.fields:
            assert re.fullmatch(r"[a-z-]+", name)
            assert re.fullmatch(r"[ -~]*", value)
        length = field(answer, "content-length")
        assert (length is None) or isinstance(answer.body, bytes) is False
        if answer.status in (204, 304):
            assert answer.body == b""
        if length is None or int(length) < 1_000_000:
            body = await read(answer)
            assert length is None or len(body) == int(length)

    asyncio.run(go())


# -- Bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 251, 1000, 262_043, 262_044, 262_045, 1_000_000])
async def test_bytes_of_any_size(size):
    answer = await ask(f"/bytes/{size}")
    assert answer.status == 200
    assert field(answer, "accept-ranges") == "bytes"
    assert field(answer, "etag") == f'"{size}"'
    if not isinstance(answer.body, bytes):
        assert field(answer, "content-length") == str(size)
    assert await read(answer) == (bytes(range(251)) * 4000)[:size]


async def test_a_petabyte_costs_nothing_until_it_is_read():
    answer = await ask("/bytes/999999999999999")
    assert field(answer, "content-length") == "999999999999999"
    first, second = await anext(answer.body), await anext(answer.body)
    assert first is second is site.PATTERN
    await answer.body.aclose()


async def test_ranges_of_bytes():
    size = 10**12
    answer = await ask(f"/bytes/{size}", range="bytes=999999999000-")
    assert (answer.status, field(answer, "content-range")) == (206, f"bytes 999999999000-999999999999/{size}")
    assert answer.body == pattern(size - 1000, size)
    answer = await ask(f"/bytes/{size}", range="bytes=77-600076")
    assert (answer.status, field(answer, "content-length")) == (206, "600000")
    assert await read(answer) == (bytes(range(251)) * 3000)[77:600_077]
    answer = await ask("/bytes/10", range="bytes=10-")
    assert (answer.status, field(answer, "content-range")) == (416, "bytes */10")
    answer = await ask("/bytes/10", range="bytes=3-", if_range='"10"')
    assert (answer.status, answer.body, field(answer, "content-type")) == (206, pattern(3, 10), None)
    answer = await ask("/bytes/10", range="bytes=3-", if_range='"11"')
    assert (answer.status, answer.body) == (200, pattern(0, 10))
    answer = await ask("/bytes/10", "HEAD", range="bytes=3-")
    assert (answer.status, answer.body) == (200, pattern(0, 10))
    answer = await ask("/bytes/10", range="bytes=" + ",".join("0-" for _ in range(1300)))
    assert (answer.status, answer.body) == (200, pattern(0, 10))


@pytest.mark.parametrize("size", [10_000, 10**9])
@pytest.mark.parametrize("condition", [{}, {"if_range": '"{}"'}])
async def test_several_ranges_in_one_answer(size, condition):
    condition = {name: value.format(size) for name, value in condition.items()}
    answer = await ask(f"/bytes/{size}", range=f"bytes=0-4,1000-{size // 2},-5", **condition)
    assert answer.status == 206
    assert field(answer, "content-range") is None  # RFC 9110 §15.3.7.2
    assert re.fullmatch(r"multipart/byteranges; boundary=[0-9a-f]{32}", field(answer, "content-type"))
    if size == 10**9:
        assert int(field(answer, "content-length")) > size // 2 - 1000
        await answer.body.aclose()
        return
    body = await read(answer)
    message = email.message_from_bytes(f"Content-Type: {field(answer, 'content-type')}\r\n".encode() + body)
    parts = [(part["content-range"], part.get_payload(decode=True)) for part in message.get_payload()]
    assert parts == [
        ("bytes 0-4/10000", pattern(0, 5)),
        ("bytes 1000-5000/10000", pattern(1000, 5001)),
        ("bytes 9995-9999/10000", pattern(9995, 10_000)),
    ]


async def test_a_multipart_answer_that_is_streamed_is_as_long_as_it_says():
    answer = await ask("/bytes/2000000", range="bytes=0-400000,500000-900000")
    assert len(await read(answer)) == int(field(answer, "content-length")) > 800_002


async def test_conditions_on_bytes():
    assert (await ask("/bytes/10", if_none_match='"9", "10"')).status == 304
    assert (await ask("/bytes/10", if_none_match='"10"', range="bytes=99-")).status == 304
    assert (await ask("/bytes/10", if_match='"9"')).status == 412
    assert (await ask("/bytes/10", if_match='"10"', range="bytes=0-0")).status == 206
    assert (await ask("/nowhere", if_none_match="*")).status == 404  # RFC 9110 §13.2.1


# -- Text --------------------------------------------------------------------------------------------


async def test_the_text_is_the_site_itself_in_two_codings():
    plain, packed = await ask("/text"), await ask("/text", accept_encoding="gzip, br")
    assert plain.body == THIS
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 2
    assert (field(plain, "content-encoding"), field(packed, "content-encoding")) == (None, "gzip")
    assert field(plain, "etag") != field(packed, "etag")
    for answer in (plain, packed):
        assert field(answer, "vary") == "accept-encoding"
        assert field(answer, "last-modified") == http_date(site.MODIFIED)
        assert re.fullmatch(r'"[0-9a-f-]+(gzip)?"', field(answer, "etag"))
    assert (await ask("/text", accept_encoding="identity;q=0, br")).status == 406
    assert (await ask("/text", accept_encoding="*;q=0", if_none_match="*")).status == 406


async def test_conditions_on_text():
    plain, packed = await ask("/text"), await ask("/text", accept_encoding="gzip")
    for answer, accept in ((plain, "identity"), (packed, "gzip")):
        tag, date = field(answer, "etag"), field(answer, "last-modified")
        for condition in ({"if_none_match": tag}, {"if_none_match": f"W/{tag}"}, {"if_modified_since": date}):
            again = await ask("/text", accept_encoding=accept, **condition)
            assert (again.status, again.body) == (304, b"")
            assert (field(again, "etag"), field(again, "vary")) == (tag, "accept-encoding")  # RFC 9110 §15.4.5
        assert (await ask("/text", accept_encoding=accept, if_unmodified_since=http_date(0))).status == 412
    # The tag of one coding is not that of the other.
    assert (await ask("/text", accept_encoding="gzip", if_none_match=field(plain, "etag"))).status == 200
    part = await ask("/text", range="bytes=0-9", if_range=field(plain, "last-modified"))
    assert (part.status, part.body) == (206, plain.body[:10])


async def test_parts_of_the_packed_text_are_parts_of_the_packed_bytes():
    packed = (await ask("/text", accept_encoding="gzip")).body
    first, rest = [await ask("/text", accept_encoding="gzip", range=f"bytes={r}") for r in ("0-99", "100-")]
    assert first.body + rest.body == packed
    assert field(first, "content-encoding") == "gzip"
    answer = await ask("/text", accept_encoding="gzip", range="bytes=0-1,4-5")
    assert (answer.status, answer.body) == (200, packed)
    assert (await ask("/text", range="bytes=0-1,4-5")).status == 206


# -- Tiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 12, 100, 1000])
async def test_tiles_make_the_whole_picture(n):
    page = await ask(f"/tiles?n={n}")
    images = re.findall(r'src="([^"]+)"', page.body.decode())
    assert len(images) == n
    area, corners = 0.0, set()
    for target in images if n < 1000 else images[:5]:
        answer = await ask(target)
        assert (answer.status, field(answer, "content-type")) == (200, "image/svg+xml")
        x, y, width, height = map(float, ET.fromstring(answer.body).get("viewBox").split())
        corners.add((x, y))
        area += width * height
    if n < 1000:
        assert len(corners) == n
        assert math.isclose(area, 600 * 400, rel_tol=1e-3)
        assert (0, 0) in corners
    assert "$" not in page.body.decode().replace("${", "")


async def test_a_hundred_tiles_are_ten_times_ten():
    assert "repeat(10, 60px) / repeat(10, 90px)" in (await ask("/tiles")).body.decode()
    assert 'viewBox="420 120 60 40"' in (await ask("/tile/37")).body.decode()


# -- The others --------------------------------------------------------------------------------------


async def test_a_large_echo_is_streamed():
    """The first piece comes back before the second is sent."""
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def body():
        while piece := await sent.get():
            yield piece

    fields = {"content-type": "text/x-odd; a=b", "content-length": "100003"}
    sent.put_nowait(bytes(100_000))
    answer = await site.answer(site.Request("POST", "/", fields, body()))
    assert answer.status == 200
    assert (field(answer, "content-type"), field(answer, "content-length")) == ("text/x-odd; a=b", "100003")
    assert await anext(answer.body) == bytes(100_000)
    sent.put_nowait(b"two")
    assert await anext(answer.body) == b"two"
    sent.put_nowait(b"")
    assert await anext(answer.body, None) is None


async def test_an_echo_without_fields():
    answer = await ask("/", "POST", (b"a", b"b"))
    assert answer.fields == [("content-type", "application/octet-stream")]
    assert await read(answer) == b"ab"


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_an_upload_is_counted_and_hashed_and_not_kept(method):
    piece = bytes(range(256)) * 256
    answer = await ask("/upload", method, (piece,) * 40 + (b"end",))
    assert json.loads(answer.body) == {
        "bytes": 40 * 65536 + 3,
        "sha256": hashlib.sha256(piece * 40 + b"end").hexdigest(),
    }
    assert (await ask("/upload", method, (b"x",), content_range="bytes 0-0/2")).status == 400


async def test_an_event_stream():
    answer = await ask("/events?n=3&interval=0")
    assert field(answer, "content-type") == "text/event-stream"
    got = list(sse.Decoder().receive_data(await read(answer)))
    assert [(event.id, event.data) for event in got] == [("0", "event 0"), ("1", "event 1"), ("2", "event 2")]
    assert await read(await ask("/events?n=0")) == b""


async def test_events_come_one_by_one_and_slow_is_slow():
    loop = asyncio.get_running_loop()
    answer = await ask(f"/events?n=2&interval={2 * TICK}")
    await anext(answer.body)
    start = loop.time()
    await anext(answer.body)
    assert loop.time() - start >= 1.9 * TICK
    start = loop.time()
    assert (await ask(f"/slow?seconds={2 * TICK}")).status == 200
    assert loop.time() - start >= 1.9 * TICK
    await answer.body.aclose()


async def test_redirects_are_counted_down_and_arrive():
    target, hops = "/redirect?n=3&to=/bytes/5%3Fx=%26y&status=307", 0
    while (answer := await ask(target)).status == 307:
        target, hops = field(answer, "location"), hops + 1
    assert (hops, target) == (3, "/bytes/5?x=&y")
    for status in (301, 302, 303, 307, 308):
        for method in ("GET", "POST", "PUT", "HEAD"):
            answer = await ask(f"/redirect?status={status}", method)
            assert (answer.status, field(answer, "location")) == (status, "/")


@pytest.mark.parametrize(
    "to",
    [
        "http://evil.example/",
        "//evil.example",
        "/%5Cevil.example",
        "%2F%2Fevil.example",
        "\\evil.example",
        "/%09/evil.example",
        "/%0d%0aSet-Cookie:a=b",
        "/%0a",
        "javascript:alert(1)",
        "evil",
        "/ä",
        "/x\\y",
        "/+",
    ],
)
async def test_no_open_redirect_and_no_response_splitting(to):
    answer = await ask(f"/redirect?to={to}")
    assert (answer.status, field(answer, "location")) == (400, None)


async def test_headers_show_what_arrived():
    answer = await ask("/headers?q", cookie="a=b", x_odd="\xe9\x00")
    assert json.loads(answer.body) == {
        "method": "GET",
        "target": "/headers?q",
        "fields": {"cookie": "a=b", "x-odd": "\xe9\x00"},
    }


@pytest.mark.parametrize("code", site.STATUSES)
async def test_statuses(code):
    answer = await ask(f"/status/{code}")
    assert answer.status == int(code)
    assert (answer.body == b"") == (code in ("204", "304"))
    assert field(answer, "content-length") is None


def test_the_docstring_names_every_resource():
    for route in site.ROUTES:
        assert route.rstrip("*") in site.__doc__
