"""Caught by: ack_forgotten: `largest` stays when ranges are forgotten

The largest is read off the ranges, and when there are none, it is -1: the next packet number is read wrongly.
"""

from typing import NamedTuple

FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION = 0x07, 0x0A  # RFC 9000 §20.1
MAX_VARINT = 2**62 - 1
ACK, ACK_ECN = 0x02, 0x03
DELAY_UNIT, MAX_ACK_DELAY = 8e-6, 0.025
MOST_RANGES = 32
PACKET_THRESHOLD, TIME_THRESHOLD, GRANULARITY, INITIAL_RTT = 3, 9 / 8, 0.001, 0.333


class QuicError(Exception):
    """The peer broke a rule."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Ack(NamedTuple):
    ranges: list[tuple[int, int]]
    delay: float
    end: int


# -- A: variable-length integers (RFC 9000 §16) --------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """The shortest form: the first two bits say how many bytes there are, as a power of two."""
    for power, size in enumerate((1, 2, 4, 8)):
        if 0 <= value < 1 << 8 * size - 2:
            return (power << 8 * size - 2 | value).to_bytes(size)
    raise ValueError(f"{value} has no form: it is not in 0 to 2**62 - 1")


def decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """The value at data[at], and where it ends. Longer forms than needed are legal: only frame types must be short."""
    if at >= len(data):
        raise QuicError(FRAME_ENCODING_ERROR)
    size = 1 << (data[at] >> 6)
    if at + size > len(data):
        raise QuicError(FRAME_ENCODING_ERROR)
    return int.from_bytes(data[at : at + size]) & (1 << 8 * size - 2) - 1, at + size


# -- B: packet numbers (RFC 9000 §17.1, A.2, A.3) ------------------------------------------------------


def encode_number(number: int, acked: int) -> bytes:
    """The last bytes of a number: so many that twice what is unacknowledged fits into them."""
    unacknowledged = number - acked
    for size in (1, 2, 3, 4):
        if 0 <= number <= MAX_VARINT and 0 < unacknowledged <= 1 << 8 * size - 1:
            return (number & (1 << 8 * size) - 1).to_bytes(size)
    raise ValueError(f"packet {number} cannot be told from others when {acked} is the last that is acknowledged")


def decode_number(data: bytes, largest: int) -> int:
    """Of all numbers that end like this, the one that is nearest to the next that is expected."""
    expected = largest + 1
    window = 1 << 8 * len(data)
    candidate = expected & ~(window - 1) | int.from_bytes(data)
    if candidate <= expected - window // 2 and candidate < (1 << 62) - window:
        return candidate + window
    if candidate > expected + window // 2 and candidate >= window:
        return candidate - window
    return candidate


# -- C: what has come, and the frame that says so (RFC 9000 §13.2, §19.3) ------------------------------


def decode_ack(data: bytes, at: int) -> Ack:
    kind, at = decode_varint(data, at)
    largest, at = decode_varint(data, at)
    delay, at = decode_varint(data, at)
    more, at = decode_varint(data, at)
    ranges: list[tuple[int, int]] = []
    while True:
        length, at = decode_varint(data, at)
        if length > largest:  # It would begin below zero. (§19.3.1)
            raise QuicError(FRAME_ENCODING_ERROR)
        ranges.append((largest - length, largest))
        if len(ranges) > more:
            break
        gap, at = decode_varint(data, at)
        largest -= length + gap + 2  # One of the two for the range's own last number, one for the gap's.
    for _ in range(3 if kind == ACK_ECN else 0):  # packets marked ECT(0), ECT(1), CE
        _, at = decode_varint(data, at)
    return Ack(ranges, delay * DELAY_UNIT, at)


class Received:
    def __init__(self) -> None:
        self.largest = -1
        self._came = 0.0  # when the largest did
        self._ranges: list[tuple[int, int]] = []  # the highest first
        self._least = 0  # What is below may have been here, and is forgotten: it is never new again. (§13.2.3)
        self._eliciting = -1  # the largest number of a packet that asks for an ACK
        self._waiting = 0  # such packets since the last ACK
        self._due: float | None = None

    def receive(self, number: int, eliciting: bool, now: float) -> bool:
        if number < self._least or any(first <= number <= last for first, last in self._ranges):
            return False
        joined = self._insert(number)
        if number > self.largest:
            self.largest, self._came = number, now
        if eliciting:  # An ACK alone asks for none: or two ends would acknowledge ACKs for ever. (§13.2.1)
            self._waiting += 1
            in_order = number > self._eliciting and joined <= self._eliciting + 1
            at_once = not in_order or self._waiting >= 2  # The sender is waiting for such news. (§13.2.1, §13.2.2)
            due = now if at_once else now + MAX_ACK_DELAY
            self._due = due if self._due is None else min(due, self._due)  # What was promised is not put off.
            self._eliciting = max(self._eliciting, number)
        return True

    def _insert(self, number: int) -> int:
        """Put a new number into its range; return the first number of that range."""
        first = last = number
        apart = []
        for one in self._ranges:
            if one[0] == number + 1:
                last = one[1]
            elif one[1] == number - 1:
                first = one[0]
            else:
                apart.append(one)
        self._ranges = sorted([*apart, (first, last)], reverse=True)
        if len(self._ranges) > MOST_RANGES:
            self._least = self._ranges.pop()[1] + 1
        return first

    def ranges(self) -> list[tuple[int, int]]:
        return self._ranges

    def due(self) -> float | None:
        return self._due

    def ack(self, now: float) -> bytes:
        if not self._ranges:
            return b""
        self._due, self._waiting = None, 0
        (first, last), *others = self._ranges
        delay = int((now - self._came) / DELAY_UNIT)
        frame = [ACK, last, delay, len(others), last - first]
        for lower in others:
            frame += [first - lower[1] - 2, lower[1] - lower[0]]  # Neither a gap nor a range is ever empty: one less.
            first = lower[0]
        return b"".join(map(encode_varint, frame))

    def forget(self, number: int) -> None:
        self._least = max(self._least, number + 1)
        self._ranges = [(max(first, self._least), last) for first, last in self._ranges if last >= self._least]
        self.largest = self._ranges[0][1] if self._ranges else -1


# -- D: what is on its way, and what is lost (RFC 9002 §5, §6.1) ---------------------------------------


class Sent:
    def __init__(self) -> None:
        self._next = 0  # Numbers from here on were never sent.
        self._skipped: list[tuple[int, int]] = []  # nor were these
        self._on_the_way: dict[int, tuple[float, bool]] = {}  # by number: when it went, and whether it asks for an ACK
        self._largest_acked = -1
        self._latest = self._smoothed = INITIAL_RTT
        self._least: float | None = None  # the shortest round trip so far

    def send(self, number: int, eliciting: bool, now: float) -> None:
        if number > self._next:
            self._skipped.append((self._next, number - 1))
        self._next = number + 1
        self._on_the_way[number] = now, eliciting

    def receive_ack(self, ack: Ack, now: float) -> list[int]:
        for first, last in ack.ranges:  # Who acknowledges what never came wants us to send faster. (RFC 9000 §21.4)
            if last >= self._next or any(a <= last and first <= b for a, b in self._skipped):
                raise QuicError(PROTOCOL_VIOLATION)
        # What is on the way is few; a range may be long.
        acked = [number for number in self._on_the_way if any(first <= number <= last for first, last in ack.ranges)]
        largest = ack.ranges[0][1]
        went = {number: self._on_the_way.pop(number) for number in acked}
        if largest in went and any(eliciting for _, eliciting in went.values()):
            self._measure(now - went[largest][0], min(ack.delay, MAX_ACK_DELAY))
        self._largest_acked = max(self._largest_acked, largest)
        for number in [n for n, (_, eliciting) in self._on_the_way.items() if n < largest and not eliciting]:
            del self._on_the_way[number]  # An ACK alone is not in flight: it is never lost, and need not be awaited.
        return acked

    def _measure(self, rtt: float, delay: float) -> None:  # RFC 9002 §5.2, §5.3
        self._latest = rtt
        if self._least is None:
            self._least = self._smoothed = rtt
            return
        self._least = min(self._least, rtt)
        if rtt >= self._least + delay:  # Else the peer's word is not to be believed.
            rtt -= delay
        self._smoothed = 7 / 8 * self._smoothed + 1 / 8 * rtt

    def _patience(self) -> float:
        return max(TIME_THRESHOLD * max(self._smoothed, self._latest), GRANULARITY)

    def _overtaken(self) -> dict[int, float]:
        """When those went that a later one has overtaken: nothing else is ever lost without a timeout."""
        return {number: went for number, (went, _) in self._on_the_way.items() if number < self._largest_acked}

    def lost(self, now: float) -> list[int]:
        lost = [
            number
            for number, went in self._overtaken().items()
            if number <= self._largest_acked - PACKET_THRESHOLD or went + self._patience() <= now
        ]
        for number in lost:
            del self._on_the_way[number]
        return lost

    def timer(self) -> float | None:
        return min((went + self._patience() for went in self._overtaken().values()), default=None)
