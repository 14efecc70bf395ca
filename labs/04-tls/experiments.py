"""TLS seen from outside: what a handshake costs, who can read, who is refused, what a man in the middle can do.

Both ends are written by hand, a Channel (certs/channel.py: TLS without I/O) over a blocking socket each, so that every
flight can be looked at. Where recorded bytes are opened, opened.py does it, with the lines of the key log that is in
the capture, too. The man in the middle is middle.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from certs import FOLDER
from certs.channel import Channel, Data, TlsError
from certs.contexts import client_context, server_context
from labkit.lab import CannotRun, Host, Link, Network, experiment
from labkit.learner import load
from protocols.tls import Alert, ContentType, Extension, client_hello
from protocols.tls import HandshakeType as Type
from protocols.tls import alert as alert_record
from protocols.tls_opened import key_log
from servers import tls

opened = load(Path(__file__).with_name("opened.py"), "labs_tls_opened")
middle = load(Path(__file__).with_name("middle.py"), "labs_tls_middle")

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
GET = f"GET /secret/{token_hex(4)} HTTP/1.1\r\nHost: server.lab\r\n\r\n".encode()  # another secret in each run
BODY = 62 * b"Attack at dawn. " + b"Or not.\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
T = TypeVar("T")


class End:
    """One end of a TLS connection, by hand. `error` is what ended it, None as long as all is well."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        self.channel = Channel(context, server_side=is_server, server_hostname=name, session=session)
        self.socket, self.port = sock, sock.getsockname()[1]
        self.received = 0  # bytes
        self.error: TlsError | None = None

    def event(self) -> object:
        """The next event of the channel, with all reading and writing that it takes; None after an error."""
        try:
            while (event := self.channel.next_event()) is None:
                self.flush()
                data = b""  # An end, if it is an RST.
                with contextlib.suppress(ConnectionError):
                    data = self.socket.recv(65536)
                self.received += len(data)
                self.channel.receive_data(data)
        except TlsError as error:
            self.error = error
            return None
        finally:
            self.flush()  # After an error, too: that is where the alert is.
        return event

    def send(self, data: bytes) -> None:
        self.channel.send_data(data)
        self.flush()

    def flush(self) -> None:
        if data := self.channel.data_to_send():
            with contextlib.suppress(ConnectionError):
                self.socket.sendall(data)

    def read(self, size: int) -> bytes:
        """So many bytes of data, fewer where the other side ends."""
        data = b""
        while len(data) < size and isinstance(event := self.event(), Data):
            data += event.data
        return data

    @property
    def alert(self) -> int | None:
        """The number of the alert that has ended it, here or there."""
        return self.error.alert if self.error else None


def close(*ends: End) -> None:
    """Say close_notify and FIN, then wait for the other's: who closes earlier answers what still comes with an RST."""
    for end in ends:
        end.channel.close()
        end.flush()
        with contextlib.suppress(OSError):
            end.socket.shutdown(socket.SHUT_WR)
    for end in ends:
        with contextlib.suppress(OSError), end.socket:
            while end.socket.recv(65536):
                pass


async def meet(
    net: Network,
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    name: str = "server.lab",
    via: Host | None = None,
) -> tuple[End, End]:
    """A connection and its handshake, both ends at once, each in a thread. How it went is in their `error`."""
    with net.server.listen(net.port) as listening:
        ours = net.client.connect(via, net.port + 100) if via else net.client.connect(net.server, net.port)
        theirs, _ = listening.accept()
    ends = End(ours, client, name), End(theirs, server)
    await asyncio.gather(*(asyncio.to_thread(end.event) for end in ends))
    return ends


@dataclass(frozen=True)
class Recording:
    """What the wire has of one connection: all that each side sent, and each flight's bytes, the client's first.

    A flight is what one side sends until the other says something.
    """

    client: bytes
    server: bytes
    flights: list[int]

    def messages(self, side: str) -> list[int]:
        """The types of all messages of the handshake that this side sent, opened with the key log."""
        found = opened.messages(opened.opened(side, self.client, self.server, secrets()))
        return [message.type for message in found]


def recording(net: Network, end: End) -> Recording:
    """Look up the connection of this end, which is the client's."""
    said = {True: bytearray(), False: bytearray()}
    flights: list[int] = []
    start: dict[bool, int] = {}
    last = False
    for p in net.packets():
        if end.port not in (p.source_port, p.target_port) or not p.payload:
            continue
        ours = p.source == "client"
        if (p.seq - start.setdefault(ours, p.seq)) % 2**32 < len(said[ours]):
            continue  # It was sent again.
        said[ours] += p.payload
        if ours is not last:
            flights.append(0)
        flights[-1] += len(p.payload)
        last = ours
    return Recording(bytes(said[True]), bytes(said[False]), flights)


def secrets() -> dict[tuple[str, bytes], bytes]:
    """What both ends have logged so far: the wire puts it into the capture."""
    return key_log(Path(os.environ["SSLKEYLOGFILE"]).read_text())


def der(name: str) -> bytes:
    """The certificate of that name, as it travels."""
    text, end, _ = (FOLDER / f"{name}.pem").read_text().partition("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN") :] + end)


def ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


# -- What a handshake costs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """A connection with a request and its answer."""

    took: float  # ms from connect() to the whole answer
    wire: Recording
    session: ssl.SSLSession | None  # to resume with


async def visit(
    net: Network, client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Visit:
    """Connect, shake hands, ask, read the answer, end; each end in a thread."""

    def serve() -> None:
        end = End(listening.accept()[0], server)
        end.event()
        end.read(len(GET))
        end.send(ANSWER)
        end.event()  # until the client has had enough
        close(end)

    def ask() -> tuple[float, End]:
        start = time.perf_counter()
        end = End(net.client.connect(net.server, net.port), client, "server.lab", session)
        end.event()
        end.send(GET)
        end.read(len(ANSWER))
        took = ms_since(start)
        close(end)
        return took, end

    with net.server.listen(net.port) as listening:
        (took, end), _ = await asyncio.gather(asyncio.to_thread(ask), asyncio.to_thread(serve))
    return Visit(took, recording(net, end), end.channel.object.session)


async def quickest(most: float, go: Callable[[], Awaitable[Visit]]) -> Visit:
    """The quickest of up to five, for this machine may be busy; the first that takes at most so many ms will do."""
    best = await go()
    for _ in range(4):
        if best.took <= most:
            break
        best = min(best, await go(), key=lambda one: one.took)
    return best


@experiment(
    title="Before the first answer",
    link=Link(delay_ms=50),
    question="The round trip takes 100 ms. How long from connect() to the answer to a request, with TLS 1.3?",
    choices=("200 ms", "300 ms", "400 ms"),
    answer="300 ms",
)
async def full_handshake(net: Network) -> None:
    """One round trip for TCP, one for TLS, one for the request. The client guesses in which group the secret will be
    agreed on, and sends its half of it with the first message. So the server has both halves at once, and its whole
    flight is encrypted but for the first message: what it can do, its certificates (most of the bytes), its
    signature, Finished. Then the client knows enough: its own Finished and the request leave together. (RFC 8446 §2,
    §4.2.8)
    """
    client, server = client_context(), server_context()
    one = await quickest(398, lambda: visit(net, client, server))
    net.measure("until the answer", one.took, "ms", at_least=300, at_most=398)
    hello, flight, finished, *_ = one.wire.flights
    net.measure("ClientHello", hello, "bytes", at_least=200, at_most=2000)
    net.measure("the server's flight", flight, "bytes", at_least=1000, at_most=3500)
    net.measure("the client's Finished", finished - len(GET) - 22, "bytes", at_least=58, at_most=80)
    sent = one.wire.messages("SERVER")
    in_flight = [Type.SERVER_HELLO, Type.ENCRYPTED_EXTENSIONS, Type.CERTIFICATE, Type.CERTIFICATE_VERIFY, Type.FINISHED]
    net.expect("the flight: hello, extensions, certificates, signature, Finished", sent[:5] == in_flight)
    net.exactly("tickets after it, for the next time", sent.count(Type.NEW_SESSION_TICKET), 2)


@experiment(
    title="The second visit",
    link=Link(delay_ms=50),
    question="The client comes back with a ticket that the server gave it. What does that save, in TLS 1.3?",
    choices=("a round trip", "certificates and signatures", "both", "nothing: it has to prove who it is"),
    answer="certificates and signatures",
)
async def ticket(net: Network) -> None:
    """The first visit has left both sides a secret, and the ticket holds it, encrypted for the server itself. Whoever
    knows that secret took part in the first visit. That proves who it is, without certificates and signatures. It
    does not save a round trip (early data would, and whoever records that can send it again). Its key is in the
    server's memory: after a restart, or on another server, nobody can read it, and the handshake is a full one,
    without any error. And it travels in the clear: who comes twice with the same ticket can be recognized by it.
    (RFC 8446 §2.2, §2.3, §4.6.1, §8, §C.4)
    """
    client, server = client_context(), server_context()
    first = await visit(net, client, server)
    again = await quickest(398, lambda: visit(net, client, server, first.session))
    net.measure("until the answer, with a ticket", again.took, "ms", at_least=300, at_most=398)
    after = await visit(net, client, server_context(), first.session)  # A new context: new keys.
    for name, one, count in (("the first time", first, 1), ("with a ticket", again, 0), ("after a restart", after, 1)):
        net.exactly(f"certificate messages, {name}", one.wire.messages("SERVER").count(Type.CERTIFICATE), count)
    saved = first.wire.flights[1] - again.wire.flights[1]
    net.measure("bytes that the server need not send", saved, "bytes", at_least=500, at_most=3000)
    hellos = [client_hello(next(opened.messages(opened.records(one.wire.client))).body) for one in (again, after)]
    shown = {hello.extensions[Extension.PRE_SHARED_KEY][4:100] for hello in hellos}
    net.exactly("different tickets in these two hellos", len(shown), 1)


@experiment(
    title="One version earlier",
    link=Link(delay_ms=50),
    question="The same request with TLS 1.2. How long until the answer, at 100 ms a round trip?",
    choices=("300 ms", "400 ms", "500 ms"),
    answer="400 ms",
)
async def older(net: Network) -> None:
    """Before 1.3 a client first heard what the server had chosen, and then sent its half of the secret: a round trip
    more. And all of that was in the clear: who listened could read the certificate. What is left to read in 1.3 is
    the ClientHello, and in it the name that the client asks for (SNI). (RFC 5246 §7.3; RFC 8446 §1.2; RFC 6066 §3)
    """
    server = server_context()
    for version, number, least, certs in ((TLS_1_3, "1.3", 300, 0), (TLS_1_2, "1.2", 400, 1)):
        client = client_context(maximum=version)
        one = await quickest(least + 98, lambda client=client: visit(net, client, server))
        net.measure(f"until the answer, {number}", one.took, "ms", at_least=least, at_most=least + 98)
        net.exactly(f"certificates in the clear, {number}", one.wire.server.count(der("server")), certs)
        net.exactly(f"names in the clear, {number}", one.wire.client.count(b"server.lab"), 1)


# -- Who can read --------------------------------------------------------------------------------------


@experiment(
    title="What is left to see",
    question="A request and its answer, with TLS 1.3. What does somebody learn who records every byte?",
    choices=("nothing: all is encrypted", "which page was asked for", "the server's name, and how much it sent"),
    answer="the server's name, and how much it sent",
    needs_wire=True,
)
async def onlooker(net: Network) -> None:
    """Encryption hides what is said, but not who says it, to whom, when, and how much: a record is 22 bytes longer
    than what is in it (5 for the header, 1 for the real type, 16 for the proof that nobody changed it), and that
    tells which of a site's pages it was. 1.3 has padding, for those who use it. Who has one line of the key log,
    though, reads all: opened.py does it here in a page, Wireshark does it with the lines in this capture. (RFC 8446
    §5.2, §5.4, §7.3, §E.3)
    """
    wire = (await visit(net, client_context(), server_context())).wire
    both = wire.client + wire.server
    net.exactly("places where the request can be read", both.count(b"secret"), 0)
    net.exactly("places where the answer can be read", both.count(b"Attack"), 0)
    net.exactly("places where the server's name can be read", both.count(b"server.lab"), 1)
    lengths = [5 + len(record.data) for record in opened.records(wire.server)]
    longer = min(length - len(ANSWER) for length in lengths if length >= len(ANSWER))
    net.exactly("a record is longer than the answer in it by", longer, 22, "bytes")
    plain = b"".join(record.data for record in opened.opened("CLIENT", wire.client, wire.server, secrets()))
    net.exactly("requests that a line of the key log opens", plain.count(GET), 1)


@experiment(
    title="The key is stolen a year later",
    question="Somebody has recorded three connections, and steals the server's private key. Which can they read?",
    choices=("all: it is the server's key", "one that sent a secret for that key", "none: their keys are gone"),
    answer="one that sent a secret for that key",
    needs_wire=True,
)
async def stolen_key(net: Network) -> None:
    """With RSA key exchange, which TLS 1.2 still had, the client encrypts a secret for the server's key: who gets the
    key, whenever, reads all that was ever recorded. With an ephemeral exchange the key does nothing but sign. The
    secret is made of two numbers that both sides have thrown away, and in the recording there is nothing for the key
    to open. That is forward secrecy, and TLS 1.3 has no other kind of handshake with a certificate. (RFC 5246
    §7.4.7.1, §F.1.1.2; RFC 8446 §1.2, §E.1; RFC 9325 §7.3)
    """
    server = server_context("server-rsa")
    rsa, ephemeral = client_context(maximum=TLS_1_2), client_context(maximum=TLS_1_2)
    try:
        server.set_ciphers("ECDHE+AESGCM:AES128-SHA")
        rsa.set_ciphers("AES128-SHA")
    except ssl.SSLError:
        raise CannotRun("This OpenSSL has no RSA key exchange any more.") from None
    for name, client, count in (("1.2, RSA", rsa, 1), ("1.2, ephemeral", ephemeral, 0), ("1.3", client_context(), 0)):
        wire = (await visit(net, client, server)).wire
        secret = opened.stolen(FOLDER / "server-rsa.key", wire.client, wire.server)
        net.exactly(f"master secrets that the key gives away: {name}", int(secret in secrets().values()), count)


# -- What is agreed on ---------------------------------------------------------------------------------


@experiment(
    title="Two sites, one address",
    question="server.lab and www.lab share an address and a port. How does the server know which certificate to send?",
    choices=("from the field Host", "from the ClientHello", "it sends both"),
    answer="from the ClientHello",
)
async def two_names(net: Network) -> None:
    """Host comes too late: it is in the request, and the certificate has to be there before anything is encrypted. So
    the client says the name in its first message (SNI), in the clear: who listens reads which site it is, although
    many share the address. For a name that the server does not know it sends what it has, and the client refuses it.
    (Encrypted Client Hello hides the name, with a key that the client has found in the DNS.) (RFC 6066 §3; RFC 9849)
    """
    ours, theirs = client_context(), server_context(by_name={"www.lab": "www"})
    shown = {}
    for name in ("server.lab", "www.lab", "nobody.lab"):
        client, other = await meet(net, ours, theirs, name)
        if client.error is None:
            shown[name] = client.channel.object.getpeercert(binary_form=True)
        else:
            net.note(f"{name}: {client.error.reason}")
            net.exactly("alert, for a name that is on no certificate", other.alert or -1, Alert.BAD_CERTIFICATE)
        close(client, other)
    net.exactly("different certificates from one address", len(set(shown.values())), 2)
    net.expect("www.lab showed its own", shown["www.lab"] == der("www"))
    if net.on_wire:
        hellos = {p.seq for p in net.packets() if p.source == "client" and b"www.lab" in p.payload}
        net.exactly("packets in which www.lab can be read", len(hellos), 1)


@experiment(
    title="Nothing in common",
    question="The server speaks h2 and http/1.1, the client nothing but spdy/3. What must the server do?",
    choices=("go on with http/1.1, which all speak", "go on, and see what comes", "end the handshake with an alert"),
    answer="end the handshake with an alert",
)
async def alpn(net: Network) -> None:
    """The client lists what it can speak above TLS (ALPN), the server takes what it likes best of it: no round trip
    is lost, and both know it before the first byte. Two that have nothing in common would misunderstand each other
    (or be made to: a browser's HTTP taken for SMTP), so the server SHALL send no_application_protocol. Python's ssl
    goes on in silence, with None; the lab's server looks at the ClientHello itself. (RFC 7301 §3.2; RFC 9325 §3.8)
    """
    wanted = ("h2", "http/1.1")
    server = server_context(alpn=wanted)
    pythons = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pythons.load_cert_chain(FOLDER / "server.pem", FOLDER / "server.key")
    pythons.set_alpn_protocols(list(wanted))
    for context, offer, chosen in (
        (server, ("http/1.1", "h2"), "h2"),
        (server, ("http/1.1",), "http/1.1"),
        (pythons, ("spdy/3",), None),
    ):
        client, other = await meet(net, client_context(alpn=offer), context)
        agreed = {end.channel.object.selected_alpn_protocol() for end in (client, other)}
        whose = "Python's own server" if context is pythons else "the lab's"
        net.expect(f"{' or '.join(offer)}: {whose} goes on with {chosen}", agreed == {chosen})
        close(client, other)
    client, other = await meet(net, client_context(alpn=("spdy/3",)), server)
    net.exactly("alert from the lab's server to spdy/3", client.alert or 0, Alert.NO_APPLICATION_PROTOCOL)
    close(client, other)


# -- Who is refused ------------------------------------------------------------------------------------


@experiment(
    title="Nine bad certificates",
    question="A client refuses the server's certificate. What does the server learn of it?",
    choices=("nothing: the connection ends", "a number", "the whole reason, in words"),
    answer="a number",
)
async def bad_certificates(net: Network) -> None:
    """A chain is good if each certificate is signed by the next, up to one that the client trusts; if all are valid
    now; if all but the first may sign others, for this name; if the first is for servers, and for this one. Each
    of these nine breaks one rule. The client says why in an alert, a number between 42 and 48, and several reasons
    share one: the words are in the client's log only. (RFC 5280 §6.1, §4.2.1; RFC 9525 §6; RFC 8446 §6.2)
    """
    careful = client_context()
    client, other = await meet(net, careful, server_context("server"))
    net.expect("the good one is accepted", client.error is other.error is None)
    close(client, other)
    readable = 0
    for name, alert in (
        ("expired", Alert.CERTIFICATE_EXPIRED), ("not-yet-valid", Alert.BAD_CERTIFICATE),
        ("wrong-name", Alert.BAD_CERTIFICATE), ("self-signed", Alert.UNKNOWN_CA), ("unknown-ca", Alert.UNKNOWN_CA),
        ("no-intermediate", Alert.UNKNOWN_CA), ("not-a-ca", Alert.UNKNOWN_CA),
        ("wrong-purpose", Alert.UNSUPPORTED_CERTIFICATE), ("forbidden-name", Alert.CERTIFICATE_UNKNOWN),
    ):  # fmt: skip
        client, other = await meet(net, careful, server_context(name))
        net.note(f"{name}: {client.error.reason if client.error else 'accepted'}")
        net.exactly(f"alert that the server gets: {name}", other.alert or 0, alert)
        close(client, other)
        if net.on_wire:
            readable += recording(net, client).client.endswith(alert_record(alert))
    if net.on_wire:
        net.exactly("alerts that an onlooker can read, of nine", readable, 9)


@experiment(
    title="Taken back",
    question="A server's key was stolen, and its certificate was revoked an hour ago. Which clients refuse it now?",
    choices=("all: its signature is void", "those that have the list", "those that never saw it before"),
    answer="those that have the list",
)
async def revoked(net: Network) -> None:
    """Revoking changes nothing of a certificate: its signature is right, its validity is not over. Whoever wants to
    know has to ask somebody else, a list (CRL) or a service (OCSP), and then to decide what no answer means. To
    refuse then is safe, and makes every site depend on that service; most clients went on without, so that a thief
    only had to block it. Hence lists that come with the browser, and certificates for days instead of years.
    (RFC 5280 §5, §6.3)
    """
    with_lists, no_list = client_context(revocation=True), client_context()
    no_list.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    for name, client, shows, alert in (
        ("revoked, without the list", client_context(), "revoked", None),
        ("revoked, with the list", with_lists, "revoked", Alert.CERTIFICATE_REVOKED),
        ("good, with the list", with_lists, "server", None),
        ("good, and the list is missing", no_list, "server", Alert.UNKNOWN_CA),
    ):
        end, other = await meet(net, client, server_context(shows))
        if alert is None:
            net.expect(f"{name}: accepted", end.error is other.error is None)
        else:
            net.note(f"{name}: {end.error.reason if end.error else 'accepted'}")
            net.exactly(f"alert, {name}", other.alert or 0, alert)
        close(end, other)


@experiment(
    title="And who are you?",
    question="The server wants a certificate, and the client has none. When does a TLS 1.3 client hear of it?",
    choices=("in the handshake, which fails", "when it reads for the first time", "when it sends its request"),
    answer="when it reads for the first time",
)
async def client_certificate(net: Network) -> None:
    """With mutual TLS the server asks, and the client answers in its last flight, with its certificate and Finished.
    For the client the handshake is then over, and it may send: in 1.3 nothing comes back that would tell it whether
    it is welcome. The refusal meets it at its first read; what it has sent is lost. In 1.2 the server had the last
    word, and the handshake failed; but there the certificate, with the user's name in it, travelled in the clear.
    (RFC 8446 §4.3.2, §4.4.2.4, §6.2; RFC 5246 §7.4.6)
    """
    server = server_context(clients="required")
    for number, version, believed, readable in (("1.3", TLS_1_3, 3, 0), ("1.2", TLS_1_2, 1, 1)):
        done = answered = 0
        for who, name, alert in (
            ("alice", "client", None),
            ("a stranger", "client-unknown", Alert.UNKNOWN_CA),
            ("nobody", None, Alert.CERTIFICATE_REQUIRED if version is TLS_1_3 else Alert.HANDSHAKE_FAILURE),
        ):
            client, other = await meet(net, client_context(certificate=name, maximum=version), server)
            if client.error is None:
                done += 1
                client.send(GET)
                if other.error is None and other.read(len(GET)):
                    other.send(ANSWER)
                answered += client.read(len(ANSWER)) == ANSWER
            if alert:
                net.exactly(f"alert to {who}, {number}", client.alert or 0, alert)
            if net.on_wire and who == "alice":
                seen = recording(net, client).client.count(der("client"))
                net.exactly(f"alice's certificate in the clear, {number}", seen, readable)
            close(client, other)
        net.exactly(f"handshakes that the client takes for done, {number}", done, believed)
        net.exactly(f"requests that are answered, {number}", answered, 1)


@experiment(
    title="An end without a word",
    question="A handshake fails: no version in common. One server sends 7 bytes, another nothing, and closes. Why?",
    choices=("the second has crashed", "the second threw its alert away", "the first is older"),
    answer="the second threw its alert away",
)
async def without_a_word(net: Network) -> None:
    """OpenSSL writes an alert when it gives up, into a buffer that somebody has to send. asyncio's own TLS closes the
    transport first, and all that the client gets is the end of the connection: a wrong version looks like a crash, a
    refused certificate like a firewall. The lab's servers put TLS between two buffers (certs/channel.py), and after
    an error they send what is in the one that goes out. 7 bytes: a header of 5, fatal, 70. (The client that got
    nothing sends an alert of its own, decode_error, to nobody.) (RFC 8446 §6.2, §4.2.1)
    """
    too_new, too_old = server_context(minimum=TLS_1_3), client_context(maximum=TLS_1_2)
    address = net.server.address, net.port

    @asynccontextmanager
    async def asyncios_own() -> AsyncIterator[None]:
        listening = await asyncio.start_server(lambda *_: None, *address, ssl=too_new)
        try:
            yield
        finally:
            listening.close()

    ours = tls.serve(*address, context=too_new)
    for name, server, size in (("asyncio", asyncios_own(), 0), ("the lab's server", ours, 7)):
        async with net.server.running(server):
            client = End(net.client.connect(net.server, net.port), too_old, "server.lab")
            await asyncio.to_thread(client.event)
            net.note(f"{name}: {client.error.reason if client.error else 'no error'}")
            net.exactly(f"bytes from {name}", client.received, size, "bytes")
            if size:
                net.exactly(f"alert in them, from {name}", client.alert or 0, Alert.PROTOCOL_VERSION)
            close(client)


# -- A man in the middle -------------------------------------------------------------------------------


def through(net: Network, change: middle.Change) -> AbstractAsyncContextManager[None]:
    """middle.py on the host in the middle, before the server."""
    here = net["middle"].address, net.port + 100
    return net["middle"].running(middle.between(here, (net.server.address, net.port), change))


@experiment(
    title="Nearly what was sent",
    hosts=("client", "middle", "server"),
    question="A man in the middle forwards all records, but one of them twice. What does the server's program get?",
    choices=("the data twice", "the data once, for the second is dropped", "the data once, then an error"),
    answer="the data once, then an error",
)
async def tampered(net: Network) -> None:
    """Each record is encrypted with its number in the nonce, and the number is nowhere on the wire: both sides count.
    A record that comes twice, or after one that was left out, has another number than it was made with, and is as bad
    as one with a wrong bit: bad_record_mac, and it is over. TCP mends what a cable breaks, and its checksum anybody
    can compute; what somebody wants to break only a key can tell. (RFC 8446 §5.2, §5.3, §6.2)
    """
    ours, theirs = client_context(), server_context(tickets=0)
    for name, change, arrives in (
        ("sent twice", lambda record: 2 * record, 1),
        ("with one bit changed", lambda record: record[:9] + bytes([record[9] ^ 1]) + record[10:], 0),
        ("left out", lambda record: b"", 0),
    ):

        def forward(sender: str, record: bytes, change: Callable[[bytes], bytes] = change) -> bytes:
            is_the_first = sender == "client" and len(record) == len(GET) + 22
            return change(record) if is_the_first else record

        async with through(net, forward):
            client, server = await meet(net, ours, theirs, via=net["middle"])
            client.channel.send_data(GET)
            client.send(b"and another")
            data = await asyncio.to_thread(server.read, 2 * len(GET))
            await asyncio.to_thread(client.event)
            net.exactly(f"requests that arrive, {name}", data.count(GET), arrives)
            net.expect("and not a byte of anything else", data == arrives * GET)
            net.exactly(f"alert, {name}", client.alert or 0, Alert.BAD_RECORD_MAC)
            close(client, server)


@experiment(
    title="Half a file",
    hosts=("client", "middle", "server"),
    question="A man in the middle cannot read a thing. He ends the TCP connection after half a file. Who can tell?",
    choices=("nobody: a FIN is a FIN", "who waits for close_notify", "everybody: the last record is broken"),
    answer="who waits for close_notify",
)
async def cut_off(net: Network) -> None:
    """TCP's FIN is not signed; anybody on the way can send one. So TLS has an end of its own, an alert that is
    encrypted like everything else: an end without it is no end. Whoever takes it for one, as Python's SSLSocket does
    unless it is told otherwise, reads half a file, half an order, a page without its last line, and takes it for the
    whole. (A length in the message helps, too: lab 03, half-a-body.) (RFC 8446 §6.1)
    """
    halves = 500 * b"a", 499 * b"b"
    ours, theirs = client_context(), server_context()
    pythons = ssl.create_default_context(cafile=FOLDER / "root.pem")  # as it comes: ours would notice

    def cut(sender: str, record: bytes) -> bytes | None:
        return None if sender == "server" and len(record) == len(halves[1]) + 22 else record

    def serve() -> None:
        end = End(listening.accept()[0], theirs)
        end.event()
        for half in halves:
            end.send(half)
        close(end)

    def by_the_lab(sock: socket.socket) -> tuple[int, bool]:
        end = End(sock, ours, "server.lab")
        end.event()
        data = end.read(10_000)
        close(end)
        return len(data), end.error is None

    def by_python(sock: socket.socket) -> tuple[int, bool]:
        with pythons.wrap_socket(sock, server_hostname="server.lab") as wrapped:
            data = b""
            while more := wrapped.recv(65536):
                data += more
            return len(data), True

    for name, read, change, size, fine in (
        ("left alone", by_the_lab, lambda _, record: record, 999, True),
        ("cut off, read by the lab", by_the_lab, cut, 500, False),
        ("cut off, read by Python's SSLSocket", by_python, cut, 500, True),
    ):
        with net.server.listen(net.port) as listening:
            async with through(net, change):
                sock = net.client.connect(net["middle"], net.port + 100)
                (got, whole), _ = await asyncio.gather(asyncio.to_thread(read, sock), asyncio.to_thread(serve))
        net.exactly(f"bytes, {name}", got, size, "bytes")
        net.expect(f"{name}: {'taken for the whole' if whole else 'noticed'}", whole == fine)


@experiment(
    title="Let us speak the older one",
    hosts=("client", "middle", "server"),
    question="A man in the middle strikes TLS 1.3 out of the ClientHello, which is in the clear. What comes of it?",
    choices=("a connection with 1.2", "the server refuses the hello", "the client refuses the answer"),
    answer="the client refuses the answer",
)
async def downgrade(net: Network) -> None:
    """Nothing in a ClientHello is protected when it arrives, so the server believes it, and answers with 1.2. But a
    server that could do more writes so into the last eight bytes of its random: DOWNGRD, 1. A client that had offered
    1.3 reads it and gives up. If he changes those bytes, too, then the server's signature, which is over both
    randoms, is wrong; and if that were not, Finished would tell: it is a checksum of all that was said, with a key
    that he does not have. (RFC 8446 §4.1.3, §4.4.4, §D; RFC 5246 §7.4.3, §7.4.9)
    """
    both, only_1_2 = (bytes.fromhex(f"002b000504{versions}0303") for versions in ("0304", "7a7a"))
    ours, theirs, randoms = client_context(), server_context(), []

    def strike_out(sender: str, record: bytes) -> bytes:
        if sender == "server" and record[0] == ContentType.HANDSHAKE and not randoms:
            randoms.append(record[11:43])
        return record.replace(both, only_1_2)  # 7a7a: a version that nobody has (GREASE, RFC 8701).

    def and_hide_it(sender: str, record: bytes) -> bytes:
        return strike_out(sender, record).replace(b"DOWNGRD\1", b"nothing!")

    for name, change, alert in (
        ("struck out", strike_out, Alert.ILLEGAL_PARAMETER),
        ("struck out, and the trace changed", and_hide_it, Alert.DECRYPT_ERROR),
    ):
        async with through(net, change):
            client, server = await meet(net, ours, theirs, via=net["middle"])
            net.note(f"{name}: {client.error.reason if client.error else 'accepted'}")
            net.exactly(f"alert from the client, {name}", server.alert or 0, alert)
            close(client, server)
    net.exactly("hellos of the server that end in DOWNGRD, 1", [one[-8:] for one in randoms].count(b"DOWNGRD\1"), 1)
