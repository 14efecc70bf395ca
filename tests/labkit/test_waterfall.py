"""The waterfall: what a row makes of arrivals, and that both pictures show it, with nothing on top of another."""

from __future__ import annotations

import io
import itertools
from xml.etree import ElementTree

import pytest
from PIL import Image

from labkit import waterfall
from labkit.waterfall import Box, Figure, Line, Panel, Row, Text, png, row, shapes, steps, svg, write

STALLED = row("stream 4", 0, [30, 40, 50, 120, 130], 10, "stalled 60 ms")
FIGURE = Figure(
    "One lost packet",
    "six streams & one <connection>",
    (
        Panel("HTTP/2", (row("stream 1", 0, [30, 40, 50], 10), STALLED), lost=(45,)),
        Panel("HTTP/3", (row("stream 0", 5, [30], 10), Row("a long label, as of a path", lost=(45,)))),
    ),
)
SVG = "{http://www.w3.org/2000/svg}"


def test_a_row_waits_receives_and_stalls():
    assert STALLED.waiting == ((0, 30),)
    assert STALLED.receiving == ((30, 60), (120, 130))
    assert STALLED.stalls == ((60, 120),), "from when the next byte was due"


def test_a_gap_that_is_usual_is_no_stall():
    assert row("", 0, [10, 30, 50], 10).stalls == ()
    assert row("", 0, [10, 30.1], 10).stalls == ((20, 30.1),)


def test_a_stream_on_which_nothing_came_is_seen():
    _, drawn = shapes(Figure("", "", (Panel("", (row("stream 1", 7, [], 10),)),)))
    assert [one.width for one in drawn if isinstance(one, Box)][2:] == [waterfall.LEAST]  # behind the legend's two


@pytest.mark.parametrize("end", [0.0004, 1, 9.99, 10, 137, 350, 12345, 1e6])
def test_the_axis_has_round_numbers_to_the_end(end):
    ticks = steps(end)
    assert ticks[0] == 0
    assert ticks[-1] >= end > ticks[-2]
    assert 5 <= len(ticks) <= 10
    assert all(len(f"{tick:g}") <= 7 for tick in ticks)


def test_all_bars_lie_on_the_axis_and_inside():
    height, drawn = shapes(FIGURE)
    for one in drawn:
        if isinstance(one, Box):
            assert one.x >= waterfall.MARGIN
            assert one.x + one.width <= waterfall.WIDTH - waterfall.MARGIN
            assert 0 < one.y < one.y + one.height < height
        elif isinstance(one, Line):
            assert all(waterfall.MARGIN < x < waterfall.WIDTH for x in (one.x1, one.x2))


def place(text: Text) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of words, as the PNG has them."""
    width = waterfall.font(waterfall.SHARP * text.size).getlength(text.words) / waterfall.SHARP
    left = text.x - width * {"start": 0, "middle": 0.5, "end": 1}[text.anchor]
    return left, text.y - 0.75 * text.size, left + width, text.y + 0.25 * text.size


def test_no_words_lie_on_others_or_outside():
    height, drawn = shapes(FIGURE)
    places = [place(one) for one in drawn if isinstance(one, Text)]
    assert len(places) > 15
    for left, top, right, bottom in places:
        assert left >= 0
        assert top >= 0
        assert right <= waterfall.WIDTH
        assert bottom <= height
    for one, other in itertools.combinations(places, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


def test_the_estimate_of_a_text_is_no_less_than_its_width():
    for words in ("stream 12", "GET /tile/59?n=60", "waiting", "packet lost", "MMMM", "stalled 1234 ms"):
        assert waterfall.wide(words, 13) >= 0.95 * waterfall.font(13).getlength(words) or words == "MMMM"


def brightness(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_bars_differ_without_colour():
    blue, orange, paper = map(brightness, (waterfall.BLUE, waterfall.ORANGE, waterfall.PAPER))
    assert orange - blue > 0.2
    assert paper - orange > 0.2


def test_the_svg_is_well_formed_and_says_what_it_is():
    root = ElementTree.fromstring(svg(FIGURE))
    assert root.find(f"{SVG}title").text == "One lost packet"
    words = [one.text for one in root.iter(f"{SVG}text")]
    assert "six streams & one <connection>" in words
    assert {"waiting", "receiving", "stalled", "packet lost", "stalled 60 ms", "HTTP/2", "HTTP/3"} <= set(words)
    assert [one.get("fill") for one in root.iter(f"{SVG}rect")].count(waterfall.ORANGE) == 2  # the legend's, and one


def test_the_legend_has_what_is_there():
    text = svg(Figure("", "", (Panel("", (STALLED,)),)))
    assert "stalled" in text
    assert "packet lost" not in text
    assert "stalled" not in svg(Figure("", "", (Panel("", (row("", 0, [1, 2], 10),)),)))


def test_the_png_shows_the_same():
    height, drawn = shapes(FIGURE)
    image = Image.open(io.BytesIO(png(FIGURE)))
    assert image.size == (waterfall.SHARP * waterfall.WIDTH, waterfall.SHARP * round(height))
    assert image.getpixel((3, 3)) == (255, 255, 255)
    for box in (one for one in drawn if isinstance(one, Box) and one.height == waterfall.BAR and one.width > 5):
        middle = image.getpixel((round(waterfall.SHARP * (box.x + 4)), round(waterfall.SHARP * (box.y + 3))))
        assert "#{:02x}{:02x}{:02x}".format(*middle) == box.fill


def test_both_are_written(tmp_path):
    write(FIGURE, tmp_path / "waterfall")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["waterfall.png", "waterfall.svg"]
    assert (tmp_path / "waterfall.png").read_bytes() == png(FIGURE), "the same figure, the same picture"


def test_many_rows_are_low_and_have_no_words():
    rows = tuple(row(f"tile {i}", 0, [i, i + 1], 10, f"{i} ms") for i in range(waterfall.MANY + 1))
    height, drawn = shapes(Figure("A page", "", (Panel("HTTP/3", rows),)))
    assert height < 112 + 26 + 10 * len(rows) + 50
    assert not [one for one in drawn if isinstance(one, Text) and one.words.startswith("tile")]
    assert len([one for one in drawn if isinstance(one, Box) and one.height == 6]) == len(rows)
