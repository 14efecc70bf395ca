"""The numbers of TLS, with the RFC that gives them."""

from __future__ import annotations

from enum import IntEnum


class Version(IntEnum):
    """RFC 8446 §4.1.2 and §4.2.1: 1.3 calls itself 1.2 where old boxes on the way look, and 1.3 in an extension."""

    SSL_3_0, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3 = range(0x0300, 0x0305)


class ContentType(IntEnum):
    """RFC 8446 §5.1."""

    CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = range(20, 24)


class HandshakeType(IntEnum):
    """RFC 8446 §4, RFC 5246 §7.4."""

    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    NEW_SESSION_TICKET = 4
    END_OF_EARLY_DATA = 5
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    SERVER_KEY_EXCHANGE = 12
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    CERTIFICATE_VERIFY = 15
    CLIENT_KEY_EXCHANGE = 16
    FINISHED = 20
    CERTIFICATE_STATUS = 22
    KEY_UPDATE = 24


class Extension(IntEnum):
    """RFC 8446 §4.2, those that are read here."""

    SERVER_NAME = 0
    SUPPORTED_GROUPS = 10
    SIGNATURE_ALGORITHMS = 13
    ALPN = 16
    SESSION_TICKET = 35
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    KEY_SHARE = 51


class Group(IntEnum):
    """RFC 8446 §4.2.7: in which the two sides agree on a secret."""

    SECP256R1, SECP384R1, SECP521R1 = range(0x17, 0x1A)
    X25519, X448 = 0x1D, 0x1E
    FFDHE2048, FFDHE3072, FFDHE4096, FFDHE6144, FFDHE8192 = range(0x100, 0x105)


class Alert(IntEnum):
    """RFC 8446 §6, and what TLS 1.2 has besides."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    DECRYPTION_FAILED = 21
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    NO_RENEGOTIATION = 100
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120  # RFC 7301 §3.2


def readable(text: str) -> str:
    """What a stranger has written, for a terminal or a log: it makes no line of its own, and no colours."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def words(number: int, kind: type[IntEnum]) -> str:
    """The number's name as the RFC writes it, or the number."""
    return kind(number).name.lower() if number in set(kind) else f"{kind.__name__.lower()} {number}"
