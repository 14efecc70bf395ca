"""What `python -m clients.<slug>` does with any client: tell what happens, and end with one sentence and a code."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from certs.channel import TlsError
from protocols.errors import LocalProtocolError, RemoteProtocolError


def main(
    log: logging.Logger,
    show: Callable[[], Coroutine[Any, Any, int | None]],
    *,
    peer: str,
    server: str,
    late: str = "none in time",
    host: str = "",
) -> int:
    """Run *show* with the wire log on, and return the exit code.

    0 (or what *show* returns): done; 1: the peer broke the protocol, the connection or the time limit; 2: there was
    no connection, or nothing could be sent; 130: Ctrl-C.

    peer    who was asked, as the user knows it; host: the name in it that may be none (default: the peer)
    server  the make target that starts the lab's own server
    late    what is said if our own time limit has passed
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.raiseExceptions = False  # Whoever reads our output may stop reading (| head).
    try:
        return asyncio.run(show()) or 0
    except (RemoteProtocolError, TlsError) as error:
        log.info("! %s", error)
        return 1
    except LocalProtocolError as error:
        print(f"Not sent: {error}.", file=sys.stderr)
        return 2
    except UnicodeError:  # from the encoding of names, IDNA
        print(f"Cannot connect to {host or peer!r}: that is no name of a host.", file=sys.stderr)
        return 2
    except OSError as error:
        is_late = error.errno is None and isinstance(error, TimeoutError)  # ours; the kernel's has a number
        broken = isinstance(error, ConnectionResetError | BrokenPipeError)  # there was a connection
        # gaierror has its own numbers, below 0.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        why = late if is_late else why or str(error)
        nameless = isinstance(error, socket.gaierror)  # No server of ours would help.
        print(f"No answer from {peer}: {why}." + ("" if nameless else f" Is `make {server}` running?"), file=sys.stderr)
        return 1 if is_late or broken else 2
    except KeyboardInterrupt:
        return 130
    finally:
        finish()


def finish() -> None:
    """What could not be told to a reader who has left (| head) is forgotten: Python would try again, and complain."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# -- Clients of HTTP: one request, by the options that curl has for it --------------------------------


def request_parser(slug: str, url: str) -> argparse.ArgumentParser:
    """Options that every client of HTTP has. Take what it finds through requested()."""
    parser = argparse.ArgumentParser(prog=f"clients.{slug}", description="Makes a request, and shows all that happens.")
    parser.add_argument("url", nargs="?", default=url)
    parser.add_argument("-X", dest="method", help="the method (default: GET, or POST with -d)")
    parser.add_argument("-H", dest="field", type=field, action="append", default=[], help="a field: 'Name: value'")
    parser.add_argument("-d", dest="data", type=os.fsencode, help="the body")
    parser.add_argument("--gzip", action="store_true", help="ask for a packed answer, and unpack it")
    parser.add_argument("--timeout", type=float, default=10, help="seconds without any progress")
    return parser


def requested(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What the command line says, with the method that goes with it."""
    options = parser.parse_args()
    options.method = options.method or ("GET" if options.data is None else "POST")
    options.late = f"nothing for {options.timeout:g} s"
    return options


def field(text: str) -> tuple[str, str]:
    """An argument that is a field."""
    name, colon, value = os.fsencode(text).decode("latin-1").partition(":")
    if not name or not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 'Name: value'")
    return name, value.strip(" \t")


def count(text: str) -> int:
    """An argument that is a number of things."""
    if text.isascii() and text.isdigit() and 0 < int(text[:6]) < 10_000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not from 1 to 9999")


async def status_of(client: Any, options: argparse.Namespace) -> int:
    """Make the request with any client of HTTP, and take all of the answer; the wire log shows what happens."""
    async with client.stream(
        options.method, options.url, fields=options.field, body=options.data, gzip=options.gzip
    ) as answer:
        async for _ in answer.body:
            pass
    return int(answer.status)
