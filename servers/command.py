"""What `python -m servers.<slug>` does with any server: listen, say where, end well."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Listening(Protocol):
    """A running server knows where it listens: host and port."""

    address: tuple[str, int]


def parser(slug: str, port: int, description: str) -> argparse.ArgumentParser:
    """Options that every server has."""
    options = argparse.ArgumentParser(prog=f"servers.{slug}", description=description)
    options.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    options.add_argument("--port", type=port_number, default=port)
    return options


def port_number(text: str) -> int:
    """An argument that is a port."""
    if text.isascii() and text.isdigit() and int(text[:6]) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no port: they go from 0 (any that is free) to 65535")


async def until_stopped(server: AbstractAsyncContextManager[Listening], log: logging.Logger) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is in flight; at a second one, end at once."""
    stop, clock = asyncio.Event(), asyncio.get_running_loop()

    def stopped() -> None:
        if stop.is_set():
            log.info("= stopped in the middle")
            logging.shutdown()
            os._exit(130)
        stop.set()

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """accept() without a free descriptor: asyncio waits a second and tries again. It needs a line, not a page."""
        if isinstance(error := context.get("exception"), OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            log.info("! no more connections for a second: %s", error.strerror)
        else:
            clock.default_exception_handler(context)

    for number in (signal.SIGINT, signal.SIGTERM):
        clock.add_signal_handler(number, stopped)
    clock.set_exception_handler(failed)
    async with server as listening:
        log.info("= listening on %s port %d; Ctrl-C stops", *listening.address)
        await stop.wait()
        log.info("= finishing what is in flight; Ctrl-C again ends at once")
    log.info("= stopped")


def main(slug: str, serve: Callable[[], AbstractAsyncContextManager[Listening]], options: argparse.Namespace) -> int:
    """Run *serve* with the wire log on; return the exit code: 0 stopped, 2 could not listen (and why)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.raiseExceptions = False  # Whoever reads our output may stop reading (| head).
    try:
        asyncio.run(until_stopped(serve(), logging.getLogger(f"servers.{slug}")))
    except OSError as error:
        # gaierror has its own numbers, below 0.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        hint = f" Is another `make {slug}-server` running?" if error.errno == errno.EADDRINUSE else ""
        print(f"Cannot listen on {options.host} port {options.port}: {why}.{hint}", file=sys.stderr)
        return 2
    except UnicodeError:  # from the encoding of names, IDNA
        print(f"Cannot listen on {options.host!r}: that is no name of a host.", file=sys.stderr)
        return 2
    return 0
