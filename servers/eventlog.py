"""Events in a file, so that they outlive the process that published them. The file is an event stream itself.

So what a crash has torn at its end is no event, by the rule that holds on the wire, too: a block without its blank line
is discarded. An event is written here before anybody is sent it; what a client has seen, the next process knows of.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from protocols.errors import RemoteProtocolError
from protocols.sse import Decoder, Event, History


class LogError(Exception):
    """The file cannot be used as a log, and why."""


class EventLog:
    """Reads the events of a log into a history, and is open to go on. LogError for a file that is no log, or is that
    of another server: it is left as it is."""

    def __init__(self, path: Path, history: History) -> None:
        try:
            self._file = open(path, "ab", buffering=0)
        except OSError as error:
            raise LogError(f"The log {path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Two servers would give the same numbers twice.
            self._size = read(path, history)
            self._file.truncate(self._size)
        except BlockingIOError:
            self.close()
            raise LogError(f"Another server writes to {path}") from None
        except (ValueError, RemoteProtocolError) as error:
            self.close()
            raise LogError(f"{path} is no log of events: {error}") from None

    def append(self, event: bytes) -> None:
        """Write all of it, or nothing (OSError). It outlives the process; to outlive the machine it needs fsync()."""
        try:
            if self._file.write(event) != len(event):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(event)

    def close(self) -> None:
        self._file.close()


def read(path: Path, history: History) -> int:
    """Remember the events of the file; return where the last of them ends."""
    decoder, size, whole = Decoder(), 0, 0
    with open(path, "rb") as file:
        for line in file:
            if size == 0 and not b"id: ".startswith(line[:4]):
                raise ValueError("it does not begin with an id")
            size += len(line)
            for item in decoder.receive_data(line):
                if isinstance(item, Event):
                    history.restore(item)
            if line == b"\n":
                whole = size
    return whole
