"""Draws packets as a ladder between the hosts: who sent what to whom, when, and what the wire did.

              client                                  server
       0.0ms   ├─ SYN seq 0 ───────────────────────────▶  +50.0 ms

Sequence numbers are relative to the first of each direction, as in Wireshark. Of a long run the
telling packets are shown: the first, the last, what is out of the ordinary, and data rather than bare
acknowledgements. Equal ones that follow at once share a line: RST seq 49 (×12).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from labkit import console
from labkit.inside import Reader
from labkit.inside_quic import Datagrams, Run
from labkit.lab import ACK, FIN, PSH, RST, SYN, Seen
from protocols.tls_opened import Secrets

_FLAGS = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"))
_STAMP = 12  # columns of time, left of the ladder
_NOTE = 13  # columns right of it, enough for "  +1000.0 ms"; a longer note goes below
_LANE = 24  # columns between two hosts that leave room for most labels
_AT_ONCE = 0.005  # seconds; what comes later than that is no burst, and its time matters
_HALF = 1 << 31


@dataclass(frozen=True)
class Rung:
    """One line of the ladder: the packet, the words on its arrow, and how telling it is.

    Weight 6: lost, or a connection has another port, ID or key. 5: a retransmission, or a path that is tried.
    4: the first of its kind that carries data, or opens or ends a connection. 3: what the wire or a silence sets
    apart. 2: one more message, win 0, sack. 1: one more handshake or farewell. 0: the rest.
    """

    packet: Seen
    words: tuple[str, ...]
    weight: int
    connection: Hashable = None  # to which it belongs
    run: Run | None = None  # of QUIC, that it may be part of
    times: int = 1  # how many equal packets it stands for
    pause: float = 0.0  # ms of silence before it, where that is long

    @property
    def label(self) -> str:
        return " ".join(self.words) + self._count

    @property
    def _count(self) -> str:
        return f" (×{self.times})" if self.times > 1 else ""

    def fitted(self, space: int) -> str:
        """The label in so many columns: what matters least is left out first, and no number is ever cut."""
        words = list(self.words)
        space -= len(self._count)
        for least in ("ack ", "PSH,", "seq ", "pn ", "ACK "):
            if len(" ".join(words)) <= space:
                break
            if least in ("pn ", "ACK "):
                words = [word for word in words if not word.startswith(least)]
            elif least == "PSH,":
                words = [word.removeprefix(least) for word in words]
            elif any(word.startswith("len ") for word in words):
                words = [word for word in words if not word.startswith(least)]
        while len(words) > 1 and len(" ".join(words)) > space:
            words = [*words[:-2], "…"] if words[-1] == "…" else [*words[:-1], "…"]
        return " ".join(words) + self._count


_Way = tuple[str, int, str, int]  # from host and port, to host and port


@dataclass
class _Connections:
    """What a reader keeps in mind: each direction's first sequence number, and how far it has got."""

    first: dict[_Way, int] = field(default_factory=dict)
    highest: dict[_Way, int] = field(default_factory=dict)
    kinds: set[Hashable] = field(default_factory=set)  # of packets: who to whom, flags and length
    secrets: Secrets = field(default_factory=dict)
    readers: dict[frozenset[tuple[str, int]], Reader] = field(default_factory=dict)
    clients: dict[frozenset[tuple[str, int]], _Way] = field(default_factory=dict)  # the direction that spoke first
    datagrams: Datagrams = field(default_factory=Datagrams)


def rungs(packets: Iterable[Seen], secrets: Secrets | None = None) -> list[Rung]:
    """Label and weigh each packet in the light of those before it; *secrets* open what is encrypted."""
    known = _Connections(secrets=secrets or {}, datagrams=Datagrams(secrets))
    found = [_labelled(p, known) for p in packets]
    numbers: dict[Hashable, int] = {}
    for rung in found:
        if rung.connection is not None:
            numbers.setdefault(rung.connection, len(numbers) + 1)
    if len(numbers) > 1:  # Tell connections apart, in the order in which they began.
        for i, rung in enumerate(found):
            if rung.connection is not None:
                found[i] = replace(rung, words=(f"#{numbers[rung.connection]}", *rung.words))
    return found


def _labelled(p: Seen, known: _Connections) -> Rung:
    if p.protocol == "tcp" and not p.fragment_offset:
        return _tcp(p, known)
    if p.protocol == "udp" and not p.fragment_offset and not p.more_fragments:
        return _quic(p, known) or _other(p)
    return _other(p)


def _ends(p: Seen) -> frozenset[tuple[str, int]]:
    return frozenset({(p.source, p.source_port), (p.target, p.target_port)})


def _tcp(p: Seen, known: _Connections) -> Rung:
    here = (p.source, p.source_port, p.target, p.target_port)
    there = (p.target, p.target_port, p.source, p.source_port)
    repeated = bool(p.flags & SYN) and known.first.get(here) == p.seq
    if p.flags & SYN or here not in known.first:
        known.first[here] = p.seq
        known.highest.setdefault(here, 0)
    seq = (p.seq - known.first[here]) % (1 << 32)
    size = len(p.payload)
    words = [",".join(name for bit, name in _FLAGS if p.flags & bit)]
    kind = (p.source, p.target, *words, str(size))
    new = kind not in known.kinds  # The ninth handshake tells less than the first.
    known.kinds.add(kind)
    weight = 0
    if p.flags & (SYN | FIN | RST):
        weight = 4 if new else 1
    if size:
        weight = max(weight, 4 if new else 2 if p.flags & (PSH | FIN) else 0)
    if repeated or (size and seq < known.highest[here] < seq + _HALF):
        words.append("again")
        weight = 5
    known.highest[here] = max(known.highest[here], seq + size if seq + size < _HALF else 0)
    words.append(f"seq {seq}")
    if p.flags & ACK and there in known.first:
        words.append(f"ack {(p.ack - known.first[there]) % (1 << 32)}")
    if size:
        words.append(f"len {size}")
        client = known.clients.setdefault(_ends(p), here)
        words += known.readers.setdefault(_ends(p), Reader(known.secrets)).words(here == client, seq, p.payload)
    if p.window == 0 and not p.flags & RST:
        words.append("win 0")
        weight = max(weight, 2)
    if p.sack and there in known.first:
        left, right = ((edge - known.first[there]) % (1 << 32) for edge in p.sack[0])
        words.append(f"sack {left}-{right}")
        weight = max(weight, 2)
    return Rung(p, tuple(words), _weighed(p, weight), _ends(p))


def _quic(p: Seen, known: _Connections) -> Rung | None:
    told = known.datagrams.read((p.source, p.source_port), (p.target, p.target_port), p.payload)
    if told is None:
        return None
    kind = (p.source, p.target, told.kind)
    weight = told.weight if kind in known.kinds else max(4, told.weight)
    known.kinds.add(kind)
    return Rung(p, told.words, _weighed(p, weight), ("QUIC", told.connection), told.run)


def _other(p: Seen) -> Rung:
    name = p.protocol.upper()
    if p.fragment_offset:
        return Rung(p, (name, f"fragment at {p.fragment_offset},", f"{len(p.payload)} B"), _weighed(p, 2))
    if p.protocol == "icmp" and p.icmp:
        kind = {(3, 3): "port unreachable", (3, 4): "fragmentation needed", (11, 1): "reassembly time exceeded"}
        return Rung(p, (name, kind.get(p.icmp, f"type {p.icmp[0]} code {p.icmp[1]}")), 4)
    words = (name, f"{p.source_port} > {p.target_port}", f"len {len(p.payload)}")
    return Rung(p, (*words, "first fragment") if p.more_fragments else words, _weighed(p, 0))


def _weighed(p: Seen, weight: int) -> int:
    """Weight for what the wire did, beyond delaying it."""
    if p.dropped:
        return 6
    return max(weight, 3) if any(w in p.fate for w in ("duplicated", "reordered")) else weight


def silences(packets: Sequence[Seen], most: int = 3) -> dict[int, float]:
    """The longest pauses: index of the packet that ends one → its length in ms.

    A pause counts when it is long for this run: at least 5 ms and eight times the median.
    """
    gaps = {i: 1000 * (packets[i].time - packets[i - 1].time) for i in range(1, len(packets))}
    if not gaps:
        return {}
    limit = max(5.0, 8 * statistics.median(gaps.values()))
    longest = sorted((i for i in gaps if gaps[i] >= limit), key=lambda i: (-round(gaps[i], -1), i))
    return {i: gaps[i] for i in longest[:most]}


def collapse(found: Iterable[Rung]) -> list[Rung]:
    """Equal packets that follow each other at once become one rung that counts them."""
    joined: list[Rung] = []
    last = 0.0  # when the packet before was seen
    for rung in found:
        p = rung.packet
        at_once = joined and p.time - last < _AT_ONCE and not rung.pause
        if at_once and _line(joined[-1]) == _line(rung):
            joined[-1] = replace(joined[-1], times=joined[-1].times + 1)
        elif at_once and (both := _as_run(joined[-1], rung)):
            joined[-1] = both
        else:
            joined.append(rung)
        last = p.time
    return joined


def _as_run(before: Rung, rung: Rung) -> Rung | None:
    """Both in one, where they go on with one stream and had the same fate, but for its milliseconds."""
    same = [(one.connection, one.packet.source, re.sub(r"[\d.]+", "", one.packet.fate)) for one in (before, rung)]
    if same[0] != same[1] or before.run is None or rung.run is None or not (run := before.run.and_then(rung.run)):
        return None
    number = tuple(word for word in before.words[:1] if word.startswith("#"))
    weight, times = max(before.weight, rung.weight), before.times + 1
    return replace(before, words=(*number, *run.words), run=run, weight=weight, times=times)


def _line(rung: Rung) -> tuple[str, ...]:
    return (rung.packet.source, rung.packet.target, rung.packet.fate, *rung.words)


def select(found: Sequence[Rung], most: int) -> list[int]:
    """The indices of at most *most* rungs: the first and last, then by weight, earlier first."""
    if len(found) <= most:
        return list(range(len(found)))
    keep = set(range(6)) | set(range(len(found) - 4, len(found)))
    by_weight = sorted(range(len(found)), key=lambda i: (-found[i].weight, i))
    for i in by_weight:
        if len(keep) >= most:
            break
        if found[i].weight:
            keep.add(i)
    return sorted(keep)


def draw(
    packets: Sequence[Seen], hosts: Sequence[str], columns: int, most: int = 24, secrets: Secrets | None = None
) -> list[str]:
    """The lines of the ladder, each at most *columns* wide."""
    if not packets:
        return []
    found = rungs(packets, secrets)
    pauses = silences(packets)
    for i in pauses:  # Who fell silent, and who spoke first again.
        found[i - 1] = replace(found[i - 1], weight=max(3, found[i - 1].weight))
        found[i] = replace(found[i], weight=max(3, found[i].weight), pause=pauses[i])
    found = collapse(found)
    shown = select(found, most)
    lane = lane_width(len(hosts), columns)
    at = {host: i * lane for i, host in enumerate(hosts)}
    lines = [_heads(hosts, lane, columns)]
    start = packets[0].time
    before = -1
    for i in shown:
        if i == before + 2:  # A line that says "one is missing" is no shorter than the one.
            lines += _lines(found[i - 1], at, columns, 1000 * (found[i - 1].packet.time - start))
        elif i > before + 1:
            skipped = found[before + 1 : i]
            count = sum(r.times for r in skipped)
            size = sum(r.times * r.packet.length for r in skipped)
            lines.append(console.style(f"{'…':>10}  {count} packets, {_bytes(size)}, not shown", "dim"))
        if found[i].pause and i <= before + 2:
            lines.append(console.style(f"{'┆':>11} {found[i].pause:.0f} ms of silence", "yellow"))
        before = i
        lines += _lines(found[i], at, columns, 1000 * (found[i].packet.time - start))
    return lines


def lane_width(hosts: int, columns: int) -> int:
    """Columns from one host to the next. Where that gets narrow, notes go below the arrows, not beside them."""
    gaps = max(1, hosts - 1)
    beside = (columns - _STAMP - _NOTE) // gaps
    return min(60, beside) if beside >= _LANE else min(_LANE, (columns - _STAMP) // gaps)


def _heads(hosts: Sequence[str], lane: int, columns: int) -> str:
    """The hosts' names above their places, the last one further left where it would not fit."""
    line = " " * _STAMP
    for i, host in enumerate(hosts):
        line = line[: columns - len(host)].ljust(min(_STAMP + i * lane, columns - len(host))) + host
    return line


def _lines(rung: Rung, at: dict[str, int], columns: int, milliseconds: float) -> list[str]:
    """The packet's line, and a second one for what the wire did where that finds no room on the first."""
    p = rung.packet
    fate = p.fate
    if fate.startswith("delayed "):
        fate = "+" + fate.removeprefix("delayed ")
    left, right = at.get(p.source), at.get(p.target)
    stamp = f"{milliseconds:8.1f}ms  "
    if left is None or right is None or left == right:
        way = f"{stamp}{p.source} > {p.target}: "
        text = way + rung.fitted(columns - len(way))
        beside = len(text) + 3 + len(fate) <= columns
        return [f"{text}   {fate}".rstrip()] if beside else [text, fate.rjust(columns)]
    length = abs(right - left) - 1
    label = f" {rung.fitted(length - (9 if p.dropped else 6))} "
    if left < right:
        body = f"├─{label}─── ✗" if p.dropped else "├─" + label.ljust(length - 3, "─") + "▶"
    else:
        body = f"✗ ───{label}─┤".rjust(length) if p.dropped else "◀" + label.rjust(length - 3, "─") + "─┤"
    colour = _colour(rung)
    text = stamp + " " * min(left, right) + " " + body.ljust(length)
    note = console.style(fate, *(colour or ("dim",)))
    if not fate:
        return [console.style(text.rstrip(), *colour)]
    if len(text) + 2 + len(fate) <= columns:
        return [console.style(text, *colour) + "  " + note]
    return [console.style(text.rstrip(), *colour), " " * max(_STAMP, columns - len(fate)) + note]


def _colour(rung: Rung) -> tuple[str, ...]:
    if rung.packet.dropped or rung.packet.flags & RST or "stateless reset" in rung.words:
        return ("red",)
    if "again" in rung.label or "win 0" in rung.label or "sack" in rung.label:
        return ("yellow",)
    opens_or_ends = rung.packet.flags & (SYN | FIN) or "Initial" in rung.words or "CONNECTION_CLOSE" in rung.label
    return ("cyan",) if opens_or_ends else ()


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
