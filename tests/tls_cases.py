"""What a client may send to open a connection, and what a server has to answer: an alert, or its hello.

A case is bytes, the alert (or HELLO, or SILENCE: nothing to answer yet), and where the RFC says so: RFC 8446 unless
another is named. Where it leaves the choice, OpenSSL's is written down.
"""

from __future__ import annotations

import os
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.tls import Alert

HELLO, SILENCE = "hello", "silence"
HANDSHAKE, DATA, ALERT, CCS = 22, 23, 21, 20
X25519, P256 = 0x1D, 0x17
PUBLIC = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def record(kind: int, data: bytes, version: int = 0x0303) -> bytes:
    return struct.pack("!BHH", kind, version, len(data)) + data


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, data)


def names(name: bytes) -> bytes:
    return vector(2, b"\0" + vector(2, name))


def numbers(*values: int) -> bytes:
    return b"".join(struct.pack("!H", value) for value in values)


def shares(*found: tuple[int, bytes]) -> bytes:
    return vector(2, b"".join(numbers(group) + vector(2, key) for group, key in found))


def psk(identity: bytes = b"a" * 32) -> bytes:
    return extension(41, vector(2, vector(2, identity) + bytes(4)) + vector(2, vector(1, bytes(32))))


EXTENSIONS = {
    0: names(b"localhost"),
    10: vector(2, numbers(X25519, P256)),
    13: vector(2, numbers(0x0403, 0x0804, 0x0805, 0x0401)),
    43: vector(1, numbers(0x0304, 0x0303)),
    45: b"\1\1",
    51: shares((X25519, PUBLIC)),
}
OF_1_2 = (43, 45, 51)  # Without these it is a hello of TLS 1.2.


def hello(
    *,
    version: int = 0x0303,
    session_id: bytes = bytes(32),
    ciphers: bytes = numbers(0x1301, 0x1302, 0x1303, 0xC02F, 0xC02B),
    compressions: bytes = b"\0",
    without: tuple[int, ...] = (),
    replace: dict[int, bytes] | None = None,
    more: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """A ClientHello, as a message of the handshake (§4.1.2)."""
    found = {kind: data for kind, data in EXTENSIONS.items() if kind not in without} | (replace or {})
    body = numbers(version) + os.urandom(32) + vector(1, session_id) + vector(2, ciphers) + vector(1, compressions)
    body += vector(2, b"".join(extension(kind, data) for kind, data in found.items()) + more) + tail
    return b"\1" + vector(3, body)


GOOD = hello()


def change(kind: int, data: bytes) -> bytes:
    return record(HANDSHAKE, hello(replace={kind: data}))


def pieces(message: bytes, size: int) -> bytes:
    return b"".join(record(HANDSHAKE, message[i : i + size]) for i in range(0, len(message), size))


CASES: dict[str, tuple[bytes, Alert | str, str]] = {
    "a good hello": (record(HANDSHAKE, GOOD, 0x0301), HELLO, "4.1.2"),
    "plain HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Alert.UNEXPECTED_MESSAGE, "5"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", Alert.UNEXPECTED_MESSAGE, "5"),
    "zeros": (bytes(50), Alert.UNEXPECTED_MESSAGE, "5"),
    "SSL 2": (b"\x80\x2e\1\3\1\0\x15\0\0\0\x10" + bytes(40), Alert.PROTOCOL_VERSION, "appendix D.5"),
    "a record of SSL 3": (record(HANDSHAKE, GOOD, 0x0300), HELLO, "5.1: its version is ignored"),
    "a record of version 3.255": (record(HANDSHAKE, GOOD, 0x03FF), HELLO, "5.1"),
    "a record of version 5": (record(HANDSHAKE, GOOD, 0x0500), Alert.UNEXPECTED_MESSAGE, "5"),
    "data first": (record(DATA, b"a"), Alert.UNEXPECTED_MESSAGE, "5"),
    "an alert of no bytes": (record(ALERT, b""), Alert.UNEXPECTED_MESSAGE, "5.1"),
    "half an alert": (record(ALERT, b"\2"), Alert.UNEXPECTED_MESSAGE, "5.1"),
    "change_cipher_spec first": (record(CCS, b"\1"), Alert.UNEXPECTED_MESSAGE, "5"),
    "a record of an unknown type": (record(99, b"abc"), Alert.UNEXPECTED_MESSAGE, "5"),
    "a record of 2^14 + 1": (record(HANDSHAKE, GOOD + bytes(2**14 + 1 - len(GOOD))), Alert.RECORD_OVERFLOW, "5.1"),
    "a record of 65535": (record(HANDSHAKE, bytes(65535)), Alert.RECORD_OVERFLOW, "5.1"),
    "a byte in each record": (pieces(GOOD, 1), HELLO, "5.1"),
    "data within the hello": (
        record(HANDSHAKE, GOOD[:50]) + record(DATA, b"a") + record(HANDSHAKE, GOOD[50:]),
        Alert.UNEXPECTED_MESSAGE,
        "5.1: no other record within a message",
    ),
    "half a hello": (record(HANDSHAKE, GOOD[:50]), SILENCE, "5.1"),
    "a message of 16 MB": (record(HANDSHAKE, b"\1\xff\xff\xff" + bytes(1000)), Alert.ILLEGAL_PARAMETER, "6.2"),
    "a server's hello": (record(HANDSHAKE, b"\2" + GOOD[1:]), Alert.UNEXPECTED_MESSAGE, "4"),
    "Finished first": (record(HANDSHAKE, b"\x14" + vector(3, bytes(32))), Alert.UNEXPECTED_MESSAGE, "4"),
    "an unknown message": (record(HANDSHAKE, b"\x63\0\0\1a"), Alert.UNEXPECTED_MESSAGE, "4"),
    "bytes after the extensions": (record(HANDSHAKE, hello(tail=b"abc")), Alert.DECODE_ERROR, "6.2"),
    "a hello that ends early": (record(HANDSHAKE, b"\1" + vector(3, GOOD[4:-3])), Alert.DECODE_ERROR, "6.2"),
    "a session id of 33 bytes": (record(HANDSHAKE, hello(session_id=bytes(33))), Alert.DECODE_ERROR, "4.1.2"),
    "half a cipher": (record(HANDSHAKE, hello(ciphers=b"\x13\1\x13")), Alert.DECODE_ERROR, "4.1.2"),
    "no cipher that we know": (record(HANDSHAKE, hello(ciphers=numbers(0x1399))), Alert.HANDSHAKE_FAILURE, "4.1.1"),
    "compression": (record(HANDSHAKE, hello(compressions=b"\1\0")), Alert.ILLEGAL_PARAMETER, "4.1.2"),
    "no compression method": (record(HANDSHAKE, hello(compressions=b"")), Alert.DECODE_ERROR, "4.1.2"),
    "TLS 1.2": (record(HANDSHAKE, hello(without=OF_1_2)), HELLO, "RFC 5246"),
    "TLS 1.1": (record(HANDSHAKE, hello(version=0x0302, without=OF_1_2)), Alert.PROTOCOL_VERSION, "RFC 8996 5"),
    "a client that fell back": (
        record(HANDSHAKE, hello(ciphers=numbers(0x5600, 0xC02F, 0xC02B), without=OF_1_2)),
        Alert.INAPPROPRIATE_FALLBACK,
        "RFC 7507 3",
    ),
    "versions that nobody has": (change(43, vector(1, numbers(0x7F1C))), Alert.PROTOCOL_VERSION, "4.2.1"),
    "TLS 1.1, in versions": (change(43, vector(1, numbers(0x0302))), Alert.PROTOCOL_VERSION, "4.2.1"),
    "TLS 1.3, called 1.0": (record(HANDSHAKE, hello(version=0x0301)), HELLO, "4.2.1: the extension counts"),
    "groups that nobody has": (
        record(HANDSHAKE, hello(replace={10: vector(2, b"\xfa\xfa"), 51: shares((0xFAFA, b"a"))})),
        Alert.HANDSHAKE_FAILURE,
        "4.1.1",
    ),
    "a share in no group of the list": (change(10, vector(2, numbers(P256))), Alert.ILLEGAL_PARAMETER, "4.2.8"),
    "groups missing": (record(HANDSHAKE, hello(without=(10,))), Alert.MISSING_EXTENSION, "9.2"),
    "no groups": (change(10, vector(2, b"")), Alert.DECODE_ERROR, "4.2.7"),
    "shares missing": (record(HANDSHAKE, hello(without=(51,))), Alert.MISSING_EXTENSION, "9.2"),
    "no shares yet": (change(51, shares()), HELLO, "4.2.8: HelloRetryRequest"),
    "a share of no bytes": (change(51, shares((X25519, b""))), Alert.DECODE_ERROR, "4.2.8"),
    "a share too short": (change(51, shares((X25519, PUBLIC[:-1]))), Alert.ILLEGAL_PARAMETER, "4.2.8.2"),
    "a share too long": (change(51, shares((X25519, PUBLIC + b"a"))), Alert.ILLEGAL_PARAMETER, "4.2.8.2"),
    "a share of zeros": (change(51, shares((X25519, bytes(32)))), Alert.ILLEGAL_PARAMETER, "7.4.2"),
    "no point of the curve": (change(51, shares((P256, b"\4" + bytes(64)))), Alert.ILLEGAL_PARAMETER, "4.2.8.2"),
    "signatures missing": (record(HANDSHAKE, hello(without=(13,))), Alert.MISSING_EXTENSION, "9.2"),
    "no signatures": (change(13, vector(2, b"")), Alert.DECODE_ERROR, "4.2.3"),
    "unknown signatures": (change(13, vector(2, b"\x99\x99")), Alert.HANDSHAKE_FAILURE, "4.1.1"),
    "signatures with RSA only": (change(13, vector(2, numbers(0x0804))), HELLO, "4.4.2.2"),
    "an extension twice": (record(HANDSHAKE, hello(more=extension(13, b""))), Alert.ILLEGAL_PARAMETER, "4.2"),
    "an unknown extension": (record(HANDSHAKE, hello(more=extension(0xFFF0, b"abc"))), HELLO, "4.1.2: ignored"),
    "2000 extensions": (
        record(HANDSHAKE, hello(more=b"".join(extension(0x4000 + i, b"") for i in range(2000)))),
        HELLO,
        "4.1.2",
    ),
    "an extension of 60000 bytes": (pieces(hello(more=extension(0x4000, bytes(60000))), 2**14), HELLO, "4.2"),
    "no name in the list of names": (change(0, vector(2, b"")), Alert.DECODE_ERROR, "RFC 6066 3"),
    "a NUL in the name": (change(0, names(b"a\0b")), Alert.UNRECOGNIZED_NAME, "RFC 6066 3"),
    "a name that is not ASCII": (change(0, names(b"\xff\xfe")), Alert.UNRECOGNIZED_NAME, "RFC 6066 3"),
    "a name of 300 bytes": (change(0, names(b"a" * 300)), Alert.UNRECOGNIZED_NAME, "RFC 6066 3"),
    "a protocol that is not ours": (change(16, vector(2, vector(1, b"foo"))), Alert.NO_APPLICATION_PROTOCOL,
                                    "RFC 7301 3.2"),
    "no protocol in the list of protocols": (change(16, vector(2, b"")), Alert.DECODE_ERROR, "RFC 7301 3.1"),
    "a protocol without a name": (change(16, vector(2, vector(1, b""))), Alert.DECODE_ERROR, "RFC 7301 3.1"),
    "a session that is not the last extension": (
        record(HANDSHAKE, hello(more=psk() + extension(0xFF00, b""))),
        Alert.ILLEGAL_PARAMETER,
        "4.2.11",
    ),
    "a session that nobody knows": (record(HANDSHAKE, hello(more=psk())), HELLO, "4.2.11"),
    "early data that we do not take": (
        record(HANDSHAKE, hello(more=extension(42, b"") + psk())) + record(DATA, os.urandom(100)),
        HELLO,
        "4.2.10: skipped",
    ),
}  # fmt: skip
