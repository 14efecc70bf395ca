"""What has arrived, and what is lost: ranges of packet numbers, and QUIC's two reasons to give a packet up.

A receiver acknowledges every packet that it has, in ranges: 0-4, 6-9. A sender concludes that a packet is lost when one
that was sent later has been acknowledged and

    three or more packets were sent after it, up to that one: a network reorders, but seldom by that much   (§6.1.1)
    or it was sent 9/8 of a round trip ago                                                                  (§6.1.2)

and what was in it is sent again, in a packet with a new number. So an acknowledgement never leaves in doubt which of
two copies has arrived, as it does in TCP. RFC 9002 §5, §6; no clock here: times are arguments, in seconds. And all that
is sent here asks for an acknowledgement: what does not is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from protocols.errors import RemoteProtocolError
from protocols.quic_numbers import ErrorCode

PACKET_THRESHOLD = 3  # §6.1.1
TIME_THRESHOLD = 9 / 8  # §6.1.2
GRANULARITY = 0.001  # seconds, of a system's timers (§6.1.2)
INITIAL_RTT = 0.333  # seconds, before anything is measured (§6.2.2)
MAX_RANGES = 256  # RFC 9000 §13.2.3: kept by a receiver. A peer that leaves out every other number would own our memory


class Ranges:
    """The numbers that have arrived, as ranges in rising order. Most of the time there is one, however many numbers."""

    def __init__(self, most: int = MAX_RANGES) -> None:
        self._ranges: list[range] = []
        self._most = most
        self._least = 0  # What is below may have arrived, and is forgotten: it is never taken for new (§13.2.3).

    def add(self, number: int) -> bool:
        """False: it was there already, its packet is a copy (RFC 9000 §12.3). Beyond *most*, the lowest range goes."""
        if number < self._least:
            return False
        at = len(self._ranges)
        while at and self._ranges[at - 1].start > number:  # From the end: new numbers are high numbers.
            at -= 1
        if at and number in self._ranges[at - 1]:
            return False
        first, stop = number, number + 1
        if at < len(self._ranges) and self._ranges[at].start == stop:  # It touches the range above,
            stop = self._ranges.pop(at).stop
        if at and self._ranges[at - 1].stop == first:  # the one below, or closes the gap between both.
            at -= 1
            first = self._ranges.pop(at).start
        self._ranges.insert(at, range(first, stop))
        if len(self._ranges) > self._most:
            self._least = self._ranges.pop(0).stop
        return True

    def __contains__(self, number: int) -> bool:
        return any(number in one for one in self._ranges)

    def __iter__(self) -> Iterator[range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._ranges)

    def acknowledged(self) -> tuple[range, ...]:
        """For an ACK frame: the highest first (RFC 9000 §19.3.1)."""
        return tuple(reversed(self._ranges))


class RoundTrip:
    """How long packets take there and back (§5)."""

    latest = 0.0
    least = 0.0
    smoothed = INITIAL_RTT
    variation = INITIAL_RTT / 2

    def __init__(self) -> None:
        self._measured = False

    def update(self, sample: float, ack_delay: float = 0.0) -> None:
        """A packet was acknowledged after *sample* seconds, of which the peer says that it let *ack_delay* pass."""
        self.latest = sample
        if not self._measured:
            self._measured = True
            self.least, self.smoothed, self.variation = sample, sample, sample / 2
            return
        self.least = min(self.least, sample)
        if sample >= self.least + ack_delay:  # §5.3: a delay that cannot be true is left out.
            sample -= ack_delay
        # In the order of §A.7; §5.3 has the two lines the other way round.
        self.variation = 3 / 4 * self.variation + 1 / 4 * abs(self.smoothed - sample)
        self.smoothed = 7 / 8 * self.smoothed + 1 / 8 * sample

    @property
    def loss_delay(self) -> float:
        """So long a packet may be out of order (§6.1.2)."""
        return max(TIME_THRESHOLD * max(self.latest, self.smoothed), GRANULARITY)

    def probe_timeout(self, max_ack_delay: float = 0.025, tries: int = 0) -> float:
        """After so long without an acknowledgement something is sent to get one; twice as long each time (§6.2.1)."""
        return (self.smoothed + max(4 * self.variation, GRANULARITY) + max_ack_delay) * (1 << tries)


class Outcome(NamedTuple):
    """What an ACK, or the passing of time, has told of the packets that were sent."""

    acked: list[int]  # for the first time
    lost: list[int]
    retry_at: float | None  # look again then: the first of those that are only late so far will be lost


class Sent:
    """The packets that were sent and of which nothing is known yet: number → when; one space of numbers (§3)."""

    def __init__(self) -> None:
        self._sent: dict[int, float] = {}
        self._next = 0
        self.largest_acked = -1

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, now: float) -> int:
        """The number for the packet that is sent now. No number is used twice (RFC 9000 §12.3)."""
        number, self._next = self._next, self._next + 1
        self._sent[number] = now
        return number

    def receive_ack(
        self, ranges: Sequence[range], now: float, round_trip: RoundTrip, ack_delay: float = 0.0
    ) -> Outcome:
        """Take an ACK frame: its ranges, the highest first.

        RemoteProtocolError: it acknowledges what was never sent (RFC 9000 §13.1), to make us send faster (§21.4).
        """
        if ranges[0].stop > self._next:
            raise RemoteProtocolError(f"packet {ranges[0].stop - 1} was never sent", ErrorCode.PROTOCOL_VIOLATION)
        acked = [number for number in self._sent if any(number in one for one in ranges)]
        if acked and acked[-1] == ranges[0].stop - 1:  # §5.1: only the largest tells a time, and only once.
            round_trip.update(now - self._sent[acked[-1]], ack_delay)
        for number in acked:
            del self._sent[number]
        self.largest_acked = max(self.largest_acked, ranges[0].stop - 1)
        return self.detect_loss(now, round_trip)._replace(acked=acked)

    def detect_loss(self, now: float, round_trip: RoundTrip) -> Outcome:
        """Which packets are lost by now (§6.1, §A.10). Those above the largest acknowledged are on their way."""
        lost: list[int] = []
        retry_at = None
        for number, when in self._sent.items():  # in the order of their numbers
            if number > self.largest_acked:
                break
            if number <= self.largest_acked - PACKET_THRESHOLD or when + round_trip.loss_delay <= now:
                lost.append(number)
            elif retry_at is None:
                retry_at = when + round_trip.loss_delay
        for number in lost:
            del self._sent[number]
        return Outcome([], lost, retry_at)
