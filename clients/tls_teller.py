"""Tells a TLS connection flight by flight, for clients/tls.py: what anybody can see of it, and what was inside."""

from __future__ import annotations

import logging
import ssl
import time

from cryptography import x509

from protocols import tls
from protocols.errors import RemoteProtocolError
from protocols.tls_numbers import Alert, ContentType, Group, HandshakeType, Version, readable, words

log = logging.getLogger("clients.tls")


class Teller:
    """A flight is what one side sends before it needs to hear the other.

    watch() is shown the bytes, overhear() the messages before they are encrypted, and after they were decrypted.
    `chain` is the server's, as it was sent.
    """

    def __init__(self) -> None:
        self.onlooker, self.started, self.chain = tls.Onlooker(), time.perf_counter(), list[bytes]()
        self.is_ours, self.size, self.seen, self.after = True, 0, list[tls.Seen](), 0.0
        self.inside: dict[bool, list[str]] = {True: [], False: []}

    def watch(self, is_ours: bool, data: bytes) -> None:
        if is_ours != self.is_ours:
            self.tell()
        self.after = self.after if self.size else time.perf_counter() - self.started
        self.is_ours, self.size = is_ours, self.size + len(data)
        try:
            self.seen += self.onlooker.receive_data(is_ours, data)
        except RemoteProtocolError as error:
            log.info("! %s", error)

    def tell(self) -> None:
        """The flight is over."""
        mark = ">" if self.is_ours else "<"
        if self.size:
            records = f"{len(self.seen)} record{'s' * (len(self.seen) != 1)}"
            log.info("%s %d bytes in %s, after %.1f ms", mark, self.size, records, 1000 * self.after)
        for record, is_encrypted, messages in self.seen:
            kind = words(record.type, ContentType)
            detail = "encrypted" if is_encrypted else ", ".join(map(describe, messages)) or alert(record)
            log.info("%s   %s, %d bytes%s", mark, kind, 5 + len(record.data), f": {detail}" if detail else "")
        readable = {words(message.type, HandshakeType) for seen in self.seen for message in seen.messages}
        if hidden := [text for text in self.inside[self.is_ours] if text.split()[0] not in readable]:
            log.info("%s   inside: %s", mark, ", ".join(hidden))
        self.inside[self.is_ours], self.size, self.seen = [], 0, []

    def overhear(self, _: ssl.SSLObject, direction: str, __: int, kind: int, ___: int, data: bytes) -> None:
        """OpenSSL's message callback."""
        if kind == ContentType.HANDSHAKE:
            self.inside[direction == "write"].append(f"{words(data[0], HandshakeType)} {len(data)}")
            if data[0] == HandshakeType.CERTIFICATE and direction == "read":
                self.chain = tls.certificates(data[4:], self.onlooker.version)
        elif kind == ContentType.ALERT:
            self.inside[direction == "write"].append(f"alert {words(data[1], Alert)}")


def alert(record: tls.Record) -> str:
    is_one = record.type == ContentType.ALERT and len(record.data) == 2
    return words(record.data[1], Alert) if is_one else ""


def describe(message: tls.Message) -> str:
    """A message of the handshake that anybody can read."""
    name = words(message.type, HandshakeType)
    if message.type == HandshakeType.CLIENT_HELLO:
        hello = tls.client_hello(message.body)
        found = [" or ".join(map(version, hello.versions)), f"{len(hello.ciphers)} ciphers"]
        found.append(f"ALPN {' '.join(hello.alpn) or 'none'}")
        found += [f"half a secret of {words(group, Group)}" for group in hello.shares]
        found.append("a session to resume" if hello.offers_session else "no session to resume")
        return f"{name} for {hello.server_name or 'no name'}: {', '.join(found)}"
    if message.type == HandshakeType.SERVER_HELLO:
        answer = tls.server_hello(message.body)
        found = [version(answer.version)]
        if answer.group is not None:
            found.append(f"{'' if answer.is_retry else 'the other half of '}{words(answer.group, Group)}")
        if answer.is_resumed:
            found.append("resumed")
        return f"{'hello_retry_request' if answer.is_retry else name}: {', '.join(found)}"
    return f"{name} {4 + len(message.body)}"


def version(number: int) -> str:
    return words(number, Version).upper().replace("_", " ", 1).replace("_", ".")


def show_chain(chain: list[bytes]) -> None:
    for number, der in enumerate(chain, 1):
        found = x509.load_der_x509_certificate(der)
        names: list[str] = []
        for extension in found.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                names = [str(name.value) for name in extension.value]
        until = found.not_valid_after_utc.date()
        log.info("= certificate %d: %s, %d bytes", number, readable(found.subject.rfc4514_string()), len(der))
        log.info(
            "=   signed by %s, valid from %s to %s",
            readable(found.issuer.rfc4514_string()),
            found.not_valid_before_utc.date(),
            until,
        )
        if names:
            log.info("=   for %s", readable(", ".join(names)))
