"""The other half of servers/tls.py: shakes hands, and tells what it sees, what it checks, and why it refuses.

It shows a connection twice: what goes over the wire, as anybody on the way sees it (protocols/tls.py), and what was
inside. The connection itself is clients/tls_stream.py, the settings are certs/contexts.py.

Run:   make tls-server   and in a second terminal   make tls-client
Try:   make tls-client ARGS=--resume                the second handshake needs no certificate
       make tls-client ARGS=--tls12                 one round trip more, and the certificates in the clear
       make tls-client ARGS='--name www.lab'        another certificate; --name bank.example is refused
       make tls-client ARGS='--cert client'         says who we are, to a server that asks (--clients optional)
       openssl s_server -accept 7104 -cert certs/server.pem -key certs/server.key -www    and then --port 7104
Exit:  0 agreed; 1 refused, by us or by the server, or not in time; 2 could not run (no connection, a bad argument);
       130 Ctrl-C
Left out on purpose: early data and OCSP (Python's ssl has neither), post-handshake authentication.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import ssl
import sys
import textwrap
from pathlib import Path

import certs
from certs.channel import TlsError
from certs.contexts import client_context
from clients.tls_stream import Stream, Watch, connect
from clients.tls_teller import Teller, show_chain

__all__ = ["Stream", "Watch", "connect"]

PORT = 7004

log = logging.getLogger("clients.tls")  # Silent, unless main() gives it a voice.


class Wrapped(logging.Formatter):
    """Lines no longer than the screen. What is continued stands further to the right than its beginning."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        indent = " " * (2 + len(text[1:]) - len(text[1:].lstrip()))
        return wrapped(text, indent)


def wrapped(text: str, indent: str = "") -> str:
    width = min(80, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


async def talk(options: argparse.Namespace, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Stream:
    """One connection: hands are shaken, one question is asked, and it is ended as it should be."""
    teller = Teller()
    if hasattr(context, "_msg_callback"):  # For debugging, and Python does not promise it. Without, less is told.
        context._msg_callback = teller.overhear
    log.info("= connecting to %s port %d, which should be %s", options.host, options.port, options.name)
    try:
        stream = await connect(
            options.host, options.port, context=context, server_hostname=options.name, session=session,
            timeout=options.timeout, watch=teller.watch,
        )  # fmt: skip
    except TlsError:
        teller.tell()
        show_chain(teller.chain)
        raise
    try:
        asks = stream.channel.object.selected_alpn_protocol() in (None, "http/1.1")
        if asks:
            stream.write(f"GET / HTTP/1.1\r\nHost: {options.name}\r\nConnection: close\r\n\r\n".encode())
        teller.tell()
        show_agreed(stream, options)
        show_chain(teller.chain)
        show_checked(stream, options)
        async with asyncio.timeout(options.timeout):
            while asks and (data := await stream.read()):
                teller.tell()
                log.info("= inside: %r%s", data[:40], " …" if len(data) > 40 else "")
    finally:
        teller.tell()
        stream.close()
        teller.tell()
    log.info("= closed, with %s to resume", "a ticket" if stream.session else "nothing")
    return stream


def show_agreed(stream: Stream, options: argparse.Namespace) -> None:
    """What the handshake has led to."""
    connection = stream.channel.object
    name, _, bits = connection.cipher() or ("none", "", 0)
    log.info("= agreed on %s, %s (a key of %d bits)", connection.version(), name, bits)
    log.info("= inside: %s", connection.selected_alpn_protocol() or "not agreed on (no ALPN)")
    log.info("= resumed: %s", "yes" if connection.session_reused else "no")


def show_checked(stream: Stream, options: argparse.Namespace) -> None:
    """How we know who the server is. OpenSSL has done it all, or there would be no connection."""
    if stream.channel.object.session_reused:
        log.info("= checked: it has the secret of the connection before. No certificate was sent")
        return
    who = "this machine's authorities" if options.system else os.path.relpath(options.ca)
    log.info("= checked: the first has signed this handshake, is signed by the next, the last by one of %s", who)
    log.info("= checked: the first is for %s, and for servers; the others may sign; all are valid now", options.name)
    log.info("= %schecked: whether one of them was revoked", "" if options.revocation else "not ")


async def show(options: argparse.Namespace) -> None:
    """One connection, or with --resume two."""
    context = client_context(
        trust=None if options.system else options.ca, certificate=options.cert, alpn=options.alpn.split(),
        maximum=ssl.TLSVersion.TLSv1_2 if options.tls12 else ssl.TLSVersion.TLSv1_3, revocation=options.revocation,
    )  # fmt: skip
    stream = await talk(options, context, None)
    if options.resume:
        await talk(options, context, stream.session)


def main() -> int:
    parser = argparse.ArgumentParser(prog="clients.tls", description="Shakes hands over TLS, and tells all about it.")
    parser.add_argument("host", nargs="?", default="localhost")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--name", help="that the certificate must have, and the server is told (default: the host)")
    parser.add_argument("--ca", type=Path, default=certs.FOLDER / "root.pem", help="whom to trust (default: the lab)")
    parser.add_argument("--system", action="store_true", help="trust whom this machine trusts")
    parser.add_argument(
        "--cert", metavar="NAME", type=certs.known, help="a certificate of certs/ to show, such as client"
    )
    parser.add_argument("--alpn", default="http/1.1", metavar="NAMES", help="what to speak inside, the best first")
    parser.add_argument("--tls12", action="store_true", help="speak TLS 1.2 only")
    parser.add_argument("--resume", action="store_true", help="connect twice, and resume the session")
    parser.add_argument("--revocation", action="store_true", help="look into the lab's revocation lists, too")
    parser.add_argument("--timeout", type=float, default=10, help="seconds for the handshake, and for the answer")
    options = parser.parse_args()
    options.name = options.name or options.host
    if not options.ca.is_file() and options.ca != certs.FOLDER / "root.pem":
        parser.error(f"there is no file {options.ca}")
    voice = logging.StreamHandler(sys.stdout)
    voice.setFormatter(Wrapped())
    logging.basicConfig(level=logging.INFO, handlers=[voice])
    logging.raiseExceptions = False  # Whoever reads our output may stop reading (| head).
    try:
        asyncio.run(show(options))
    except TlsError as error:
        log.info("! %s", error.told())
        return 1
    except (TimeoutError, ConnectionResetError) as error:
        log.info("! %s", "the connection was reset" if isinstance(error, ConnectionError) else "not in time")
        return 1
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError, UnicodeError of IDNA a ValueError.
        if isinstance(error, OSError) and error.filename:  # a certificate, or the key log
            print(wrapped(f"{error.filename}: {error.strerror}"), file=sys.stderr)
            return 2
        errno = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        # gaierror has its own numbers, below 0.
        why = os.strerror(errno) if errno and errno > 0 else getattr(error, "strerror", None) or error
        hint = ". Is `make tls-server` running?" if isinstance(error, ConnectionRefusedError) else ""
        print(wrapped(f"Cannot connect to {options.host} port {options.port}: {why}{hint}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
