"""What a check is written in: steps that drive a learner's program from the outside.

    @step("two frames in one segment", rfc="RFC 9293 §3.7: TCP has no message boundaries",
          symptom="Your server answers only the first of two frames.",
          where="Look at what you do with the bytes after the first frame.",
          code="while len(self._buffer) >= 4 + size: ...")
    async def coalesced(c: Check) -> None:
        conn = await c.connect()
        await conn.send(frame(b"one") + frame(b"two"))
        await conn.expect(frame(b"ONE") + frame(b"TWO"), "an answer to each frame, in order")

Steps run in the order of the file, each within its time; the first that fails ends the check. What a
step does is told as it happens, and shown when it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

from labkit import learner
from labkit.lab import Host, Network
from labkit.sandbox import CannotRun

_READ_LIMIT = 1 << 24  # bytes that one `expect` reads: a peer that never stops must not own our memory


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    rfc: str
    hints: tuple[str, str, str]  # the ladder: symptom, where to look, the code
    body: Callable[[Check], Awaitable[None]]
    seconds: float


def step(
    title: str, *, rfc: str, symptom: str, where: str, code: str, seconds: float = 5
) -> Callable[[Callable[[Check], Awaitable[None]]], Step]:
    """Declare a step of a check, with the rule it tests and its ladder of hints."""

    def declare(body: Callable[[Check], Awaitable[None]]) -> Step:
        return Step(body.__name__, title, rfc, (symptom, where, code), body, seconds)

    return declare


def steps_of(module: ModuleType) -> list[Step]:
    return [value for value in vars(module).values() if isinstance(value, Step)]


class CheckFailed(Exception):
    """The learner's program did something else than asked.

    what     one sentence: what is wrong, in terms of the protocol
    got, wanted   bytes (shown with a caret under the first that differs) or plain text, or None
    filter   Wireshark display filter of the packets that show it; the last match is cited
    reproduce   a shell line that does the same by hand, or ""
    """

    def __init__(
        self,
        what: str,
        *,
        got: bytes | str | None = None,
        wanted: bytes | str | None = None,
        filter: str = "",
        reproduce: str = "",
    ) -> None:
        super().__init__(what)
        self.what, self.got, self.wanted, self.filter, self.reproduce = what, got, wanted, filter, reproduce


class Program:
    """A learner's program, running on a host."""

    def __init__(self, pid: int, output: IO[bytes], result: IO[bytes]) -> None:
        self._pid, self._output, self._result = pid, output, result
        self._status: int | None = None

    @property
    def ended(self) -> bool:
        if self._status is None:
            self._status = _waited(self._pid, os.WNOHANG)
        return self._status is not None

    @property
    def failed(self) -> bool:
        """True when it has ended with an error."""
        return self.ended and self._status != 0

    def output(self, most: int = 2000) -> str:
        """What it printed, at most the last so many characters."""
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), most, max(0, size - most))
        return text.decode(errors="replace").strip()

    def stop(self) -> None:
        """End it and all that it started."""
        if not self.ended:
            learner.kill(self._pid)
            self._status = _waited(self._pid, 0)
        self._result.close()
        self._output.close()

    async def show_where(self) -> None:
        """Make it print the lines at which it is now."""
        before = self.output()
        if not self.ended:
            os.killpg(self._pid, learner.WHERE)
        end = time.monotonic() + 2
        while not self.ended and self.output() == before:
            if time.monotonic() > end:  # A busy machine must not make a hundred naps of it.
                break
            await asyncio.sleep(0.005)

    async def result(self, seconds: float) -> Any:
        """Wait for its end; return what its role function returned.

        Raises CheckFailed where it crashed or did not end in time.
        """
        end = time.monotonic() + seconds
        while not self.ended:
            if time.monotonic() > end:
                await self.show_where()
                raise CheckFailed(f"Your program was still running after {seconds:g} s, and was stopped.")
            await asyncio.sleep(0.002)
        if self.failed:
            raise CheckFailed("Your program ended with an error.")
        returned = os.pread(self._result.fileno(), _READ_LIMIT, 0)
        if not returned:
            raise CheckFailed("Your program ended before it returned anything.")
        try:
            return json.loads(returned)
        except (ValueError, RecursionError):
            raise CheckFailed("What your program returned cannot be read. Did it fork?") from None


def _waited(pid: int, options: int) -> int | None:
    """The status of a child that has ended, None while it runs."""
    try:
        ended, status = os.waitpid(pid, options)
    except ChildProcessError:  # Somebody else has waited for it.
        return 0
    return status if ended else None


class Conn:
    """One TCP connection of the checker, to or from the learner's program."""

    def __init__(self, check: Check, sock: socket.socket, learner_host: Host, by_hand: bool = True) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._check = check
        self._sent = b""
        self._by_hand = by_hand  # A person can do the same with nc, since the learner's end is a server.
        mine = sock.getsockname()
        self._filter = f"tcp.port == {mine[1]} && tcp.port == {sock.getpeername()[1]}"
        if check.net.on_wire:
            self._filter += f" && ip.src == {learner_host.address}"

    async def send(self, data: bytes, pieces: int | None = None) -> None:
        """Send bytes, in one piece, or in pieces of so many bytes, each in a segment of its own."""
        size = pieces or len(data) or 1
        self._check.did(f"> {_short(data)}" + (f"   in pieces of {pieces} B" if pieces else ""))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent += data
        try:
            for i in range(0, len(data), size):
                await asyncio.get_running_loop().sock_sendall(self.socket, data[i : i + size])
                if pieces:
                    await asyncio.sleep(0.002)  # So that the other side's read finds one piece at a time.
        except ConnectionError as error:
            self._fail(f"Your program closed the connection while it was still being sent to: {_reason(error)}.")

    async def finish_sending(self) -> None:
        """Half-close: send FIN, keep listening."""
        self._check.did("> FIN (half-close)")
        self.socket.shutdown(socket.SHUT_WR)

    async def read(self, most: int, seconds: float = 2) -> bytes:
        """Read until so many bytes, the end, or the time is up; return what came."""
        data = b""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(data) < min(most, _READ_LIMIT):
                    piece = await loop.sock_recv(self.socket, 65536)
                    if not piece:
                        break
                    data += piece
        return data

    async def expect(self, wanted: bytes, why: str, seconds: float = 2) -> None:
        """The next bytes must be exactly these."""
        try:
            got = await self.read(len(wanted), seconds)
        except ConnectionError as error:
            self._check.did(f"! {_reason(error)}")
            self._fail(f"The connection broke, {_reason(error)}, where this was wanted: {why}.", b"", wanted)
        self._check.did(f"< {_short(got)}" if got else "< nothing")
        if got != wanted:
            kind = "Nothing came back" if not got else "Something else came back"
            if got and wanted.startswith(got):
                kind = f"Only {len(got)} of {len(wanted)} bytes came back"
            self._fail(f"{kind}. Wanted: {why}.", got, wanted)

    async def expect_end(self, why: str, seconds: float = 2, reset_is_fine: bool = False) -> None:
        """The peer must end the connection now, without another byte."""
        try:
            async with asyncio.timeout(seconds):
                got = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        except TimeoutError:
            self._check.did("< nothing")
            self._fail(f"The connection stayed open. Wanted: {why}.")
        except ConnectionError as error:
            self._check.did(f"! {_reason(error)}")
            if not reset_is_fine:
                self._fail(f"RST where FIN was wanted: {why}.")
            return
        self._check.did(f"< {_short(got)}" if got else "< FIN")
        if got:
            self._fail(f"More bytes came where the end was wanted: {why}.", got, b"")

    def close(self) -> None:
        self.socket.close()

    def _fail(self, what: str, got: bytes | None = None, wanted: bytes | None = None) -> NoReturn:
        shown = f"({self._filter}) && (tcp.len > 0 || tcp.flags.fin == 1 || tcp.flags.reset == 1)"
        printed = f"({_printed_by_shell(self._sent)}; sleep 1)"  # Some nc close as soon as their input ends.
        line = f"{printed} | nc 127.0.0.1 {self._check.net.port}" if self._by_hand and self._sent else ""
        raise CheckFailed(what, got=got, wanted=wanted, filter=shown, reproduce=line)


@dataclass
class Check:
    """What a step gets: the network, the learner's program, and ways to talk to it."""

    net: Network
    check_file: Path
    exercise_file: Path
    exercise: ModuleType | None = None
    story: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    connections: list[Conn] = field(default_factory=list)
    _ports: int = 0

    def did(self, text: str) -> None:
        """Tell what was done; it is shown when the step fails. `>` sent, `<` received, `=` state."""
        self.story.append(text)

    def start(self, role: str, *arguments: object, host: str = "server") -> Program:
        """Run `role(exercise, *arguments)` of the check file in the learner's own process on a host."""
        output, result = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # Limited by RLIMIT_FSIZE; no name.
        with self.net[host].entered():
            pid = learner.start(
                self.check_file, role, self.exercise_file, [str(argument) for argument in arguments],
                output.fileno(), result.fileno(),
            )  # fmt: skip
        program = Program(pid, output, result)
        self.programs.append(program)
        return program

    def stop(self, program: Program) -> None:
        """End a program and all that it started, so that the next step finds its port free."""
        if not program.ended:  # One that has ended stays, for `run_steps` to see how.
            program.stop()
            self.programs.remove(program)

    async def connect(self, port: int | None = None, seconds: float = 3) -> Conn:
        """Connect to the learner's server from the client host; wait until it listens."""
        end = time.monotonic() + seconds
        loop = asyncio.get_running_loop()
        while True:
            if self.programs and self.programs[-1].ended:
                raise CheckFailed("Your program has ended; a server goes on for ever.")
            sock = self.net.client.socket(timeout=None)
            sock.setblocking(False)
            try:
                async with asyncio.timeout(max(0.01, end - time.monotonic())):
                    await loop.sock_connect(sock, (self.net.server.address, port or self.net.port))
                self.did("= connected")
                conn = Conn(self, sock, self.net.server)
                self.connections.append(conn)
                return conn
            except (OSError, TimeoutError) as error:
                sock.close()
                if time.monotonic() > end:
                    raise CheckFailed(f"Your server does not accept connections ({_reason(error)}).") from None
                await asyncio.sleep(0.01)

    async def accept(self, listening: socket.socket, seconds: float = 3) -> Conn:
        """Accept the connection that the learner's client makes to a listening socket of ours."""
        listening.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                sock, peer = await asyncio.get_running_loop().sock_accept(listening)
        except TimeoutError:
            raise CheckFailed("Your client did not connect.") from None
        self.did(f"= your client connected from port {peer[1]}")
        conn = Conn(self, sock, self.net.client, by_hand=False)
        self.connections.append(conn)
        return conn

    def fail(self, what: str, **details: Any) -> NoReturn:
        """End the check: see CheckFailed."""
        raise CheckFailed(what, **details)

    def equal(self, got: object, wanted: object, what: str, **details: Any) -> None:
        """*got* must equal *wanted*; *what* says what it is."""
        if got != wanted:
            as_shown = [value if isinstance(value, bytes) else repr(value) for value in (got, wanted)]
            raise CheckFailed(what, got=as_shown[0], wanted=as_shown[1], **details)


async def run_steps(check: Check, steps: list[Step], emit: Callable[[dict[str, Any]], None]) -> None:
    """Run the steps in order; emit a {"step": …, "state": …} event before and after each.

    Stops at the first that fails. A step that needs what this machine lacks is "cannot", never "passed".
    """
    try:
        for index, one in enumerate(steps):
            check.story.clear()
            emit({"step": index, "state": "running"})
            verdict: dict[str, Any] = {"step": index, "state": "passed"}
            try:
                async with asyncio.timeout(one.seconds):
                    await one.body(check)
            except CheckFailed as error:
                running = [program for program in check.programs if not program.ended]
                for _ in range(10):  # A program that broke the connection by dying is dead a moment later.
                    if any(program.ended for program in running):
                        break
                    await asyncio.sleep(0.01)
                verdict = _failed(index, check, error)
            except TimeoutError:
                for program in check.programs:
                    await program.show_where()
                hangs = f"Not done after {one.seconds:g} s: your program hangs. Where it is now stands below."
                verdict = _failed(index, check, CheckFailed(hangs))
            except CannotRun as error:
                verdict = {"step": index, "state": "cannot", "reason": str(error)}
            except (OSError, ValueError, TypeError, LookupError) as error:
                # Steps expect a program that keeps to the form of the exercise; this one did not.
                odd = f"Your program did what this step cannot follow: {type(error).__name__}: {error}."
                verdict = _failed(index, check, CheckFailed(odd))
            finally:
                for conn in check.connections:
                    conn.close()
                check.connections.clear()
            if verdict["state"] == "passed":
                for program in check.programs:
                    if program.failed:
                        verdict = _failed(index, check, CheckFailed("Your program ended while it should have gone on."))
            emit(verdict)
            if verdict["state"] == "failed":
                break
    finally:
        for program in check.programs:
            program.stop()


def _last(story: list[str], most: int = 12) -> list[str]:
    """What was done at last: the end of a long story, that begins with a deed and not with an answer."""
    told = story[-most:]
    while len(story) > most and len(told) > most // 2 and told[0].startswith("<"):
        told = told[1:]
    left = len(story) - len(told)
    return [f"= … {left} lines before", *told] if left else told


def _failed(index: int, check: Check, error: CheckFailed) -> dict[str, Any]:
    output = "\n".join(filter(None, (program.output() for program in check.programs)))
    what = error.what
    failed = any(program.failed for program in check.programs)
    if (failed or "Traceback (most recent call last)" in output) and (raised := _raised(output)):
        what = f"Your program raised {raised} {what}"
    elif failed and "ended" not in what:
        what += " (Your program has ended.)"
    got, wanted = (
        {"bytes": value.hex()} if isinstance(value, bytes) else {"text": value} if value is not None else None
        for value in (error.got, error.wanted)
    )
    return {
        "step": index, "state": "failed", "what": what, "story": _last(check.story), "got": got,
        "wanted": wanted, "filter": error.filter, "reproduce": error.reproduce, "printed": output,
        "at": time.time(),
    }  # fmt: skip


def _raised(output: str) -> str:
    """The exception at the end of what was printed: "NameError: name 'x' is not defined (exercise.py:61)."."""
    lines = output.splitlines()
    last = next(
        (line for line in reversed(lines) if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b", line)), ""
    )
    place = re.findall(r'File ".*?([^/"]+)", line (\d+)', output)
    library = ("streams", "base_events", "runners", "selector_events", "tasks", "events", "sslproto", "<frozen")
    own = [f"{name}:{line}" for name, line in place if not name.startswith(library)]
    return f"{last} ({own[-1]})." if last and own else f"{last}." if last else ""


def _short(data: bytes, most: int = 40) -> str:
    """Bytes as text, the beginning of long ones: 'hello' (5 B)."""
    if len(data) <= most:
        return f"{repr(data)[1:]} ({len(data)} B)"
    return f"{repr(data[: most // 4])[1:]}… ({len(data):,} B)"


def _printed_by_shell(data: bytes) -> str:
    """A shell command that prints these bytes; a long tail of zeros is left to head(1), the rest cut at 100."""
    start = data.rstrip(b"\0")
    zeros = len(data) - len(start)
    if zeros < 16:
        start, zeros = data, 0
    escaped = "".join(
        chr(b) if (b < 128 and chr(b).isalnum()) or b in b" .,:/-" else f"\\x{b:02x}" for b in start[:100]
    )
    printf = f"printf '{escaped}'" + ("  `# … and so on`" if len(start) > 100 else "")
    return f"{printf}; head -c {zeros} /dev/zero" if zeros else printf


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionResetError):
        return "reset by your program (RST)"
    return getattr(error, "strerror", None) or type(error).__name__
