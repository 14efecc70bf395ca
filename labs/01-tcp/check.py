"""The check of lab 01: framing on both sides of a connection, and what a peer can do to it."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import ModuleType
from typing import Any

from labkit.check import Check, Conn, step

BY_HAND = "server_role"
MAXIMUM = 65536
TOO_LONG = b"error: too long"
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
    asyncio.run(exercise.serve(socket.create_server((host, int(port)))))


def client_role(exercise: ModuleType, host: str, port: str, *messages: str) -> dict[str, Any]:
    """ask() with these messages ("65536*3": three of zeros, that long); its answers, or what it raised."""
    asked = []
    for text in messages:
        size, _, times = text.partition("*")
        asked += [bytes(int(size))] * int(times) if times else [text.encode()]
    try:
        answers = asyncio.run(exercise.ask(host, int(port), asked))
    except (ConnectionError, EOFError) as error:  # asyncio.IncompleteReadError is an EOFError.
        return {"raised": type(error).__name__}
    return {"count": len(answers), "answers": [bytes(answer[:64]).decode("latin-1") for answer in answers[:8]]}


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
    "        return\n"
    "    ...",
)
async def every_split(c: Check) -> None:
    messages = [b"alpha", b"", b"be", b"x" * 300]
    wire = b"".join(map(frame, messages)) + frame(b"unfinished")[:7]
    sizes = [len(wire), *range(1, 20)]
    found = await c.start("decode_role", *(f"{wire.hex()}:{size}" for size in sizes), host="client").result(5)
    for size, outcome in zip(sizes, found, strict=True):
        got = [bytes.fromhex(message) for message in outcome["messages"]]
        whole = size == len(wire)
        c.did(f"= 4 messages and a piece of a fifth, {'in one read' if whole else f'in reads of {size} B'}: {len(got)}")
        if outcome["raised"] or got != messages:
            c.fail(
                "Four messages in one read did not come out as four." if whole
                else f"Cut into reads of {size} B, the same bytes gave other messages.",
                got=repr(got), wanted=repr(messages),
            )  # fmt: skip


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
    allowed, *refused = await c.start("decode_role", *(f"{wire.hex()}:60000" for wire in wires), host="client").result(
        5
    )
    c.equal(allowed["raised"], False, f"A length of exactly {MAXIMUM} was refused, and it is allowed.")
    for length, outcome in zip(lengths[1:], refused, strict=True):
        c.did(f"= a length of {length} arrived, {'ValueError' if outcome['raised'] else 'and nothing happened'}")
        if not outcome["raised"]:
            c.fail(f"Your decoder waits for a frame of {length} bytes; it must refuse the length.")
    longest, longer = await c.start("encode_role", f"{MAXIMUM}*", f"{MAXIMUM + 1}*", host="client").result(5)
    if longest != frame(bytes(MAXIMUM)).hex():
        c.fail(f"encode() of exactly {MAXIMUM} bytes must work.")
    if longer != "ValueError":
        c.fail(f"encode() of {MAXIMUM + 1} bytes must raise ValueError.")


# -- The server ----------------------------------------------------------------------------------------


@step(
    "The server answers at once, goes on, and ends when the client does",
    rfc=STREAM,
    symptom="A client that asks, waits, and asks again gets no answer; or it ends, and your server does not.",
    where='Answer as soon as a message is whole. And when read() returns b"", the client has ended: every further '
    "read() would return that again, at once, and a loop that does not look at it never lets anybody else run.",
    code="while data := await reader.read(65536):\n"
    "    for message in decoder.receive_data(data):\n"
    "        writer.write(encode(message.upper()))\n"
    "    await writer.drain()",
)
async def server_answers(c: Check) -> None:
    c.start("server_role", c.net.server.address, c.net.port)
    conn = await c.connect()
    for message in (b"hello", b"", b"again"):
        await conn.send(frame(message))
        await conn.expect(frame(message.upper()), "the message in upper case, framed, while the client waits", 1)
    await conn.finish_sending()
    await conn.expect_end("your FIN in answer to the client's", 1)


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
    rfc="RFC 9293 §3.5.2: RST",
    symptom="A client reset its connection and your server printed a traceback, or stopped serving.",
    where="After an RST read() and drain() raise ConnectionResetError. Nobody is left to answer: clean up, go on.",
    code="except ConnectionError:\n    pass\nfinally:\n    writer.close()",
)
async def vanished(c: Check) -> None:
    for _ in range(3):
        conn = await c.connect()
        await conn.send(frame(b"half a frame")[:9])
        conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()  # With SO_LINGER and a time of 0, close() is an RST.
        c.did("> RST, in the middle of a frame")
    conn = await c.connect()
    for _ in range(5):  # Five turns of its event loop: by then it has met the resets, too.
        await conn.send(frame(b"still there?"))
        await conn.expect(frame(b"STILL THERE?"), "an answer to the next client", 1)
    if "Traceback" in c.programs[-1].output():
        c.fail("A client that reset its connection made your server print a traceback.")


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
    conn = await c.connect()
    await conn.send(frame(b"good") + (MAXIMUM + 1).to_bytes(4, "big"))
    for _ in range(3):
        await asyncio.sleep(0.05)
        await conn.send(bytes(16384))  # It has not looked for an answer yet: it has a frame to send.
    await conn.expect(frame(b"GOOD") + frame(TOO_LONG), "the answer to the good frame, then the error, framed", 1)
    await conn.expect_end("a clean end (FIN) after the error", 1)


@step(
    "… but it does not wait for that client for ever",
    rfc="RFC 9112 §9.6: the server reads on until the client closes, or for a while",
    symptom="A refused client that neither reads nor closes holds your task and your socket as long as it likes.",
    where="Your lingering close has no deadline.",
    code="with contextlib.suppress(TimeoutError, ConnectionError):\n"
    "    async with asyncio.timeout(0.5):\n"
    "        while await reader.read(65536):\n"
    "            pass",
)
async def linger_ends(c: Check) -> None:
    conn = await c.connect()
    await conn.send(b"\xff\xff\xff\xff")
    c.did("= and now it sends a byte now and then, and never closes")
    loop = asyncio.get_running_loop()
    try:
        for _ in range(30):
            await asyncio.sleep(0.1)
            await loop.sock_sendall(conn.socket, b"x")
    except ConnectionError:
        c.did("< RST: nobody is there any more, and that is right")
        return
    c.fail("After 3 s your server was still listening to a client that it had refused.")


@step(
    "Who does not read its answers is not read from, either",
    rfc="RFC 9293 §3.8.6: the window; a slow reader must slow its sender",
    symptom="A client that sends and never reads makes your server's memory grow without end.",
    where="writer.write() never waits: it buffers. Which call does wait, until the peer has taken some?",
    code="await writer.drain()",
)
async def backpressure(c: Check) -> None:
    conn = await c.connect()
    chunk, sent = frame(bytes(MAXIMUM)) * 4, 0
    limit = 48 << 20
    loop = asyncio.get_running_loop()
    try:
        while sent < limit:
            async with asyncio.timeout(0.4):
                await loop.sock_sendall(conn.socket, chunk)
            sent += len(chunk)
    except TimeoutError:
        c.did(f"> {sent / 1e6:.0f} MB, then send() took no more: the server had stopped reading")
        return
    c.fail(f"Your server took {limit >> 20} MB from a client that reads no answer, and keeps the answers in memory.")


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
        while left:  # It may send all at once, or wait for each answer.
            got = await conn.read(len(left), 0.05) or await conn.read(1, 1)
            if not got or not left.startswith(got):
                c.fail("Your client did not send the messages as frames.", got=got, wanted=left)
            left = left[len(got) :]
            if got.endswith((b"alpha", b"beta", b"gamma")):
                await conn.send(answers_to(got), pieces)
        await conn.finish_sending()
        result = await program.result(2)
        wanted = [message.upper() for message in messages]
        how = f"in pieces of {pieces} B" if pieces else "in one segment"
        c.equal(result.get("answers"), wanted, f"Three answers that arrived {how} were read wrongly.")
    listening.close()


def answers_to(frames: bytes) -> bytes:
    """The frames in upper case; the lengths in them have no letters."""
    return frames.upper()


@step(
    "The client can tell half an answer from an answer",
    rfc="RFC 9293 §3.9.1.3: the end of the stream is not an error; whether it came too early only you can know",
    symptom="The server ended in the middle of an answer. Your client returned what it had, or waits for ever.",
    where="What does read() return when the server has ended? How many answers are missing then?",
    code='if not data:\n    raise ConnectionError("the server ended too early")',
)
async def client_truncated(c: Check) -> None:
    listening = c.net.server.listen(0)
    program = c.start("client_role", *listening.getsockname(), "alpha", "beta", host="client")
    conn = await c.accept(listening)
    await conn.read(9, 1)
    await conn.send(frame(b"ALPHA") + frame(b"BETA")[:6])
    await conn.finish_sending()
    result = await program.result(2)
    if "raised" not in result:
        c.fail(f"Your client returned {result['count']} answers as if all was well; the second one never came whole.")
    listening.close()


@step(
    "The client reads while it writes",
    rfc="RFC 9293 §3.8.6: two full windows, and both sides wait for ever",
    symptom="With ten megabytes in flight your client and the server wait for each other for ever.",
    where="You wait until all is written before you read the first answer. The server waits until you read before "
    "it reads more. Neither is wrong alone.",
    code="for message in messages:\n    writer.write(encode(message))   # without drain()\n...   # then read",
    seconds=8,
)
async def client_large(c: Check) -> None:
    listening = c.net.server.listen(0, SO_RCVBUF=65536, SO_SNDBUF=65536)  # They shall not hold it all.
    count = 160
    program = c.start("client_role", *listening.getsockname(), f"{MAXIMUM}*{count}", host="client")
    conn = await c.accept(listening)
    try:
        await echo(conn, count * (4 + MAXIMUM))
    except TimeoutError:
        c.fail("Your client does not read its answers while it has more to send, and the server waits for that.")
    result = await program.result(3)
    c.equal(result.get("count"), count, f"{count} answers of {MAXIMUM} bytes were sent.")
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
