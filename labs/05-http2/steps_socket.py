"""The last steps of this lab's check: the server of talk.py around the three pieces, and clients of other authors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, PingAckReceived, StreamEnded, StreamReset
from h2.exceptions import FlowControlError, ProtocolError
from h2.settings import SettingCodes

from labkit.check import Check, Conn, step
from labkit.learner import load

talk = load(Path(__file__).with_name("talk.py"), "labs_http2_talk")
asking: Any = load(Path(__file__).with_name("asking.py"), "labs_http2_asking")
frame = asking.frame
ACK, CODES, COMPRESSION_ERROR, DATA = asking.ACK, asking.CODES, asking.COMPRESSION_ERROR, asking.DATA
END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR = asking.END_HEADERS, asking.END_STREAM, asking.FLOW_CONTROL_ERROR
FRAME_SIZE_ERROR, GOAWAY, HEADERS = asking.FRAME_SIZE_ERROR, asking.GOAWAY, asking.HEADERS
MAX_WINDOW, PADDED, PATIENCE, PING = asking.MAX_WINDOW, asking.PADDED, asking.PATIENCE, asking.PING
PROTOCOL_ERROR, RST_STREAM, SETTINGS = asking.PROTOCOL_ERROR, asking.RST_STREAM, asking.SETTINGS
WINDOW_UPDATE = asking.WINDOW_UPDATE


class Client:
    """The Python library h2, as a client, on a socket: it counts the windows, too, and refuses what is too much."""

    def __init__(self, c: Check, conn: Conn) -> None:
        self.c, self.conn = c, conn
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.came: dict[int, bytes] = {}  # the body that has come, by stream
        self.ended: set[int] = set()
        self.marks = 0
        self.mine = f"tcp.port == {conn.socket.getsockname()[1]} && tcp.srcport == {c.net.port} && tcp.len > 0"

    def request(self, path: str, *fields: tuple[str, str], method: str = "GET", ends: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "server.lab"), (":path", path)]
        self.h2.send_headers(stream, [*pseudo, *fields], end_stream=ends)
        self.came[stream] = b""
        self.c.did(f"> {method} {path} on stream {stream}")
        return stream

    async def settle(self) -> None:
        """Send what there is, then a PING, and read until its answer is here: all before it has been acted on."""
        self.marks += 1
        mark = self.marks.to_bytes(8)
        self.h2.ping(mark)
        while not any(isinstance(event, PingAckReceived) and event.ping_data == mark for event in await self.turn()):
            pass

    async def turn(self) -> list[Event]:
        """Send what there is, read once, and count what came."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self.conn.socket, self.h2.data_to_send())
            async with asyncio.timeout(PATIENCE / 2):
                data = await loop.sock_recv(self.conn.socket, 65536)
            if not data:
                self.c.fail("Your server closed the connection in the middle of it.", filter=self.mine)
            events = self.h2.receive_data(data)
        except TimeoutError:
            self.c.fail("Your server said nothing more, and something was to come.", filter=self.mine)
        except FlowControlError:
            self.c.fail("More DATA came than the windows allow: h2 counted along, and refused it.", filter=self.mine)
        except ProtocolError as error:
            name = type(error).__name__
            self.c.fail(f"The Python library h2, as a client, could not follow your server: {name}: {error}",
                        filter=self.mine)  # fmt: skip
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id is not None:
                self.came[event.stream_id] += event.data or b""
            elif isinstance(event, StreamEnded) and event.stream_id is not None:
                self.ended.add(event.stream_id)
            elif isinstance(event, StreamReset | ConnectionTerminated):
                code = int(event.error_code or 0)
                what = "RST_STREAM" if isinstance(event, StreamReset) else "GOAWAY"
                self.c.fail(f"Your server sent {what} with {CODES.get(code, code)}, and nothing was wrong.",
                            filter=self.mine)  # fmt: skip
        return events

    async def body(self, stream: int) -> bytes:
        """Read to the end of a stream; give back each byte that has come."""
        while stream not in self.ended:
            for event in await self.turn():
                if isinstance(event, DataReceived) and event.flow_controlled_length and event.stream_id is not None:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return self.came[stream]


@step(
    "On a socket: another author's client gets its answers",
    rfc="RFC 9113 §4: frames and field blocks; §3.4: the preface; RFC 7541: HPACK",
    symptom="A server around your pieces (talk.py) was asked by the Python library h2, and the answer was wrong.",
    where="Everything that h2 sends goes through your decoders, and what your server says through your encode().",
    code="The steps above have all that is needed.\nRun the server (make http2-exercise), and ask it with curl.",
    seconds=PATIENCE,
)
async def foreign_client(c: Check) -> None:
    server = c.start("server_role", c.net.server.address, c.net.port)
    # It says when it listens: who knocks before leaves an RST in the capture.
    while not (server.output() or server.ended):  # noqa: ASYNC110  it is another process
        await asyncio.sleep(0.005)
    conn = await c.connect(seconds=PATIENCE)
    client = Client(c, conn)
    fields = [("user-agent", "h2"), ("x-lab", "http2"), ("cookie", "a=b; c=d")]
    for number in range(3):
        path = f"/hello/{number}"
        got = await client.body(client.request(path, *fields))
        names = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"server.lab"), (b":path", path.encode())]
        wanted = talk.report([*names, *((name.encode(), value.encode()) for name, value in fields)], 0)
        c.did(f"< {len(got)} bytes")
        c.equal(got, wanted, "Your decoder read other fields than h2 sent.", filter=client.mine)
    stream = client.request("/", method="PUT", ends=False)
    await client.settle()
    c.did("> 60 DATA frames of 1,000 bytes, 255 of padding, and one that says so")
    for number in range(60):
        client.h2.send_data(stream, bytes(1000), end_stream=number == 59, pad_length=255)
        if number % 20 == 19:  # 25,120 bytes: so that the windows would not hold all three times as much.
            await client.settle()
    got = await client.body(stream)
    if not got.endswith(b"\n60000 bytes of body\n"):
        c.fail("Of an upload with padding, other bytes came out.", got=got[-24:], wanted=b"\n60000 bytes of body\n",
               filter=client.mine)  # fmt: skip
    size = 200_000
    got = await client.body(client.request(f"/bytes/{size}"))
    c.equal(len(got), size, "A body that is larger than all windows did not come whole.", filter=client.mine)
    c.equal(got, talk.some_bytes(size), "A body that is larger than all windows came broken.", filter=client.mine)


@step(
    "On a socket: not a byte more than the windows allow, and not one less",
    rfc="RFC 9113 §6.9.1: DATA must fit into both windows; §6.9.2: SETTINGS change those of all streams, §6.9: "
    "WINDOW_UPDATE one",
    symptom="The Python library h2 opened and shut windows, and counted the DATA that came. Your server sent too much, "
    "or had stopped before it had to.",
    where="The steps of B have each of these moves alone. The capture has them in order; to see frames in it, say in "
    "Wireshark (Decode As) that TCP port 7005 is HTTP2, or: tshark -r captures/http2-check.pcapng -d "
    "tcp.port==7005,http2 -Y http2",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def windows_on_the_wire(c: Check) -> None:
    conn = await c.connect(seconds=PATIENCE)
    client = Client(c, conn)

    async def came(*wanted: int) -> None:
        await client.settle()
        for stream, size in zip((1, 3, 5), wanted, strict=False):
            got = len(client.came[stream])
            c.did(f"< on stream {stream}: {got:,} bytes until now")
            if got != size:
                more = "More" if got > size else "Less"
                what = f"{more} DATA came than the windows allow."
                c.fail(what, got=f"{got:,} bytes on stream {stream}", wanted=f"{size:,} bytes", filter=client.mine)

    def settings(size: int) -> None:
        c.did(f"> SETTINGS_INITIAL_WINDOW_SIZE {size:,}")
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})

    def update(increment: int, stream: int | None) -> None:
        c.did(f"> WINDOW_UPDATE: {increment:,} for {f'stream {stream}' if stream else 'the connection'}")
        client.h2.increment_flow_control_window(increment, stream)

    settings(1000)
    await client.settle()
    client.request("/bytes/5000")
    client.request("/bytes/5000")
    await came(1000, 1000)
    update(500, 1)
    await came(1500, 1000)
    settings(300)  # The windows were 0 and are -700 now.
    await came(1500, 1000)
    update(1000, 1)
    await came(1800, 1000)
    settings(1000)
    await came(2500, 1000)
    settings(100_000)
    await came(5000, 5000)
    client.request("/bytes/100000")
    await came(5000, 5000, 65535 - 10000)
    update(1000, 5)
    await came(5000, 5000, 65535 - 10000)
    update(1000, None)
    await came(5000, 5000, 66535 - 10000)
    update(100_000, None)
    await came(5000, 5000, 100_000)
    c.did("= exactly as much as h2 allowed, each time")


@step(
    "On a socket: each error with its code, and whose it is",
    rfc="RFC 9113 §5.4.1: GOAWAY for an error of the connection; §5.4.2: RST_STREAM for one of a stream; §7: the codes",
    symptom="A peer broke a rule, and learnt something else about it than what it was; or nothing.",
    where="The server of talk.py makes GOAWAY of an Http2Error of stream 0, and RST_STREAM of the others.",
    code="raise Http2Error(FLOW_CONTROL_ERROR, stream)",
    seconds=PATIENCE,
)
async def errors_on_the_wire(c: Check) -> None:
    hello = frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, ACK, 0, b"")
    start = talk.PREFACE + frame(SETTINGS, 0, 0, b"")
    get = frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x86\x04\x0d/bytes/900000")  # :path is a literal
    cases = {
        frame(DATA, 0, 1, b"", 16385): (FRAME_SIZE_ERROR, 0, "a frame of 16,385 bytes is announced"),
        frame(WINDOW_UPDATE, 0, 0, bytes(4)): (PROTOCOL_ERROR, 0, "the increment is 0, for the connection"),
        frame(WINDOW_UPDATE, 0, 0, MAX_WINDOW.to_bytes(4)): (FLOW_CONTROL_ERROR, 0, "the window would be too large"),
        frame(SETTINGS, 0, 0, b"\0\4\x80\0\0\0"): (FLOW_CONTROL_ERROR, 0, "the initial window size is 2³¹"),
        frame(HEADERS, PADDED | END_HEADERS, 1, b"\x03\x82\x86"): (PROTOCOL_ERROR, 0, "3 of 3 bytes are padding"),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x80"): (COMPRESSION_ERROR, 1, "the block names field 0"),
    }
    for wire, (code, last, why) in cases.items():
        conn = await c.connect(seconds=PATIENCE)
        await conn.send(start)
        await conn.expect(hello, "the server's SETTINGS, and an acknowledgement of the client's", 5)
        await conn.send(wire)
        bye = frame(GOAWAY, 0, 0, last.to_bytes(4) + code.to_bytes(4))
        await conn.expect(bye, f"GOAWAY with {CODES[code]}, because {why}", 5)
        await conn.finish_sending()
        await conn.expect_end("a clean end behind GOAWAY", 5)
    conn = await c.connect(seconds=PATIENCE)
    await conn.send(start + get)
    got = await conn.read(len(hello) + 9 + 10 + 65535 + 4 * 9, 5)  # HEADERS with 10 bytes, and four of DATA
    c.did(f"< {len(got):,} bytes: HEADERS, and as much DATA as the windows hold")
    await conn.send(frame(WINDOW_UPDATE, 0, 1, bytes(4)) + frame(PING, 0, 0, b"alright?"))
    reset = frame(RST_STREAM, 0, 1, PROTOCOL_ERROR.to_bytes(4)) + frame(PING, ACK, 0, b"alright?")
    why = "RST_STREAM with PROTOCOL_ERROR, because of an increment of 0; the connection goes on, and answers a PING"
    await conn.expect(reset, why, 5)
