"""The check of this lab: framing on both sides of a connection, and what a peer can do to it."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from labkit.check import Check, CheckFailed, Conn, Program, step

BY_HAND = "server_role"
MAXIMUM = 65536
TOO_LONG = b"error: too long"
FOREVER = "serve() returned, and it must go on for ever: `async with server: await server.serve_forever()`."
AT_THE_END = 'After the FIN, read() returns b"" at once, for ever; a loop that does not look at it never ends.'
STREAM = "RFC 9293 §2.2: TCP is a byte stream; it keeps the order of the bytes and no boundaries between them"


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


# -- What runs in the learner's own process ------------------------------------------------------------


def encode_role(exercise: ModuleType, *messages: str) -> list[str]:
    """encode() of each message ("hello", or "65536*": so many zeros), as hex; or "ValueError"."""
    found = []
    for text in messages:
        try:
            found.append(exercise.encode(bytes(int(text[:-1])) if text.endswith("*") else text.encode()).hex())
        except ValueError:
            found.append("ValueError")
    return found


def decode_role(exercise: ModuleType, *cuts: str) -> list[dict[str, Any]]:
    """For each "hex:size" feed the bytes to a new decoder, so many at a time: its messages, did it raise ValueError."""
    found = []
    for cut in cuts:
        data, size = bytes.fromhex(cut.partition(":")[0]), int(cut.partition(":")[2])
        decoder, messages, raised = exercise.Decoder(), [], False
        try:
            for i in range(0, len(data), size):
                for message in decoder.receive_data(data[i : i + size]):
                    messages.append(bytes(message).hex())
        except ValueError:
            raised = True
        found.append({"messages": messages, "raised": raised})
    return found


def server_role(exercise: ModuleType, host: str, port: str) -> None:
    listener = socket.create_server((host, int(port)))
    small_buffers(listener)  # Its connections inherit them.
    replace(exercise, "start_server", outspoken(exercise, []))
    asyncio.run(exercise.serve(listener))
    raise RuntimeError(FOREVER)


def small_buffers(sock: socket.socket) -> None:
    """So that a few hundred kB fill them, and not megabytes."""
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, 65536)


def replace(exercise: ModuleType, name: str, function: Callable[..., Any]) -> None:
    """Put another function in the place of one of asyncio's, also where the exercise has imported its name."""
    for module in (asyncio, exercise):
        if hasattr(module, name):
            vars(module)[name] = function


def outspoken(exercise: ModuleType, kept: list[asyncio.StreamWriter]) -> Callable[..., Any]:
    """start_server() that does the same on every Python: a handler's exception is printed at once.

    An early 3.11 prints it when the garbage collector finds the task, so perhaps never; later ones print it, close
    the connection, and also close one whose writer is forgotten. Here close() is the handler's own business.
    """
    start_server = asyncio.start_server

    async def start(handler: Callable[..., Any], *arguments: Any, **options: Any) -> asyncio.Server:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            kept.append(writer)
            try:
                result = handler(reader, writer)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
                lines = [*traceback.format_list(frames), *traceback.format_exception_only(error)]
                print("Traceback (most recent call last):\n", *lines, sep="", end="", file=sys.stderr)

        return await start_server(handle, *arguments, **options)

    return start


def client_role(exercise: ModuleType, host: str, port: str, *messages: str) -> dict[str, Any]:
    """ask() with these messages ("65536*3": three of zeros, that long); its answers, or what it raised."""
    asked = []
    for text in messages:
        size, _, times = text.partition("*")
        asked += [bytes(int(size))] * int(times) if times else [text.encode()]
    kept: list[asyncio.StreamWriter] = []
    replace(exercise, "open_connection", keeping(kept))
    try:
        answers = asyncio.run(exercise.ask(host, int(port), asked))
        result = {"count": len(answers), "answers": [bytes(answer[:64]).decode("latin-1") for answer in answers[:8]]}
    except (ConnectionError, EOFError, ValueError) as error:  # asyncio.IncompleteReadError is an EOFError.
        result = {"raised": type(error).__name__}
    return {**result, "left open": not all(writer.is_closing() for writer in kept)}


def keeping(kept: list[asyncio.StreamWriter]) -> Callable[..., Any]:
    """open_connection() that keeps the writer: on newer Pythons one that is forgotten closes by itself, by luck."""
    open_connection = asyncio.open_connection

    async def connect(*arguments: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await open_connection(*arguments, **options)
        small_buffers(writer.get_extra_info("socket"))
        kept.append(writer)
        return reader, writer

    return connect


# -- The core: no network yet --------------------------------------------------------------------------


@step(
    "encode() puts 4 bytes of length in front",
    rfc="RFC 791 Appendix B: the most significant byte comes first (network byte order)",
    symptom="The other side cannot know where your message ends, or it reads another length than you meant.",
    where="int.to_bytes() takes the number of bytes and their order. Look at the hex dump: which byte holds the 5?",
    code='return len(message).to_bytes(4, "big") + message',
)
async def encoding(c: Check) -> None:
    found = await c.start("encode_role", "hello", "", host="client").result(5)
    for message, encoded in zip((b"hello", b""), found, strict=True):
        got = bytes.fromhex(encoded)
        c.did(f"= encode({message!r}) returned {got!r}")
        if got != frame(message):
            backwards = got == len(message).to_bytes(4, "little") + message
            c.fail(
                "The length is little-endian; the network writes the most significant byte first."
                if backwards
                else f"encode({message!r}) is not 4 bytes of length and then the message.",
                got=got,
                wanted=frame(message),
            )


@step(
    "A decoder gives the same messages, however the stream is cut",
    rfc=STREAM,
    symptom="Your decoder loses or invents messages when a frame is cut in two, or when one read holds several.",
    where="What is left over when the last whole frame is taken out must still be there at the next call. And a "
    "length can be cut in two as well.",
    code="self._buffer += data\n"
    "while len(self._buffer) >= 4:\n"
    '    length = int.from_bytes(self._buffer[:4], "big")\n'
    "    if len(self._buffer) < 4 + length:\n"
    "        break                                # the tail stays for the next call\n"
    "    message = bytes(self._buffer[4 : 4 + length])\n"
    "    del self._buffer[: 4 + length]\n"
    "    yield message                            # a list will do as well, until there is something to raise",
)
async def every_split(c: Check) -> None:
    messages = [b"alpha", b"", b"be", b"x" * 300]
    wire = b"".join(map(frame, messages)) + frame(b"unfinished")[:7]
    sizes = [len(wire), *range(1, 20)]
    found = await c.start("decode_role", *(f"{wire.hex()}:{size}" for size in sizes), host="client").result(5)
    for size, outcome in zip(sizes, found, strict=True):
        got = [bytes.fromhex(message) for message in outcome["messages"]]
        cut = "in one read" if size == len(wire) else f"in reads of {size} B"
        c.did(f"= 4 messages and a piece of a fifth, {cut}: {len(got)} came out")
        if outcome["raised"]:
            c.fail(f"4 messages and a piece of a fifth, {cut}: your decoder raised ValueError, and no length is wrong.")
        if got != messages:
            only = "only " if len(got) < len(messages) else "not the same " if len(got) == len(messages) else ""
            c.fail(f"4 messages and a piece of a fifth, {cut}: {only}{len(got)} came out.",
                   got=listed(got), wanted=listed(messages))  # fmt: skip


def listed(messages: list[bytes]) -> str:
    """The messages; of a long one, how long it is."""
    return ", ".join(repr(m) if len(m) <= 20 else f"{repr(m[:3])[:-1]}…' ({len(m)} B)" for m in messages) or "(none)"


@step(
    "A decoder forgets what it has given",
    rfc="CWE-407: inefficient algorithmic complexity",
    symptom="Each message takes longer than the one before it, and a long connection takes all of your memory.",
    where="A message that is given back has to leave the buffer. Do you look at the same bytes again at the next call?",
    code="del self._buffer[: 4 + length]",
)
async def forgets(c: Check) -> None:
    count = 20_000
    c.did(f"= {count} small messages, each in a read of its own")
    program = c.start("decode_role", f"{(frame(b'') * count).hex()}:4", host="client")
    slow = f"Your decoder was not done with {count} empty messages after 2 s: each takes longer than the one before it."
    outcome = await its_end(program, 2, slow)
    if len(outcome[0]["messages"]) != count:
        c.fail(f"{count} empty messages, each in a read of its own: {len(outcome[0]['messages'])} came out.")


async def its_end(program: Program, seconds: float, otherwise: str) -> Any:
    """What the program's role returns; where it does not end in time, fail with these words."""
    try:
        return await program.result(seconds)
    except CheckFailed:
        if program.ended:
            raise
        raise CheckFailed(otherwise) from None


@step(
    "There is a maximum, to the byte, in both directions",
    rfc="CWE-770: allocation of resources without limits",
    symptom="A peer that announces four gigabytes makes you wait for them, and keep what it sends.",
    where="Compare the length before you wait for the bytes; 65,536 is allowed, 65,537 is not. encode() has the "
    "same limit, for what you must not send is a mistake to learn of at home.",
    code='if length > MAXIMUM:\n    raise ValueError(f"frame of {length} bytes, the most is {MAXIMUM}")',
)
async def maximum(c: Check) -> None:
    lengths = (MAXIMUM, MAXIMUM + 1, 2**32 - 1)
    wires = [length.to_bytes(4, "big") + b"\0" for length in lengths]
    wires.append(frame(b"good") + wires[1])
    program = c.start("decode_role", *(f"{wire.hex()}:60000" for wire in wires), host="client")
    allowed, *refused, mixed = await program.result(5)
    c.did(f"= a length of {MAXIMUM} arrived, {'ValueError' if allowed['raised'] else 'and was taken'}")
    if allowed["raised"]:
        c.fail(f"A length of exactly {MAXIMUM} was refused, and it is allowed.")
    for length, outcome in zip(lengths[1:], refused, strict=True):
        c.did(f"= a length of {length} arrived, {'ValueError' if outcome['raised'] else 'and nothing happened'}")
        if not outcome["raised"]:
            c.fail(f"Your decoder waits for a frame of {length} bytes; it must refuse the length.")
    given = [bytes.fromhex(message) for message in mixed["messages"]]
    c.did(f"= a good message and then a length of {lengths[1]} in one read: {listed(given)} came out")
    if given != [b"good"]:
        lost = "Your decoder threw away the good message that came before the bad length. "
        why = "(A list that was not returned yet is lost when you raise; what was yielded is not.)"
        c.fail(lost + why, got=listed(given), wanted="b'good'")
    if not mixed["raised"]:
        c.fail("Your decoder gave the good message, and did not raise for the length behind it.")
    longest, longer = await c.start("encode_role", f"{MAXIMUM}*", f"{MAXIMUM + 1}*", host="client").result(5)
    if longest != frame(bytes(MAXIMUM)).hex():
        c.fail(f"encode() of exactly {MAXIMUM} bytes must work.")
    if longer != "ValueError":
        c.fail(f"encode() of {MAXIMUM + 1} bytes must raise ValueError.")


# -- The server ----------------------------------------------------------------------------------------


@step(
    "serve() goes on until it is stopped",
    rfc="Python's documentation of asyncio.start_server(): it returns a server, which runs beside you",
    symptom="Your program ends as soon as it has begun, and its listening socket with it.",
    where="start_server() does not wait for clients: it returns at once. What do you do after it?",
    code="server = await asyncio.start_server(answer, sock=listener)\n"
    "async with server:\n"
    "    await server.serve_forever()",
)
async def goes_on(c: Check) -> None:
    program = c.start("server_role", c.net.server.address, c.net.port)
    for _ in range(500):  # until it runs; a busy machine may take its time
        if program.ended or f":{c.net.port:04X} " in c.net.server.statistics("tcp"):
            break
        await asyncio.sleep(0.005)
    for _ in range(10):
        await asyncio.sleep(0.01)
        if program.ended:
            c.fail(FOREVER)


@step(
    "The server answers at once, and goes on",
    rfc=STREAM,
    symptom="A client that asks, waits, and asks again gets no answer.",
    where="Answer as soon as a message is whole; do not wait for the client's end. And an empty message is a message: "
    "what does `if message:` make of it?",
    code="while data := await reader.read(65536):\n"
    "    for message in decoder.receive_data(data):\n"
    "        writer.write(encode(message.upper()))\n"
    "    await writer.drain()",
)
async def server_answers(c: Check) -> None:
    conn = await c.connect()
    await conn.send(frame(b"hello"))
    await conn.expect(frame(b"HELLO"), "the answer to 'hello', while the client waits for it", 1)
    await conn.send(frame(b""))
    await conn.expect(frame(b""), r"the answer to the empty message, a frame of length 0 (\x00\x00\x00\x00)", 1)
    await conn.send(frame(b"again"))
    await conn.expect(frame(b"AGAIN"), "the answer to a third message, 'again', on the same connection", 1)
    await conn.send(frame(b"\xff stra\xc3\x9fe"))  # As text it is no UTF-8, and an ß would become SS.
    await conn.expect(frame(b"\xff STRA\xc3\x9fE"), "bytes.upper() of a message that is no text, only bytes", 1)


@step(
    "The server ends when the client does",
    rfc="RFC 9293 §3.6: a connection is closed when both sides have sent FIN",
    symptom="The client has ended, and your server has not.",
    where='When read() returns b"", the client has sent FIN: every further read() returns that again, at once, and '
    "a loop that does not look at it never lets anybody else run. And who closes the writer?",
    code="while data := await reader.read(65536):\n    ...\nwriter.close()",
)
async def server_ends(c: Check) -> None:
    conn = await c.connect()
    await conn.finish_sending()
    await conn.expect_end("your FIN in answer to the client's. " + AT_THE_END[:-1], 1)


@step(
    "The server takes what TCP gives it: pieces, and several frames at once",
    rfc=STREAM,
    symptom="It works with one frame per read. It fails when a frame comes in pieces, or three come together.",
    where="Does every byte that read() returns go through your decoder? And do you answer all the messages that "
    "come out of it, or only the first?",
    code="for message in decoder.receive_data(data):\n    writer.write(encode(message.upper()))",
)
async def server_stream(c: Check) -> None:
    conn = await c.connect()
    await conn.send(frame(b"one byte"), pieces=1)
    await conn.expect(frame(b"ONE BYTE"), "an answer to a frame that arrived byte by byte", 1)
    await conn.send(frame(b"one") + frame(b"two") + frame(b"three") + frame(b"tail")[:6])
    await conn.expect(
        frame(b"ONE") + frame(b"TWO") + frame(b"THREE"), "three answers to three frames in one segment", 1
    )
    await conn.send(frame(b"tail")[6:])
    await conn.expect(frame(b"TAIL"), "the answer to the frame of which a piece had come with the others", 1)
    many = [b"%d" % number * (1 + number % 7) for number in range(100)]
    await conn.send(b"".join(map(frame, many)))
    await conn.expect(b"".join(map(frame, many)), "a hundred answers in the order of the questions", 1)


@step(
    "A silent client does not hold up the others",
    rfc="listen(2): the kernel completes connections that no program has accepted yet",
    symptom="The second client connects, but gets no answer while the first one sits there.",
    where="connect() succeeded: the kernel did that, and the connection waits in the backlog. Who accepts it while "
    "you talk to the first? And does each connection have a decoder of its own?",
    code="async def answer(reader, writer):\n"
    "    decoder = Decoder()\n"
    "    ...\n"
    "server = await asyncio.start_server(answer, sock=listener)   # a task per connection",
)
async def many_clients(c: Check) -> None:
    silent = await c.connect()
    await silent.send(frame(b"first")[:5])
    c.did("= and now it is silent; a second client connects")
    second = await c.connect()
    await second.send(frame(b"second"))
    await second.expect(frame(b"SECOND"), "an answer while another client is silent in the middle of a frame", 1)
    await silent.send(frame(b"first")[5:])
    await silent.expect(frame(b"FIRST"), "the answer to the first client, when its frame is complete at last", 1)


@step(
    "A half-closed client still gets its answers, and then the end",
    rfc="RFC 9293 §3.6.1: a FIN ends one direction; the other goes on",
    symptom='read() returned b"": the client will send no more. But it is still listening.',
    where='What do you do with answers that are not sent yet when read() returns b""? abort() throws them away; '
    "close() sends them first.",
    code="while data := await reader.read(65536):\n    ...\nwriter.close()   # sends what is buffered, then FIN",
)
async def half_close(c: Check) -> None:
    conn = await c.connect()
    await conn.send(frame(b"one") + frame(b"last"))
    await conn.finish_sending()
    await conn.expect(frame(b"ONE") + frame(b"LAST"), "the answers to all that came before the FIN", 1)
    await conn.expect_end("your FIN, when all is answered", 1)


@step(
    "A client that vanishes is no surprise",
    rfc="RFC 9293 §3.5.3: reset processing; the connection is gone, and the program is told so",
    symptom="A client reset its connection and your server printed a traceback, or harmed the next client.",
    where="After an RST read() and drain() raise ConnectionResetError. Nobody is left to answer: clean up, go on. And "
    "nothing of that client may be left for the next one, neither its half frame nor its place.",
    code="except ConnectionError:\n    pass\nfinally:\n    writer.close()",
)
async def vanished(c: Check) -> None:
    for _ in range(20):
        conn = await c.connect()
        await conn.send(frame(b"hello"))  # Its answer shows that the server is reading, so it will meet the RST.
        await conn.expect(frame(b"HELLO"), "an answer to a new client, whatever became of those before it", 1)
        await conn.send(frame(b"half a frame")[:9])
        conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()  # With SO_LINGER and a time of 0, close() is an RST.
        c.did("> RST, in the middle of a frame")
    conn = await c.connect()
    for _ in range(5):  # Five turns of its event loop: by then it has met the resets, too.
        await conn.send(frame(b"still there?"))
        await conn.expect(frame(b"STILL THERE?"), "an answer to the next client", 1)
        await asyncio.sleep(0.02)
        if "Traceback" in c.programs[-1].output():
            c.fail("A client that reset its connection made your server print a traceback.")
    half = await c.connect()
    await half.send(frame(b"half a frame")[:9])
    await half.finish_sending()
    await half.read(64, 0.1)  # What is said of it, if anything, is the server's choice.
    await conn.send(frame(b"and now?"))
    await conn.expect(frame(b"AND NOW?"), "an answer after another client ended in the middle of a frame", 1)
    if "Traceback" in c.programs[-1].output():
        c.fail("A client that ended (FIN) in the middle of a frame made your server print a traceback.")


@step(
    "A frame that is too long is refused, and the client can read why",
    rfc="RFC 9112 §9.6; RFC 9293 §3.6.1: closing with unread data sends RST, and the answer may be lost",
    symptom="The client was still sending when you closed. It got an RST, and your explanation went unread.",
    where="Read the experiments `reset` and `lingering-close`: FIN first (write_eof), then read and drop until the "
    "client has ended, too; close after that.",
    code="writer.write(encode(TOO_LONG))\n"
    "writer.write_eof()\n"
    "async with asyncio.timeout(0.5):\n"
    "    while await reader.read(65536):\n"
    "        pass",
)
async def too_long(c: Check) -> None:
    loop = asyncio.get_running_loop()
    for tries in (3, 2, 1):
        conn, start = await c.connect(), loop.time()
        await conn.send(frame(b"good") + (MAXIMUM + 1).to_bytes(4, "big"))
        for _ in range(3):
            await asyncio.sleep(0.02)
            await conn.send(bytes(16384))  # It has not looked for an answer yet: it has a frame to send.
        conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # What follows must be taken by the server.
        c.did("> 600 kB more")
        try:
            await loop.sock_sendall(conn.socket, bytes(600_000))
            break
        except ConnectionError:
            # A server may lose patience, after 0.5 s say. Was it this machine that was so slow? Then once more.
            if tries == 1 or loop.time() - start < 0.3:
                c.fail("Your server reset a refused client that was still sending: it did not read what came.")
            c.did("! reset by your program (RST), after so long that the machine may be to blame: once more")
    await conn.expect(frame(b"GOOD") + frame(TOO_LONG), "the answer to the good frame, then the error, framed", 1)
    await conn.expect_end("a clean end (FIN) after the error", 1)


@step(
    "… but it does not wait for that client for ever",
    rfc="RFC 9112 §9.6: the server reads on until the client closes, or for a while",
    symptom="A refused client that neither reads nor closes holds your task and your socket as long as it likes.",
    where="Your lingering close has no deadline, or the TimeoutError of its deadline skipped your close().",
    code="with contextlib.suppress(TimeoutError, ConnectionError):\n"
    "    async with asyncio.timeout(0.5):\n"
    "        while await reader.read(65536):\n"
    "            pass\n"
    "writer.close()   # after the deadline, too",
)
async def linger_ends(c: Check) -> None:
    conn = await c.connect()
    await conn.send(b"\xff\xff\xff\xff")
    await conn.expect(frame(TOO_LONG), "the error, framed, as soon as the length is here", 1)
    c.did("= and now it sends a byte now and then, and never closes")
    loop = asyncio.get_running_loop()
    try:
        for _ in range(24):
            await asyncio.sleep(0.1)
            await loop.sock_sendall(conn.socket, b"x")
    except ConnectionError:
        c.did("< RST: nobody is there any more, and that is right")
        return
    c.fail("After 2.4 s your server was still listening to a client that it had refused; 2 s are allowed. There is no "
           "deadline, or its TimeoutError skipped your close().")  # fmt: skip


@step(
    "Who does not read its answers is not read from, either",
    rfc="RFC 9293 §3.8.6: the window; a slow reader must slow its sender",
    symptom="A client that sends and never reads makes your server's memory grow without end.",
    where="writer.write() never waits: it buffers. Which call does wait, until the peer has taken some?",
    code="await writer.drain()",
)
async def backpressure(c: Check) -> None:
    conn = await c.connect()
    chunk, frames = frame(bytes(MAXIMUM)), 0
    most = 256  # frames, 16 MB
    while True:
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(conn.socket, chunk))
        for _ in range(6):  # 0.3 s: a busy machine is not that slow for one message; one that stands still counts once.
            await asyncio.wait({sending}, timeout=0.05)
        frames += 1
        if not sending.done():
            break
        sending.result()
        if frames == most:
            c.fail("Your server took 16 MB from a client that reads no answer, and keeps the answers in memory.")
    try:
        c.did(f"> {frames * len(chunk) / 1e6:.0f} MB, then send() took no more: the server had stopped reading")
        other = await c.connect()
        await other.send(frame(b"other"))
        await other.expect(frame(b"OTHER"), "an answer to another client, while one does not read its own", 1)
        c.did("= and now the slow client reads all its answers")
        got, wanted = 0, frames * len(chunk)
        while got < wanted and (data := await conn.read(1, 1)):
            got += len(data)
        if got != wanted:
            c.fail(f"The slow client read at last, and got {got} of {wanted} bytes: who has stopped must go on.")
        await sending
    except ConnectionError:
        c.fail("Your server gave up a client that was only slow to read.")
    finally:
        sending.cancel()


# -- The client ----------------------------------------------------------------------------------------


@step(
    "The client takes its answers from the stream, too",
    rfc=STREAM,
    symptom="Your client takes one read for one answer.",
    where="The server's answers may arrive in pieces or together, whatever it wrote. The same decoder helps.",
    code="while len(answers) < len(messages):\n"
    "    data = await reader.read(65536)\n"
    "    ...\n"
    "    answers += decoder.receive_data(data)",
)
async def client_asks(c: Check) -> None:
    listening = c.net.server.listen(0)
    for pieces in (None, 3):
        messages = ["alpha", "beta", "gamma"]
        program = c.start("client_role", *listening.getsockname(), *messages, host="client")
        conn = await c.accept(listening)
        left = b"".join(frame(message.encode()) for message in messages)
        how = f"in pieces of {pieces} B" if pieces else "in one segment"
        while left:  # It may send all at once, or wait for each answer.
            got = await conn.read(len(left), 0.05) or await conn.read(1, 5)
            if not got or not left.startswith(got):
                c.fail("Your client did not send the messages as frames.", got=got, wanted=left)
            left = left[len(got) :]
            if not got.endswith((b"alpha", b"beta", b"gamma")):
                continue
            answers = answers_to(got)
            if pieces:
                await conn.send(answers[:6])
                for _ in range(10):  # Does it take them for all?
                    await asyncio.sleep(0.01)
                    if program.ended and "answers" in (result := await program.result(1)):
                        c.fail(f"ask() returned {result['answers']} before the answers were whole: 6 bytes had come.")
                answers = answers[6:]
            await conn.send(answers, pieces)
        await conn.finish_sending()
        result = await its_end(program, 2, "ask() did not return, although all answers had come, and the FIN behind "
                               "them. " + AT_THE_END)  # fmt: skip
        wanted = [message.upper() for message in messages]
        if "raised" in result:
            c.fail(f"ask() raised {result['raised']}, although all three answers had come, {how}.")
        c.equal(result["answers"], wanted, f"Three answers that arrived {how} were read wrongly.")
        if result["left open"]:
            c.fail("ask() returned and left its connection open: a socket that nobody closes stays as long as the "
                   "program does.")  # fmt: skip
    listening.close()


def answers_to(frames: bytes) -> bytes:
    """The frames in upper case; the lengths in them have no letters."""
    return frames.upper()


@step(
    "The client can tell half an answer from an answer",
    rfc="RFC 9293 §3.9.1.3: the end of the stream is not an error; whether it came too early only you can know",
    symptom="The server ended in the middle of an answer. Your client returned what it had, or waits for ever.",
    where="What does read() return when the server has ended? How many answers are missing then?",
    code='try:\n    ...\n    if not data:\n        raise ConnectionError("the server ended too early")\n    ...\n'
    "finally:\n    writer.close()",
)
async def client_truncated(c: Check) -> None:
    listening = c.net.server.listen(0)
    program = c.start("client_role", *listening.getsockname(), "alpha", "beta", host="client")
    conn = await c.accept(listening)
    await conn.read(9, 1)
    await conn.send(frame(b"ALPHA") + frame(b"BETA")[:6])
    await conn.finish_sending()
    result = await its_end(program, 2, "2 s after the server's FIN your client still waits for the rest of an answer. "
                           + AT_THE_END)  # fmt: skip
    if "raised" not in result:
        many = f"{result['count']} answer{'s' * (result['count'] != 1)}"
        c.fail(f"Your client returned {many} as if all was well; the second one never came whole.")
    if result["left open"]:
        c.fail(
            f"ask() raised {result['raised']}, which is right, and left its connection open: close it in a `finally`."
        )
    listening.close()


@step(
    "The client has a maximum, too",
    rfc="CWE-770: allocation of resources without limits",
    symptom="A server announces an answer of four gigabytes, and your client waits for it, and keeps what comes.",
    where="A server can be as hostile as a client. Your Decoder refuses such a length already: does ask() use it?",
    code="answers += decoder.receive_data(data)   # its ValueError is the caller's",
)
async def client_maximum(c: Check) -> None:
    listening = c.net.server.listen(0)
    program = c.start("client_role", *listening.getsockname(), "alpha", host="client")
    conn = await c.accept(listening)
    await conn.read(9, 1)
    await conn.send(b"\xff\xff\xff\xff")
    result = await its_end(
        program, 1, f"Your client waits for an answer of {2**32 - 1} bytes; it must refuse the length."
    )
    if "raised" not in result:
        c.fail(f"An answer of {2**32 - 1} bytes was announced, and ask() returned {result['answers']}.")
    if result["left open"]:
        c.fail(f"ask() raised {result['raised']}, which is right, and left its connection open.")
    listening.close()


@step(
    "The client reads while it writes",
    rfc="RFC 9293 §3.8.6: two full windows, and both sides wait for ever",
    symptom="With three megabytes in flight your client and the server wait for each other for ever.",
    where="You wait until all is written before you read the first answer. The server waits until you read before "
    "it reads more. Neither is wrong alone.",
    code="for message in messages:\n    writer.write(encode(message))   # without drain()\n...   # then read",
    seconds=8,
)
async def client_large(c: Check) -> None:
    listening = c.net.server.listen(0, SO_RCVBUF=65536, SO_SNDBUF=65536)  # They shall not hold it all.
    count = 48
    program = c.start("client_role", *listening.getsockname(), f"{MAXIMUM}*{count}", host="client")
    conn = await c.accept(listening)
    try:
        await echo(conn, count * (4 + MAXIMUM))
    except TimeoutError:
        c.fail("Your client does not read its answers while it has more to send, and the server waits for that.")
    result = await program.result(3)
    if result.get("count") != count:
        got = f"raised {result['raised']}" if "raised" in result else f"returned {result['count']}"
        c.fail(f"{count} answers of {MAXIMUM} bytes were sent; ask() {got}.")
    listening.close()


async def echo(conn: Conn, size: int) -> None:
    """Send back what comes, and read no more until it is taken. TimeoutError when it is not."""
    loop = asyncio.get_running_loop()
    while size:
        async with asyncio.timeout(1):
            data = await loop.sock_recv(conn.socket, 1 << 18)
            await loop.sock_sendall(conn.socket, data)
        if not data:
            return
        size -= len(data)


AFTER = """
You have built what sits under most protocols: DNS over TCP puts 2 bytes of length in front (RFC 7766 §8); TLS records,
HTTP/2 frames, gRPC messages, PostgreSQL and Kafka do the same with small differences. HTTP/1.1 uses delimiters for its
head and a length for its body, and request smuggling is two programs that disagree about where a message ends.

The lingering close is in nginx under that very name (lingering_close; by default at most 30 s, and 5 s between two
reads), and the HTTP standard asks for it. What your server still lacks is in servers/tcp.py: a deadline for clients
that dawdle, a limit on connections, and a shutdown that finishes what it has begun.
"""
