"""Step D of this lab's check: which frames make a request, and in which order."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

asking: Any = sys.modules.get("labs_http3_asking") or load(Path(__file__).with_name("asking.py"), "labs_http3_asking")
Call, hold, PATIENCE = asking.Call, asking.hold, asking.PATIENCE
DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0, 1, 3, 4, 5, 7, 0x0D
GREASE = 0x1F * 5 + 0x21
H, D, G = (HEADERS, b"abc"), (DATA, b"xyz"), (GREASE, b"")
PIECE = (DATA, b"xyz", False)


def frames(*sent: tuple[Any, ...], why: str, end: bool = False) -> list[Any]:
    """A script: frames of one request, and perhaps the end. The sentence is about the last of it."""
    script = [Call("Request", "receive_frame", one, why) for one in sent]
    return [*script, Call("Request", "receive_end", (), why)] if end else script


@step(
    "a head, a body, perhaps trailers",
    rfc="RFC 9114 §4.1: HEADERS, any number of DATA, at most one more HEADERS; other orders are FRAME_UNEXPECTED",
    symptom="Yours takes a frame for something else than it is at this place, or accepts one that cannot be there. "
    "There is no flag that tells a head from trailers: only the order does.",
    where="Remember what the last frame was that counted. From nothing it goes to HEAD, from there to BODY and back to "
    "BODY, and from HEAD or BODY to TRAILERS, behind which nothing may come.",
    code="""
if frame.type == HEADERS and self._last is None:
    self._last = HEAD
elif frame.type == HEADERS and self._last != TRAILERS:
    self._last = TRAILERS
elif frame.type == DATA and self._last in (HEAD, BODY):
    self._last = BODY
else:
    raise Http3Error(FRAME_UNEXPECTED)""",
    seconds=PATIENCE,
)
async def request_order(c: Check) -> None:
    await hold(
        c,
        frames(H, why="The first HEADERS are the head."),
        frames(H, D, D, why="HEADERS, then DATA twice: the body may be in any number of frames."),
        frames(H, PIECE, PIECE, D, why="DATA that goes on: each piece is of the body."),
        frames(H, (DATA, b""), why="An empty DATA frame is of the body, too."),
        frames(H, D, H, why="HEADERS behind DATA are trailers."),
        frames(H, H, why="A second HEADERS without DATA between: trailers of a request without a body."),
        frames(D, why="DATA comes before HEADERS: what would this be the body of? FRAME_UNEXPECTED."),
        frames(H, D, H, D, why="DATA comes behind the trailers: FRAME_UNEXPECTED."),
        frames(H, D, H, H, why="HEADERS come behind the trailers: FRAME_UNEXPECTED."),
        frames(H, H, D, why="DATA comes behind the trailers, of a request that had no body: FRAME_UNEXPECTED."),
    )


@step(
    "frames that are of no request",
    rfc="RFC 9114 §7.2: Table 1; §7.2.8: HTTP/2's types; §9: unknown types may be anywhere",
    symptom="A frame that belongs on the control stream, or that HTTP/2 had, comes on the stream of a request, and "
    "yours takes it; or a frame that nobody knows disturbs it.",
    where="DATA and HEADERS are the only ones of the seven types that a client may send here; HTTP/2's four are "
    "forbidden everywhere. Anything else is nothing: return None, and remember nothing of it.",
    code="""
elif frame.type in (all seven types) or frame.type in HTTP2_FRAMES:
    raise Http3Error(FRAME_UNEXPECTED)
else:
    return None""",
    seconds=PATIENCE,
)
async def strange_frames(c: Check) -> None:
    belongs = {CANCEL_PUSH: "on the control stream", SETTINGS: "on the control stream", GOAWAY: "on the control stream",
               MAX_PUSH_ID: "on the control stream", PUSH_PROMISE: "to servers"}  # fmt: skip
    strange = [(0x0E, b""), (0xF0700, b""), (2**62 - 1, b"")]
    await hold(
        c,
        frames(G, why="A frame of a reserved type may come first: it is of nothing."),
        frames(G, H, why="HEADERS behind an unknown frame are still the head."),
        frames(G, H, G, D, G, H, G, why="Unknown frames may be everywhere, even behind the trailers."),
        frames(H, *strange, D, why="Unknown frames come between head and body."),
        frames(G, D, why="DATA behind an unknown frame is still DATA without a head: FRAME_UNEXPECTED."),
        *(frames(*before, (type, b"\0"), why=f"{asking.name_of(type)} belongs {belongs[type]}: FRAME_UNEXPECTED.")
          for type in belongs for before in ((), (H,), (H, D, H))),
        *(frames(*before, (type, b""), why=f"{asking.name_of(type)} is forbidden in HTTP/3: FRAME_UNEXPECTED.")
          for type in asking.HTTP2_TYPES for before in ((), (H, D))),
    )  # fmt: skip


@step(
    "a stream that ends without a request",
    rfc="RFC 9114 §4.1: REQUEST_INCOMPLETE, an error of this stream only; a request ends where its stream does",
    symptom="A stream has ended, and yours takes nothing for a request, or a request for nothing. There is no flag "
    "END_STREAM in HTTP/3: QUIC says where a stream ends.",
    where="A head is all that a request needs. If none has come when the stream ends, it is REQUEST_INCOMPLETE.",
    code="""
if self._last is None:
    raise Http3Error(REQUEST_INCOMPLETE)""",
    seconds=PATIENCE,
)
async def request_end(c: Check) -> None:
    orders = [order for size in range(5) for order in itertools.product((H, D, G), repeat=size)]
    await hold(
        c,
        frames(H, end=True, why="A head and the end: a request without a body."),
        frames(H, D, end=True, why="A head, a body and the end: a request."),
        frames(H, D, H, end=True, why="A head, a body, trailers and the end: a request."),
        frames(H, G, end=True, why="A head, an unknown frame and the end: a request."),
        frames(end=True, why="The stream has ended, and nothing was on it: REQUEST_INCOMPLETE."),
        frames(G, end=True, why="The stream has ended, and only an unknown frame was on it: REQUEST_INCOMPLETE."),
        *(frames(*order, end=True, why="HEADERS, DATA and unknown frames come in this order, and then the end.")
          for order in orders),
    )  # fmt: skip
