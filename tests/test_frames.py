"""The framing core: every split, every limit, garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.frames import MAXIMUM, Decoder, encode

MESSAGES = [b"alpha", b"", b"b" * 30, b"gamma"]
WIRE = b"".join(map(encode, MESSAGES)) + b"\0\0\0\7unfin"


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def decode(parts: list[bytes], maximum: int = MAXIMUM) -> tuple[list[bytes], str]:
    """The messages that came out, and the error that ended it, if any."""
    decoder, messages = Decoder(maximum), []
    try:
        for part in parts:
            for message in decoder.receive_data(part):
                messages.append(message)
    except RemoteProtocolError as error:
        return messages, str(error)
    return messages, ""


def test_the_wire_format_is_four_bytes_most_significant_first():
    assert encode(b"hello") == b"\0\0\0\5hello"
    assert encode(b"") == b"\0\0\0\0"
    assert encode(b"x" * 0x1234)[:4] == b"\0\0\x12\x34"


@pytest.mark.parametrize("size", range(1, len(WIRE) + 1))
def test_messages_survive_every_split(size):
    assert decode(pieces(WIRE, size)) == (MESSAGES, "")


@pytest.mark.parametrize("cut", range(len(WIRE) + 1))
def test_messages_survive_every_single_cut(cut):
    assert decode([WIRE[:cut], WIRE[cut:]]) == (MESSAGES, "")


@pytest.mark.parametrize("size", range(1, 40))
def test_good_messages_come_out_before_the_error_however_it_is_cut(size):
    wire = encode(b"good") + encode(b"as gold") + b"\0\0\0\x65" + b"x" * 10
    assert decode(pieces(wire, size), 100) == ([b"good", b"as gold"], "frame of 101 bytes, the most is 100")


def test_the_maximum_is_exact_on_both_sides():
    longest = b"x" * 100
    assert decode([encode(longest, 100)], 100) == ([longest], "")
    with pytest.raises(LocalProtocolError, match="message of 101 bytes, the most is 100"):
        encode(longest + b"x", 100)
    assert len(encode(bytes(MAXIMUM))) == 4 + MAXIMUM
    with pytest.raises(LocalProtocolError):
        encode(bytes(MAXIMUM + 1))


def test_a_length_is_refused_before_its_bytes_are_here():
    assert decode([b"\0\1\0"]) == ([], "")
    assert decode([b"\0\1\0\1"]) == ([], "frame of 65537 bytes, the most is 65536")
    assert decode([b"\xff\xff\xff\xff"]) == ([], "frame of 4294967295 bytes, the most is 65536")


def test_after_an_error_nothing_more_comes_out():
    decoder = Decoder(10)
    with pytest.raises(RemoteProtocolError):
        list(decoder.receive_data(b"\0\0\0\x0b"))
    with pytest.raises(RemoteProtocolError):
        list(decoder.receive_data(encode(b"fine")))


@pytest.mark.parametrize("cut", range(1, 8))
def test_an_end_within_a_frame_is_an_error_and_between_two_is_not(cut):
    decoder = Decoder()
    assert list(decoder.receive_data(encode(b"whole"))) == [b"whole"]
    assert decoder.is_idle
    decoder.receive_end()
    list(decoder.receive_data(encode(b"half")[:cut]))
    assert not decoder.is_idle
    with pytest.raises(RemoteProtocolError, match=f"ended {cut} bytes into a frame"):
        decoder.receive_end()


@given(st.lists(st.binary(max_size=200)), st.lists(st.integers(1, 50), min_size=1))
def test_whatever_is_encoded_is_decoded(messages, sizes):
    wire, parts = b"".join(map(encode, messages)), []
    while wire:
        size = sizes[len(parts) % len(sizes)]
        parts.append(wire[:size])
        wire = wire[size:]
    assert decode(parts) == (messages, "")


@given(st.binary(max_size=600), st.integers(1, 64))
def test_garbage_meets_a_limit_and_never_another_error(garbage, size):
    decoder = Decoder(50)
    try:
        for part in pieces(garbage, size):
            assert all(len(message) <= 50 for message in decoder.receive_data(part))
            assert len(decoder._buffer) < 4 + 50  # What waits is never more than one unfinished frame.
    except RemoteProtocolError:
        pass
    assert decode(pieces(garbage, size), 50) == decode([garbage], 50)
