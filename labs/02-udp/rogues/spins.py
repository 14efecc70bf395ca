"""Caught by: repeats: timer() is past

timer() begins to count at 0 and not when the packet left: it is always past.
"""

from struct import Struct

PIECE, LAST, ACK = 0, 1, 2
PAYLOAD = 1000  # bytes of the file per packet
DATA_HEADER, ACK_FORMAT = Struct("!BH"), Struct("!BHQ")
INITIAL, MINIMUM, MAXIMUM = 0.25, 0.05, 2.0  # seconds of retransmission timeout; RFC 6298 for shorter cables
LINGER = 0.5  # seconds without a packet after which a receiver that has everything is done


class Sender:
    def __init__(self, data: bytes, first: int, window: int) -> None:
        pieces = [data[i : i + PAYLOAD] for i in range(0, len(data), PAYLOAD)] or [b""]
        kinds = [PIECE] * (len(pieces) - 1) + [LAST]
        self._packets = [
            DATA_HEADER.pack(kind, (first + i) % 65536) + piece
            for i, (kind, piece) in enumerate(zip(kinds, pieces, strict=True))
        ]
        self._first, self._window = first, window
        self._base = self._next = 0  # Packets count from 0 and do not wrap; only their numbers on the wire do.
        self._sent: dict[int, float] = {}  # when each packet that is not acknowledged was sent last
        self._again: set[int] = set()  # those that were sent more than once
        self._rto = INITIAL
        self._srtt = self._rttvar = 0.0
        self._backed_off = -1.0  # when

    @property
    def done(self) -> bool:
        return self._base == len(self._packets)

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        if len(datagram) != ACK_FORMAT.size or datagram[0] != ACK:
            return
        _, number, bitmap = ACK_FORMAT.unpack(datagram)
        before = self._base + (number - self._first - self._base) % 65536
        if before > self._next:
            return  # An old ACK that was overtaken, or one for what was never sent.
        arrived = [*range(self._base, before), *(before + 1 + i for i in range(64) if bitmap >> i & 1)]
        arrived = [i for i in arrived if i in self._sent]
        if arrived and arrived[-1] not in self._again:  # Else: which copy is acknowledged? (RFC 6298 §3)
            self._measure(now - self._sent[arrived[-1]])
        for i in arrived:
            del self._sent[i]
        self._base = before

    def _measure(self, rtt: float) -> None:  # RFC 6298 §2
        if self._srtt == 0:
            self._srtt, self._rttvar = rtt, rtt / 2
        else:
            self._rttvar = 3 / 4 * self._rttvar + 1 / 4 * abs(self._srtt - rtt)
            self._srtt = 7 / 8 * self._srtt + 1 / 8 * rtt
        self._rto = min(max(self._srtt + max(0.01, 4 * self._rttvar), MINIMUM), MAXIMUM)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        overdue = [i for i, sent in self._sent.items() if sent + self._rto <= now]
        if any(self._sent[i] >= self._backed_off for i in overdue):  # Once for each window, not for each packet.
            self._rto = min(2 * self._rto, MAXIMUM)  # RFC 6298 §5.5
            self._backed_off = now
        self._again.update(overdue)
        new = range(self._next, min(self._base + self._window, len(self._packets)))
        self._next += len(new)
        for i in (*overdue, *new):
            self._sent[i] = now
        return [self._packets[i] for i in (*overdue, *new)]

    def timer(self) -> float | None:
        return self._rto if self._sent else None


class Receiver:
    def __init__(self, first: int, window: int) -> None:
        self._next, self._window = first, window  # the first number that is missing
        self._early: dict[int, bytes] = {}  # datagrams that wait for one before them, by number
        self._complete = self.done = False
        self._heard = 0.0
        self._acks = 0

    def receive_datagram(self, datagram: bytes, now: float) -> bytes:
        if len(datagram) < DATA_HEADER.size or datagram[0] not in (PIECE, LAST):
            return b""
        _, number = DATA_HEADER.unpack_from(datagram)
        ahead = (number - self._next) % 65536
        if self._window <= ahead < 65536 - 64:
            return b""  # Neither in the window nor one that we have had.
        self._heard = now
        self._acks += 1  # For a copy too: it is here because our ACK was lost, perhaps.
        if ahead < self._window and not self._complete:
            self._early[number] = datagram
        data = b""
        while self._next in self._early and not self._complete:
            datagram = self._early.pop(self._next)
            data += datagram[DATA_HEADER.size :]
            self._complete = datagram[0] == LAST
            self._next = (self._next + 1) % 65536
        if self._complete:
            self._early.clear()  # What lies beyond LAST is no part of the file.
        return data

    def datagrams_to_send(self, now: float) -> list[bytes]:
        self.done = self._complete and now >= self._heard + LINGER
        bitmap = sum(1 << (number - self._next - 1) % 65536 for number in self._early)
        acks = [ACK_FORMAT.pack(ACK, self._next, bitmap)] * self._acks
        self._acks = 0
        return acks

    def timer(self) -> float | None:
        return self._heard + LINGER if self._complete else None
