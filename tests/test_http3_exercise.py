"""The exercise of lab 07: its solution beside the lab's own HTTP/3 and aioquic; what its check catches.

The check holds a learner's answers against the solution's. So it is the solution that is held against others here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from aioquic.h3.connection import H3Connection
from aioquic.quic import events
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import catalog, grade
from labkit.check import CheckFailed
from labkit.learner import load
from protocols import http3_frames
from protocols.http3_qpack import FieldEncoder
from protocols.quic_packets import decode_varint, encode_varint
from tests.clone import as_shipped
from tests.conftest import need_tool
from tests.http3_cases import CASES, CLOSE, RST, Ends, On, Stops

LAB = catalog.ROOT / "labs" / "07-http3"
check = load(LAB / "check.py", "labs_http3_check")
asking, talk, solution = check.asking, check.talk, check.asking.solution
Http3Error, Frame = solution.Http3Error, solution.Frame
ON_SOCKETS = 3  # steps
quick = settings(max_examples=80, deadline=None)


# -- Frames --------------------------------------------------------------------------------------------

PAYLOADS = st.binary(max_size=5) | st.binary(min_size=60, max_size=70)
FRAMES = st.tuples(st.integers(0, 16) | st.integers(0, 2**62 - 1), PAYLOADS, st.sampled_from((0, 0, 0, 1, 20000)))


def pieces(data, cuts):
    """Cut bytes at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[at:end] for at, end in itertools.pairwise(places)]


@quick
@given(st.lists(FRAMES, max_size=6), st.binary(max_size=4), st.lists(st.integers(0, 500), max_size=20))
def test_frames_are_those_that_the_lab_s_decoder_finds(frames, behind, cuts):
    stream = b"".join(
        encode_varint(kind) + encode_varint(len(payload) + lie) + payload for kind, payload, lie in frames
    )
    stream += behind
    ours, theirs = solution.FrameDecoder(), http3_frames.Decoder(solution.LARGEST)
    found, refused = [], None
    try:
        for piece in pieces(stream, cuts):
            found += ours.receive_data(piece)
    except Http3Error as error:
        refused = error.code
    theirs.receive_data(stream)
    wanted, too_large = [], False
    for frame in theirs.frames():
        if frame.type == solution.DATA:
            wanted.append([frame.type, frame.payload.hex(), not frame.left])
        elif frame.type in solution.WHOLE:
            too_large = frame.length > solution.LARGEST
            if too_large:
                break
            wanted.append([frame.type, frame.payload.hex(), True])
        else:
            wanted.append([frame.type, "", True])
    if refused is not None:
        assert refused == solution.EXCESSIVE_LOAD
        rest = stream[-theirs.unread or len(stream) :]  # The lab waits for the first byte of its payload.
        assert too_large or decode_varint(rest, decode_varint(rest, 0)[1])[0] > solution.LARGEST
        return
    got = [[kind, payload["hex"], ends] for kind, payload, ends in asking.joined(asking.packed(found))]
    assert got[: len(wanted)] == wanted
    assert [kind for kind, _, _ in got[len(wanted) :]] in ([], [got[-1][0]] if got else [])  # its head came last
    assert not too_large
    with pytest.raises(Http3Error) if not theirs.is_between else contextlib.nullcontext() as caught:
        ours.receive_end()
    assert caught is None or caught.value.code == solution.FRAME_ERROR


@quick
@given(st.binary(max_size=9), st.integers(0, 3))
def test_numbers_are_those_of_lab_06(data, at):
    found = solution.varint(data, at)
    if found is None:
        assert at >= len(data) or at + (1 << (data[at] >> 6)) > len(data)
    else:
        assert found == decode_varint(data, at)


def test_what_the_starter_gives_is_what_the_solution_has():
    starter = load(LAB / "exercise.py", "exercise")
    text = as_shipped("labs/07-http3/exercise.py")
    assert len(text.splitlines()) <= 62
    shipped = exercise_of(text, "shipped")
    for name, value in vars(solution).items():
        if name.isupper() and name not in ("WHOLE", "CRITICAL"):
            assert getattr(starter, name) == getattr(shipped, name) == value
    assert shipped.varint(b"\x00\x7b\xbd", 1) == (15293, 3)
    assert shipped.varint(b"\x7b", 0) is None
    for number in (*http3_frames.FrameType, *http3_frames.ErrorCode, *http3_frames.StreamType):
        if hasattr(solution, number.name):
            assert getattr(solution, number.name) in {number.value, getattr(http3_frames.StreamType, number.name, -1)}
    assert http3_frames.HTTP2_FRAMES == solution.HTTP2_FRAMES
    assert http3_frames.HTTP2_SETTINGS == solution.HTTP2_SETTINGS


# -- Beside others -------------------------------------------------------------------------------------


class Quic:
    """What talk.py asks of QUIC, and what it did with it."""

    def __init__(self) -> None:
        self.sent, self.finished, self.resets, self.stops, self.closed = {}, set(), {}, {}, None
        self.next = 3
        self.connection = self

    def get_next_available_stream_id(self, is_unidirectional=False):
        assert is_unidirectional
        self.next += 4
        return self.next - 4

    def send_stream_data(self, stream, data, end=False):
        assert stream not in self.finished
        self.sent[stream] = self.sent.get(stream, b"") + data
        self.finished |= {stream} if end else set()

    def reset_stream(self, stream, code):
        self.resets[stream] = code

    def stop_stream(self, stream, code):
        self.stops[stream] = code

    def consume(self, stream, count):
        pass

    def close(self, code):
        self.closed = self.closed or code


def talked(exercise, steps, size=0):
    """What becomes of a connection on which this comes, in pieces of so many bytes."""
    quic = Quic()
    one = talk.Talk(exercise, quic)
    one.event(events.ProtocolNegotiated(alpn_protocol="h3"))
    for step in steps:
        if isinstance(step, On):
            every = size or max(1, len(step.data))
            parts = [step.data[at : at + every] for at in range(0, len(step.data), every)] or [b""]
            for number, part in enumerate(parts):
                last = step.end and number == len(parts) - 1
                if quic.closed is None:
                    one.event(events.StreamDataReceived(data=part, end_stream=last, stream_id=step.stream))
                    one.turn()
        elif isinstance(step, Ends):
            one.event(events.StreamReset(error_code=step.code, stream_id=step.stream))
    return quic


HELLO = [On(2, b"\0" + http3_frames.encode(http3_frames.settings({}))), On(6, b"\2"), On(10, b"\3")]
OTHERS = (  # Extensions, which the exercise does not know; and the server answers 431 where the exercise ends it all.
    "RFC 9218 §7.2", "7.1 PRIORITY_UPDATE", "bare RFC 9220", "bare RFC 9297", "4.2.2 a head of a gigabyte",
    "4.2.2 a head that says it has 2^62-1 bytes",
)  # fmt: skip
IN_SCOPE = {
    getattr(http3_frames.ErrorCode, name)
    for name in "STREAM_CREATION_ERROR CLOSED_CRITICAL_STREAM FRAME_UNEXPECTED FRAME_ERROR ID_ERROR SETTINGS_ERROR "
    "MISSING_SETTINGS REQUEST_INCOMPLETE".split()
}  # fmt: skip


@pytest.mark.parametrize("size", [0, 1], ids=["whole", "byte by byte"])
def test_the_rules_of_the_lab_s_own_cases(size):
    wrong = {}
    for name, (steps, wanted) in CASES.items():
        size_of_all = sum(len(getattr(step, "data", b"")) for step in steps)
        if name.startswith(OTHERS) or size_of_all > 5000 or any(isinstance(step, Stops) for step in steps):
            continue
        quic = talked(solution, steps if name.startswith("bare") else [*HELLO, *steps], size)
        if isinstance(wanted, CLOSE) and wanted.code in IN_SCOPE and quic.closed != wanted.code:
            wrong[name] = wanted, quic.closed
        if isinstance(wanted, RST) and wanted.code in IN_SCOPE and quic.resets != {wanted.stream: wanted.code}:
            wrong[name] = wanted, quic.resets
        if not isinstance(wanted, CLOSE) and quic.closed is not None:
            wrong[name] = wanted, quic.closed
    assert not wrong, "\n".join(f"{name}: {one}" for name, one in wrong.items())


SMALL = st.tuples(st.integers(0, 16), st.binary(max_size=6)).map(lambda frame: asking.wire(*frame))
PUTS = st.tuples(st.sampled_from((0, 0, 2, 2, 4, 6, 10, 14)), SMALL | st.binary(max_size=4), st.booleans())


@quick
@given(st.lists(PUTS, max_size=8), st.booleans())
def test_whatever_comes_raises_nothing_but_the_peer_s_errors(puts, greeted):
    steps = [*(HELLO if greeted else ()), *(On(stream, data, end) for stream, data, end in puts)]
    ended = set()
    steps = [one for one in steps if not (one.stream in ended or (ended.add(one.stream) if one.end else False))]
    for size in (0, 1):
        assert talked(solution, steps, size).closed != http3_frames.ErrorCode.INTERNAL_ERROR


def aioquic_says(steps):
    """The error with which aioquic's server closes, if it does."""
    closed, count = [], itertools.count(3, 4)
    quic = SimpleNamespace(
        configuration=SimpleNamespace(is_client=False),
        _quic_logger=None,
        _remote_max_datagram_frame_size=None,
        get_next_available_stream_id=lambda is_unidirectional: next(count),
        send_stream_data=lambda *_, **__: None,
        close=lambda error_code, reason_phrase: closed.append(error_code),
    )
    server = H3Connection(quic)
    for step in steps:
        server.handle_event(events.StreamDataReceived(data=step.data, end_stream=step.end, stream_id=step.stream))
    return closed[0] if closed else None


def test_orders_of_frames_are_those_that_aioquic_takes():
    fields = bytes.fromhex("0000d1d7c1500161")  # GET, https, /, :authority a
    trailers = bytes.fromhex("00002178") + b"\x011"  # x: 1
    kinds = {
        "H": lambda had: (1, trailers if "H" in had else fields), "D": lambda _: (0, b""), "G": lambda _: (0x21, b"x"),
        "S": lambda _: (4, b""), "P": lambda _: (5, b"\0"), "A": lambda _: (7, b"\0"), "M": lambda _: (0xD, b"\0"),
    }  # fmt: skip
    for size in range(5):
        for order in itertools.product("HDG" if size == 4 else kinds, repeat=size):
            stream = b""
            for at, kind in enumerate(order):
                number, payload = kinds[kind](order[:at])
                stream += asking.wire(number, payload)
            steps = [*HELLO, On(0, stream, bool(order))]
            ours = talked(solution, steps)
            if not ours.resets:  # aioquic does not look whether there was a request.
                assert ours.closed == aioquic_says(steps), order


@pytest.mark.parametrize(
    "puts",
    [
        [(2, b"\0\4\0\4\0")], [(2, b"\0\7\1\0")], [(2, b"\0\4\2\2\0")], [(2, b"\0\4\4\1\0\1\0")],
        [(2, b"\0\4\0"), (14, b"\0")], [(2, b"\0\4\0\0\0")], [(2, b"\0\4\0\1\0")], [(14, b"\x40\xbcx")],
        [(2, b"\0\4\4\x40\xbc\1\1")], [(6, b"\2"), (14, b"\2")], [(10, b"\3"), (14, b"\3")],
        [(2, b"\0\4\0\x0e\0")], [(2, b"\0\x21\0")], [(2, b"\0\4\0\x0d\1\x08\x0d\1\4")],
    ],
    ids=str,
)  # fmt: skip
def test_streams_and_settings_are_those_that_aioquic_takes(puts):
    steps = [On(stream, data) for stream, data in puts]
    assert talked(solution, steps).closed == aioquic_says(steps)


# -- What the check catches ----------------------------------------------------------------------------


class Here:
    """A check whose learner's program runs in this process, without a network: a step takes a millisecond."""

    def __init__(self, exercise):
        self.exercise, self.story = exercise, []
        self.exercise_file = LAB / "exercise.py"

    def did(self, text):
        self.story.append(text)

    def fail(self, what, **details):
        raise CheckFailed(what, **details)

    def start(self, role, *arguments, host):
        found = getattr(check, role)(self.exercise, *arguments)

        class Program:
            async def result(self, _):
                return found

        return Program()


@pytest.fixture(autouse=True)
def _clock_signal():
    """The steps' limit on processor time is a signal."""
    before = signal.getsignal(signal.SIGPROF)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def verdict(exercise) -> tuple[str, CheckFailed | None]:
    """The step at which an exercise fails, of those without a socket, and how."""
    for step in check.STEPS[:-ON_SOCKETS]:
        try:
            asyncio.run(step.body(Here(exercise)))
        except CheckFailed as error:
            return step.name, error
    return "", None


def exercise_of(text: str, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = f"{name}.py"
    exec(compile(text, module.__file__, "exec"), vars(module))
    return module


SOLUTION = (LAB / "solution.py").read_text(encoding="utf-8")

# Wrong solutions that are no rogues: the solution with other words in it, what catches it, and words of the sentence
# that says so.
MUTANTS = {
    "type_of_one_byte": (
        "one_frame",
        "40 01 is the type 1 in two bytes",
        ("if (kind := varint(data, at)) and", "if (kind := (data[at], at + 1) if at < len(data) else None) and"),
    ),
    "looks_into_payloads": ("one_frame", "01 is HEADERS", ("at = start + length\n", "at = start\n")),
    "gives_it_twice": (
        "several_frames",
        "the first is not given again",
        ("self._buffer = data[at:]", "self._buffer = data if not self._left else data[at:]"),
    ),
    "half_a_head_is_used_up": (
        "split_frames",
        "The type comes first",
        ("            if head is None:\n", "            if head is None:\n                at = len(data)\n"),
    ),
    "every_piece_is_the_last": (
        "data_at_once",
        "Five of ten bytes are here",
        ("Frame(DATA, piece, not self._left)", "Frame(DATA, piece, True)"),
    ),
    "no_piece_is_the_last": (
        "data_at_once",
        "one piece, and it is the last",
        ("Frame(DATA, piece, not self._left)", "Frame(DATA, piece, False)"),
    ),
    "empty_data_is_nothing": ("data_at_once", "An empty DATA frame is a frame", ("if kind != DATA or not length:",
                                                                                "if kind != DATA:")),
    "limits_data": (
        "data_at_once",
        "says that it has a gigabyte; its pieces are given",
        ("            if kind in WHOLE:\n", "            if kind == DATA and length > LARGEST:\n"
         "                raise Http3Error(EXCESSIVE_LOAD)\n            if kind in WHOLE:\n"),
    ),
    "keeps_what_it_gave": (
        "data_at_once",
        "whoever keeps them can be filled up",
        ("                self._left -= len(piece)\n", "                self._left -= len(piece)\n"
         "                self._all = getattr(self, '_all', b'') + piece\n"),
    ),
    "gives_what_nobody_knows": (
        "unknown_frames",
        "of the first only the type is given",
        ("if self._type == DATA and piece:", "if piece:"),
    ),
    "passes_over_in_silence": (
        "unknown_frames",
        "of the first only the type is given",
        ("            if kind != DATA or not length:\n", "            if kind == DATA and not length:\n"),
    ),
    "waits_for_the_unknown": (
        "unknown_frames",
        "it is given once, with the first",
        ("            if kind != DATA or not length:\n", "            if kind != DATA and len(data) < start + length:\n"
         "                break\n            if kind != DATA or not length:\n"),
    ),
    "limits_the_unknown": (
        "unknown_frames",
        "may be as large as can be",
        ("            if kind in WHOLE:\n", "            if kind != DATA and length > 1 << 40:\n"
         "                raise Http3Error(EXCESSIVE_LOAD)\n            if kind in WHOLE:\n"),
    ),
    "refuses_the_largest": ("large_frames", "exactly LARGEST bytes", ("length > LARGEST", "length >= LARGEST")),
    "limits_only_headers": (
        "large_frames",
        "every type that is kept has this limit",
        ("if length > LARGEST:", "if kind == HEADERS and length > LARGEST:"),
    ),
    "kept_bytes_do_not_count": ("cut_off", "after 3 of 4 bytes of HEADERS", ("if self._left or self._buffer:",
                                                                           "if self._left:")),
    "the_unknown_may_be_cut": (
        "cut_off",
        "The stream ends within an unknown frame",
        ("if self._left or self._buffer:", "if self._left and self._type == DATA or self._buffer:"),
    ),
    "no_frame_is_no_end": ("cut_off", "A stream with no frames at all", ("self._left or self._buffer:",
        "self._left or self._buffer or not hasattr(self, '_some'):"), ("        frames = []\n",
        "        frames = []\n        self._some = True\n")),
    "type_again_each_time": (
        "stream_types",
        "from now on all bytes are to be read",
        ("self._types[stream], data = kind, data[at:]\n        kind = self._types[stream]", "data = data[at:]"),
    ),
    "loses_what_is_behind": ("stream_types", "behind it frames begin", ("= kind, data[at:]", '= kind, b""')),
    "knows_streams_by_number": (
        "stream_types",
        "Which stream it is says its type",
        ("kind, at = found\n", "kind, at = {2: 0, 6: 2, 10: 3}.get(stream, found[0]), found[1]\n"),
    ),
    "all_connections_share": (
        "stream_types",
        "",
        ("        self._types: dict[int, int] = {}  # by stream\n", ""),
        ("class OneWay:\n", "class OneWay:\n    _types = {}\n\n"),
    ),
    "reads_what_nobody_knows": (
        "unknown_streams",
        "0x1f * 5 + 0x21 is reserved",
        ('data if kind in CRITICAL else b""', "data"),
    ),
    "one_unknown_stream": (
        "unknown_streams",
        "A second stream of an unknown type is no error either",
        ("(kind in CRITICAL and kind in self._types.values())", "kind in self._types.values()"),
    ),
    "keeps_unknown_streams": (
        "unknown_streams",
        "keep none",
        ("        kind = self._types[stream]\n", "        kind = self._types[stream]\n"
         "        self._kept = getattr(self, '_kept', b'') + data\n"),
    ),
    "clients_may_push": ("second_streams", "only servers push", ("if kind == PUSH or (", "if (")),
    "only_one_control_stream": (
        "second_streams",
        "A second stream of QPACK's encoder",
        ("(kind in CRITICAL and", "(kind == CONTROL and"),
    ),
    "no_stream_may_end": (
        "ended_streams",
        "An unknown stream has ended: nobody minds",
        ("if self._types.pop(stream, None) in CRITICAL:", "if self._types.pop(stream, None) is not None:"),
    ),
    "ends_only_what_began": (
        "ended_streams",
        "reset before a byte of it had come",
        ("if self._types.pop(stream, None) in", "if self._types.pop(stream) in"),
    ),
    "qpack_may_end": (
        "ended_streams",
        "The stream of QPACK's encoder has ended",
        ("if self._types.pop(stream, None) in CRITICAL:", "if self._types.pop(stream, None) == CONTROL:"),
    ),
    "settings_from_the_start": (
        "settings_read",
        "settings is None",
        ("    settings: dict[int, int] | None = None\n\n", "    settings: dict[int, int] | None = {}\n\n"),
    ),
    "settings_by_bytes": (
        "settings_read",
        "0x6 is 65536",
        ("self._set(numbers(frame.payload))", "self._set(list(frame.payload))"),
    ),
    "last_one_wins": ("settings_read", "even with the same value", ("or code in settings:", "or False:")),
    "first_setting_of_http2": (
        "settings_read",
        "0x0 was a setting of HTTP/2",
        ("if code in HTTP2_SETTINGS or", "if (code and code in HTTP2_SETTINGS) or"),
    ),
    "http2_s_are_unknown": ("settings_read", "0x0 was a setting of HTTP/2", ("code in HTTP2_SETTINGS or ", "")),
    "refuses_the_unknown": (
        "settings_read",
        "Codes that nobody knows are no error",
        ("if code in HTTP2_SETTINGS or", "if code not in (1, 6, 7) or"),
    ),
    "a_code_alone": (
        "settings_read",
        "A code without a value",
        ("        if len(found) % 2:\n            raise Http3Error(FRAME_ERROR)\n", ""),
        ("strict=True", "strict=False"),
    ),
    "cut_is_an_exception": (
        "settings_read",
        "The value is cut off: FRAME_ERROR",
        ("        if one is None:\n            raise Http3Error(FRAME_ERROR)\n", ""),
    ),
    "any_beginning": (
        "first_and_once",
        "GOAWAY comes, and no SETTINGS before it",
        ("            raise Http3Error(MISSING_SETTINGS)", "            pass"),
    ),
    "empty_is_none": (
        "first_and_once",
        "The first SETTINGS were empty",
        ("        if self.settings is not None:\n", "        if self.settings:\n"),
    ),
    "empty_is_missing": (
        "first_and_once",
        "SETTINGS have come, though they were empty",
        ("if self.settings is None and", "if not self.settings and"),
    ),
    "no_grease_on_control": (
        "first_and_once",
        "Behind SETTINGS unknown frames are ignored",
        ("        elif frame.type == CANCEL_PUSH:\n", "        elif frame.type not in WHOLE:\n"
         "            raise Http3Error(FRAME_UNEXPECTED)\n        elif frame.type == CANCEL_PUSH:\n"),
    ),
    "goaway_must_fall": ("control_frames", "the same number or a smaller one", ("number > self._goaway",
                                                                              "number >= self._goaway")),
    "goaway_may_rise": ("control_frames", "GOAWAY said 8, and says 9 now", ("number > self._goaway", "False")),
    "zero_is_none": (
        "control_frames",
        "GOAWAY said 0, and says 4 now",
        ("if self._goaway is not None and", "if self._goaway and"),
    ),
    "remembers_the_first": (
        "control_frames",
        "the smallest counts",
        ("            self._goaway = number", "            self._goaway = self._goaway or number"),
    ),
    "max_push_id_may_fall": ("control_frames", "says 7 now", ("number < self._max_push", "False")),
    "one_number_for_all": ("control_frames", "are two numbers", ("self._max_push", "self._goaway")),
    "pushes_nobody_promised": (
        "control_frames",
        "CANCEL_PUSH names a push",
        ("            raise Http3Error(ID_ERROR)  # We have promised none. (§7.2.3)\n", ""),
    ),
    "numbers_and_more": ("control_frames", "Behind the number there is a byte more", ("len(found) != 1", "not found")),
    "data_on_control": (
        "control_frames",
        "DATA belongs on the stream of a request",
        ("frame.type in (DATA, HEADERS, PUSH_PROMISE) or", "frame.type in (HEADERS, PUSH_PROMISE) or"),
    ),
    "http2_on_control": (
        "control_frames",
        "HTTP/2's PRIORITY is forbidden",
        ("PUSH_PROMISE) or frame.type in HTTP2_FRAMES:", "PUSH_PROMISE):"),
    ),
    "trailers_need_a_body": (
        "request_order",
        "A second HEADERS without DATA between",
        ("frame.type == HEADERS and self._last != TRAILERS", "frame.type == HEADERS and self._last == BODY"),
    ),
    "trailers_again": (
        "request_order",
        "HEADERS come behind the trailers",
        ("elif frame.type == HEADERS and self._last != TRAILERS:", "elif frame.type == HEADERS:"),
    ),
    "one_piece_of_body": ("request_order", "in any number of frames", ("self._last in (HEAD, BODY)",
                                                                     "self._last == HEAD")),
    "control_frames_anywhere": (
        "strange_frames",
        "CANCEL_PUSH belongs on the control stream",
        ("DATA or frame.type in WHOLE or", "DATA or frame.type in (HEADERS, PUSH_PROMISE) or"),
    ),
    "promises_of_clients": (
        "strange_frames",
        "PUSH_PROMISE belongs to servers",
        ("DATA or frame.type in WHOLE or", "DATA or frame.type in WHOLE - {PUSH_PROMISE} or"),
    ),
    "grease_is_a_body": (
        "strange_frames",
        "A frame of a reserved type may come first",
        ("            return None  # Types", "            self._last = BODY  # Types"),
    ),
    "grease_begins_it": (
        "strange_frames",
        "HEADERS behind an unknown frame are still the head",
        ("            return None  # T", "            self._last = self._last or HEAD\n            return None  # T"),
    ),
    "nothing_is_a_request": ("request_end", "nothing was on it: REQUEST_INCOMPLETE", ("        if self._last is None:\n"
        "            raise Http3Error(REQUEST_INCOMPLETE)", "        pass")),
    "a_request_has_a_body": (
        "request_end",
        "a request without a body",
        ("        if self._last is None:\n", "        if self._last in (None, HEAD):\n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(name):
    step, words, *changes = MUTANTS[name]
    text = SOLUTION
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(CheckFailed) as caught:
        asyncio.run(getattr(check, step).body(Here(exercise_of(text, name))))
    assert words in str(caught.value)


def test_the_solution_passes_in_this_process_too():
    assert verdict(solution) == ("", None)


def test_pieces_that_are_not_written_yet_fail_no_step_before_their_own():
    """A learner goes from A to D: no step asks for what a later one is about."""
    starter = as_shipped("labs/07-http3/exercise.py")
    head, *sections = SOLUTION.split("\n# -- ")
    names = head[head.index("\nWHOLE") : head.index("\nclass Http3Error")]
    wanted = ["one_frame", "stream_types", "settings_read", "request_order", ""]
    for written, step in enumerate(wanted):
        text = starter + names + "".join(f"\n# -- {section}" for section in sections[:written])
        caught, error = verdict(exercise_of(text, "begun"))
        assert caught == step, error


def test_a_failure_shows_the_bytes_and_how_to_try_it():
    text = SOLUTION.replace("if self._left or self._buffer:", "if self._buffer:")
    here = Here(exercise_of(text, "half"))
    with pytest.raises(CheckFailed) as caught:
        asyncio.run(check.cut_off.body(here))
    line = here.story.pop()
    assert here.story == [
        "= a new FrameDecoder", "> receive_data(00 0a 68 65 6c 6c 6f)", "< [DATA 68 65 6c 6c 6f, goes on]",
        "> receive_end()", "< None",
    ]  # fmt: skip
    assert (caught.value.got, caught.value.wanted) == ("None", "Http3Error(FRAME_ERROR)")
    line = line.removeprefix("= the same by hand: ").replace("from exercise import", "from solution import")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.stdout == "[Frame(type=0, payload=b'hello', ends=False)]\n"
    assert done.stderr.endswith("Http3Error: 0x106\n")


def test_whoever_never_returns_is_stopped():
    text = SOLUTION.replace("head is None:\n                break", "head is None:\n                continue")
    step, error = verdict(exercise_of(text, "for_ever"))
    assert step == "one_frame"
    assert "receive_data() had not returned" in str(error)


# -- The server around it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "old", "new", "words"),
    [
        ("foreign_client", "Frame(DATA, piece, not", "Frame(DATA, piece[1:], not", "Of an upload with trailers"),
        ("foreign_client", "elif frame.type == HEADERS and", "elif True and", "Your server closed the"),
        ("grease_on_the_wire", "pop(stream, None) in CRITICAL", "pop(stream) in CRITICAL", "Your server closed the"),
        ("errors_on_the_wire", "Http3Error(FRAME_ERROR)", "Http3Error(ID_ERROR)", "because a stream ended within DATA"),
        ("errors_on_the_wire", "number > self._goaway", "False", "CONNECTION_CLOSE with ID_ERROR, because GOAWAY rose"),
    ],
)
def test_what_the_steps_on_sockets_say(step, old, new, words, tmp_path, monkeypatch):
    """Each alone, for what comes before it would catch these."""
    exercise = tmp_path / "exercise.py"
    assert old in SOLUTION
    exercise.write_text(SOLUTION.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(grade, "steps_of", lambda _: [getattr(check, step)])
    _, verdicts = grade.grade(catalog.lab("http3"), exercise, tmp_path / "check.pcapng")
    assert verdicts[-1]["state"] == "failed"
    assert words in verdicts[-1]["what"]


def test_a_section_that_waits_for_its_table_holds_up_its_own_stream_only():
    client = FieldEncoder()
    client.offered(4096, 16)
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/"), (b"x-a", b"b")]
    client.section(40, fields)  # ls-qpack takes into its table what it sees again.
    blocked, inserts = client.section(4, fields), client.out
    assert blocked != client.section(4, fields[:4])
    waits = asking.wire(1, blocked) + asking.wire(0, b"abc") + asking.wire(1, bytes.fromhex("00002178") + b"\x011")
    plain = asking.wire(1, bytes.fromhex("0000d1d7c1500161"))
    quic = talked(solution, [*HELLO, On(4, waits, True), On(0, plain, True)])
    assert set(quic.finished) == {0}
    quic = talked(solution, [*HELLO, On(4, waits, True), On(0, plain, True), On(6, inserts)])
    assert set(quic.finished) == {0, 4}
    assert talk.report(fields, 3, [(b"x", b"1")]) in quic.sent[4]
    assert quic.closed is None


def test_an_exception_of_the_learner_s_is_told(capsys):
    text = SOLUTION.replace("            self._last = HEAD\n", "            self._last = HEAD + 1\n")
    quic = talked(exercise_of(text, "broken"), [*HELLO, On(0, asking.wire(1, bytes.fromhex("0000d1d7c1500161")), True)])
    assert quic.closed == http3_frames.ErrorCode.INTERNAL_ERROR
    said = capsys.readouterr().err
    assert 'File "broken.py", line ' in said
    assert said.endswith('TypeError: can only concatenate str (not "int") to str\n')


def test_by_hand_it_answers_the_client_of_ngtcp2(tmp_path):
    client = need_tool("gtlsclient")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "labkit.learner", str(LAB / "check.py"), check.BY_HAND, str(LAB / "solution.py")]
    process = subprocess.Popen([*command, "127.0.0.1", str(port)], cwd=catalog.ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
        asked = [f"https://localhost:{port}/{path}" for path in ("hello", "bytes/100000")]
        options = ["-q", "--exit-on-all-streams-close", "--timeout=9s", f"--download={tmp_path}"]
        subprocess.run([client, *options, "localhost", str(port), *asked], check=True, timeout=30, capture_output=True)
    finally:
        process.terminate()  # Its child ends with it.
        said, _ = process.communicate(timeout=10)
    assert "!" not in said
    assert (tmp_path / "100000").read_bytes() == talk.some_bytes(100000)
    assert b":path: /hello\n" in (tmp_path / "hello").read_bytes()
