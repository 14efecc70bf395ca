"""TLS without I/O: one end of a connection. Bytes from the network in, events out; data in, bytes for the network out.

OpenSSL does the work, through `ssl.SSLObject`, between two buffers in memory. That is more than elegance: when a
handshake fails, the alert that tells the peer why is in the outgoing buffer, and whoever owns the socket can send it
before it closes. (asyncio's own TLS drops it.) The shells around this are servers/tls.py and clients/tls.py.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from dataclasses import dataclass

from protocols import tls
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.tls_numbers import Alert

MAX_HANDSHAKE = 1 << 18  # bytes: a chain of certificates could be endless
MAX_IDLE = 1 << 15  # bytes in which there is no data, afterwards: a flood of key updates, tickets, warnings
MUCH = 1 << 17  # bytes of data in an event, about
PIECE = 1 << 14  # bytes that OpenSSL gets at a time: it works through all it has, and new keys take it long

# What OpenSSL answers to a certificate that it refuses: statem_lib.c. What is not here is certificate_unknown.
REFUSALS = {
    Alert.UNKNOWN_CA: {2, 3, 18, 19, 20, 21, 22, 24, 25, 33, 79},
    Alert.CERTIFICATE_EXPIRED: {10, 12},
    Alert.CERTIFICATE_REVOKED: {23},
    Alert.UNSUPPORTED_CERTIFICATE: {26},
    Alert.DECRYPT_ERROR: {4, 5, 7, 8},
    Alert.BAD_CERTIFICATE: {6, 9, 11, 13, 14, 15, 16, 27, 28, 62, 63, 64, 66, 67, 68},
}
ANSWERS = {  # and to other faults, when the answer is encrypted already and nobody can look
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": Alert.BAD_RECORD_MAC,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Alert.CERTIFICATE_REQUIRED,
    "DIGEST_CHECK_FAILED": Alert.DECRYPT_ERROR,
    "BAD_SIGNATURE": Alert.DECRYPT_ERROR,
    "UNEXPECTED_MESSAGE": Alert.UNEXPECTED_MESSAGE,
}


class TlsError(ssl.SSLError):
    """The connection has failed. `reason` tells why in words.

    alert      with which it ended; None: with none (the peer has gone), or nobody can tell
    is_theirs  the peer has sent it, and so has found the fault
    """

    alert: Alert | None = None
    is_theirs = False

    def __init__(self, reason: str, alert: Alert | None = None, is_theirs: bool = False) -> None:
        super().__init__(0, reason)
        self.reason, self.alert, self.is_theirs = reason, alert, is_theirs

    def told(self) -> str:
        """For the log."""
        return (
            f"{self.reason} (our alert: {self.alert.name.lower()})"
            if self.alert and not self.is_theirs
            else self.reason
        )


class CertificateError(TlsError, ssl.SSLCertVerificationError):
    """We refuse the peer's certificate. `verify_code` is OpenSSL's (X509_V_ERR_…)."""

    verify_code = 0


class Truncated(TlsError, ConnectionError):
    """The connection has ended without close_notify: somebody else may have cut it (RFC 8446 §6.1)."""


@dataclass(frozen=True)
class Handshaken:
    """Both sides have agreed. `Channel.object` tells on what: version(), cipher(), selected_alpn_protocol(), …"""


@dataclass(frozen=True)
class Data:
    data: bytes


@dataclass(frozen=True)
class Closed:
    """close_notify: the peer has said all. It may still listen."""


Event = Handshaken | Data | Closed


class Object(ssl.SSLObject):
    """The context's callback sees this, and with it what Python does not show: the client's hello."""

    hello: tls.ClientHello | None = None


class Channel:
    """One end of a TLS connection. After whatever happens, an error too, data_to_send() is to be sent.

    Used like this, by a server or a client, over any transport:

        channel.receive_data(data)                    # b"": the peer's FIN
        while event := channel.next_event(): ...      # Handshaken, then Data, then Closed; TlsError
        socket.sendall(channel.data_to_send())
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname, session)
        self.is_ready = False
        """Is the handshake done?"""
        self.has_closed = False
        """Have we sent close_notify?"""
        self._arrived, self._has_left = bytearray(), False
        self._idle = 0
        self._opening = tls.Opening() if server_side and isinstance(self.object, Object) else None
        self._unread: list[bytes] = []  # data that came before we closed
        self._last: Closed | TlsError | None = None
        self._extra = b""  # an alert of our own
        self._newest = b""  # as many bytes as an alert has

    @property
    def may_send(self) -> bool:
        return self.is_ready and not self.has_closed and not isinstance(self._last, TlsError)

    def receive_data(self, data: bytes) -> None:
        self._has_left = self._has_left or not data
        self._arrived += data
        self._newest = (self._newest + data)[-7:]
        if self._opening:
            self._overhear(self._opening, data)

    def next_event(self) -> Event | None:
        """What has happened, in order; None: nothing more yet. TlsError when it has failed, from then on always."""
        if not self.is_ready and self._last is None:
            return self._shake()
        if data := b"".join(self._unread) or self._read():
            self._unread.clear()
            return Data(data)
        if isinstance(self._last, TlsError):
            raise self._last
        return self._last

    def send_data(self, data: bytes | bytearray | memoryview) -> None:
        """LocalProtocolError before the handshake is done, after close(), and when it has failed."""
        if not self.may_send:
            raise LocalProtocolError("there is no TLS connection to send data on")
        view = memoryview(data)
        while view:
            view = view[self.object.write(view) :]  # a record at a time

    def close(self) -> None:
        """Say close_notify: we have no more data. What the peer still sends can be read.

        Before the handshake is done: give it up, and say so as long as nothing is encrypted (RFC 8446 §6.1).
        """
        if self.has_closed or isinstance(self._last, TlsError):
            return
        self.has_closed = True
        if not self.is_ready:
            if self.object.cipher() is None:
                self._extra += tls.alert(Alert.USER_CANCELED, is_fatal=False)
                self._extra += tls.alert(Alert.CLOSE_NOTIFY, is_fatal=False)
            return
        while data := self._read():  # unwrap() would take it for a mistake.
            self._unread.append(data)
        self._say_goodbye()

    def data_to_send(self) -> bytes:
        data, self._extra = self._outgoing.read() + self._extra, b""
        return data

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # It wants to wait for the peer's; we do that by reading.
            self.object.unwrap()

    def _feed(self) -> bool:
        """Give OpenSSL a piece of what has arrived. False: it has seen all."""
        if not self._incoming.pending:
            if self._arrived:
                self._idle += self._incoming.write(self._arrived[:PIECE])
                del self._arrived[:PIECE]
            elif self._has_left:
                self._incoming.write_eof()
        return self._incoming.pending > 0 or self._has_left

    def _shake(self) -> Event | None:
        while True:
            self._feed()
            try:
                self.object.do_handshake()
            except ssl.SSLWantReadError:
                if self._idle > MAX_HANDSHAKE:
                    self._last = TlsError(f"a handshake of more than {MAX_HANDSHAKE} bytes")
                    raise self._last from None
                if not self._arrived and not self._has_left:
                    return None
            except (ssl.SSLError, ValueError) as error:
                self._last = self._failure(error)
                raise self._last from None
            else:
                self.is_ready = True
                self._idle = 0
                return Handshaken()

    def _overhear(self, opening: tls.Opening, data: bytes) -> None:
        """Read the hello, too, before OpenSSL does. If there is a mistake in it, OpenSSL will find it."""
        assert isinstance(self.object, Object)
        try:
            opening.receive_data(data)
        except RemoteProtocolError:
            self._opening = None
        if hello := opening.hello:
            self._opening, self.object.hello = None, hello
            if hello.server_name and not hello.server_name.isascii():  # Python's callback would stumble over it.
                self._extra += tls.alert(Alert.UNRECOGNIZED_NAME)
                self._last = TlsError(f"no name of a host: {hello.server_name[:80]!r}", Alert.UNRECOGNIZED_NAME)

    def _read(self) -> bytes:
        """Some of the data that is here, without working long for little. Sets what comes after it."""
        found: list[bytes] = []
        size, before = 0, len(self._arrived)
        while self._last is None:
            is_little = 2 * size < before - len(self._arrived)
            if found and (is_little or size >= MUCH) and not self._incoming.pending:
                break
            if not self._feed():
                break
            try:
                data = self.object.read(PIECE)
            except ssl.SSLWantReadError:
                if self._idle > MAX_IDLE:
                    self.has_closed = True
                    self._say_goodbye()
                    self._last = TlsError(f"{MAX_IDLE} bytes, and no data in them")
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._last = self._failure(error)
                break
            if not data:
                self._last = Closed()
            found.append(data)
            self._idle, size = 0, size + len(data)
        return b"".join(found)

    def _failure(self, error: ssl.SSLError | ValueError) -> TlsError:
        """OpenSSL's error in words, and which alert went to and fro."""
        sent = self._outgoing.read()
        reason = getattr(error, "reason", "") or ""
        if isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":  # so says Python 3.11.2
            self._extra += sent
            return Truncated("ended without close_notify" if self.is_ready else "ended in the middle of the handshake")
        text = re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", str(error))
        theirs = re.match(r"(?:sslv3|tlsv1|tlsv13) (?:alert )?(.*)", text)
        name = theirs[1].upper().replace(" ", "_").replace("CANCELLED", "CANCELED") if theirs else ""
        if name in Alert.__members__:
            self._extra += sent
            return TlsError(f"the other side says {name.lower()}", Alert[name], True)
        if not sent and not self.is_ready and (self._newest[:2], self._newest[3:5]) == (b"\x15\3", b"\0\2"):
            number = self._newest[6]  # They give up, with an alert that is not meant for that, or that nobody knows.
            said = "has closed in the middle of the handshake" if number == 0 else f"says alert {number}"
            return TlsError(f"the other side {said}", None, True)
        if not sent and self.object.cipher() is None:  # Not even TLS, or not since 1999: OpenSSL does not answer that.
            version = reason == "UNSUPPORTED_PROTOCOL"
            sent = tls.alert(Alert.PROTOCOL_VERSION if version else Alert.UNEXPECTED_MESSAGE)
        self._extra += sent
        plain = Alert(sent[-1]) if sent[-7:-6] == b"\x15" and sent[-4:-2] == b"\0\2" else None
        if isinstance(error, ssl.SSLCertVerificationError):
            code, words_of_it = error.verify_code, error.verify_message.rstrip(".")
            alert = next((alert for alert, codes in REFUSALS.items() if code in codes), Alert.CERTIFICATE_UNKNOWN)
            refusal = CertificateError(f"the certificate is refused: {words_of_it}", plain or alert)
            refusal.verify_code, refusal.verify_message = code, words_of_it
            return refusal
        if plain == Alert.NO_APPLICATION_PROTOCOL:
            text = "no application protocol in common"
        elif reason == "WRONG_VERSION_NUMBER":
            text += ": perhaps it speaks no TLS, but plain HTTP"
        return TlsError(text, plain or ANSWERS.get(reason))
