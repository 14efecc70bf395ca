"""The head-of-line experiments' arithmetic: what counts as late, what as a stall, and what was held back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from labkit import catalog
from labkit.lab import Seen
from labkit.learner import load
from labkit.waterfall import svg
from protocols.quic_frames import Stream

racing = load(catalog.ROOT / "labs/06-quic/racing.py", "tests_racing")


def feed(*arrivals: float, sizes: list[int] | None = None):
    return racing.Feed(0.04, 0.0, list(arrivals), sizes or [1000] * len(arrivals))


def test_a_feed_in_time_is_never_late():
    one = feed(1.0, 1.04, 1.08, 1.12)
    assert one.longest == pytest.approx(0)
    assert one.delays == pytest.approx([0, 0, 0, 0])
    assert racing.late([one]) == 0


def test_what_comes_at_once_after_a_stall_is_each_as_late_as_it_is():
    one = feed(1.0, 1.04, 1.2, sizes=[1000, 1000, 3000])  # three pieces in one read
    assert one.longest == pytest.approx(120)
    assert one.delays == pytest.approx([0, 0, 120, 80, 40])
    assert racing.late([one]) == 3


def test_a_piece_is_there_when_its_last_byte_is():
    one = feed(1.0, 1.04, 1.14, sizes=[1000, 600, 400])
    assert one.delays == pytest.approx([0, 100])


def test_a_lane_stalls_only_beyond_a_period_and_draws_it():
    lane = racing.Lane("TCP", [feed(1.0, 1.04, 1.08), feed(1.0, 1.04, 1.2)], lost=(1.05,))
    assert lane.stalled == lane.feeds[1:]
    drawn = lane.panel()
    assert [row.note for row in drawn.rows] == ["in time", "stalled 120 ms"]
    assert drawn.lost == pytest.approx((1050,))
    assert racing.table(lane)[2].endswith("120 ms")


def test_what_is_behind_a_gap_is_held_until_that_is_filled():
    order = racing.Order([(0, 10, 1.0), (10, 20, None), (20, 30, 1.2), (30, 40, 1.3), (10, 20, 1.5), (40, 50, 1.6)])
    parts = [order.part(4, start, start + 10) for start in range(0, 50, 10)]
    assert [part.held for part in parts] == pytest.approx([0, 0, 300, 200, 0])
    assert [part.is_lost for part in parts] == [False, True, False, False, False]
    assert [part.is_late for part in parts] == [False, True, True, True, False]
    assert order.part(4, 50, 60) is None


def test_a_part_has_come_when_all_of_it_has():
    order = racing.Order([(0, 10, 1.0), (12, 20, 1.1), (0, 5, 1.2), (8, 14, 1.3)])
    assert order.part(0, 5, 20).came == order.part(0, 5, 20).read == 1.3
    assert order.part(0, 14, 20).held == pytest.approx(200)


def segment(time: float, seq: int, size: int = 1000, fate: str = "") -> Seen:
    return Seen(1, time, "client", "server", "client", "tcp", 7007, 5000, 16, seq, 0, 1000, bytes(size), (), None, 0,
                False, size + 40, None, fate)  # fmt: skip


def test_over_tcp_a_gap_is_everybodys(monkeypatch):
    start = 2**32 - 1000  # sequence numbers wrap
    packets = [segment(1.0, start), segment(1.01, 0, fate="dropped: 5 % loss"), segment(1.02, 1000),
               segment(1.03, 2000), segment(1.1, 0), segment(1.2, 3000), segment(1.3, 0)]  # fmt: skip
    records = [(stream, 1000 * i, 1000 * i + 1000) for i, stream in enumerate((1, 3, 5, 7, 1))]
    monkeypatch.setattr(racing, "records_of", lambda told, secrets: records if len(told["server"]) == 5000 else [])
    lane = racing.Lane("TCP", [], racing.parts_of_tcp(packets, {}, 0.9), (1.01,))
    assert [part.held for part in lane.parts] == pytest.approx([0, 0, 80, 70, 0])
    assert (lane.waiting, lane.late, lane.held) == ({3, 5, 7}, 3, pytest.approx(80))


def datagram(number: int, time: float, *frames: tuple[int, int, int], dropped: bool = False):
    found = [Stream(stream, offset, bytes(size)) for stream, offset, size in frames]
    return SimpleNamespace(
        number=number, connection=1, datagram=SimpleNamespace(time=time, dropped=dropped), all=lambda kind: found
    )


def test_over_quic_a_gap_is_one_streams():
    packets = [  # in the order of a capture at the client's, where a lost one is on record when it was sent
        datagram(2, 1.00, (4, 1000, 1000), dropped=True), datagram(0, 1.0, (0, 0, 1000)),
        datagram(1, 1.01, (4, 0, 1000)), datagram(3, 1.03, (8, 0, 1000), (3, 0, 50)),
        datagram(4, 1.04, (0, 1000, 1000)), datagram(5, 1.05, (4, 2000, 500)),
        datagram(6, 1.12, (4, 1000, 1000), (4, 2500, 500)),
    ]  # fmt: skip
    lane = racing.Lane("QUIC", [], racing.parts_of_quic(packets, 0.9), (1.0,))
    assert lane.waiting == {4}
    assert (lane.late, lane.held) == (1.5, pytest.approx(70))


def test_what_is_late_is_drawn_though_no_reader_stalled():
    """Where a loss is mended sooner than the next piece is due, nothing stands still; and pieces are late."""
    packets = [
        datagram(0, 1.00, (0, 0, 1000)), datagram(1, 1.00, (4, 0, 1000)),
        datagram(2, 1.03, (4, 1000, 1000), dropped=True),
        datagram(3, 1.04, (0, 1000, 1000)), datagram(4, 1.05, (4, 2000, 1000)), datagram(5, 1.07, (4, 1000, 1000)),
    ]  # fmt: skip
    lane = racing.Lane("QUIC", [feed(1.0, 1.04), feed(1.0, 1.07, 1.071)], racing.parts_of_quic(packets, 0.9), (1.03,))
    calm, late = lane.panel().rows
    assert (calm.note, calm.late) == ("in time", ())
    assert late.note == "2 late"
    assert [pytest.approx(span) for span in late.late] == [(1030, 1070), (1050, 1070)]
    assert "late" in svg(racing.figure("", "", lane))


def test_the_drop_is_of_a_piece_and_by_number():
    assert str(racing.a_piece(30, "udp", 7007)) == "the 30th datagram over 1000 B from port 7007"
