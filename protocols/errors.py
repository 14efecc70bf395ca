"""The two ways in which a protocol can be broken."""

from __future__ import annotations


class ProtocolError(Exception):
    """Somebody broke the protocol."""


class RemoteProtocolError(ProtocolError):
    """The peer did. `code` is what to answer with: a status, a close code, an error code; 0 for none."""

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


class LocalProtocolError(ProtocolError):
    """We did: the caller asked for something that the protocol forbids. Nothing was sent."""
