"""Exercise: a reliable transfer over UDP. No sockets and no clock in here: the check has both.

    end.receive_datagram(datagram, now)   is called for what comes in, at the time `now` (seconds)
    end.datagrams_to_send(now)            is called after that and when timer() is due; returns a list of bytes
    end.timer()                           returns when that must be at the latest, or None: nothing to wait for
    end.done                              True when it may stop

On the wire, in network byte order (PIECE, LAST and ACK are the kinds):

    DATA   kind 8 | number 16 | payload: 1000 bytes; only the LAST piece may be shorter, or empty
    ACK    kind 8 | number 16 | bitmap 64      everything before `number` is here; bit i: so is number + 1 + i

Numbers begin with `first` and go round: 0 comes after 65535. Begin with a window of 1 and a bitmap of 0
(stop-and-wait): with a timeout that learns, that passes two thirds of the steps.
"""

from struct import Struct

PIECE, LAST, ACK = 0, 1, 2
PAYLOAD = 1000  # bytes of the file per packet
DATA_HEADER, ACK_FORMAT = Struct("!BH"), Struct("!BHQ")
INITIAL, MINIMUM, MAXIMUM = 0.25, 0.05, 2.0  # seconds of retransmission timeout; RFC 6298 for shorter cables
LINGER = 0.5  # seconds without a packet after which a receiver that has everything is done


class Sender:
    def __init__(self, data: bytes, first: int, window: int) -> None:
        self.data, self.first, self.window = data, first, window
        self.done = False  # True when every packet is acknowledged

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take an ACK. Ignore what is none."""
        # TODO

    def datagrams_to_send(self, now: float) -> list[bytes]:
        # TODO: what was not acknowledged in time, again; and new packets, as many as the window allows.
        return []

    def timer(self) -> float | None:
        return None  # TODO


class Receiver:
    def __init__(self, first: int, window: int) -> None:
        self.first, self.window = first, window
        self.done = False  # TODO: when? Not with the last packet: its ACK may be lost.

    def receive_datagram(self, datagram: bytes, now: float) -> bytes:
        """Take a packet; return the bytes of the file that are now in order, each once. Ignore garbage."""
        return b""  # TODO

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """One ACK for each packet that has come since the last call."""
        return []  # TODO

    def timer(self) -> float | None:
        return None  # TODO
