"""What `python -m clients.<slug>` does with any client: tell what happens, and end with one sentence and a code."""

from __future__ import annotations

import asyncio
import logging
import os
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
        print(f"No answer from {peer}: {why}. Is `make {server}` running?", file=sys.stderr)
        return 1 if is_late or broken else 2
    except KeyboardInterrupt:
        return 130
