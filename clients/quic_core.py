"""What a client needs beyond protocols/quic.py: whom it believes, and what becomes of data that was sent too early.

No I/O, like what it extends. Attributes with an underscore are aioquic's own; its version is pinned.
"""

from __future__ import annotations

import errno
import ipaddress
import secrets
import ssl
from dataclasses import replace
from typing import Any, cast

import certifi
import service_identity
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicReceiveContext
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicTransportParameters, pull_quic_transport_parameters
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from certs.channel import REFUSALS
from protocols.errors import RemoteProtocolError
from protocols.quic import Connection
from protocols.quic_numbers import PacketType
from protocols.quic_packets import parse
from protocols.tls_numbers import Alert


class ClientConnection(Connection):
    """The client's end."""

    server_versions: tuple[int, ...] = ()
    """That a server offered which does not speak ours."""
    server_parameters: QuicTransportParameters | None = None
    """What the server has told in its handshake (RFC 9000 §18.2)."""
    challenges = 0
    """PATH_CHALLENGEs that the server has sent: so often did it look whether we are where we seem to be."""

    def __init__(self, *, configuration: QuicConfiguration, **arguments: Any) -> None:
        self._trusted: crypto.X509Store | None = None
        if configuration.verify_mode != ssl.CERT_NONE:
            self._trusted = trusted(configuration.cafile, configuration.capath)
        # aioquic's own look at certificates is left out: ours is below.
        super().__init__(configuration=replace(configuration, verify_mode=ssl.CERT_NONE), **arguments)

    @property
    def has_heard(self) -> bool:
        """Has a packet come that only the server can have made, or somebody who saw ours?"""
        return self._remote_initial_source_connection_id is not None or self._retry_count > 0

    @property
    def is_confirmed(self) -> bool:
        """Does the server have our Finished (RFC 9001 §4.1.2)? Not before may keys and addresses change."""
        return self._handshake_confirmed

    @property
    def may_send_early(self) -> bool:
        """Is there a ticket for it, and are there no better keys yet?"""
        return not self._handshake_complete and self._cryptos[tls.Epoch.ZERO_RTT].send.is_valid()

    @property
    def chain(self) -> list[x509.Certificate]:
        """The server's, as it sent them; none when a session was resumed."""
        context = self.tls
        first = context._peer_certificate
        return [first, *context._peer_certificate_chain] if first else []

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        if data[:1] > b"\x7f" and data[1:5] == bytes(4) and not self._believes(data):
            return
        super().receive_datagram(data, addr, now)

    def _believes(self, data: bytes) -> bool:
        """Is this Version Negotiation from somebody who has seen our Initial? It repeats both IDs (RFC 8999 §6)."""
        try:
            packet = parse(data, 0)
        except RemoteProtocolError:
            return False
        if (packet.destination, packet.source) != (self.host_cid, self._peer_cid.cid):
            return False
        if not self.has_begun:
            self.server_versions = packet.versions
        return True

    def _connect(self, now: float) -> None:
        """Begin; or begin again after a Retry, or Version Negotiation.

        aioquic forgets then what it has sent, early data too, and says something else than before. RFC 9000 §17.2.5.3
        wants the same words under other keys, so that a server which remembers nothing knows whom it has before it.
        """
        before = [(space, tuple(space.sent_packets.values())) for space in self._spaces.values()]
        if before and self._retry_count:
            for version in self._configuration.supported_versions:
                self._cryptos_initial[version] = pair = CryptoPair()
                pair.setup_initial(cid=self._peer_cid.cid, is_client=True, version=version)
            self._cryptos[tls.Epoch.INITIAL] = self._cryptos_initial[self._version or 0]
        else:
            if before:  # Another attempt, and so another ID to send it to (§7.2): who looks on takes it for what it is.
                self._peer_cid.cid = secrets.token_bytes(len(self._peer_cid.cid))
                self._original_destination_connection_id = self._peer_cid.cid
            super()._connect(now)
        for (old, packets), space in zip(before, self._spaces.values(), strict=False):
            if space is not old:  # Version Negotiation: another hello, but the same early data.
                self._loss._cc.on_packets_expired(packets=[one for one in packets if one.is_crypto_packet])
                packets = tuple(one for one in packets if not one.is_crypto_packet)
                space.sent_packets.update((one.packet_number, one) for one in packets)
                space.ack_eliciting_in_flight += sum(one.is_ack_eliciting for one in packets)
            self._loss._on_packets_lost(congestion_event=False, now=now, packets=packets, space=space)

    def path_changed(self) -> None:
        """Another way to the server may take smaller datagrams only; the larger ones were tried on the old (§14.3)."""
        size = self._configuration.max_datagram_size
        self._max_datagram_size = self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]
        self._loss._pacer._max_datagram_size = size

    def _handle_path_challenge_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_path_challenge_frame(context, frame_type, buf)
        self.challenges += 1

    def _update_traffic_key(self, direction: Any, epoch: Any, cipher_suite: Any, secret: bytes) -> None:
        """The server's Finished is good, and ours is not sent yet: the moment to look at its certificate."""
        if direction == tls.Direction.DECRYPT and epoch == tls.Epoch.ONE_RTT and self._trusted and self.chain:
            check(self.chain, cast(str, self._configuration.server_name), self._trusted)
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        if not from_session_ticket:
            self.server_parameters = pull_quic_transport_parameters(Buffer(data=data))

    # Early data (0-RTT).

    def resend_early(self, now: float) -> None:
        """The server has refused it. It is sent again under the keys that there are now (RFC 9001 §4.6.2).

        That is no loss: the network has not dropped anything, so the congestion window stays what it is.
        """
        space = self._spaces[tls.Epoch.ONE_RTT]
        early = [one for one in space.sent_packets.values() if one.packet_type.name == PacketType.ZERO_RTT.name]
        self._loss._on_packets_lost(congestion_event=False, now=now, packets=early, space=space)
        for stream in self._streams.values():  # What the ticket remembered of windows no longer holds (§4.6.2).
            uni = (stream.stream_id or 0) & 2
            known = self._remote_max_stream_data_uni if uni else self._remote_max_stream_data_bidi_remote
            stream.max_stream_data_remote = known


# Certificates.


class Refusal(tls.Alert):
    """Ends the handshake: CONNECTION_CLOSE with 0x0100 + the alert (RFC 9001 §4.8)."""

    def __init__(self, alert: Alert, reason: str) -> None:
        super().__init__(reason)
        self.description = tls.AlertDescription(alert)


def trusted(file: str | None, folder: str | None) -> crypto.X509Store:
    """The authorities in it. OSError: there are none."""
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    try:
        store.load_locations(file or (None if folder else certifi.where()), folder)
    except crypto.Error:
        raise OSError(errno.EINVAL, "it holds no certificates", file) from None
    return store


def check(chain: list[x509.Certificate], name: str, store: crypto.X509Store) -> None:
    """Is this the server *name*, says somebody we trust? Refusal: no, and why, as OpenSSL says it.

    aioquic looks, too, but calls every fault bad_certificate, and does not ask what the certificate is for.
    """
    first, *others = [crypto.X509.from_cryptography(certificate) for certificate in chain]
    try:
        crypto.X509StoreContext(store, first, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        code, _, words = error.errors
        alert = next((alert for alert, codes in REFUSALS.items() if code in codes), Alert.CERTIFICATE_UNKNOWN)
        raise Refusal(alert, words) from None
    try:
        usage = chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            raise Refusal(Alert.UNSUPPORTED_CERTIFICATE, "unsuitable certificate purpose")
    except x509.ExtensionNotFound:
        pass  # It is for everything, then (RFC 5280 §4.2.1.12).
    is_address = True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        is_address = False
    try:
        if is_address:
            service_identity.cryptography.verify_certificate_ip_address(chain[0], name)
        else:
            service_identity.cryptography.verify_certificate_hostname(chain[0], name)
    except (service_identity.VerificationError, service_identity.CertificateError):
        words = "IP address mismatch" if is_address else "hostname mismatch"
        raise Refusal(Alert.BAD_CERTIFICATE, words) from None
