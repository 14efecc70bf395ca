"""The numbers of QUIC, with the RFC that gives them."""

from __future__ import annotations

from enum import IntEnum

VERSION_1 = 0x00000001  # RFC 9000 §15
VERSION_2 = 0x6B3343CF  # RFC 9369 §3.1


class PacketType(IntEnum):
    """RFC 9000 §17.2, Table 5. The last two have no number of their own: other bits tell them."""

    INITIAL, ZERO_RTT, HANDSHAKE, RETRY, VERSION_NEGOTIATION, ONE_RTT = range(6)

    def __str__(self) -> str:
        """As the RFCs write it: `0-RTT`, `Version Negotiation`."""
        return {"ZERO_RTT": "0-RTT", "ONE_RTT": "1-RTT"}.get(self.name, self.name.replace("_", " ").title())


class FrameType(IntEnum):
    """RFC 9000 §19, Table 3 of §12.4; DATAGRAM: RFC 9221 §4. The first of a kind; the low bits of some say more."""

    PADDING = 0x00
    PING = 0x01
    ACK = 0x02  # and 0x03, with counts of ECN
    RESET_STREAM = 0x04
    STOP_SENDING = 0x05
    CRYPTO = 0x06
    NEW_TOKEN = 0x07
    STREAM = 0x08  # to 0x0f: with FIN, length, offset
    MAX_DATA = 0x10
    MAX_STREAM_DATA = 0x11
    MAX_STREAMS = 0x12  # and 0x13: of one direction
    DATA_BLOCKED = 0x14
    STREAM_DATA_BLOCKED = 0x15
    STREAMS_BLOCKED = 0x16  # and 0x17: of one direction
    NEW_CONNECTION_ID = 0x18
    RETIRE_CONNECTION_ID = 0x19
    PATH_CHALLENGE = 0x1A
    PATH_RESPONSE = 0x1B
    CONNECTION_CLOSE = 0x1C  # and 0x1d: the application's
    HANDSHAKE_DONE = 0x1E
    DATAGRAM = 0x30  # and 0x31: with length


class ErrorCode(IntEnum):
    """RFC 9000 §20.1: why QUIC itself ends a connection. An application has its own, which mean what it says."""

    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0A
    INVALID_TOKEN = 0x0B
    APPLICATION_ERROR = 0x0C
    CRYPTO_BUFFER_EXCEEDED = 0x0D
    KEY_UPDATE_ERROR = 0x0E
    AEAD_LIMIT_REACHED = 0x0F
    NO_VIABLE_PATH = 0x10
    VERSION_NEGOTIATION_ERROR = 0x11  # RFC 9368 §10.2
    CRYPTO_ERROR = 0x100  # to 0x1ff: plus the alert of TLS (RFC 9001 §4.8)


class TransportParameter(IntEnum):
    """RFC 9000 §18.2: what each end tells the other inside the handshake; the last two: RFC 9368 §3, RFC 9221 §3."""

    ORIGINAL_DESTINATION_CONNECTION_ID = 0x00
    MAX_IDLE_TIMEOUT = 0x01
    STATELESS_RESET_TOKEN = 0x02
    MAX_UDP_PAYLOAD_SIZE = 0x03
    INITIAL_MAX_DATA = 0x04
    INITIAL_MAX_STREAM_DATA_BIDI_LOCAL = 0x05
    INITIAL_MAX_STREAM_DATA_BIDI_REMOTE = 0x06
    INITIAL_MAX_STREAM_DATA_UNI = 0x07
    INITIAL_MAX_STREAMS_BIDI = 0x08
    INITIAL_MAX_STREAMS_UNI = 0x09
    ACK_DELAY_EXPONENT = 0x0A
    MAX_ACK_DELAY = 0x0B
    DISABLE_ACTIVE_MIGRATION = 0x0C
    PREFERRED_ADDRESS = 0x0D
    ACTIVE_CONNECTION_ID_LIMIT = 0x0E
    INITIAL_SOURCE_CONNECTION_ID = 0x0F
    RETRY_SOURCE_CONNECTION_ID = 0x10
    VERSION_INFORMATION = 0x11
    MAX_DATAGRAM_FRAME_SIZE = 0x20


def error_name(code: int) -> str:
    """`FLOW_CONTROL_ERROR`; a failed handshake as `CRYPTO_ERROR 48`, the alert's number; else the number."""
    if code & ~0xFF == ErrorCode.CRYPTO_ERROR:
        return f"CRYPTO_ERROR {code & 0xFF}"
    return ErrorCode(code).name if code in set(ErrorCode) else f"{code:#x}"
