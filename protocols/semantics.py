r"""What HTTP means, whichever version carries it (RFC 9110): pure functions on the values of fields.

HTTP/1.1, HTTP/2 and HTTP/3 differ in how a message looks on the wire, and in nothing that is here:

    If-None-Match: "abc"       I have that one already. Is it still the one?       304 or 200
    Range: bytes=0-499,-500    Only the first and the last 500 bytes, please.      206, 416 or 200
    Accept-Encoding: gzip      I can unpack gzip.                                  gzip, or not

The values come as a peer sent them, so none of these functions raises, whatever the text. What is malformed is
ignored; where that could do harm (If-Match), it matches nothing.

*fields* has lower-case names; *etag* is written as in the field, `"abc"` or `W/"abc"`, and "" for none;
*modified* and *now* are seconds since 1970.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # §9.2.1: asks for nothing to be changed
IDEMPOTENT = SAFE | {"PUT", "DELETE"}  # §9.2.2: twice is the same as once, so it may be sent again
MAX_RANGES = 16  # Hundreds of ranges in one request took servers down: CVE-2011-3192, §17.15.

Span = tuple[int, int]
"""The first byte and the one after the last, as Python counts: data[first:end]."""


# -- Dates (§5.6.7) ----------------------------------------------------------------------------------

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY, _TIME = f"(?:{'|'.join(_DAYS)})", r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = [
    re.compile(form, re.ASCII)
    for form in (
        rf"{_DAY}, (?P<day>\d\d) (?P<month>\w+) (?P<year>\d{{4}}) {_TIME} GMT",  # the only one to send
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d\d)-(?P<month>\w+)-(?P<year>\d\d) {_TIME} GMT",
        rf"{_DAY} (?P<month>\w+) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",  # C's asctime()
    )
]


def http_date(seconds: float) -> str:
    """`Sun, 06 Nov 1994 08:49:37 GMT`, in whole seconds. No %a and no %b: their names are those of the locale."""
    at = datetime.datetime.fromtimestamp(seconds // 1, datetime.UTC)
    return f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} {at:%H:%M:%S} GMT"


def parse_date(text: str, now: float) -> int | None:
    """The seconds since 1970 of a date in any of the three forms; None for anything else."""
    for form in _DATES:
        if match := form.fullmatch(text):
            break
    else:
        return None
    year, second = int(match["year"]), int(match["second"])
    if len(match["year"]) == 2:  # The latest such year that is not more than 50 years ahead.
        latest = datetime.datetime.fromtimestamp(now, datetime.UTC).year + 50
        year = latest - (latest - year) % 100
    try:
        month = _MONTHS.index(match["month"]) + 1
        minute = datetime.datetime(
            year, month, int(match["day"]), int(match["hour"]), int(match["minute"]), tzinfo=datetime.UTC
        )
    except ValueError:  # the 31st of February, 25 o'clock, the month of Foo
        return None
    return int(minute.timestamp()) + second if second <= 60 else None  # 60: a leap second


# -- Preconditions (§13) -----------------------------------------------------------------------------

_ENTITY_TAG = re.compile(r'[ \t,]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?=,|\Z)')  # §8.8.3; a comma may be in it


def precondition(method: str, fields: Mapping[str, str], etag: str, modified: int | None, now: float) -> int | None:
    """304 or 412 when a precondition says so, else None: go on. The order is that of §13.2.2.

    For a resource that has a representation, and would answer 2xx without the condition (§13.2.1).
    """
    reads = method in ("GET", "HEAD")

    def newer_than(name: str) -> bool | None:
        """Is it newer than that date? None: no such field, no date, or none to compare it with. Then it is ignored."""
        date = parse_date(fields.get(name, ""), now)
        return None if date is None or modified is None else modified > date

    if "if-match" in fields:
        if not _listed(fields["if-match"], etag, strong=True):  # §13.1.1: change it only if nobody else has
            return 412
    elif newer_than("if-unmodified-since"):  # §13.1.4: the same, where there are no tags
        return 412
    if "if-none-match" in fields:
        if _listed(fields["if-none-match"], etag, strong=False):  # §13.1.2: I have these already
            return 304 if reads else 412
    elif reads and newer_than("if-modified-since") is False:  # §13.1.3: the same, where there are no tags
        return 304
    return None


def _listed(field: str, etag: str, strong: bool) -> bool:
    """Is *etag* in the list, or the list `*`? Compared as §8.8.3.2 says: a weak tag is strongly equal to none."""
    if field == "*":
        return True
    tags, at = [], 0
    while match := _ENTITY_TAG.match(field, at):
        tags.append(match[1])
        at = match.end()
    if field[at:].strip(" \t,"):  # The rest is no tag: then we cannot tell what the list means.
        return False
    if strong:
        return etag in tags and not etag.startswith("W/")
    return etag.removeprefix("W/") in [tag.removeprefix("W/") for tag in tags]


# -- Ranges (§14) ------------------------------------------------------------------------------------

_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")


def ranges(
    method: str, fields: Mapping[str, str], length: int, etag: str, modified: int | None, now: float
) -> list[Span] | None:
    """What to send of *length* bytes: these spans (206); [] where there are no bytes (416); None: all of it (200).

    To be asked after precondition() (§14.2). *modified* must be None if it may have changed twice in that second.
    """
    if method != "GET" or "range" not in fields:  # §14.2: the only method for which ranges are defined
        return None
    if "if-range" in fields and not _unchanged(fields["if-range"], etag, modified, now):
        return None
    return byte_ranges(fields["range"], length)


def _unchanged(validator: str, etag: str, modified: int | None, now: float) -> bool:
    """If-Range (§13.1.5): exactly the same, or else a client would join the parts of two versions."""
    if '"' in validator[:3]:
        return validator == etag and not etag.startswith("W/")
    return modified is not None and parse_date(validator, now) == modified


def byte_ranges(field: str, length: int) -> list[Span] | None:
    """The spans that `bytes=…` asks for, in its order; [] when none of them exists; None: ignore the field.

    Ignored, so that all is sent, which is never wrong, are (§14.2): other units, bad syntax, too many ranges, and
    ranges that overlap so much that the whole would be shorter.
    """
    unit, _, wanted = field.partition("=")
    specs = [spec for text in wanted.split(",") if (spec := text.strip(" \t"))]  # §5.6.1.2: empty ones do not count
    if unit.lower() != "bytes" or not 0 < len(specs) <= MAX_RANGES or length == 0:
        return None
    spans = []
    for spec in specs:
        match = _RANGE.fullmatch(spec)
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix:
            start, end = max(length - _number(suffix), 0), length
        else:
            start, end = _number(first), _number(last) + 1 if last else length
            if last and end <= start:  # §14.1.1: 9-2 is invalid; that a 5- lies behind the end is not
                return None
        if start < min(end, length):
            spans.append((start, min(end, length)))
    return spans if sum(end - start for start, end in spans) <= length else None


def _number(digits: str) -> int:
    """int() of a number of any length (§14.1.2): it refuses 4,301 digits, and beyond the end is beyond the end."""
    return int(digits.lstrip("0")[:20] or "0")


def content_range(span: Span, length: int) -> str:
    """§14.4. On the wire the last byte is included."""
    return f"bytes {span[0]}-{span[1] - 1}/{length}"


def multipart(spans: Iterable[Span], length: int, content_type: str, boundary: str) -> list[bytes]:
    """What multipart/byteranges (§14.6) has before each part, and after the last: one item more than spans.

    The parts are not in it, so that they can be streamed and the length of all is known before. The *boundary*
    must not occur in them: 128 random bits do not.
    """
    marks = [
        f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range(span, length)}\r\n\r\n"
        for span in spans
    ]
    return [mark.encode("latin-1") for mark in (*marks, f"\r\n--{boundary}--\r\n")]


# -- Accept-Encoding (§12.5.3) -----------------------------------------------------------------------

_WEIGHTED = re.compile(r"([!#$%&'*+.^_`|~\w-]+)(?:[ \t]*;[ \t]*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?", re.ASCII | re.I)
_UNSAID = 0.0005  # of identity when nothing is said of it: acceptable, but less than the least weight, 0.001


def choose_coding(field: str | None, offered: Sequence[str]) -> str | None:
    """The content coding to answer with: of *offered*, best first, or "identity" for none; None: all are refused.

    None as *field*: there is no such field, so any coding would do, and none is what everybody understands.
    """
    weights: dict[str, float] = {}
    for element in (field or "").split(","):
        if match := _WEIGHTED.fullmatch(element.strip(" \t")):
            name = match[1].lower()
            weights["gzip" if name == "x-gzip" else name] = float(match[2] or 1)  # §8.4.1.3

    def weight(coding: str) -> float:
        return weights.get(coding, weights.get("*", _UNSAID if coding == "identity" else 0))

    best = max((*offered, "identity"), key=weight)
    return best if weight(best) else None
