"""The head-of-line experiments' arithmetic: what counts as late, what as a stall, and what TCP held back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from labkit import catalog
from labkit.lab import Seen
from labkit.learner import load

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
    assert [row.note for row in drawn.rows] == ["no stall", "stalled 120 ms"]
    assert drawn.lost == pytest.approx((1050,))
    assert racing.table(lane)[2].endswith("120 ms")


def segment(time: float, seq: int, size: int = 1000, fate: str = "") -> Seen:
    return Seen(1, time, "client", "server", "client", "tcp", 7007, 5000, 16, seq, 0, 1000, bytes(size), (), None, 0,
                False, size + 40, None, fate)  # fmt: skip


def test_what_lay_behind_a_gap_was_held():
    start = 2**32 - 1000  # sequence numbers wrap
    packets = [segment(0.5, 77), segment(1.0, start), segment(1.01, 0, fate="dropped: 5 % loss"), segment(1.02, 1000),
               segment(1.03, 2000), segment(1.1, 0), segment(1.2, 3000), segment(1.3, 0)]  # fmt: skip
    net = SimpleNamespace(packets=lambda: packets)
    assert racing.held(net, 0.9) == pytest.approx([0, 0, 80, 70, 0])


def test_the_drop_is_of_a_piece_and_by_number():
    assert str(racing.a_piece(30, "udp", 7007)) == "the 30th datagram over 1000 B from port 7007"
