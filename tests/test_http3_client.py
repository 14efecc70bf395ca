"""Our HTTP/3 client: its core against two hundred servers in memory, then over UDP against others."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_client import Data, End, Reset, Response
from protocols.http3_client import (
    CONTROL,
    DECODER,
    ENCODER,
    PATIENCE,
    Abort,
    ClientConnection,
    Close,
    Consumed,
    GoAway,
    Stop,
    Write,
)
from protocols.http3_frames import Decoder, ErrorCode, Frame, FrameType, SettingCode, numbered, parse_settings, settings
from tests.http3_client_cases import (
    ANSWER,
    BEGIN,
    CASES,
    INSERT,
    REFERS,
    SIZE,
    Case,
    Halt,
    On,
    Rst,
    S,
    control,
    data,
    fields,
    head,
    integer,
    on,
    opened,
)

GET = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")]


# -- The core, in memory -----------------------------------------------------------------------------


class Talk:
    """A client's core, and what a server does to it, step by step."""

    def __init__(self, **options) -> None:
        self.core = ClientConnection(**options)
        self.events, self.orders, self.given, self.error = [], self.core.orders(), {}, None
        self.has_more = True  # when the answer was found to be malformed

    def ask(self, method: str = "GET", end: bool = True) -> int:
        stream = self.core.send_request([(":method", method), *GET[1:]], end)
        self.orders += self.core.orders()
        return stream

    def step(self, step, size: int = 1 << 20) -> None:
        """*size*: in pieces of so many bytes."""
        match step:
            case On(stream, bytes_, end):
                pieces = [bytes_[i : i + size] for i in range(0, len(bytes_), size)] or [b""]
                for number, piece in enumerate(pieces, 1):
                    self.given[stream] = self.given.get(stream, 0) + len(piece)
                    is_end = end and number == len(pieces)
                    self.core.receive_data(stream, piece, is_end, 0.0)
                    self.take()
                    if stream == 0 and not self.found(Reset):
                        self.has_more = not is_end
                    elif stream == 0 and len(self.found(Reset)) == 1 and is_end and not self.found(Stop):
                        self.has_more = False
            case Rst(stream, code):
                self.core.receive_reset(stream, code)
            case Halt(stream, code):
                self.core.receive_stop(stream, code)
        self.take()

    def take(self) -> None:
        try:
            while (event := self.core.next_event()) is not None:
                self.events.append(event)
                if isinstance(event, Data):  # Somebody reads it at once.
                    self.core.consumed(event.stream, len(event.data))
        except RemoteProtocolError as error:
            self.error = error
        self.orders += self.core.orders()

    def found(self, kind: type, stream: int | None = None) -> list:
        return [one for one in self.events + self.orders if isinstance(one, kind) and stream in (None, one[0])]

    def body(self, stream: int = 0) -> bytes:
        return b"".join(event.data for event in self.found(Data, stream))

    def consumed(self) -> dict[int, int]:
        sums: dict[int, int] = {}
        for order in self.found(Consumed):
            sums[order.stream] = sums.get(order.stream, 0) + order.size
        return sums


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case, size: int):
    """What the client does about it, for its caller and for the streams; and what becomes of the connection."""
    kind, code = case.outcome
    talk = Talk()
    assert talk.ask(case.method) == 0
    sent = len(talk.orders)
    if max(len(step.data) for step in [*case.steps, On(0, b"")] if isinstance(step, On)) > 3000:
        size = max(size, 97)
    for step in [*(BEGIN if case.first is None else case.first), *case.steps]:
        talk.step(step, size)
    answers = [event for event in talk.found(Response) if event.status >= 200]
    if kind in ("close", "late"):
        assert talk.found(Close) == [Close(code, str(talk.error))]
        assert talk.error.code == code
        assert len(talk.error.args[0]) < 200
    else:
        assert talk.error is None
        assert not talk.found(Close)
    if kind in ("ok", "late"):
        assert ([event.status for event in answers], talk.body()) == ([case.status], case.body)
        assert len(talk.found(End)) == 1
        assert talk.found(Reset) == []
    if kind in ("reset", "theirs"):
        assert [event[:2] for event in talk.found(Reset)] == [(0, code)]
        assert talk.found(Reset)[0].by_server == (kind == "theirs")
        assert not talk.found(End)
        stop = [Stop(0, code)] if kind == "reset" and talk.has_more else []
        assert [order for order in talk.found(Stop) if order.stream == 0] == stop
        assert not talk.found(Abort)  # The request was sent whole.
    if kind == "wait":
        assert not talk.found(End)
        assert not talk.found(Reset)
    if kind in ("close", "late"):
        with pytest.raises(LocalProtocolError):
            talk.ask()
        return
    assert all(isinstance(order, Write | Stop | Consumed) for order in talk.orders[sent:])
    if not talk.core.goaway:  # The connection is as good as before.
        stream = talk.ask()
        talk.step(on(head(), data(b"again"), stream=stream), size)
        assert talk.body(stream) == b"again"
    if kind != "wait":  # All that came is given back to the windows, read or not, whatever became of it.
        assert {stream: size for stream, size in talk.consumed().items() if size} == {
            stream: size for stream, size in talk.given.items() if size
        }


def test_what_the_client_says_first():
    """§6.2.1: its control stream, SETTINGS; and QPACK's streams. No push is allowed: no MAX_PUSH_ID."""
    talk = Talk()
    streams: dict[int, bytes] = {}
    for stream, bytes_, end in talk.orders:
        streams[stream] = streams.get(stream, b"") + bytes_
        assert not end
    assert {stream: bytes_[0] for stream, bytes_ in streams.items()} == {2: S.CONTROL, 6: S.QPACK_ENCODER, 10: 3}
    decoder = Decoder()
    decoder.receive_data(streams[2][1:])
    (frame,) = decoder.frames()
    told = parse_settings(frame.payload)
    assert (frame.type, told[SettingCode.QPACK_MAX_TABLE_CAPACITY]) == (FrameType.SETTINGS, 4096)
    assert len(streams[6]) == len(streams[10]) == 1


def test_requests_and_what_is_sent():
    talk = Talk()
    assert [talk.ask(), talk.ask("POST", end=False)] == [0, 4]
    talk.core.send_data(4, b"some")
    talk.core.send_data(4, b"", True)
    talk.core.send_data(4, b"too late", True)
    *_, first, second, third, fourth = talk.orders + talk.core.orders()
    assert (first.stream, first.end, first.data[0]) == (0, True, FrameType.HEADERS)
    assert (second.stream, second.end) == (4, False)
    assert (third, fourth) == (Write(4, b"\0\4some"), Write(4, b"", True))


def test_the_server_may_take_less_than_we_want_to_send():
    talk = Talk()
    talk.step(opened(S.CONTROL, settings({6: 150}), stream=3))
    with pytest.raises(LocalProtocolError, match="150 bytes of fields"):
        talk.ask()
    assert talk.core.send_request(GET[:2], True) == 0  # It fits; and nothing was used up by the one that did not.


def test_qpack_remembers_what_was_sent():
    """§2.1 of RFC 9204: the second request is two bytes of prefix and one for each field, when the server allows it."""
    talk = Talk()
    pairs = [*GET, ("user-agent", "a client with a long name"), ("x-secret", "of which nobody knows")]
    talk.step(opened(S.CONTROL, settings({1: 1 << 20, 7: 100}), stream=3))
    sizes = []
    for _ in range(3):
        talk.core.send_request(pairs, True)
        writes = [order for order in talk.core.orders() if isinstance(order, Write)]
        sizes.append(len(writes[-1].data))
    assert sizes[0] > 40
    assert sizes[2] <= 2 + 2 + len(pairs)


def test_no_table_without_leave():
    """RFC 9204 §3.2.3: before SETTINGS, and where they allow none, nothing is put into the server's table."""
    for first in ([], [opened(S.CONTROL, settings({}), stream=3)]):
        talk = Talk()
        for step in first:
            talk.step(step)
        for _ in range(5):
            talk.ask()
        assert b"".join(
            order.data for order in talk.orders if order.stream == ENCODER and isinstance(order, Write)
        ) == (bytes([S.QPACK_ENCODER]))


def test_goaway():
    """§5.2: what is below goes on; what is not was never looked at; and nothing new is asked."""
    talk = Talk()
    for _ in range(3):
        talk.ask()
    talk.step(BEGIN[0])
    talk.step(control(numbered(FrameType.GOAWAY, 4)))
    assert talk.events == [GoAway(4)]
    assert not talk.core.is_usable
    assert [talk.core.is_open(stream) for stream in (0, 4, 8)] == [True, False, False]
    assert [order.stream for order in talk.found(Stop)] == [4, 8]
    talk.step(on(*ANSWER))
    assert talk.body() == b"ok"
    with pytest.raises(LocalProtocolError, match="no more requests"):
        talk.ask()


def test_giving_up():
    """§4.1.1: in both directions what is not done yet; QPACK is told; what still comes is dropped, and counted."""
    talk = Talk()
    for step in BEGIN:
        talk.step(step)
    talk.ask("POST", end=False)
    talk.step(on(head(), b"\0\x10half", end=False))
    talk.core.reset(0)
    talk.core.reset(0)
    orders = talk.core.orders()
    assert [order for order in orders if isinstance(order, Abort | Stop)] == [Abort(0, 0x10C), Stop(0, 0x10C)]
    assert [order for order in orders if isinstance(order, Write)] == [Write(DECODER, b"\x40")]
    talk.orders += orders
    talk.step(On(0, b"of a frame", True))
    talk.step(Rst(0, 0x10C))
    assert not talk.found(Reset)
    assert talk.consumed()[0] == talk.given[0]


def test_a_request_that_is_not_wanted_whole():
    """§4.1: the server may answer, and say that it needs no more. The answer counts."""
    talk = Talk()
    talk.ask("POST", end=False)
    assert talk.core.is_sending(0)
    talk.step(Halt(0, ErrorCode.NO_ERROR))
    assert not talk.core.is_sending(0)
    talk.core.send_data(0, b"more")
    talk.step(on(*ANSWER))
    assert talk.body() == b"ok"
    assert not talk.core.is_open(0)
    assert not [order for order in talk.orders if isinstance(order, Abort | Stop | Close)]
    assert [order for order in talk.found(Write, 0) if b"more" in order.data] == []


def test_only_who_refers_to_what_is_missing_waits():
    """RFC 9204 §2.1.2: and while it waits, what it has sent is not given back to its window."""
    talk = Talk()
    for step in BEGIN:
        talk.step(step)
    for _ in range(2):
        talk.ask()
    body = Frame(FrameType.DATA, b"x" * 5000)
    talk.step(on(Frame(FrameType.HEADERS, REFERS[:2] + b"\xd9\x80"), body, stream=0))
    assert talk.consumed().get(0, 0) < 100
    talk.step(on(*ANSWER, stream=4))
    assert [event.stream for event in talk.found(End)] == [4]
    talk.step(opened(S.QPACK_ENCODER, SIZE, INSERT, stream=7))
    assert talk.found(Response, 0)[0].fields == {"x-a": "yes"}
    assert talk.body() == b"x" * 5000
    assert talk.consumed()[0] == talk.given[0]
    assert Write(DECODER, b"\x80") in talk.orders  # §4.4.1: the section of stream 0 is read


def test_a_small_section_that_would_be_hundreds_of_megabytes():
    """One entry of 4 KB, and 60,000 bytes that each mean it: counted before it is unpacked."""
    talk = Talk()
    talk.ask()
    talk.step(opened(S.QPACK_ENCODER, SIZE, b"\x43x-a" + integer(4000, 7) + b"v" * 4000, stream=7))
    talk.step(on(head(), Frame(FrameType.HEADERS, b"\x02\0" + b"\x80" * 60_000), end=False))
    assert [(event.stream, event.code) for event in talk.found(Reset)] == [(0, ErrorCode.EXCESSIVE_LOAD)]


def test_patience_comes_back():
    """A thousand useless frames at once are too many; a hundred per second are not, however long it takes."""
    talk = Talk()
    talk.step(BEGIN[0])
    useless = control(*[Frame(0x1234)] * 100)
    for second in range(100):
        talk.core.receive_data(3, useless.data, False, float(second))
    assert talk.core.next_event() is None
    for _ in range(int(PATIENCE) // 100 + 1):
        talk.core.receive_data(3, useless.data, False, 100.0)
    with pytest.raises(RemoteProtocolError, match="brings nothing"):
        talk.core.next_event()


def test_after_a_connection_error_nothing_counts():
    talk = Talk()
    talk.ask()
    talk.step(on(stream=1))
    before = list(talk.orders)
    for step in (on(*ANSWER), Rst(0, 1), Halt(0, 1), Halt(CONTROL, 1), on(data(), stream=1)):
        talk.step(step)
    talk.core.reset(0)
    talk.core.close()
    assert talk.orders + talk.core.orders() == before
    assert talk.events == []


def test_trailers_and_interim_answers():
    talk = Talk()
    talk.ask()
    talk.step(on(head(("link", "</a>"), status="103"), *ANSWER, fields(("digest", "abc"))))
    hint, answer, *_, end = talk.events
    assert (hint.status, hint.fields) == (103, {"link": "</a>"})
    assert (answer.status, answer.fields) == (200, {"content-length": "2"})
    assert end == End(0, [("digest", "abc")])


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from([0, 1, 3, 4, 7, 11, 15, 19]), st.binary(max_size=40), st.booleans()))
)
def test_garbage_raises_nothing_else(steps):
    talk = Talk()
    talk.ask()
    ended = set()
    for stream, bytes_, end in steps:
        if stream not in ended:
            talk.step(On(stream, bytes_, end))
        if end:
            ended.add(stream)


@hypothesis.given(
    st.lists(
        st.tuples(st.sampled_from([FrameType.DATA, FrameType.HEADERS, 0x21, FrameType.GOAWAY]), st.binary(max_size=30)),
        max_size=20,
    )
)
def test_any_frames_raise_nothing_else(frames):
    talk = Talk()
    talk.ask()
    talk.step(BEGIN[0])
    talk.step(on(head(), *[Frame(kind, payload) for kind, payload in frames]), 3)
