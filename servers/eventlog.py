"""Events in a file, so that they outlive the process that published them. The file is an event stream itself.

So what a crash has torn at its end is no event, by the rule that holds on the wire, too: a block without its blank line
is discarded. An event is written here before anybody is sent it; what a client has seen, the next process knows of.

Discarding could destroy somebody's work: whoever names the wrong file must find it as it was. So a log is what encode()
writes, to the byte, and all that is ever cut off is the beginning of the event that would have come next. (Should a
crash tear the very first event, the file is refused, too: it might be anything.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from protocols.sse import MAX_EVENT, History

PIECE = 1 << 20  # bytes read at once
EVENT = re.compile(rb"id: ([0-9]{1,18})\n(?:event: [^\r\n]+\n)?(?:data: [^\r\n]*\n)++")  # … and a blank line


class LogError(Exception):
    """The file cannot be used as a log, and why."""


class EventLog:
    """Reads the events of a log into a history, and is open to go on. LogError for a file that is no log, or is that
    of another server: it is left as it is."""

    def __init__(self, path: Path, history: History) -> None:
        try:
            self._file = open(path, "a+b", buffering=0)
        except OSError as error:
            raise LogError(f"The log {path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Two servers would give the same numbers twice.
            self._size = read(self._file, history)
            self._file.truncate(self._size)
        except BlockingIOError:
            self.close()
            raise LogError(f"Another server writes to {path}") from None
        except OSError as error:
            self.close()
            raise LogError(f"The log {path} cannot be read or cut: {error.strerror}") from None
        except ValueError as error:
            self.close()
            raise LogError(f"{path} is no log of events, and left as it is: {error}") from None

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


def read(file: BinaryIO, history: History) -> int:
    """Remember the events of the file; return where the last of them ends. ValueError for what is no log."""
    end = 0
    for block in blocks(file):
        if not block.endswith(b"\n\n"):
            if not end:  # "id: 7" may be all that somebody has written. If it is not worth keeping, they can remove it.
                raise ValueError("there is not one whole event in it")
            if not is_torn(block, history.next):
                raise ValueError(f"what stands at byte {end} is no event, nor the beginning of one")
            break
        if (event := EVENT.fullmatch(block, 0, len(block) - 1)) is None:
            raise ValueError(f"what stands at byte {end} is no event")
        block.decode()  # UnicodeDecodeError is a ValueError.
        if end and int(event[1]) != history.next:
            raise ValueError(f"event {int(event[1])} where {history.next} should be")
        history.next = int(event[1])
        history.add(block)
        end += len(block)
    return end


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Cut a file behind its blank lines. In an event there is none: each of its lines begins with a name."""
    file.seek(0)
    rest = b""
    while piece := file.read(PIECE):
        *whole, rest = (rest + piece).split(b"\n\n")
        for block in whole:
            yield block + b"\n\n"
        if len(rest) > MAX_EVENT:
            raise ValueError(f"something of more than {MAX_EVENT} bytes, which is no event")
    if rest:
        yield rest


def is_torn(tail: bytes, number: int) -> bool:
    """Is that how event *number* may begin? If so, the end of some event makes it a whole one."""
    some = b"id: %d\nevent: x\ndata: x\n" % number
    found = (EVENT.fullmatch(tail + some[i:]) for i in range(len(some) + 1))
    return any(event is not None and int(event[1]) == number for event in found)
