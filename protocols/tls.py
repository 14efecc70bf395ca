"""TLS as an onlooker sees it: records, and what is in the clear of the handshake. RFC 8446 (1.3) and 5246 (1.2).

Nothing is decrypted here, and nothing is checked that needs a key: that is OpenSSL's work (certs/channel.py). But what
anybody on the way can read is worth to be read: which name the client asks for, what it offers, what the server takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from protocols.errors import RemoteProtocolError
from protocols.tls_numbers import Alert, ContentType, Extension, Group, HandshakeType, Version, words

__all__ = ["Alert", "ContentType", "Extension", "Group", "HandshakeType", "Version", "words"]  # can be had from here

MAX_RECORD = (1 << 14) + 2048  # RFC 5246 §6.2.3; TLS 1.3 adds 256 at most (RFC 8446 §5.2)
MAX_MESSAGE = 1 << 17  # Its length has three bytes: somebody could make us wait for, and hold, 16 MB.
RETRY = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")  # RFC 8446 §4.1.3


def alert(description: Alert, *, is_fatal: bool = True) -> bytes:
    """A record with an alert, for as long as nothing is encrypted yet (RFC 8446 §6)."""
    return bytes([ContentType.ALERT, 3, 3, 0, 2, 1 + is_fatal, description])


class Record(NamedTuple):
    """RFC 8446 §5.1. On the wire it has 5 bytes more."""

    type: int
    version: int
    data: bytes


class Message(NamedTuple):
    """RFC 8446 §4: of the handshake. On the wire it has 4 bytes more."""

    type: int
    body: bytes


class Records:
    """Cuts a stream into records. RemoteProtocolError.code is the alert to answer with."""

    def __init__(self) -> None:
        self._unread = bytearray()  # Bytes could come one by one, and each would copy all those before.

    def receive_data(self, data: bytes) -> None:
        self._unread += data

    def next_event(self) -> Record | None:
        data = self._unread
        if data and data[0] not in set(ContentType):  # "An unexpected record type": RFC 8446 §5
            raise RemoteProtocolError(
                f"this is not TLS: no record begins with {bytes(data[:1])!r}", Alert.UNEXPECTED_MESSAGE
            )
        if len(data) > 1 and data[1] != 3:
            raise RemoteProtocolError(f"a record of version {data[1]}", Alert.PROTOCOL_VERSION)
        if len(data) < 5:
            return None
        length = int.from_bytes(data[3:5], "big")
        if length > MAX_RECORD:
            raise RemoteProtocolError(f"a record of {length} bytes", Alert.RECORD_OVERFLOW)
        if len(data) < 5 + length:
            return None
        record = Record(data[0], int.from_bytes(data[1:3], "big"), bytes(data[5 : 5 + length]))
        del data[: 5 + length]
        return record


class Messages:
    """Puts the messages of the handshake together: one may take several records, and a record may hold several."""

    def __init__(self) -> None:
        self._unread = bytearray()  # Bytes could come one by one, and each would copy all those before.

    def receive_data(self, data: bytes) -> None:
        self._unread += data

    def next_event(self) -> Message | None:
        data = self._unread
        length = int.from_bytes(data[1:4], "big")
        if length > MAX_MESSAGE:
            raise RemoteProtocolError(f"a message of {length} bytes", Alert.ILLEGAL_PARAMETER)
        if len(data) < 4 or len(data) < 4 + length:
            return None
        message = Message(data[0], bytes(data[4 : 4 + length]))
        del data[: 4 + length]
        return message


class Opening:
    """The client's hello, from the first bytes of what it sends."""

    hello: ClientHello | None = None

    def __init__(self) -> None:
        self._records, self._messages, self._done = Records(), Messages(), False

    def receive_data(self, data: bytes) -> None:
        """RemoteProtocolError: that is none."""
        if self._done:
            return
        self._records.receive_data(data)
        while not self._done and (record := self._records.next_event()):
            self._messages.receive_data(record.data)
            message = self._messages.next_event()
            self._done = message is not None
            if record.type != ContentType.HANDSHAKE or (message and message.type != HandshakeType.CLIENT_HELLO):
                raise RemoteProtocolError("a connection begins with the client's hello", Alert.UNEXPECTED_MESSAGE)
            if message:
                self.hello = client_hello(message.body)


class Seen(NamedTuple):
    """A record, and what an onlooker can read of it."""

    record: Record
    is_encrypted: bool
    messages: list[Message]  # of the handshake, that end in this record


class Onlooker:
    """Somebody on the way: all bytes of both directions, and no key."""

    version = 0  # that the server has chosen

    def __init__(self) -> None:
        self._records = {True: Records(), False: Records()}
        self._messages = {True: Messages(), False: Messages()}
        self._changed: set[bool] = set()

    def receive_data(self, from_client: bool, data: bytes) -> list[Seen]:
        """RemoteProtocolError: that was no TLS."""
        self._records[from_client].receive_data(data)
        seen = []
        while record := self._records[from_client].next_event():
            is_encrypted = from_client in self._changed or record.type == ContentType.APPLICATION_DATA
            found = [] if is_encrypted or record.type != ContentType.HANDSHAKE else self._read(from_client, record)
            seen.append(Seen(record, is_encrypted, found))
            if record.type == ContentType.CHANGE_CIPHER_SPEC and self.version < Version.TLS_1_3:
                self._changed.add(from_client)  # In 1.3 it means nothing (RFC 8446 §D.4).
        return seen

    def _read(self, from_client: bool, record: Record) -> list[Message]:
        found = []
        self._messages[from_client].receive_data(record.data)
        while message := self._messages[from_client].next_event():
            found.append(message)
            if message.type == HandshakeType.SERVER_HELLO:
                self.version = server_hello(message.body).version
        return found


# -- The messages that are in the clear --------------------------------------------------------------


class Fields:
    """Reads the fields of a structure, one after the other (RFC 8446 §3)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise RemoteProtocolError("a field goes beyond the end of its message", Alert.DECODE_ERROR)
        return self._data[start : self._at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """Bytes behind their length, which takes *width* bytes (§3.4)."""
        return self.take(self.number(width))

    def end(self) -> None:
        if self:
            raise RemoteProtocolError(f"{len(self._data) - self._at} bytes too many", Alert.DECODE_ERROR)


class ClientHello(NamedTuple):
    """RFC 8446 §4.1.2: what the client offers. Readable by all who carry it."""

    version: int
    random: bytes
    session_id: bytes
    ciphers: tuple[int, ...]
    extensions: dict[int, bytes]
    server_name: str | None
    alpn: tuple[str, ...]
    versions: tuple[int, ...]
    groups: tuple[int, ...]
    shares: tuple[int, ...]  # the groups for which it has sent its half of the secret
    offers_session: bool  # one to resume: by a pre-shared key, or in 1.2 by a ticket


class ServerHello(NamedTuple):
    """RFC 8446 §4.1.3: what the server has taken of it."""

    version: int  # that is spoken from now on
    random: bytes
    session_id: bytes
    cipher: int
    extensions: dict[int, bytes]
    group: int | None
    is_retry: bool  # HelloRetryRequest: the same, but for its random (§4.1.4)
    is_resumed: bool  # by a pre-shared key; in 1.2 it shows only in what follows


def client_hello(body: bytes) -> ClientHello:
    fields = Fields(body)
    version, random, session_id = fields.number(2), fields.take(32), fields.vector(1)
    ciphers, _ = numbers(fields.vector(2)), fields.vector(1)  # and compressions, which nobody has any more
    found = extensions(fields)
    versions = numbers(listed(found, Extension.SUPPORTED_VERSIONS, 1)) or (version,)
    return ClientHello(
        version, random, session_id, ciphers, found, server_name(found), alpn(found), versions,
        groups=numbers(listed(found, Extension.SUPPORTED_GROUPS, 2)),
        shares=tuple(shares(listed(found, Extension.KEY_SHARE, 2))),
        offers_session=Extension.PRE_SHARED_KEY in found or found.get(Extension.SESSION_TICKET, b"") != b"",
    )  # fmt: skip


def server_hello(body: bytes) -> ServerHello:
    fields = Fields(body)
    version, random, session_id = fields.number(2), fields.take(32), fields.vector(1)
    cipher, _ = fields.number(2), fields.number(1)
    found = extensions(fields)
    if Extension.SUPPORTED_VERSIONS in found:
        version = Fields(found[Extension.SUPPORTED_VERSIONS]).number(2)
    group = Fields(found[Extension.KEY_SHARE]).number(2) if Extension.KEY_SHARE in found else None
    is_resumed = Extension.PRE_SHARED_KEY in found
    return ServerHello(version, random, session_id, cipher, found, group, random == RETRY, is_resumed)


def certificates(body: bytes, version: int) -> list[bytes]:
    """The chain, each as DER, of a Certificate message (RFC 8446 §4.4.2, where it is encrypted; RFC 5246 §7.4.2)."""
    fields, found = Fields(body), []
    if version >= Version.TLS_1_3:
        fields.vector(1)
    chain = Fields(fields.vector(3))
    fields.end()
    while chain:
        found.append(chain.vector(3))
        if version >= Version.TLS_1_3:
            chain.vector(2)  # extensions of each
    return found


def extensions(fields: Fields) -> dict[int, bytes]:
    """RFC 8446 §4.2: to the end of the message, none twice. A hello of old has none at all."""
    found: dict[int, bytes] = {}
    inner = Fields(fields.vector(2) if fields else b"")
    fields.end()
    while inner:
        kind = inner.number(2)
        if kind in found:
            raise RemoteProtocolError(f"extension {kind} twice", Alert.ILLEGAL_PARAMETER)
        found[kind] = inner.vector(2)
    return found


def listed(found: dict[int, bytes], kind: Extension, width: int) -> bytes:
    """The list that is all of an extension, without its length; b"" when it is not there."""
    if kind not in found:
        return b""
    fields = Fields(found[kind])
    value = fields.vector(width)
    fields.end()
    return value


def numbers(data: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise RemoteProtocolError("half a number at the end of a list", Alert.DECODE_ERROR)
    return tuple(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))


def server_name(found: dict[int, bytes]) -> str | None:
    """RFC 6066 §3: a list of names of which only the kind 0, a host's, was ever defined."""
    fields = Fields(listed(found, Extension.SERVER_NAME, 2))
    while fields:
        kind, name = fields.number(1), fields.vector(2)
        if kind == 0:
            return name.decode("latin-1")
    return None


def alpn(found: dict[int, bytes]) -> tuple[str, ...]:
    """RFC 7301 §3.1: the protocols above TLS that the client can speak, the one it likes best first."""

    def names(fields: Fields) -> Iterator[str]:
        while fields:
            yield fields.vector(1).decode("latin-1")

    return tuple(names(Fields(listed(found, Extension.ALPN, 2))))


def shares(data: bytes) -> Iterator[int]:
    """RFC 8446 §4.2.8."""
    fields = Fields(data)
    while fields:
        yield fields.number(2)
        fields.vector(2)
