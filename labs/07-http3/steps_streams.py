"""Steps B and C of this lab's check: streams in one direction, and what is said on the control stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

asking: Any = sys.modules.get("labs_http3_asking") or load(Path(__file__).with_name("asking.py"), "labs_http3_asking")
Call, hold, varint, PATIENCE = asking.Call, asking.hold, asking.varint, asking.PATIENCE
DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0, 1, 3, 4, 5, 7, 0x0D
CONTROL, PUSH, ENCODER, DECODER = 0, 1, 2, 3
GREASE = 0x1F * 5 + 0x21


def on(stream: int, data: bytes, why: str = "", mark: tuple[int, int, str] = (0, 0, "")) -> Any:
    return Call("OneWay", "receive_data", (stream, data), why, mark)


def ends(stream: int, why: str = "") -> Any:
    return Call("OneWay", "receive_end", (stream,), why)


# -- B: streams in one direction -----------------------------------------------------------------------


@step(
    "a stream in one direction says first what it is for",
    rfc="RFC 9114 §6.2: its type is a variable-length integer at the start; RFC 9204 §4.2: 02 and 03 are QPACK's",
    symptom="A stream of the client's begins, and yours takes it for another one; or what is behind the type gets "
    "lost, or the type is read again with every piece. The type can be cut, too.",
    where="Keep by stream what it is for. As long as varint() finds no whole number, keep its bytes, and return (None, "
    'b""). What is behind the type belongs to the stream: it is to be read, and so is all that comes later.',
    code="""
if stream not in self._types:
    data = self._begun.pop(stream, b"") + data
    if (found := varint(data, 0)) is None:
        self._begun[stream] = data
        return None, b""
    self._types[stream], at = found
    data = data[at:]
return self._types[stream], data""",
    seconds=PATIENCE,
)
async def stream_types(c: Check) -> None:
    settings = b"\x04\x02\x07\x10"
    await hold(
        c,
        [on(2, b"\x00" + settings, "00 says that this is the control stream; behind it frames begin.",
            mark=(1, 2, "the type"))],
        [on(2, b"\x00", "The type alone: nothing to be read yet."), on(2, settings, "The stream has said what it is "
            "for: from now on all bytes are to be read.")],
        [on(2, b"\x00"), on(2, b"\x00\x03abc", "This is the control stream's second piece: 00 is no type any more, "
            "it is a frame's.")],
        [on(6, b"\x02\x3f\xe1\x1f", "02 is QPACK's encoder: its instructions begin behind it."),
         on(10, b"\x03\x81", "03 is QPACK's decoder."), on(6, b"\xc1\x01b", "Stream 6 is still the encoder's.")],
        [on(2, b"\x02ab"), on(6, b"\x00cd", "Which stream it is says its type, and not its number."),
         on(2, b"\x00ef", "Each stream has a type of its own: 2 is QPACK's encoder.")],
        [on(2, b"\x40", "The type has two bytes, and one of them is here: nobody knows yet what this is for."),
         on(2, b"\x00" + settings, "40 00 is 0, in two bytes: the control stream.")],
        [on(6, b"\x80", "One of four bytes of the type is here."),
         on(6, b"\x00\x00\x02ab", "80 00 00 02 is 2, in four bytes: QPACK's encoder.")],
        [on(2, varint(CONTROL, 8)[:3]), on(6, b"\x80\x00"), on(2, varint(CONTROL, 8)[3:7]),
         on(6, b"\x00\x02ab", "Two streams are cut in their types at the same time: 80 00 00 02 is QPACK's encoder."),
         on(2, b"\x00cd", "00 in eight bytes: the control stream.")],
        [on(2, b"", "Nothing has come of it: its type is not known."), on(2, b"\x00ab", "Now it has one.")],
    )  # fmt: skip


@step(
    "a stream that nobody knows is no error, and nobody reads it",
    rfc="RFC 9114 §6.2.3, §9: unknown types must be ignored: browsers open such streams on purpose",
    symptom="A stream of a type that means nothing here comes, and yours makes an error of it, reads it, or keeps it.",
    where='Return its type, so that whoever has QUIC can ask the client to stop (STOP_SENDING), and b"" for its '
    "bytes, now and later. There may be many of the same type.",
    code='return kind, data if kind in (CONTROL, QPACK_ENCODER, QPACK_DECODER) else b""',
    seconds=PATIENCE,
)
async def unknown_streams(c: Check) -> None:
    await hold(
        c,
        [on(14, varint(GREASE) + b"grease", "0x1f * 5 + 0x21 is reserved for streams that mean nothing.",
            mark=(4, 6, "type 0xbc"))],
        [on(14, varint(0x54) + b"abc", "0x54 is WebTransport's, which nobody has asked for here."),
         on(14, b"\x00\x04\x00", "More of an unknown stream: it stays unknown, whatever comes on it.")],
        [on(14, varint(GREASE)), on(18, varint(GREASE), "A second stream of an unknown type is no error either.")],
        [on(14, varint(GREASE) + b"x" * 1000), *[on(14, b"x" * 1000)] * 20,
         Call("OneWay", "held", (), "21,000 bytes have come of an unknown stream. Nobody will read them: keep none.")],
        [on(14, varint(2**62 - 1) + b"x", "Types go up to 2^62 - 1.")],
        [on(14, varint(GREASE)[:1]), on(14, varint(GREASE)[1:] + b"x", "An unknown type may be cut, too.")],
    )  # fmt: skip


@step(
    "one stream of each kind, and none to push on",
    rfc="RFC 9114 §6.2.1, RFC 9204 §4.2: a second one is a STREAM_CREATION_ERROR; §6.2.2: only servers can push",
    symptom="The client opens a second control stream, or a second one of QPACK's, or a push stream, and yours goes "
    "on. Which of two control streams would count?",
    where="When a type becomes known: is it PUSH, or one of the three, and has another stream this type already?",
    code="""
if kind == PUSH or (kind in (CONTROL, QPACK_ENCODER, QPACK_DECODER) and kind in self._types.values()):
    raise Http3Error(STREAM_CREATION_ERROR)""",
    seconds=PATIENCE,
)
async def second_streams(c: Check) -> None:
    await hold(
        c,
        [on(2, b"\x00"), on(6, b"\x02"), on(10, b"\x03", "One of each: all is well.")],
        [on(2, b"\x00"), on(14, b"\x00", "Stream 2 is the control stream; 14 says that it were.")],
        [on(2, b"\x00"), on(14, b"\x40\x00", "40 00 is 0, in two bytes: a second control stream.")],
        [on(6, b"\x02"), on(14, b"\x02", "A second stream of QPACK's encoder.")],
        [on(10, b"\x03"), on(14, b"\x03", "A second stream of QPACK's decoder.")],
        [on(14, b"\x01\x00", "A client opens a push stream: only servers push.")],
    )  # fmt: skip


@step(
    "three streams never end",
    rfc="RFC 9114 §6.2.1, RFC 9204 §4.2: CLOSED_CRITICAL_STREAM; §6.2: others may end, even before their type",
    symptom="A stream in one direction has ended. For three of them that is the connection's end, for all others it is "
    "nothing. Which did yours mix up?",
    where="receive_end() is asked when a stream has ended, or was reset. Look at what it was for. It may have ended "
    "before it had said so: that must be tolerated.",
    code="""
if self._types.pop(stream, None) in (CONTROL, QPACK_ENCODER, QPACK_DECODER):
    raise Http3Error(CLOSED_CRITICAL_STREAM)""",
    seconds=PATIENCE,
)
async def ended_streams(c: Check) -> None:
    await hold(
        c,
        [on(2, b"\x00\x04\x00"), ends(2, "The control stream has ended, with SETTINGS said and all.")],
        [on(6, b"\x02"), ends(6, "The stream of QPACK's encoder has ended: its table could never change again.")],
        [on(10, b"\x03"), ends(10, "The stream of QPACK's decoder has ended.")],
        [on(2, b"\x00"), on(14, varint(GREASE) + b"x"), ends(14, "An unknown stream has ended: nobody minds.")],
        [ends(14, "A stream was reset before a byte of it had come: that is no error.")],
        [on(14, b"\x40"), ends(14, "A stream has ended in the middle of its type: that is no error. (§6.2)")],
        [on(2, b"\x00"), on(14, b"\x40"), ends(14), on(2, b"abc", "Another stream has ended: this one goes on.")],
    )  # fmt: skip


# -- C: the control stream -----------------------------------------------------------------------------


def says(type: int, payload: bytes = b"", why: str = "") -> Any:
    return Call("Control", "receive_frame", (type, payload), why)


def settings(*pairs: tuple[int, int], why: str = "") -> Any:
    return says(SETTINGS, b"".join(varint(code) + varint(value) for code, value in pairs), why)


def known(why: str) -> Any:
    return Call("Control", "settings", (), why)


@step(
    "SETTINGS are pairs of numbers",
    rfc="RFC 9114 §7.2.4: each code once, HTTP/2's forbidden, unknown ones ignored; §7.1: FRAME_ERROR if it is cut",
    symptom="Yours reads other settings than the frame has, accepts what is forbidden, or refuses what nobody knows.",
    where="Read numbers until the payload ends: code, value, code, value. Unknown codes stay in `settings`, where "
    "nobody looks for them. A number or a value that is missing is a FRAME_ERROR; a code that has been there, or that "
    "is HTTP/2's, a SETTINGS_ERROR.",
    code="""
if code in HTTP2_SETTINGS or code in settings:
    raise Http3Error(SETTINGS_ERROR)
settings[code] = value""",
    seconds=PATIENCE,
)
async def settings_read(c: Check) -> None:
    await hold(
        c,
        [known("No frame has come: settings is None.")],
        [settings((6, 65536), (1, 4096), (7, 16)), known("SETTINGS have said: 0x6 is 65536, 0x1 is 4096, 0x7 is 16.")],
        [settings(), known("SETTINGS that say nothing have come: {}, not None.")],
        [settings((6, 2**62 - 1)), known("A value may be as large as 2^62 - 1.")],
        [settings((GREASE, 1), (1, 0), (0x1234, 5)), known("Codes that nobody knows are no error, and 0 is a value.")],
        [says(SETTINGS, b"\x40\x06\x40\x01"), known("40 06 is 6, in two bytes.")],
        [settings((6, 1), (6, 1), why="The same code twice, even with the same value: SETTINGS_ERROR.")],
        [settings((GREASE, 1), (1, 2), (GREASE, 3), why="The same unknown code twice: SETTINGS_ERROR.")],
        *([settings((1, 0), (code, 0), why=f"{code:#x} was a setting of HTTP/2, and is forbidden: SETTINGS_ERROR.")]
          for code in (0, 2, 3, 4, 5)),
        [says(SETTINGS, b"\x06", "A code without a value: FRAME_ERROR.")],
        [says(SETTINGS, b"\x06\x40", "The value is cut off: FRAME_ERROR.")],
        [says(SETTINGS, b"\x06\x01\x40", "The second code is cut off: FRAME_ERROR.")],
        [settings((1, 7), (4, 0)), known("The second setting was forbidden, so that none of them counts: None.")],
    )  # fmt: skip


@step(
    "SETTINGS come first, and once",
    rfc="RFC 9114 §6.2.1: else MISSING_SETTINGS; §9: an unknown frame does not stand in for it; §7.2.4: never twice",
    symptom="The control stream begins with another frame, and yours accepts it; or SETTINGS come a second time.",
    where="Before you look what a frame says: have SETTINGS come? `settings is None` asks that; `not settings` asks "
    "something else. The rule that unknown frames are ignored holds where nothing certain must stand.",
    code="""
if self.settings is None and frame.type != SETTINGS:
    raise Http3Error(MISSING_SETTINGS)
if self.settings is not None and frame.type == SETTINGS:
    raise Http3Error(FRAME_UNEXPECTED)""",
    seconds=PATIENCE,
)
async def first_and_once(c: Check) -> None:
    await hold(
        c,
        [says(GOAWAY, b"\x00", "GOAWAY comes, and no SETTINGS before it: MISSING_SETTINGS.")],
        [says(MAX_PUSH_ID, b"\x08", "MAX_PUSH_ID comes, and no SETTINGS before it: MISSING_SETTINGS.")],
        [says(GREASE, b"", "A frame of a reserved type comes where SETTINGS must come: MISSING_SETTINGS.")],
        [settings((1, 1)), says(GREASE, b"", "Behind SETTINGS unknown frames are ignored.")],
        [settings((1, 1)), settings((1, 1), why="SETTINGS come a second time: FRAME_UNEXPECTED.")],
        [settings(), settings((1, 1), why="The first SETTINGS were empty, and yet they have come: these are the second "
                              "ones, FRAME_UNEXPECTED.")],
        [settings(), says(GOAWAY, b"\x00", "SETTINGS have come, though they were empty.")],
    )  # fmt: skip


@step(
    "what else the control stream may say",
    rfc="RFC 9114 §7.2: Table 1; §5.2: GOAWAY may not rise; §7.2.7: MAX_PUSH_ID may not fall; §7.2.3; §7.2.8",
    symptom="A frame behind SETTINGS that is allowed is refused, or one that is not is taken.",
    where="DATA, HEADERS and PUSH_PROMISE belong on other streams, HTTP/2's frames nowhere: FRAME_UNEXPECTED. GOAWAY, "
    "MAX_PUSH_ID and CANCEL_PUSH are one number, no more and no less: FRAME_ERROR. You have promised no push, so "
    "whatever CANCEL_PUSH names is an ID_ERROR.",
    code="""
number = only_number(frame.payload)  # yours, for all three: none, or bytes behind it, is a FRAME_ERROR
if frame.type == CANCEL_PUSH:
    raise Http3Error(ID_ERROR)  # only behind that: what is no number is a FRAME_ERROR first
if frame.type == GOAWAY:
    if self._goaway is not None and number > self._goaway:
        raise Http3Error(ID_ERROR)
    self._goaway = number""",
    seconds=PATIENCE,
)
async def control_frames(c: Check) -> None:
    hello = settings((1, 0))

    def after(*frames: Any) -> list[Any]:
        return [hello, *frames]

    await hold(
        c,
        after(says(GOAWAY, varint(1000)), says(GOAWAY, varint(8)), says(GOAWAY, varint(8)), says(GOAWAY, b"\x00",
              "GOAWAY comes again, and each time with the same number or a smaller one: all is well.")),
        after(says(GOAWAY, varint(8)), says(GOAWAY, varint(9), "GOAWAY said 8, and says 9 now. What was refused has "
              "perhaps been sent elsewhere: ID_ERROR.")),
        after(says(GOAWAY, b"\x00"), says(GOAWAY, b"\x04", "GOAWAY said 0, and says 4 now: ID_ERROR.")),
        after(says(GOAWAY, varint(8)), says(GOAWAY, varint(4)), says(GOAWAY, varint(8), "GOAWAY said 8, then 4, and "
              "now 8 again: the smallest counts, ID_ERROR.")),
        after(says(MAX_PUSH_ID, b"\x08"), says(MAX_PUSH_ID, b"\x08"), says(MAX_PUSH_ID, b"\x09",
              "MAX_PUSH_ID may grow.")),
        after(says(MAX_PUSH_ID, b"\x08"), says(MAX_PUSH_ID, b"\x07", "MAX_PUSH_ID said 8, and says 7 now: ID_ERROR.")),
        after(says(MAX_PUSH_ID, b"\x04"), says(GOAWAY, b"\x08", "GOAWAY and MAX_PUSH_ID are two numbers.")),
        after(says(CANCEL_PUSH, b"\x00", "CANCEL_PUSH names a push, and none was promised: ID_ERROR.")),
        *(after(says(type, b"", "The payload is one number, and there is none: FRAME_ERROR."))
          for type in (GOAWAY, MAX_PUSH_ID, CANCEL_PUSH)),
        *(after(says(type, b"\x40", "The number is cut off: FRAME_ERROR."))
          for type in (GOAWAY, MAX_PUSH_ID, CANCEL_PUSH)),
        *(after(says(type, b"\x08\x00", "Behind the number there is a byte more: FRAME_ERROR."))
          for type in (GOAWAY, MAX_PUSH_ID, CANCEL_PUSH)),
        *(after(says(type, b"abc", f"{asking.name_of(type)} belongs on the stream of a request: FRAME_UNEXPECTED."))
          for type in (DATA, HEADERS)),
        after(says(PUSH_PROMISE, b"\x00abc", "PUSH_PROMISE belongs elsewhere, and comes from servers only: "
                   "FRAME_UNEXPECTED.")),
        *(after(says(type, b"", f"{asking.name_of(type)} is forbidden in HTTP/3: FRAME_UNEXPECTED."))
          for type in sorted(asking.HTTP2_TYPES)),
        after(says(0x0E, b""), says(0xF0700, b"", "A type that is not among the seven is ignored. (0xf0700 is "
              "PRIORITY_UPDATE, of RFC 9218.)"), says(GREASE, b"")),
    )  # fmt: skip
