"""What opens a recording of TLS 1.3: the secrets of a key log, and the keys that are made of them.

Each direction is encrypted with keys that are made of secrets which never travel. Whoever has such a secret has the
key and the nonces (RFC 8446 §7.3), and so all that was said. The key log of a program that honours SSLKEYLOGFILE holds
these secrets, a line each: `label client_random secret`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from protocols.errors import RemoteProtocolError
from protocols.tls import Alert, ContentType, HandshakeType, Message, Messages, Record

SUITES: dict[int, tuple[type[AESGCM | ChaCha20Poly1305], int, hashes.HashAlgorithm]] = {
    0x1301: (AESGCM, 16, hashes.SHA256()),  # RFC 8446 §B.4: how records are encrypted, the bytes of that key, and the
    0x1302: (AESGCM, 32, hashes.SHA384()),  # hash that makes it
    0x1303: (ChaCha20Poly1305, 32, hashes.SHA256()),
}
Secrets = Mapping[tuple[str, bytes], bytes]  # (label, client random) → secret


def key_log(text: str) -> Secrets:
    """The secrets in the lines of a key log; what is no such line is left out.

    A client's hello that somebody replays makes the server log another secret for the same random: `label'`.
    """
    found: dict[tuple[str, bytes], bytes] = {}
    for line in text.splitlines():
        words = line.split()
        with contextlib.suppress(ValueError):
            if len(words) == 3 and not line.startswith("#"):
                label, random, secret = words[0], bytes.fromhex(words[1]), bytes.fromhex(words[2])
                while found.setdefault((label, random), secret) != secret:
                    label += "'"
    return found


def all_secrets(secrets: Secrets, label: str, random: bytes) -> Iterator[bytes]:
    """That of a connection, and those of the replays of its hello."""
    while secret := secrets.get((label, random)):
        yield secret
        label += "'"


def expand(secret: bytes, label: bytes, length: int, algorithm: hashes.HashAlgorithm) -> bytes:
    """HKDF-Expand-Label, without a context (RFC 8446 §7.1)."""
    info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
    return HKDFExpand(algorithm, length, info).derive(secret)


class Opened:
    """One direction of a TLS 1.3 connection, record by record: `side` is "CLIENT" or "SERVER"."""

    def __init__(self, side: str, random: bytes, suite: int, secrets: Secrets) -> None:
        """KeyError: a suite that is not known here, or a connection whose secrets are not in the log."""
        self._aead, self._length, self._hash = SUITES[suite]
        self._later = secrets[f"{side}_TRAFFIC_SECRET_0", random]
        self._messages = Messages()
        self._use(secrets[f"{side}_HANDSHAKE_TRAFFIC_SECRET", random])

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._key = self._aead(expand(secret, b"key", self._length, self._hash))
        self._iv = int.from_bytes(expand(secret, b"iv", 12, self._hash), "big")

    def open(self, record: Record) -> tuple[Record, list[Message]]:
        """What is in a record, and the messages of the handshake that end in it. RemoteProtocolError: another key."""
        header = bytes([record.type]) + record.version.to_bytes(2, "big") + len(record.data).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")  # §5.3
        try:
            inner = self._key.decrypt(nonce, record.data, header).rstrip(b"\0")  # §5.2: padding
        except InvalidTag:
            raise RemoteProtocolError("encrypted with another key", Alert.BAD_RECORD_MAC) from None
        self._number += 1
        if not inner:
            raise RemoteProtocolError("nothing but padding (§5.4)", Alert.UNEXPECTED_MESSAGE)
        plain = Record(inner[-1], record.version, inner[:-1])  # The real type hides behind the content.
        return plain, self._told(plain.data) if plain.type == ContentType.HANDSHAKE else []

    def _told(self, data: bytes) -> list[Message]:
        found = []
        self._messages.receive_data(data)
        while message := self._messages.next_event():
            found.append(message)
            if message.type == HandshakeType.FINISHED:  # From here on other keys are used.
                self._use(self._later)
            elif message.type == HandshakeType.KEY_UPDATE:  # §7.2
                self._use(expand(self._secret, b"traffic upd", len(self._secret), self._hash))
        return found
