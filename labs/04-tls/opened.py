"""What a recording of TLS holds, and what opens it: what Wireshark does with a key log, and a thief with a key.

Who has the secret of a direction has its keys, and so all that was said: protocols/tls_opened.py makes them, record by
record. A key log holds these secrets. Where a secret was encrypted for the server's key, that key will do, too.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import takewhile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from protocols.tls import ContentType, HandshakeType, Message, Messages, Record, Records, client_hello, server_hello
from protocols.tls_opened import Opened, Secrets


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
    suite = server_hello(next(messages(records(server))).body).cipher
    one = Opened(side, random, suite, secrets)
    for record in records(client if side == "CLIENT" else server):
        if record.type == ContentType.APPLICATION_DATA:
            yield one.open(record)[0]
        elif record.type != ContentType.CHANGE_CIPHER_SPEC:  # It is there for old boxes on the way (RFC 8446 §D.4).
            yield record


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
