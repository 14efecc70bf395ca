"""What a recording of TLS holds, and what opens it: what Wireshark does with a key log, and a thief with a key.

TLS 1.3 encrypts each direction with keys that are made of secrets which never travel. Whoever has such a secret has the
key and the nonces (RFC 8446 §7.3), and so all that was said. The key log of a program that honours SSLKEYLOGFILE
holds these secrets, a line each: `label client_random secret`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import takewhile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from protocols.tls import ContentType, HandshakeType, Message, Messages, Record, Records, client_hello, server_hello

SUITES = {  # RFC 8446 §B.4: how records are encrypted, the bytes of that key, the hash that makes it
    0x1301: (AESGCM, 16, hashes.SHA256()),
    0x1302: (AESGCM, 32, hashes.SHA384()),
    0x1303: (ChaCha20Poly1305, 32, hashes.SHA256()),
}
Secrets = Mapping[tuple[str, bytes], bytes]  # (label, client random) → secret


def key_log(path: str | Path) -> Secrets:
    lines = (line.split() for line in Path(path).read_text().splitlines() if not line.startswith("#"))
    return {(label, bytes.fromhex(random)): bytes.fromhex(secret) for label, random, secret in lines}


def records(stream: bytes) -> Iterator[Record]:
    """The records in what one side has sent."""
    cutter = Records()
    cutter.receive_data(stream)
    while record := cutter.next_event():
        yield record


def messages(found: Iterable[Record]) -> Iterator[Message]:
    """The messages of the handshake in these records; in TLS 1.2 they can be read up to ChangeCipherSpec."""
    readable = takewhile(lambda record: record.type != ContentType.CHANGE_CIPHER_SPEC, found)
    joiner = Messages()
    for record in readable:
        if record.type == ContentType.HANDSHAKE:
            joiner.receive_data(record.data)
    while message := joiner.next_event():
        yield message


def opened(side: str, client: bytes, server: bytes, secrets: Secrets) -> Iterator[Record]:
    """All records that a side ("CLIENT" or "SERVER") of a TLS 1.3 connection has sent, decrypted where need be.

    *client* and *server* are the bytes that each has sent.
    """
    random = client_hello(next(messages(records(client))).body).random
    aead, length, algorithm = SUITES[server_hello(next(messages(records(server))).body).cipher]
    secret, number = secrets[f"{side}_HANDSHAKE_TRAFFIC_SECRET", random], 0
    for record in records(client if side == "CLIENT" else server):
        if record.type == ContentType.CHANGE_CIPHER_SPEC:
            continue  # It says nothing any more, and is there for old boxes on the way (RFC 8446 §D.4).
        if record.type != ContentType.APPLICATION_DATA:
            yield record
            continue
        key = aead(expand(secret, b"key", length, algorithm))
        nonce = int.from_bytes(expand(secret, b"iv", 12, algorithm), "big") ^ number  # §5.3
        header = bytes([record.type]) + record.version.to_bytes(2, "big") + len(record.data).to_bytes(2, "big")
        inner = key.decrypt(nonce.to_bytes(12, "big"), record.data, header).rstrip(b"\0")  # §5.2: padding
        yield (plain := Record(inner[-1], record.version, inner[:-1]))  # The real type hides behind the content.
        number += 1
        if HandshakeType.FINISHED in [
            message.type for message in messages([plain])
        ]:  # From here on other keys are used.
            secret, number = secrets[f"{side}_TRAFFIC_SECRET_0", random], 0


def expand(secret: bytes, label: bytes, length: int, algorithm: hashes.HashAlgorithm) -> bytes:
    """HKDF-Expand-Label, without a context (RFC 8446 §7.1)."""
    info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
    return HKDFExpand(algorithm, length, info).derive(secret)


def stolen(key: Path, client: bytes, server: bytes) -> bytes | None:
    """The master secret of a recorded TLS 1.2 connection, by the server's private key alone; None: it does not tell.

    With RSA key exchange the client makes up a secret and encrypts it for the server's key (RFC 5246 §7.4.7.1); of that
    and of what both have said the master secret is made (RFC 7627 §4).
    """
    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    said, heard = list(messages(records(client))), list(messages(records(server)))
    exchange = [message.body[2:] for message in said if message.type == HandshakeType.CLIENT_KEY_EXCHANGE]
    if (
        not exchange or len(exchange[0]) != private.key_size // 8
    ):  # 1.3 has no such message; else it is half of a secret.
        return None
    premaster = private.decrypt(exchange[0], padding.PKCS1v15())
    in_order = [said[0], *(one for one in heard if one.type != HandshakeType.NEW_SESSION_TICKET), *said[1:]]
    transcript = b"".join(bytes([one.type]) + len(one.body).to_bytes(3, "big") + one.body for one in in_order)
    seed, made, a = b"extended master secret" + sha256(transcript).digest(), b"", b""
    while len(made) < 48:  # The PRF: RFC 5246 §5
        a = hmac.digest(premaster, a or seed, "sha256")
        made += hmac.digest(premaster, a + seed, "sha256")
    return made[:48]
