"""Steps B of this lab's check: the ledger of flow control."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.check import Check, step
from labkit.learner import load

asking: Any = load(Path(__file__).with_name("asking.py"), "labs_http2_asking")
anew, ask, erred, outcome = asking.anew, asking.ask, asking.erred, asking.outcome
FLOW_CONTROL_ERROR, MAX_WINDOW, PATIENCE = asking.FLOW_CONTROL_ERROR, asking.MAX_WINDOW, asking.PATIENCE
PROTOCOL_ERROR = asking.PROTOCOL_ERROR


class Model:
    """What a ledger has to do, so that calls of any kind can be judged."""

    def __init__(self) -> None:
        self.initial, self.windows = 65535, {0: 65535}

    def call(self, name: str, stream: int, number: int = 0) -> tuple[int, int] | None:
        """Do as told; return the error, (code, stream), or None."""
        windows = self.windows
        if name == "open":
            windows[stream] = self.initial
        elif name == "close":
            windows.pop(stream, None)
        elif name == "charge":
            for one in (0, stream):
                if one in windows and number:
                    if number > windows[one]:
                        return FLOW_CONTROL_ERROR, one
                    windows[one] -= number
        elif name == "update":
            if not number:
                return PROTOCOL_ERROR, stream
            if windows.get(stream, 0) + number > MAX_WINDOW:
                return FLOW_CONTROL_ERROR, stream
            if stream in windows:
                windows[stream] += number
        else:
            size = stream
            grown = {one: window + size - self.initial for one, window in windows.items() if one}
            if size > MAX_WINDOW or max(grown.values(), default=0) > MAX_WINDOW:
                return FLOW_CONTROL_ERROR, 0
            windows.update(grown)
            self.initial = size
        return None

    def available(self, stream: int) -> int:
        return max(0, min(self.windows[0], self.windows.get(stream, 0)))


Call = tuple[Any, ...]  # method, arguments …, and at the end a sentence that says why, perhaps


def bare(call: Call) -> list[Any]:
    return [call[0], *(one for one in call[1:] if isinstance(one, int))]


def reason(call: Call) -> str:
    return next((f" {one}" for one in call[1:] if isinstance(one, str)), "")


def told_call(call: Call) -> str:
    return f"{call[0]}({', '.join(f'{one:_}' for one in bare(call)[1:])})"


async def hold(c: Check, *scripts: Sequence[Call]) -> None:
    """After each call of each script, the ledger must say what the model says."""
    asked = [[bare(call) for call in calls] for calls in scripts]
    for calls, seen in zip(scripts, await ask(c, "ledger_role", asked), strict=True):
        judge(c, calls, seen)


def judge(c: Check, calls: Sequence[Call], seen: Sequence[dict[str, Any]]) -> None:
    model = Model()
    anew(c, "Ledger")
    new = " This is a new Ledger: nothing that was done to another one shows in it."
    for number, (call, one) in enumerate(zip(calls, seen, strict=False)):
        error, name, why = model.call(*bare(call)), told_call(call), reason(call) or ("" if number else new)
        rooms = ", ".join(f"{stream}: {told_number(room)}" for stream, room in one["available"].items())
        c.did(f"> {name:26}" + (f" available {rooms}" if rooms and "value" in one else ""))
        if "value" not in one:
            c.did(f"! {outcome(one)}")
        if "raised" in one:
            c.fail(f"{name} raised {one['raised']}.{why}")
        if error is None and "error" in one:
            c.fail(f"{name} was refused, and nothing is wrong with it.{why}", got=erred(*one["error"]))
        if error is not None and one.get("error") != list(error):
            did = "was accepted" if "value" in one else "raised another error"
            c.fail(f"{name} {did}.{why}", got=outcome(one) if "error" in one else None, wanted=erred(*error))
        if error is not None and not error[1]:
            return  # The connection is over.
        for stream, room in one["available"].items():
            wanted = model.available(int(stream))
            if error is not None and int(stream) == error[1]:
                continue  # It is reset now.
            if room != wanted:
                c.fail(f"After {name}, available({stream}) is {told_number(room)}, and not {wanted:,}.{why}",
                       got=f"available({stream}) = {room}", wanted=f"available({stream}) = {wanted}")  # fmt: skip


def told_number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def wrong(calls: Sequence[Call], seen: Sequence[dict[str, Any]]) -> int:
    """How many calls it takes until the ledger is wrong; 0 where it is right."""
    model = Model()
    for number, (call, one) in enumerate(zip(calls, seen, strict=False), 1):
        error = model.call(*call)
        if one.get("error") != (list(error) if error else None) or "raised" in one:
            return number
        if error:
            return 0
        if any(value != model.available(int(stream)) for stream, value in one["available"].items()):
            return number
    return 0


@step(
    "B: DATA is charged to its stream and to the connection",
    rfc="RFC 9113 §5.2.1, §6.9.1: both windows are reduced; who sends must stay within both",
    symptom="There are two windows for each byte: its stream's, and one that all streams share. Yours forgets one.",
    where="What may go now is what fits into both, so the smaller one. At first each has 65,535 bytes.",
    code="self._windows = {0: 65535}   # by stream; 0 is the connection\n...\n"
    "self._windows[0] -= size\nself._windows[stream] -= size\n...\n"
    "min(self._windows[0], self._windows[stream])",
    seconds=PATIENCE,
)
async def both_windows(c: Check) -> None:
    shared = "All streams share the connection's window."
    await hold(
        c,
        [("open", 1, "A new window has 65,535 bytes."), ("charge", 1, 1000), ("charge", 1, 64535), ("open", 3, shared)],
        [("open", 1), ("open", 3), ("charge", 1, 40000, shared), ("charge", 3, 25000, shared), ("charge", 3, 535)],
        [("open", 1), ("open", 3), ("open", 5), ("charge", 5, 10, shared), ("charge", 3, 20, shared)],
    )


@step(
    "B: WINDOW_UPDATE opens one window",
    rfc="RFC 9113 §6.9: a frame on stream 0 is for the connection, on another stream for that one alone",
    symptom="A WINDOW_UPDATE opens a window that it was not for, or does not open the one that it was for.",
    where="The stream alone is no use while the connection's window is shut, and the other way round.",
    code="self._windows[stream] += increment   # with 0 for the connection",
    seconds=PATIENCE,
)
async def window_update(c: Check) -> None:
    one, all_of_them = "It is for this stream alone.", "It is for the connection alone."
    await hold(
        c,
        [("open", 1), ("open", 3), ("charge", 1, 65535), ("update", 1, 1000, one), ("update", 0, 600, all_of_them),
         ("update", 0, 1000, all_of_them), ("charge", 1, 900), ("charge", 3, 700)],
        [("open", 1), ("open", 3), ("update", 0, 100000, all_of_them), ("charge", 1, 65535), ("update", 1, 5, one),
         ("charge", 3, 65000), ("update", 3, 1, one)],
    )  # fmt: skip


@step(
    "B: an increment of 0 is an error, and so is too much",
    rfc="RFC 9113 §6.9: an increment of 0 is a PROTOCOL_ERROR; §6.9.1: more than 2^31-1 is a FLOW_CONTROL_ERROR; "
    "of the stream, or on stream 0 of the connection",
    symptom="A peer adds nothing, again and again; or so much that others count backwards. Your ledger takes it.",
    where="2³¹-1 is the most that a window may be, not what may be added. Exactly that is allowed. Python does not "
    "overflow, so that you have to look.",
    code="if increment == 0:\n    raise Http2Error(PROTOCOL_ERROR, stream)\n"
    "if self._windows[stream] + increment > MAX_WINDOW:\n    raise Http2Error(FLOW_CONTROL_ERROR, stream)",
    seconds=PATIENCE,
)
async def bad_updates(c: Check) -> None:
    zero, much, most = "An increment of 0 is an error.", "A window has at most 2³¹-1 bytes.", "2³¹-1 is allowed."
    room, gone = MAX_WINDOW - 65535, "On a stream that is closed nothing may be sent."
    await hold(
        c,
        [("open", 1), ("update", 1, 0, zero), ("close", 1, gone), ("open", 3)],
        [("open", 1), ("update", 0, 0, zero + " On stream 0 it is the connection's.")],
        [
            ("open", 1),
            ("open", 3),
            ("update", 1, room, most),
            ("update", 1, 1, much),
            ("close", 1, gone),
            ("charge", 3, 5),
        ],
        [("open", 1), ("update", 0, room, most), ("update", 0, 1, much + " On stream 0 it is the connection's.")],
        [("open", 1), ("update", 1, MAX_WINDOW, much)],
        [("open", 1), ("charge", 1, 65535), ("update", 1, MAX_WINDOW, most), ("update", 0, MAX_WINDOW, most)],
    )


@step(
    "B: a new initial size is for streams that are open, too",
    rfc="RFC 9113 §6.9.2: adjust the size of all stream flow-control windows by the difference",
    symptom="The peer's SETTINGS say another initial size. It is for streams that are open, too, but not for the "
    "connection.",
    where="By the difference between the new value and the old one: what was sent stays sent. New streams begin with "
    "the new value.",
    code="for stream in self._windows:\n    if stream:\n        self._windows[stream] += size - self._initial\n"
    "self._initial = size",
    seconds=PATIENCE,
)
async def new_initial_size(c: Check) -> None:
    new, old = "A new stream begins with the new size.", "Open streams are changed by the difference."
    never = "SETTINGS never change the connection's window (§6.9.2)."
    await hold(
        c,
        [("set_initial", 100000), ("open", 1, never), ("charge", 1, 60000), ("open", 3, never)],
        [("set_initial", 1000), ("open", 1, new), ("set_initial", 100, old), ("open", 3, new)],
        [("open", 1), ("set_initial", 1000, old), ("set_initial", 65535, old)],
        [("open", 1), ("open", 3), ("charge", 1, 500), ("set_initial", 2000, old), ("set_initial", 2000, old),
         ("set_initial", 10000, old), ("charge", 3, 4000), ("set_initial", 9000, old)],
        [("set_initial", 10), ("set_initial", 70000), ("open", 1, never), ("update", 0, 70000)],
        [("set_initial", 0), ("open", 1, "A window of 0 is no error: the peer opens it when it likes."),
         ("update", 1, 5), ("set_initial", 10, old)],
    )  # fmt: skip


@step(
    "B: a window may be below zero",
    rfc="RFC 9113 §6.9.2: a change can cause the available space to become negative. A sender MUST track it",
    symptom="Bytes were on the way already when the window shrank. Now it is below zero, and stays so until enough "
    "was given back. Your ledger makes it 0, or more.",
    where="Keep the number as it is; only available() must not go below 0. DATA without a byte needs no window.",
    code="return max(0, min(self._windows[0], self._windows[stream]))\n...\n"
    "if size > max(0, self._windows[stream]): ...  # no bytes always fit",
    seconds=PATIENCE,
)
async def below_zero(c: Check) -> None:
    debt = "The window was below zero, and what is given back pays that first."
    shut = "Nothing may be sent, and fewer than no bytes cannot be."
    await hold(
        c,
        [("open", 1), ("charge", 1, 1000), ("set_initial", 400, shut), ("update", 1, 600, debt),
         ("update", 1, 50, debt)],
        [("open", 1), ("charge", 1, 20000), ("set_initial", 0, shut), ("set_initial", 30000, debt)],
        [("open", 1), ("charge", 1, 500), ("set_initial", 0, shut),
         ("charge", 1, 0, "An empty DATA frame (END_STREAM) needs no window (§6.9.1)."), ("update", 1, 501, debt)],
        [("open", 1), ("open", 3), ("charge", 1, 5), ("set_initial", 4, shut), ("set_initial", 3, shut),
         ("charge", 3, 2, "The window of this stream is not below zero."), ("set_initial", 5, debt)],
        [("open", 1), ("charge", 1, 65535), ("charge", 1, 0, "An empty DATA frame needs no window (§6.9.1).")],
    )  # fmt: skip


@step(
    "B: SETTINGS that make a window too large",
    rfc="RFC 9113 §6.9.2, §6.5.2: a window above 2^31-1 is a connection error of type FLOW_CONTROL_ERROR",
    symptom="A window can grow by WINDOW_UPDATE, and you look at that. By what else can it grow? And whose fault is "
    "it, if one frame is too much for one of many streams?",
    where="SETTINGS are the connection's, so that the error is, too: stream 0. A stream that is closed has no window.",
    code="if self._windows[stream] + size - self._initial > MAX_WINDOW:\n    raise Http2Error(FLOW_CONTROL_ERROR)",
    seconds=PATIENCE,
)
async def settings_too_large(c: Check) -> None:
    much = "A window has at most 2³¹-1 bytes, and SETTINGS are the connection's."
    await hold(
        c,
        [("set_initial", MAX_WINDOW, "2³¹-1 is allowed."), ("open", 1), ("charge", 1, 10)],
        [("open", 1), ("set_initial", MAX_WINDOW, "2³¹-1 is allowed."), ("charge", 1, 10)],
        [("set_initial", MAX_WINDOW + 1, much)],
        [("open", 1), ("update", 1, MAX_WINDOW - 65535), ("set_initial", 65536, much)],
        [("open", 1), ("open", 3), ("update", 1, 1), ("set_initial", MAX_WINDOW, much)],
        [("open", 1), ("charge", 1, 1), ("update", 1, 1), ("set_initial", MAX_WINDOW, "2³¹-1 is allowed.")],
        [("update", 0, MAX_WINDOW - 65535), ("set_initial", MAX_WINDOW, "It is not for the connection's window.")],
        [("open", 1), ("update", 1, MAX_WINDOW - 65535), ("close", 1), ("open", 3),
         ("set_initial", 70000, "The stream that had a large window is closed.")],
    )  # fmt: skip


@step(
    "B: more than the window",
    rfc="RFC 9113 §6.9.1: a sender MUST NOT exceed the space in either window. §6.9: a receiver MAY respond with "
    "FLOW_CONTROL_ERROR",
    symptom="The same ledger is the receiver's: it says when a peer has sent too much. Of two windows, which one was "
    "broken? And may a peer use up a window to its last byte?",
    where="Beyond the stream's window it is the stream's error, beyond the connection's it is the connection's. "
    "Exactly as much as there is may come.",
    code="for one in (0, stream):\n    if size > max(0, self._windows[one]):\n"
    "        raise Http2Error(FLOW_CONTROL_ERROR, one)\n    self._windows[one] -= size",
    seconds=PATIENCE,
)
async def too_much_data(c: Check) -> None:
    whole = "That is exactly what is allowed."
    await hold(
        c,
        [("set_initial", 100), ("open", 1), ("charge", 1, 100, whole),
         ("charge", 1, 1, "The stream's window is spent.")],
        [("set_initial", 100), ("open", 1), ("charge", 1, 101, "The stream's window has 100 bytes.")],
        [("open", 1), ("set_initial", 100000), ("charge", 1, 65535, whole),
         ("charge", 1, 1, "The connection's window is spent.")],
        [("open", 1), ("open", 3), ("charge", 1, 65000), ("charge", 3, 536, "The connection has 535 bytes.")],
        [("open", 1), ("charge", 1, 10), ("set_initial", 5), ("charge", 1, 1, "The stream's window is below zero.")],
    )  # fmt: skip


@step(
    "B: streams that are closed, and the connection that goes on",
    rfc="RFC 9113 §6.9: a receiver MUST always account for DATA against the connection's window, even if the frame is "
    "in error; it MUST NOT treat a WINDOW_UPDATE on a closed stream as an error",
    symptom="You have reset a stream, and the peer did not know yet: its DATA still comes, and a WINDOW_UPDATE. Your "
    "ledger loses count of the connection, or takes it for an error.",
    where="The window of a closed stream is gone, and nothing may be sent on it. The connection's window pays for its "
    "DATA all the same: the peer has counted it, and if you do not, the two of you never agree again.",
    code="def close(self, stream):\n    self._windows.pop(stream, None)\n...\n"
    "for one in (0, stream):  # the connection pays, whatever the stream is\n"
    "    if one in self._windows: ...",
    seconds=PATIENCE,
)
async def closed_streams(c: Check) -> None:
    gone, counted = "On a stream that is closed nothing may be sent.", "The connection pays for it all the same."
    late = "It may come late, and is ignored."
    await hold(
        c,
        [("open", 1), ("open", 3), ("close", 1, gone), ("charge", 3, 5)],
        [("open", 1), ("open", 3), ("close", 1), ("charge", 1, 1000, counted)],
        [("open", 1), ("open", 3), ("charge", 1, 1000), ("close", 1), ("update", 1, 1000, late), ("charge", 3, 5)],
        [("open", 1), ("close", 1), ("set_initial", 5, gone), ("open", 3)],
        [("open", 1), ("close", 1), ("close", 1, "It was closed already, and stays so."), ("open", 3)],
        [("set_initial", 100), ("open", 1), ("set_initial", 65535), ("open", 3), ("set_initial", 100), ("close", 3),
         ("set_initial", 65535), ("open", 5), ("charge", 1, 65000), ("close", 1), ("open", 7, counted)],
        [("set_initial", 100), ("open", 1), ("charge", 1, 200, "The stream's window has 100 bytes."), ("close", 1),
         ("set_initial", 65535), ("open", 3, "The connection pays also for what was too much for its stream.")],
        [("open", 1), ("close", 1), ("charge", 1, 65536, "The connection's window has 65,535 bytes.")],
    )  # fmt: skip


@step(
    "B: a long life, in any order",
    rfc="RFC 9113 §6.9, all of it",
    symptom="Sixty connections, each with calls in an order of its own. In one of them your ledger was wrong.",
    where="The shortest of those is shown. Say after each call what each window is; where do you and your ledger part?",
    code="Print self._windows after each call, and count along.",
    seconds=PATIENCE,
)
async def long_life(c: Check) -> None:
    chance = random.Random(69)
    scripts = [a_life(chance) for _ in range(60)]
    seen = await ask(c, "ledger_role", scripts)
    mistaken = [(wrong(calls, one), calls, one) for calls, one in zip(scripts, seen, strict=True)]
    if shortest := min((life for life in mistaken if life[0]), key=lambda life: life[0], default=None):
        count, calls, one = shortest
        judge(c, calls[:count], one[:count])
    c.did("= 60 connections of up to 40 calls each: right after each call")


def a_life(chance: random.Random) -> list[list[Any]]:
    """Calls such as a connection may see; at most the last is an error."""
    model, calls, opened = Model(), [], 0
    for _ in range(40):
        live = [stream for stream in model.windows if stream]
        some = chance.choice([*live, *range(1, 2 * opened, 2)] or [0])  # now and then one that is closed
        small = chance.choice((0, 1, 7, 100, 16384, 40000))
        kind = chance.choice(("open", "charge", "charge", "charge", "update", "update", "set_initial", "close"))
        if kind == "open" or not opened:
            opened += 1
            call: list[Any] = ["open", 2 * opened - 1]
        elif kind == "charge":
            room = model.available(some)
            call = [kind, some, chance.choice((small, room, room // 2, room // 3, room + chance.randrange(2)))]
            if call[2] > model.windows[0] and call[2] > model.windows.get(some, call[2]):
                continue  # Too much for both: whose error that is is not said.
        elif kind == "update":
            stream = chance.choice((0, some))
            call = [kind, stream, chance.choice((small or 1, MAX_WINDOW - max(0, model.windows.get(stream, 0)), 30000))]
        elif kind == "set_initial":
            call = [kind, chance.choice((0, 1, 100, 10000, 65535, 100000, MAX_WINDOW - 40000))]
        else:
            call = [kind, some]
        calls.append(call)
        if model.call(*call):
            break
    return calls
