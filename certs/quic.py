"""What both ends of QUIC are set to: who they are, whom they trust, what they speak, what they write down.

The same as certs/contexts.py for TLS over TCP, for aioquic, which brings its own TLS 1.3 (there is no other in QUIC).
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, cast

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import SessionTicket

import certs
from certs.contexts import ensure
from certs.qlog import FileLogger

logging.getLogger("quic").setLevel(logging.CRITICAL)  # For its makers: what a peer does is no warning to us.

CLIENT_ID = 14
"""Bytes of a client's connection IDs. For Wireshark the labs' ports are AFS's: it takes a datagram for one of those if
its byte 20 is small (4 % with IDs of 8 bytes), and cannot open the connection that it begins. Here byte 20 is a 14."""
DATAGRAM = 65535  # bytes of the largest DATAGRAM frame that we take (RFC 9221 §3)


class KeyLog:
    """A file for the secrets, opened for each line: several processes may write it, and nobody has to close it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.touch(0o600)
        except OSError as error:
            raise OSError(error.errno, f"no key log can be written: {error.strerror}", str(path)) from None

    def write(self, line: str) -> None:
        with open(self.path, "a") as file:
            file.write(line)

    def flush(self) -> None:
        """It is written already."""


def quic_server(
    certificate: str = "server",
    *,
    alpn: Sequence[str],
    idle_seconds: float = 30,
    key_log: Path | None = None,
    qlog: Path | None = None,
    folder: Path = certs.FOLDER,
) -> QuicConfiguration:
    """For servers: a certificate of certs/, by name. It is made if need be.

    alpn          protocols above, the best first. A client that offers none of them gets no_application_protocol
    idle_seconds  without a packet, after which the connection is forgotten (RFC 9000 §10.1)
    key_log       a file for the secrets (default: SSLKEYLOGFILE): who has it can read everything
    qlog          a folder for what happened, a file per connection (default: QLOGDIR); qvis opens them
    """
    ensure(folder)
    configuration = _configuration(False, alpn, idle_seconds, key_log, qlog)
    configuration.load_cert_chain(folder / f"{certificate}.pem", folder / f"{certificate}.key")
    return configuration


def quic_client(
    server_name: str,
    *,
    alpn: Sequence[str],
    trust: Path | None = certs.FOLDER / "root.pem",
    verify: bool = True,
    idle_seconds: float = 30,
    ticket: SessionTicket | None = None,
    token: bytes = b"",
    key_log: Path | None = None,
    qlog: Path | None = None,
    folder: Path = certs.FOLDER,
) -> QuicConfiguration:
    """For clients: they check the server's chain and name.

    server_name   a host, or an address
    trust         a file with the authorities to trust (default: the lab's); None: those of this machine
    ticket, token   what the server gave last time: to resume with, and to prove the address with
    """
    if trust == certs.FOLDER / "root.pem":
        ensure(folder)
    configuration = _configuration(True, alpn, idle_seconds, key_log, qlog)
    configuration.server_name, configuration.connection_id_length = server_name, CLIENT_ID
    configuration.session_ticket, configuration.token = ticket, token
    if trust is not None:
        configuration.load_verify_locations(cafile=str(trust))
    elif paths := ssl.get_default_verify_paths():
        configuration.load_verify_locations(paths.cafile, paths.capath)
    if not verify:
        configuration.verify_mode = ssl.CERT_NONE
    return configuration


def _configuration(
    is_client: bool, alpn: Sequence[str], idle_seconds: float, key_log: Path | None, qlog: Path | None
) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=is_client, alpn_protocols=list(alpn), idle_timeout=idle_seconds, max_datagram_frame_size=DATAGRAM
    )
    if secrets := key_log or os.environ.get("SSLKEYLOGFILE"):
        configuration.secrets_log_file = cast(TextIO, KeyLog(Path(secrets)))
    if logs := qlog or os.environ.get("QLOGDIR"):
        Path(logs).mkdir(parents=True, exist_ok=True)
        configuration.quic_logger = FileLogger(Path(logs))
    return configuration
