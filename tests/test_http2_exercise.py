"""The exercise of lab 05: its solution beside hyperframe, hpack, h2 and the check's model; its server beside curl."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time

import hpack
import pytest
from h2.exceptions import FlowControlError
from h2.windows import WindowManager
from hpack.hpack import decode_integer, encode_integer
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, SettingsFrame, WindowUpdateFrame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit import catalog
from labkit.learner import load
from tests.conftest import TICK, need_tool

LAB = catalog.ROOT / "labs" / "05-http2"
solution = load(LAB / "solution.py", "labs_http2_solution")
fields = load(LAB / "steps_fields.py", "labs_http2_steps_fields")
ledgers = load(LAB / "steps_ledger.py", "labs_http2_steps_ledger")
talk = load(LAB / "talk.py", "labs_http2_talk")
Http2Error = solution.Http2Error
STREAMS = st.integers(1, 2**31 - 1)
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- Frames, beside hyperframe ---------------------------------------------------------------------------


@st.composite
def hyperframes(draw) -> Frame:
    """A frame as hyperframe writes it."""
    stream, data = draw(STREAMS), draw(st.binary(max_size=40))
    padding = draw(st.integers(0, 255))
    kind = draw(st.sampled_from(("data", "headers", "ping", "settings", "window")))
    if kind == "data":
        flags = draw(st.sets(st.sampled_from(("END_STREAM", "PADDED"))))
        return DataFrame(stream, data, flags=flags, pad_length=padding if "PADDED" in flags else 0)
    if kind == "headers":
        flags = draw(st.sets(st.sampled_from(("END_STREAM", "END_HEADERS", "PADDED", "PRIORITY"))))
        priority = {"depends_on": draw(STREAMS), "stream_weight": draw(st.integers(0, 255)), "exclusive": True}
        padded = {"pad_length": padding} if "PADDED" in flags else {}
        return HeadersFrame(stream, data, flags=flags, **(priority if "PRIORITY" in flags else {}), **padded)
    if kind == "ping":
        return PingFrame(0, data[:8].ljust(8), flags=draw(st.sets(st.just("ACK"))))
    if kind == "settings":
        return SettingsFrame(0, draw(st.dictionaries(st.integers(1, 6), st.integers(0, 2**32 - 1), max_size=4)))
    return WindowUpdateFrame(stream, draw(STREAMS))


@quick
@given(st.lists(hyperframes(), max_size=6), st.data())
def test_frames_are_what_hyperframe_wrote(frames, data):
    wire = b"".join(one.serialize() for one in frames)
    decoder, found, at = solution.FrameDecoder(), [], 0
    while at < len(wire):
        size = data.draw(st.integers(1, 60))
        found += decoder.receive_data(wire[at : at + size])
        at += size
    assert len(found) == len(frames)
    for one, theirs in zip(found, frames, strict=True):
        written = theirs.serialize()
        assert (one.type, one.stream, one.size) == (theirs.type, theirs.stream_id, len(written) - 9)
        assert one.flags == written[4]
        if isinstance(theirs, DataFrame | HeadersFrame):
            assert one.payload == theirs.data
        else:
            assert one.payload == theirs.serialize_body()


@quick
@given(st.sampled_from((0, 1, 3, 9, 77, 250)), st.integers(0, 255), STREAMS, st.binary(max_size=100))
def test_hyperframe_reads_the_headers_that_are_written(kind, flags, stream, payload):
    wire = solution.encode(kind, flags, stream, payload)
    theirs, length = Frame.parse_frame_header(memoryview(wire[:9]))
    assert (theirs.type, theirs.stream_id, length, wire[4], wire[9:]) == (kind, stream, len(payload), flags, payload)


def test_what_does_not_fit_into_a_frame_is_not_sent():
    assert solution.encode(0, 0, 2**31 - 1, bytes(2**24 - 1))[:9].hex() == "ffffff" + "0000" + "7fffffff"
    for stream, size in ((2**31, 0), (-1, 0), (1, 2**24)):
        with pytest.raises(ValueError, match="fit"):
            solution.encode(0, 0, stream, bytes(size))


# -- HPACK, beside hpack -------------------------------------------------------------------------------

FIELDS = st.lists(
    st.tuples(
        st.sampled_from((b":path", b":status", b"cookie", b"x-lab", b"etag")) | st.binary(min_size=1, max_size=12),
        st.sampled_from((b"", b"/", b"200", b"a=b")) | st.binary(max_size=40),
        st.booleans(),  # sensitive: never indexed
    ),
    max_size=8,
)


@quick
@given(st.lists(st.tuples(FIELDS, st.booleans(), st.none() | st.integers(0, 4096)), max_size=6))
def test_blocks_are_what_hpack_wrote(blocks):
    encoder, decoder = hpack.Encoder(), solution.HeaderDecoder()
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=huffman)
        assert decoder.decode(block) == [(name, value) for name, value, _ in fields]


@quick
@given(st.lists(st.binary(max_size=30), max_size=4), st.sampled_from((64, 200, 4096)))
def test_garbage_is_to_hpack_what_it_is_to_us(blocks, size):
    theirs, ours = hpack.Decoder(), solution.HeaderDecoder(size)
    theirs.max_allowed_table_size = theirs.header_table_size = size
    for block in blocks:
        try:
            wanted = [tuple(field) for field in theirs.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(Http2Error) as caught:
                ours.decode(block)
            assert (caught.value.code, caught.value.stream) == (solution.COMPRESSION_ERROR, 0)
            return
        assert ours.decode(block) == wanted


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.binary(max_size=3), st.binary(max_size=3))
def test_integers_are_what_hpack_wrote(value, bits, before, behind):
    wire = before + bytes(encode_integer(value, bits)) + behind
    assert solution.decode_integer(wire, len(before), bits) == (value, len(wire) - len(behind))
    assert decode_integer(wire[len(before) :], bits) == (value, len(wire) - len(before) - len(behind))
    assert fields.as_integer(value, bits) == bytes(encode_integer(value, bits))
    for cut in range(len(before), len(wire) - len(behind)):
        with pytest.raises(Http2Error):
            solution.decode_integer(wire[:cut], len(before), bits)


# -- The ledger, beside h2's windows and the model of the check ----------------------------------------


@quick
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2**31 - 1) | st.integers(1, 70000)), max_size=30))
def test_one_window_is_what_h2_counts(moves):
    """h2 counts the window of a receiver; with a connection that is wide open, ours is that stream's."""
    theirs, ours = WindowManager(65535), solution.Ledger()
    ours.open(1)
    ours.update(0, solution.MAX_WINDOW - 65535)
    for sent, size in moves:
        try:
            if sent:
                theirs.window_consumed(size)
            else:
                theirs.window_opened(size)
        except FlowControlError:
            with pytest.raises(Http2Error) as caught:
                ours.charge(1, size) if sent else ours.update(1, size)
            assert caught.value.code == solution.FLOW_CONTROL_ERROR
            return
        if sent:
            ours.charge(1, size)
            ours.update(0, size)
        else:
            ours.update(1, size)
        assert ours.available(1) == theirs.current_window_size


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.sampled_from((1, 3, 5))),
        st.tuples(st.just("close"), st.sampled_from((1, 3, 5))),
        st.tuples(st.just("charge"), st.sampled_from((1, 3, 5)), st.sampled_from((0, 1, 1000, 30000, 65535))),
        st.tuples(st.just("update"), st.sampled_from((0, 1, 3, 5)), st.sampled_from((1, 1000, 30000, 2**31 - 1))),
        st.tuples(st.just("set_initial"), st.sampled_from((0, 100, 65535, 100000, 2**31 - 1, 2**31))),
    ),
    max_size=40,
)


@quick
@given(CALLS)
def test_the_ledger_is_what_the_check_counts(calls):
    model, ledger = ledgers.Model(), solution.Ledger()
    for call in calls:
        if wanted := model.call(*call):
            with pytest.raises(Http2Error) as caught:
                getattr(ledger, call[0])(*call[1:])
            assert (caught.value.code, caught.value.stream) == wanted
            return
        getattr(ledger, call[0])(*call[1:])
        assert [ledger.available(stream) for stream in (1, 3, 5)] == [model.available(stream) for stream in (1, 3, 5)]


# -- The server around the pieces, and foreign clients --------------------------------------------------


@pytest.fixture
def served():
    """The server of talk.py around the solution, as `make http2-exercise` runs it, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "labkit.learner", str(LAB / "check.py"), "server_role",
               str(LAB / "solution.py"), "127.0.0.1", str(port)]  # fmt: skip
    with subprocess.Popen(command, cwd=catalog.ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 400 * TICK
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(TICK / 2)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def test_curl_speaks_to_the_server_of_the_exercise(served, tmp_path):
    need_tool("curl")
    curl = ["curl", "-sS", "--http2-prior-knowledge", "-m", "20"]
    text = subprocess.run([*curl, f"{served}/hello"], capture_output=True, text=True, check=True).stdout
    assert ":path: /hello\n" in text
    assert re.search(r"^user-agent: curl/", text, re.M)
    sizes = [1, 65535, 65536, 1_000_000]
    for size in sizes:
        body = subprocess.run([*curl, f"{served}/bytes/{size}"], capture_output=True, check=True).stdout
        assert body == talk.some_bytes(size)
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(300_000))
    told = subprocess.run([*curl, "-T", str(upload), f"{served}/"], capture_output=True, text=True, check=True).stdout
    assert told.endswith("300000 bytes of body\n")


def test_nghttp_speaks_to_the_server_of_the_exercise(served):
    need_tool("nghttp")
    command = ["nghttp", "-v", "-n", "-p", "100", "-b", "40", f"{served}/bytes/200000", f"{served}/hello"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert done.stdout.count(":status: 200") == 2, done.stdout[-500:]
    assert sum(map(int, re.findall(r"recv DATA frame <length=(\d+)", done.stdout))) > 200_000
