"""The books of a QUIC connection: who sent what, what has arrived, what is lost. No sockets and no clock in here.

    A  encode_varint(), decode_varint()   numbers of 1, 2, 4 or 8 bytes                            RFC 9000 §16
    B  encode_number(), decode_number()   packet numbers: only their last bytes are sent           §17.1, A.2, A.3
    C  Received, decode_ack()             what came, as ranges; the ACK frame that says so         §13.2, §19.3
    D  Sent                               what is on its way; what is lost, by number and by time  RFC 9002 §5, §6.1

Read labs/06-quic/README.md first. Check with `make quic-check`: it begins with A, and ends with two of you on real
sockets and a bad road between. Stuck? `make quic-hint`. All times are in seconds; -1 is the number of no packet.
"""

from typing import NamedTuple

FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION = 0x07, 0x0A  # RFC 9000 §20.1
MAX_VARINT = 2**62 - 1  # and the last packet number
ACK, ACK_ECN = 0x02, 0x03  # types of frame; the second has three more numbers at its end
DELAY_UNIT, MAX_ACK_DELAY = 8e-6, 0.025  # what an ACK Delay of 1 means; how long an ACK may wait (RFC 9000 §18.2)
MOST_RANGES = 32  # that we remember: a peer who skips every other number must not own our memory
PACKET_THRESHOLD, TIME_THRESHOLD, GRANULARITY, INITIAL_RTT = 3, 9 / 8, 0.001, 0.333  # RFC 9002 §6.1, §6.2.2


class QuicError(Exception):
    """The peer broke a rule. It gets no other exception out of you."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Ack(NamedTuple):
    ranges: list[tuple[int, int]]  # (smallest, largest), both of them included; the highest range first, as on the wire
    delay: float  # how long the largest had been there when the ACK was made
    end: int  # where the frame ends


def encode_varint(value: int) -> bytes: ...  # TODO A: as short as can be. ValueError if it has no form at all
def decode_varint(data: bytes, at: int) -> tuple[int, int]: ...  # TODO A: the value at data[at], and where it ends


def encode_number(number: int, acked: int) -> bytes: ...  # TODO B: as short as can be; acked: the largest acknowledged
def decode_number(data: bytes, largest: int) -> int: ...  # TODO B: largest: the largest number that has come so far


def decode_ack(data: bytes, at: int) -> Ack: ...  # TODO C: data[at] is its type, ACK or ACK_ECN


class Received:  # TODO C
    largest = -1  # the largest number that has come, whatever is forgotten

    def receive(self, number: int, eliciting: bool, now: float) -> bool: ...  # True: new. A copy changes nothing
    def ranges(self) -> list[tuple[int, int]]: ...  # as in Ack
    def due(self) -> float | None: ...  # when an ACK must go at the latest; None: nothing has asked for one
    def ack(self, now: float) -> bytes: ...  # the ACK frame that goes now; b"" if there is nothing to say
    def forget(self, number: int) -> None: ...  # the peer has an ACK of ours whose largest was this: §13.2.4


class Sent:  # TODO D
    # A packet may arrive after it was given up: lost() has named it, or it asked for no ACK and a later one arrived.
    # Nobody waits for it any more, so receive_ack() may name it then, or leave it out.
    def send(self, number: int, eliciting: bool, now: float) -> None: ...  # it goes. Numbers rise; some may be skipped
    def receive_ack(self, ack: Ack, now: float) -> list[int]: ...  # its numbers that no ACK had before
    def lost(self, now: float) -> list[int]: ...  # those lost since it was asked last: after each ACK, and by timer()
    def timer(self) -> float | None: ...  # when the next one is lost by time; None: none will be
