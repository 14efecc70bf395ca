"""HTTP/3's streams at the server's end: what is asked of QUIC, what is kept of each stream, and whose turn it is.

protocols/http3.py makes requests and answers of them. Sections are those of RFC 9114.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from protocols.http2_messages import Pairs, Priority
from protocols.http3_frames import Decoder, Frame

LONGEST = 4096  # bytes of a frame on the control stream


class Transport(Protocol):
    """What is asked of QUIC. Streams: 0, 4, 8 … requests; 2, 6, … the client's in one direction; 3, 7, … ours."""

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        """The number of the next stream that we open."""

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Send, as soon as the windows and the path let it."""

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Send no more."""

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        """Ask that no more be sent to us."""

    def consume(self, stream: int, count: int) -> None:
        """So many bytes are used up: as many more may come."""

    def window(self, stream: int) -> int:
        """How many bytes more the client allows on this stream."""

    def allowance(self) -> int:
        """The same, on all streams together."""

    def set_place(self, stream: int, place: tuple[int, ...]) -> None:
        """Among what waits to be sent, the least is first, and equal ones share."""

    def close(self, error_code: int, frame_type: int | None = None, reason_phrase: str = "") -> None:
        """End the connection."""


class Watch(Protocol):
    """Who wants to see every frame, for a wire log."""

    def __call__(self, direction: str, stream: int, frame: Frame) -> None:
        """`<` received, `>` sent."""


class Settings(NamedTuple):
    """What the client has said of itself. Until then, what it is taken for (§7.2.4.2)."""

    table: int = 0
    blocked: int = 0
    max_fields: int = 1 << 62


class OneWay:
    """A stream of the client's in one direction: it says first what it is for."""

    __slots__ = ("ended", "frames", "id", "type")

    def __init__(self, id: int) -> None:
        self.id = id
        self.type: int | None = None
        self.frames = Decoder(LONGEST)
        self.ended = False


class Stream:
    """One request and its answer, as far as the frames are concerned."""

    __slots__ = (
        "awaited", "began", "ended", "ending", "frames", "has_left", "head", "head_sent", "held", "id", "is_known",
        "moved", "out", "priority", "resumes", "state", "thin", "trailers", "turn", "updated", "waits", "whole",
    )  # fmt: skip

    def __init__(self, id: int, max_frame: int, now: float) -> None:
        self.id = id
        self.frames = Decoder(max_frame)
        self.ended = False  # The client has ended the stream.
        self.whole = False  # It has said all, and that is read.
        self.state = "head"  # what must come: the head; body, or trailers; the end. Or `nothing` is looked at any more;
        # or it was `refused` or `stopped` before it began
        self.waits = self.resumes = False  # Its fields wait for QPACK's table; that has what they need.
        self.is_known = False  # There was an event of it.
        self.began: float | None = now  # when, if its head is not here yet
        self.awaited: int | None = None  # bytes that Content-Length says are still to come
        self.thin = 0.0  # DATA frames with little in them
        self.priority = Priority()
        self.held = 0  # bytes of fields that wait
        self.updated = False  # by a frame, which counts more than the field (RFC 9218 §7)
        self.turn = 0  # when it was last served
        self.head = b""  # what goes before the data that waits
        self.out = memoryview(b"")  # what waits for the window, and for its turn
        self.ending = self.head_sent = False
        self.has_left = False  # some of the answer
        self.trailers: Pairs = ()
        self.moved = now  # when something was last sent, or there was nothing to send


def rank(one: Stream) -> tuple[int, bool, int, int]:
    """Who has the least comes first."""
    return (*one.priority, one.turn, one.id)


def place(stream: int, wanted: Priority) -> tuple[int, ...]:
    """The same for QUIC, which lets equals share."""
    return wanted if wanted.incremental else (*wanted, stream)
