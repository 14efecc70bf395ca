"""What every frame of HTTP/2 must be like, wherever the connection stands; and what it costs (RFC 9113 §6, §10.5).

In HTTP/2 a client can make a server work with very few bytes of its own: open and take back, ask and never read, send
frames in which nothing is. Each of the attacks that had a name was one kind of frame that nobody counted. So each frame
that brings no work done has a price here; a client pays it out of a purse that fills up again with time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocols.errors import RemoteProtocolError
from protocols.http2_frames import ErrorCode, Frame, FrameType, SettingCode

PATIENCE = 1000.0  # the size of the purse
PER_SECOND = 100.0  # how fast it fills up
PRICES: dict[int, float] = {  # Of frames that are not here: 0, or UNKNOWN.
    FrameType.PRIORITY: 1,
    FrameType.SETTINGS: 5,  # has to be answered; CVE-2019-9515
    FrameType.PING: 1,  # has to be answered; CVE-2019-9512
    FrameType.WINDOW_UPDATE: 1,  # but free for DATA: one for its stream, one for the connection, where it was WORTH_IT
    FrameType.CONTINUATION: 1,  # CVE-2024-27983
    FrameType.PRIORITY_UPDATE: 1,
    FrameType.GOAWAY: 1,
}
UNKNOWN = 1.0  # a type that is not known here: to be ignored (§5.5), but not for ever
EMPTY = 1.0  # DATA without data that does not end the stream: CVE-2019-9518
LATE = 1.0  # RST_STREAM for what has ended already
RESET = 10.0  # a stream that ends by RST_STREAM: whoever sends it (CVE-2023-44487), whoever is made to (CVE-2025-8671)
CANCEL = 1.0  # the same by the client, when it has got some of the answer: as much work as any request, and no more
WORTH_IT = 512  # bytes; a client that lets a body trickle, window by window, costs us a frame per byte: CVE-2019-9511
MOST_CREDIT = 16384.0  # WINDOW_UPDATEs that may be free: what has left may still be on its way

TABLE = 4096  # bytes: HPACK's table for what we send. A peer may offer 4 GiB (§6.5.2); we would fill them.
KNOWN_SETTINGS = frozenset(range(1, 7))  # h2 would remember 65,536 others, at 600 bytes each

ON_A_STREAM, ON_THE_CONNECTION, ON_EITHER = 1, 0, -1
RULES: dict[int, tuple[int, Callable[[int], bool]]] = {  # where, and of which length, a frame may be (§6)
    FrameType.DATA: (ON_A_STREAM, lambda size: True),
    FrameType.HEADERS: (ON_A_STREAM, lambda size: True),
    FrameType.PRIORITY: (ON_A_STREAM, lambda size: size == 5),
    FrameType.RST_STREAM: (ON_A_STREAM, lambda size: size == 4),
    FrameType.SETTINGS: (ON_THE_CONNECTION, lambda size: size % 6 == 0),
    FrameType.PUSH_PROMISE: (ON_A_STREAM, lambda size: True),
    FrameType.PING: (ON_THE_CONNECTION, lambda size: size == 8),
    FrameType.GOAWAY: (ON_THE_CONNECTION, lambda size: size >= 8),
    FrameType.WINDOW_UPDATE: (ON_EITHER, lambda size: size == 4),
    FrameType.CONTINUATION: (ON_A_STREAM, lambda size: True),
    FrameType.PRIORITY_UPDATE: (ON_THE_CONNECTION, lambda size: size >= 4),
}


def check_frame(frame: Frame) -> None:
    """What is wrong wherever it comes is a connection error (§5.4.1)."""
    rule = RULES.get(frame.type)
    if rule is None:
        return
    where, fits = rule
    if where != ON_EITHER and bool(frame.stream) != where:
        text = f"{frame}: that is for {'a stream' if where else 'the connection, which is stream 0'} (§6)"
        raise RemoteProtocolError(text, ErrorCode.PROTOCOL_ERROR)
    if not fits(len(frame.payload)):
        raise RemoteProtocolError(f"{frame}: it cannot have that length (§6)", ErrorCode.FRAME_SIZE_ERROR)


def check_priorities(pairs: Iterable[tuple[int, int]]) -> None:
    """The setting that h2 does not know (RFC 9218 §2.1)."""
    if any(code == SettingCode.NO_RFC7540_PRIORITIES and value > 1 for code, value in pairs):
        raise RemoteProtocolError("NO_RFC7540_PRIORITIES is 0 or 1 (RFC 9218 §2.1)", ErrorCode.PROTOCOL_ERROR)


class Purse:
    """What a client may still cost."""

    def __init__(self, now: float, code: int = ErrorCode.ENHANCE_YOUR_CALM) -> None:
        self._spent, self._at, self._code = 0.0, now, code  # In HTTP/3 the same has another number, and the same §.

    def pay(self, price: float, now: float, frame: object) -> None:
        """Take *price* out of it. RemoteProtocolError (ENHANCE_YOUR_CALM) when there is not so much."""
        self._spent = max(0.0, self._spent - PER_SECOND * (now - self._at)) + price
        self._at = now
        if self._spent > PATIENCE:
            text = f"too much that brings nothing, the last of it {frame} (§10.5)"
            raise RemoteProtocolError(text, self._code)
