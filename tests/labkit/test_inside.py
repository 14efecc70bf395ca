"""What a segment carries, in the ladder's words."""

from __future__ import annotations

import ipaddress
import re
import ssl
import struct
import subprocess

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import encode_quic_retry
from aioquic.tls import SessionTicket
from hypothesis import given
from hypothesis import strategies as st

from certs.channel import Channel
from certs.contexts import client_context, server_context
from certs.quic import quic_client, quic_server
from clients.quic_core import ClientConnection
from labkit.evidence import NO_GUESS
from labkit.inside import Content, Reader
from labkit.inside_http3 import Streams
from labkit.inside_quic import Datagrams, Pieces
from labkit.pcapng import Writer
from protocols.http2_frames import PREFACE, Flag, Frame, FrameType, encode
from protocols.quic_frames import Crypto, Stream
from protocols.quic_frames import encode as encode_frame
from protocols.quic_opened import Onlooker, initial_keys
from protocols.quic_packets import VERSION_1, PacketType, long_header, split, version_negotiation
from protocols.tls_opened import key_log
from tests.conftest import need_tool


def hello() -> bytes:
    """A real one."""
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="server.lab")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


ENCRYPTED = b"\x17\x03\x03\x00\x05hello"


def test_tls():
    reader, first = Reader(), hello()
    assert reader.words(True, 1, first) == ["ClientHello"]
    assert reader.words(False, 1, ENCRYPTED * 3 + ENCRYPTED[:4]) == ["3×encrypted"]
    assert reader.words(False, 1 + 3 * len(ENCRYPTED) + 4, ENCRYPTED[4:]) == ["encrypted"]
    assert reader.words(True, 1 + len(first), b"\x15\x03\x03\x00\x02\x02\x30") == ["alert unknown_ca"]


def test_a_message_in_two_segments_is_named_where_it_ends():
    reader, first = Reader(), hello()
    assert reader.words(True, 1, first[:100]) == []
    assert reader.words(True, 101, first[100:]) == ["ClientHello"]


def test_http1():
    reader = Reader()
    assert reader.words(True, 1, b"GET /text?a=1 HTTP/1.1\r\nHost: x\r\n\r\n") == ["GET /text?a=1"]
    assert reader.words(False, 1, b"HTTP/1.1 200 OK\r\n\r\nbody") == ["HTTP/1.1 200"]
    assert reader.words(False, 24, b"more of the body") == []


def test_http2_in_the_clear():
    reader = Reader()
    frames = [Frame(FrameType.SETTINGS), *(Frame(FrameType.HEADERS, Flag.END_HEADERS, n, b"\x82") for n in (1, 3))]
    assert reader.words(True, 1, PREFACE + b"".join(map(encode, frames))) == [
        "preface", "SETTINGS", "HEADERS 1 GET", "HEADERS 3 GET",
    ]  # fmt: skip
    data = encode(Frame(FrameType.DATA, 0, 1, b"x" * 100))
    assert reader.words(False, 1, data * 2) == ["2×DATA 1"]
    assert reader.words(False, 1 + 2 * len(data), encode(Frame(0x77))) == ["frame 0x77"]


def test_an_http2_server_may_speak_first():
    content, settings = Content(), encode(Frame(FrameType.SETTINGS))
    assert content.words(False, settings) == ["SETTINGS"]
    assert content.words(True, PREFACE + settings) == ["preface", "SETTINGS"]


@pytest.fixture
def talk(tmp_path):
    """Both ends of a TLS 1.3 connection in memory, as flights: (from the client?, bytes), and its key log."""
    log = tmp_path / "keys"
    server = Channel(server_context("server", key_log=log), server_side=True)
    client = Channel(client_context(key_log=log), server_side=False, server_hostname="server.lab")
    flights: list[tuple[bool, bytes]] = []

    def go() -> None:
        for _ in range(3):
            for is_client, one, other in ((True, client, server), (False, server, client)):
                while one.next_event():
                    pass
                if data := one.data_to_send():
                    flights.append((is_client, data))
                    other.receive_data(data)

    def say(end: Channel, data: bytes) -> None:
        end.send_data(data)
        go()

    go()
    return client, server, say, flights, log


def read(flights, secrets):
    reader, at = Reader(secrets), {True: 1, False: 1}
    found = []
    for from_client, data in flights:
        found.append((">" if from_client else "<", *reader.words(from_client, at[from_client], data)))
        at[from_client] += len(data)
    return found


def test_tls_1_3_is_opened_with_its_key_log(talk):
    client, server, say, flights, log = talk
    say(client, b"GET /secret HTTP/1.1\r\n\r\n")
    say(server, b"HTTP/1.1 200 OK\r\n\r\n")
    client.close()
    flights.append((True, client.data_to_send()))
    assert read(flights, key_log(log.read_text())) == [
        (">", "ClientHello"),
        ("<", "ServerHello", "EncryptedExtensions", "Certificate", "CertificateVerify", "Finished"),
        (">", "Finished"),
        ("<", "2×NewSessionTicket"),
        (">", "GET /secret"),
        ("<", "HTTP/1.1 200"),
        (">", "alert close_notify"),
    ]
    assert {word for _, *words in read(flights, {}) for word in words} == {
        "ClientHello", "ServerHello", "encrypted", "4×encrypted", "2×encrypted",
    }  # fmt: skip


def test_a_changed_record_is_where_it_ends(talk):
    client, _, _, flights, log = talk
    client.send_data(b"GET / HTTP/1.1\r\n\r\n")
    data = bytearray(client.data_to_send())
    data[-1] ^= 1
    flights.append((True, bytes(data)))
    assert read(flights, key_log(log.read_text()))[-1] == (">", "encrypted")


def test_what_comes_again_or_after_a_gap_says_nothing():
    reader = Reader()
    request = b"GET / HTTP/1.1\r\n\r\n"
    assert reader.words(True, 1, request) == ["GET /"]
    assert reader.words(True, 1, request) == []
    assert reader.words(True, 100, request) == []
    assert reader.words(True, 1 + len(request), request) == ["GET /"]


def test_what_stops_being_tls_is_left_alone():
    reader = Reader()
    assert reader.words(True, 1, hello()) == ["ClientHello"]
    assert reader.words(False, 1, b"SSH-2.0-hm") == []
    assert reader.words(False, 11, ENCRYPTED) == []


@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=20),
    st.sampled_from([b"", b"\x16\x03", PREFACE]),
)
def test_garbage_is_never_a_problem(pieces, start):
    reader, at = Reader(), {True: 0, False: 0}
    for from_client, data in [(True, start), *pieces]:
        assert all(isinstance(word, str) for word in reader.words(from_client, at[from_client], data))
        at[from_client] += len(data)


# -- QUIC ----------------------------------------------------------------------------------------------

CLIENT, MOVED, SERVER = ("10.0.0.1", 50000), ("10.0.0.1", 50001), ("10.0.0.2", 7006)


class Talk:
    """Both ends of a QUIC connection in memory: what they send goes to the other, and is kept."""

    def __init__(self, log, *, retry: bool = False, alpn: str = "lab", **client) -> None:
        self.tickets: dict[bytes, SessionTicket] = client.pop("tickets", {})  # the server's; and the client's last
        self.ticket: SessionTicket | None = None
        self.client = ClientConnection(
            configuration=quic_client("server.lab", alpn=[alpn], key_log=log, **client),
            session_ticket_handler=lambda ticket: setattr(self, "ticket", ticket),
        )
        self._log, self._retry = log, retry
        self.server: QuicConnection | None = None
        self.address, self.now, self.sent = CLIENT, 0.0, []
        self.client.connect(SERVER, self.now)

    def go(self, rounds: int = 4) -> None:
        for _ in range(rounds):
            self.now += 0.05
            for from_client, one in ((True, self.client), (False, self.server)):
                if one is None:
                    continue
                if (timer := one.get_timer()) and timer <= self.now:
                    one.handle_timer(self.now)
                for data, _ in one.datagrams_to_send(self.now):
                    self.carry(from_client, data)

    def carry(self, from_client: bool, data: bytes) -> None:
        self.sent.append((from_client, self.address, data))
        if not from_client:
            self.client.receive_datagram(data, SERVER, self.now)
        elif self.server is None:
            [first, *_] = split(data, 8)
            if self._retry and not first.token:
                answer = encode_quic_retry(VERSION_1, b"12345678", first.source, first.destination, b"token")
                return self.carry(False, answer)
            self.server = QuicConnection(
                configuration=quic_server("server", alpn=["lab", "h3"], key_log=self._log),
                original_destination_connection_id=self.client.original_destination_connection_id,
                retry_source_connection_id=b"12345678" if self._retry else None,
                session_ticket_fetcher=self.tickets.get,
                session_ticket_handler=lambda ticket: self.tickets.setdefault(ticket.ticket, ticket),
            )
        if from_client:
            self.server.receive_datagram(data, self.address, self.now)
        return None

    def words(self, secrets=None) -> list[str]:
        reader = Datagrams(key_log(self._log.read_text()) if secrets is None else secrets)
        found = []
        for from_client, address, data in self.sent:
            told = reader.read(*((address, SERVER) if from_client else (SERVER, address)), data)
            found.append(f"{'>' if from_client else '<'} {' '.join(told.words)}" if told else "not QUIC")
        return found


@pytest.fixture
def quic(tmp_path):
    talk = Talk(tmp_path / "keys")
    talk.go()
    return talk


def test_quic_is_opened_with_its_key_log(quic):
    quic.client.send_stream_data(0, b"GET /\r\n", end_stream=True)
    quic.go(1)
    quic.server.send_stream_data(0, bytes(2000), end_stream=True)
    quic.go(2)
    quic.client.close(0x17, reason_phrase="bye\n")
    quic.go(1)
    words = quic.words()
    assert words[:3] == [
        "> Initial pn 0 ClientHello padded to 1200",
        "< Initial pn 0 ACK 0 ServerHello | Handshake pn 1 EncryptedExtensions",
        "< Handshake pn 2 Certificate CertificateVerify Finished",
    ]
    assert words[3].startswith(
        "> Initial pn 1 ACK 0 | Handshake pn 2 ACK 1-2 Finished | 1-RTT pn 3 7×NEW_CONNECTION_ID"
    )
    assert any("HANDSHAKE_DONE" in line and "2×NewSessionTicket" not in line for line in words)
    assert any("STREAM 0 GET / FIN" in line for line in words)
    assert any(re.search(r"< 1-RTT pn \d+ .*STREAM 0 \+1\d\d\d B", line) for line in words)
    assert words[-1].endswith("CONNECTION_CLOSE app 0x17 bye?")


def test_without_secrets_anybody_reads_the_hellos_and_no_more(quic):
    words = quic.words({})
    assert words[0] == "> Initial pn 0 ClientHello padded to 1200"
    assert words[1] == f"< Initial pn 0 ACK 0 ServerHello | Handshake encrypted len {len(quic.sent[1][2])}"
    assert all("encrypted" in line for line in words[1:])


def test_a_hello_in_shreds_is_told_as_what_it_is_in_all():
    keys, reader, hello = initial_keys(b"destined")[True], Datagrams(), b"\x01\0\x03\xe8" + bytes(1000)
    found = []
    for number, cuts in enumerate([((700, 1004), (0, 3)), ((1, 400), (350, 700)), ((0, 3),)]):
        frames = b"".join(b"\x01" + encode_frame(Crypto(start, hello[start:end])) for start, end in cuts)
        header = long_header(PacketType.INITIAL, b"destined", b"source", bytes([number]), len(frames))
        found.append(" ".join(reader.read(CLIENT, SERVER, keys.seal(header, number, frames)).words))
    assert found == [
        "Initial pn 0 CRYPTO +307 B 2×PING", "Initial pn 1 ClientHello 2×PING", "Initial pn 2 CRYPTO +3 B again PING",
    ]  # fmt: skip


def test_secrets_may_come_while_it_is_read(quic):
    """As those of a program's own connection do."""
    secrets: dict[tuple[str, bytes], bytes] = {}
    onlooker, opened = Onlooker(secrets), []
    for i, (from_client, address, data) in enumerate(quic.sent):
        if i == 2:
            secrets |= key_log(quic._log.read_text())
        sight = onlooker.receive_datagram(*((address, SERVER) if from_client else (SERVER, address)), data)
        opened.append([packet.frames is not None for packet in sight.packets])
    assert opened[:2] == [[True], [True, False]]
    assert all(all(packets) for packets in opened[2:])


def test_a_key_update_shows_once_in_each_direction(quic):
    for _ in range(2):
        quic.client.request_key_update()
        for stream in (quic.client.get_next_available_stream_id() for _ in range(2)):
            quic.client.send_stream_data(stream, b"after it", end_stream=True)
            quic.go(2)
    phases = [line for line in quic.words() if "key phase" in line]
    assert [line[0] for line in phases] == [">", "<", ">", "<"]
    assert [line.split("key phase ")[1][0] for line in phases] == ["1", "1", "0", "0"]
    assert not any("encrypted" in line for line in quic.words())


def test_a_connection_stays_itself_when_its_port_and_its_id_change(quic):
    before = len(quic.sent)
    quic.address = MOVED
    quic.client.change_connection_id()
    quic.client.send_stream_data(0, b"here I am\n")
    quic.go()
    words = quic.words()[before:]
    assert words[0].startswith("> from port 50001 1-RTT")
    assert "new ID" in words[0]
    assert any("< 1-RTT" in line and "PATH_CHALLENGE" in line for line in words)
    assert any("> 1-RTT" in line and "PATH_RESPONSE" in line for line in words)
    assert sum("port" in line or "new ID" in line for line in words if line[0] == ">") == 1


def test_retry(tmp_path):
    talk = Talk(tmp_path / "keys", retry=True)
    talk.go()
    words = talk.words()
    assert words[1] == "< Retry token of 5 B"
    assert words[2] == "> Initial with token pn 1 ClientHello padded to 1200"
    assert words[3].startswith("< Initial pn 0 ACK 1 ServerHello | Handshake")
    assert not any("encrypted" in line for line in words)


def test_early_data_and_its_replay(quic, tmp_path):
    again = Talk(tmp_path / "keys", ticket=quic.ticket, tickets=quic.tickets)
    again.client.send_stream_data(0, b"count apples\n", end_stream=True)
    again.go()
    words = again.words()
    assert words[0].startswith("> Initial pn 0 ClientHello | 0-RTT pn 1 STREAM 0 count apples FIN")
    assert not any("encrypted" in line for line in words)
    reader = Datagrams(key_log((tmp_path / "keys").read_text()))
    first = again.sent[0][2]
    assert [reader.read((host, 50000), SERVER, first).connection for host in ("10.0.0.1", "10.0.0.3", "10.0.0.1")] == [
        1, 2, 1,
    ]  # fmt: skip


def test_what_is_sent_again_says_so(quic):
    before = len(quic.sent)
    quic.client.send_stream_data(0, b"x" * 500 + b"\n")
    [(lost, _)] = quic.client.datagrams_to_send(quic.now)
    quic.sent.append((True, CLIENT, lost))
    quic.go(40)
    told = [line for line in quic.words()[before:] if "STREAM 0" in line]
    assert told[0].endswith("STREAM 0 " + "x" * 32)
    assert "STREAM 0 +501 B again" in told[1]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)), max_size=30))
def test_which_bytes_were_sent_before(pieces):
    """However they are cut when they are sent again."""
    sent, seen = Pieces(), set()
    for start, length in pieces:
        assert sent.add(start, start + length) == (start in seen)
        seen |= set(range(start, start + length))


def test_a_stateless_reset_is_known_by_its_token(quic):
    token = quic.server._host_cids[0].stateless_reset_token
    quic.sent += [(False, CLIENT, b"\x55" + bytes(20) + end) for end in (token, bytes(16))]
    assert quic.words()[-2:] == ["< stateless reset len 37", "< 1-RTT encrypted len 37"]


def test_versions(tmp_path):
    hello = b"\xc0" + (0x1A2A3A4A).to_bytes(4, "big") + b"\x08destined\x06source" + bytes(1200)
    offer = version_negotiation(b"source", b"destined", (VERSION_1, 0x6B3343CF))
    reader = Datagrams()
    assert reader.read(CLIENT, SERVER, hello).words == ("version 0x1a2a3a4a", f"len {len(hello)}")
    assert reader.read(SERVER, CLIENT, offer).words == ("Version Negotiation", "0x1 0x6b3343cf")
    assert Datagrams().read(SERVER, CLIENT, offer) is None


def test_http3(tmp_path):
    talk = Talk(tmp_path / "keys", alpn="h3")
    talk.go()
    before = len(talk.sent)

    def say(end, stream, data, *, fin=False):
        (talk.client if end == ">" else talk.server).send_stream_data(stream, bytes.fromhex(data), fin)
        talk.go(1)

    say(">", 2, "00 04 00")
    say("<", 3, "00 04 03 01 50 00")  # a table of up to 4096 bytes
    say(">", 6, "02 3f e1 1f 45 78 2d 6c 61 62 01 31")  # x-lab: 1
    say("<", 7, "03")
    say(">", 0, "01 04 00 00 d1 c1", fin=True)  # from the fixed table: GET /
    say("<", 0, "01 03 00 00 d9 00 44 00" + "61" * 300)  # 200, and the beginning of 1024 bytes
    say("<", 0, "61" * 724, fin=True)
    say(">", 4, "01 05 02 00 d1 c1 80", fin=True)  # refers to x-lab
    say(">", 8, "01 05 05 00 d1 c1 80", fin=True)  # refers to what was never sent
    say("<", 3, "07 01 04")
    said = [match[0] for line in talk.words()[before:] if (match := re.search(r"[<>] |STREAM.*", line[2:]))]
    assert said == [
        "STREAM 2 control SETTINGS", "STREAM 3 control SETTINGS", "STREAM 6 QPACK encoder +12 B",
        "STREAM 7 QPACK decoder +1 B", "STREAM 0 HEADERS GET / FIN", "STREAM 0 HEADERS 200 DATA +300 B",
        "STREAM 0 +724 B FIN", "STREAM 4 HEADERS GET / FIN", "STREAM 8 HEADERS FIN", "STREAM 3 GOAWAY",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11), st.integers(0, 40), st.binary(max_size=40))))
def test_garbage_in_http3_is_never_a_problem(pieces):
    reader = Streams()
    for from_client, stream, offset, data in pieces:
        assert all(isinstance(word, str) for word in reader.words(from_client, Stream(stream, offset, data)))


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=10))
def test_garbage_among_datagrams_is_never_a_problem(pieces):
    reader = Datagrams()
    assert all(reader.read(*((CLIENT, SERVER) if up else (SERVER, CLIENT)), data) is None for up, data in pieces)
    header = long_header(PacketType.INITIAL, b"destined", b"source", b"\0", 1100)
    reader.read(CLIENT, SERVER, initial_keys(b"destined")[True].seal(header, 0, b"\x01".ljust(1100, b"\0")))
    for up, data in pieces:
        told = reader.read(*((CLIENT, SERVER) if up else (SERVER, CLIENT)), data)
        assert told is None or all(told.words)


def datagram(source: tuple[str, int], target: tuple[str, int], data: bytes) -> bytes:
    """As the wire records it: IP and UDP around it, without checksums."""
    addresses = b"".join(ipaddress.ip_address(host).packed for host, _ in (source, target))
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0) + data
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses + udp


@pytest.mark.parametrize("retry", [False, True])
def test_tshark_opens_the_same_packets_with_no_setting(tmp_path, retry):
    """After Retry, with early data, another port, another ID, and two key updates; the secrets are in the capture."""
    need_tool("tshark")
    first = Talk(tmp_path / "keys")
    first.go()
    talk = Talk(tmp_path / "keys", retry=retry, ticket=first.ticket, tickets=first.tickets)
    talk.client.send_stream_data(0, b"early\n", end_stream=True)
    talk.go()
    talk.address = MOVED
    for stream in (4, 8):
        talk.client.request_key_update()
        talk.client.change_connection_id()
        talk.client.send_stream_data(stream, b"later\n", end_stream=True)
        talk.go()
        talk.server.send_stream_data(stream, bytes(3000), end_stream=True)
        talk.go()
    talk.client.close()
    talk.go(1)
    secrets = key_log((tmp_path / "keys").read_text())
    onlooker, ours = Onlooker(secrets), []
    with open(tmp_path / "capture", "wb") as file:
        writer = Writer(file.fileno(), ["client"], key_log=tmp_path / "keys")
        for i, (from_client, address, data) in enumerate(talk.sent):
            ends = (address, SERVER) if from_client else (SERVER, address)
            writer.add(0, 10**18 + 10**7 * i, datagram(*ends, data))
            sight = onlooker.receive_datagram(*ends, data)
            ours.append(",".join(str(one.number) for one in sight.packets if one.number >= 0))
            assert all(one.frames for one in sight.packets if one.packet.number_at)
        writer.flush()
    fields = ("-T", "fields", "-e", "quic.packet_number", "-e", "quic.stream_data")
    tshark = ["tshark", *NO_GUESS, "-r", str(tmp_path / "capture"), *fields]
    done = subprocess.run(tshark, capture_output=True, text=True, timeout=60)
    theirs = [line.split("\t") for line in done.stdout.splitlines()]
    assert [numbers for numbers, _ in theirs] == ours
    said = [bytes.fromhex(one) for _, data in theirs for one in data.split(",") if one]
    assert said.count(b"early\n") == 1 + retry  # The server has forgotten the first.
    assert said.count(b"later\n") == 2
    assert sum(map(len, said)) == 6000 + (3 + retry) * len(b"early\n")
