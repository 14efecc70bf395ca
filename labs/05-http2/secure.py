"""TLS over a blocking socket: as much of ssl.SSLSocket as is needed here, on the lab's TLS without I/O.

OpenSSL, when it owns the socket, sends Finished before it has made, and logged, the keys for what follows. Where it
does not, all is logged before a byte leaves: so the capture has each key ahead of the first packet that needs it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from certs.channel import Channel, Data


class Secure:
    """One end of a TLS connection."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        """Shake hands: as a client with this name's owner, or, without one, as a server."""
        self.socket = sock
        self.channel = Channel(context, server_side=server_hostname is None, server_hostname=server_hostname)
        try:
            self._next()
        except BaseException:
            sock.close()
            raise

    def recv(self) -> bytes:
        """What has come; wait for it if need be. b"": the other end has said all."""
        event = self._next()
        return event.data if isinstance(event, Data) else b""

    def sendall(self, data: bytes) -> None:
        self.channel.send_data(data)
        self.socket.sendall(self.channel.data_to_send())

    def close(self) -> None:
        """close_notify, and wait a second at most for the other's."""
        with contextlib.suppress(OSError):
            self.socket.settimeout(1)
            self.channel.close()
            while self.recv():
                pass
        self.socket.close()

    def _next(self) -> object:
        """The next event; wait for it if need be."""
        while True:
            try:
                event = self.channel.next_event()
            finally:
                if answer := self.channel.data_to_send():
                    self.socket.sendall(answer)
            if event is not None:
                return event
            self.channel.receive_data(self.socket.recv(1 << 16))
