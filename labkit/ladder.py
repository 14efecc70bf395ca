"""Draws packets as a ladder between the hosts: who sent what to whom, when, and what the wire did.

              client                                  server
       0.0ms   ├─ SYN seq 0 ───────────────────────────▶  +50.0 ms

Sequence numbers are relative to the first of each direction, as in Wireshark. Of a long run the
telling packets are shown: the first, the last, what is out of the ordinary, and data rather than bare
acknowledgements; of several connections each has its beginning shown. Equal ones that follow at once share a line,
RST seq 49 (×12), and so does data that was lost together. What a NAT hides is still the host behind it.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from labkit import console
from labkit.inside import Reader
from labkit.inside_quic import Datagrams, Pieces, Run
from labkit.lab import ACK, FIN, PSH, RST, SYN, Seen
from protocols.tls_opened import Secrets

_FLAGS = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"))
_STAMP = 12  # columns of time, left of the ladder
_NOTE = 13  # columns right of it, enough for "  +1000.0 ms"; a longer note goes below
_LANE = 24  # columns between two hosts that leave room for most labels
_AT_ONCE = 0.005  # seconds; what comes later than that is no burst, and its time matters
_HALF = 1 << 31
_BEGINNING, _END = 6, 4  # rungs that are shown in any case, of the beginning and of the end
_BURST = 0.05  # seconds; what is lost within them, for one reason and on one way, was lost together
_LOSSES = 4  # for one reason and on one way; more of them tell less than what is rare
_NAT_SENDS = re.compile(r"the NAT sends it from (\S+) port (\d+)")  # as labkit/link.py puts it
_NAT_DROPS = "dropped: the NAT knows nobody"


@dataclass(frozen=True)
class Rung:
    """One line of the ladder: the packet, the words on its arrow, and how telling it is.

    Weight 7: a path is tried for the first time.
    6: lost, or a connection has another port, ID or key. 5: a retransmission, a path that is tried, a first
    RST. 4: the first of its kind that carries data, or opens or ends a connection. 3: what the wire or a silence sets
    apart, or was lost with others. 2: one more message, win 0, sack. 1: one more handshake or farewell. 0: the rest.
    """

    packet: Seen
    words: tuple[str, ...]
    weight: int
    connection: Hashable = None  # to which it belongs
    kind: Hashable = None  # the same for all that carry the same in other numbers
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
    """What a reader keeps in mind: each direction's first sequence number, and what has gone."""

    first: dict[_Way, int] = field(default_factory=dict)
    sent: dict[_Way, Pieces] = field(default_factory=dict)
    kinds: set[Hashable] = field(default_factory=set)  # of packets: who to whom, flags and length
    secrets: Secrets = field(default_factory=dict)
    readers: dict[frozenset[tuple[str, int]], Reader] = field(default_factory=dict)
    clients: dict[frozenset[tuple[str, int]], _Way] = field(default_factory=dict)  # the direction that spoke first
    datagrams: Datagrams = field(default_factory=Datagrams)
    behind: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)  # a NAT's port → host and port


def rungs(packets: Iterable[Seen], secrets: Secrets | None = None) -> list[Rung]:
    """Label and weigh each packet in the light of those before it; *secrets* open what is encrypted."""
    known = _Connections(secrets=secrets or {}, datagrams=Datagrams(secrets))
    found = _together([_labelled(_inside(p, known), known) for p in packets])
    numbers: dict[Hashable, int] = {}
    for rung in found:
        if rung.connection is not None:
            numbers.setdefault(rung.connection, len(numbers) + 1)
    if len(numbers) > 1:  # Tell connections apart, in the order in which they began.
        for i, rung in enumerate(found):
            if rung.connection is not None:
                found[i] = replace(rung, words=(f"#{numbers[rung.connection]}", *rung.words))
    return found


def _inside(p: Seen, known: _Connections) -> Seen:
    """A packet for somebody whom the NAT in front of him has forgotten, as one for him."""
    if told := _NAT_SENDS.search(p.fate):
        known.behind[p.protocol, int(told[2])] = p.source, p.source_port
    elif p.fate.startswith(_NAT_DROPS) and (owner := known.behind.get((p.protocol, p.target_port))):
        host, port = owner
        return replace(p, target=host, target_port=port if p.protocol == "tcp" else p.target_port)
    return p


def _together(found: list[Rung]) -> list[Rung]:
    """Of what was lost together the first is telling, and of losses without end some; and a NAT's other address."""
    places: dict[Hashable, str] = {}
    before: dict[Hashable, Seen] = {}
    losses: Counter[Hashable] = Counter()
    for i, rung in enumerate(found):
        p, way = rung.packet, (rung.connection, rung.packet.source)
        last, before[way] = before.get(way), p
        if p.dropped and last and last.fate == p.fate and p.time - last.time < _BURST:
            found[i] = replace(rung, weight=3)
        elif p.dropped:
            losses[way, p.fate] += 1
            found[i] = replace(rung, weight=6 if losses[way, p.fate] <= _LOSSES else 5)
        if told := _NAT_SENDS.search(p.fate):
            if places.get(way, told[0]) != told[0]:
                found[i] = replace(rung, weight=6)
            places[way] = told[0]
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
    if (p.flags & SYN and not repeated) or here not in known.first:
        known.first[here] = p.seq
        known.sent[here] = Pieces()
    seq = _since(known.first[here], p.seq)
    size = len(p.payload)
    words = [",".join(name for bit, name in _FLAGS if p.flags & bit)]
    kind = (p.source, p.target, *words, str(size))
    new = kind not in known.kinds  # The ninth handshake tells less than the first.
    known.kinds.add(kind)
    weight = 0
    if p.flags & (SYN | FIN | RST):
        weight = (5 if p.flags & RST else 4) if new else 1
    if size:
        weight = max(weight, 4 if new else 2 if p.flags & (PSH | FIN) else 0)
    if repeated or (size and known.sent[here].add(seq, seq + size)):
        words.append("again")
        weight = 5
    words.append(f"seq {seq}")
    if p.flags & ACK and there in known.first:
        words.append(f"ack {_since(known.first[there], p.ack)}")
    if size:
        words.append(f"len {size}")
        client = known.clients.setdefault(_ends(p), here)
        words += known.readers.setdefault(_ends(p), Reader(known.secrets)).words(here == client, seq, p.payload)
    if p.window == 0 and not p.flags & RST:
        words.append("win 0")
        weight = max(weight, 2)
    if p.sack and there in known.first:
        left, right = (_since(known.first[there], edge) for edge in p.sack[0])
        words.append(f"sack {left}-{right}")
        weight = max(weight, 2)
    return Rung(p, tuple(words), _weighed(p, weight), _ends(p), kind)


def _since(first: int, number: int) -> int:
    """How far it is from the first: below zero where packets before the first that was seen come late."""
    return (number - first + _HALF) % (1 << 32) - _HALF


def _quic(p: Seen, known: _Connections) -> Rung | None:
    told = known.datagrams.read((p.source, p.source_port), (p.target, p.target_port), p.payload)
    if told is None:
        return None
    kind = (p.source, p.target, told.kind)
    weight = told.weight if kind in known.kinds else 7 if told.weight == 5 else max(4, told.weight)
    known.kinds.add(kind)
    return Rung(p, told.words, _weighed(p, weight), ("QUIC", told.connection), (told.connection, *kind), told.run)


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
        elif at_once and (both := _as_run(joined[-1], rung) or _as_loss(joined[-1], rung)):
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


def _as_loss(before: Rung, rung: Rung) -> Rung | None:
    """Both in one, where they are data of one direction that was lost for one reason."""
    same = [(one.connection, one.packet.source, one.packet.target, one.packet.fate) for one in (before, rung)]
    if same[0] != same[1] or not rung.packet.dropped:
        return None
    weight, times = max(before.weight, rung.weight), before.times + 1
    if before.run and rung.run and before.run.of == rung.run.of:
        run = rung.run._replace(first=before.run.first, size=before.run.size + rung.run.size)
        number = tuple(word for word in before.words[:1] if word.startswith("#"))
        return replace(before, words=(*number, *run.words), run=run, weight=weight, times=times)
    sizes = [re.fullmatch(r"len (\d+)", one.words[-1]) for one in (before, rung)]
    if rung.packet.protocol != "tcp" or not sizes[0] or not sizes[1] or {"again"} & {*before.words, *rung.words}:
        return None
    words = (*before.words[:-1], f"len {int(sizes[0][1]) + int(sizes[1][1])}")
    return replace(before, words=words, weight=weight, times=times)


def _line(rung: Rung) -> tuple[str, ...]:
    return (rung.packet.source, rung.packet.target, rung.packet.fate, *rung.words)


def select(found: Sequence[Rung], most: int) -> list[int]:
    """The indices of at most *most* rungs: the first of each connection and the last of all, then by weight.

    Of equal weight that is first of which connection the least is shown, then what is rare, then what is early.
    """
    if len(found) <= most:
        return list(range(len(found)))
    keep = {i for of_one in _beginnings(found, most) for i in of_one}
    telling = [i for i, rung in enumerate(found) if not _is_idle(rung)]
    keep |= set((telling if len(telling) >= _END else range(len(found)))[-_END:])
    often = Counter(rung.kind for rung in found)
    order = [(-rung.weight, _is_idle(rung)) for rung in found]
    shown = Counter(found[i].connection for i in keep)
    left = {i for i, rung in enumerate(found) if rung.weight} - keep
    while left and len(keep) < most:
        best = min(left, key=lambda i: (*order[i], shown[found[i].connection], often[found[i].kind], i))
        left.remove(best)
        keep.add(best)
        shown[found[best].connection] += 1
    return sorted(keep)


def _beginnings(found: Sequence[Rung], most: int) -> list[list[int]]:
    """The first rungs of each connection, as many of each as there is room for; of all together, if that is none."""
    each: dict[Hashable, list[int]] = {}
    for i, rung in enumerate(found):
        if rung.connection is not None:
            each.setdefault(rung.connection, []).append(i)
    share = min(_BEGINNING, (most - _END) // len(each) - 2) if len(each) > 1 else 0
    return [indices[:share] for indices in each.values()] if share > 1 else [list(range(_BEGINNING))]


def _is_idle(rung: Rung) -> bool:
    """An ACK alone, or somebody asks whether anybody is there, or hears that nobody is: what there is room for."""
    told = [word for word in rung.words if not word.startswith(("#", "1-RTT", "pn ", "ACK ", "padded ", "to port "))]
    return rung.packet.protocol == "icmp" or told in ([], ["PING"])


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
