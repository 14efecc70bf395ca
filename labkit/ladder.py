"""Draws packets as a ladder between the hosts: who sent what to whom, when, and what the wire did.

     0.0 ms  client ├─ SYN  seq 0 ───────────────────────────▶ server   delayed 50.0 ms

Sequence numbers are relative to the first of each direction, as in Wireshark. Of a long run the
telling packets are shown: the first, the last, and what is out of the ordinary.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from labkit import console
from labkit.lab import FIN, RST, SYN, Seen
from labkit.packets import PSH

_FLAGS = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (0x10, "ACK"))
_HALF = 1 << 31


@dataclass(frozen=True)
class Rung:
    """One line of the ladder: the packet, its label, and how telling it is (0: not at all)."""

    packet: Seen
    label: str
    weight: int


def rungs(packets: Iterable[Seen]) -> list[Rung]:
    """Label each packet in the light of those before it."""
    first: dict[tuple[str, int, str, int], int] = {}  # initial sequence number of a direction
    highest: dict[tuple[str, int, str, int], int] = {}  # the end of what it has sent, relative
    found = []
    for p in packets:
        if p.protocol == "tcp" and not p.fragment_offset:
            found.append(_tcp(p, first, highest))
        else:
            found.append(_other(p))
    return found


def _tcp(p: Seen, first: dict[tuple[str, int, str, int], int], highest: dict[tuple[str, int, str, int], int]) -> Rung:
    here = (p.source, p.source_port, p.target, p.target_port)
    there = (p.target, p.target_port, p.source, p.source_port)
    if p.flags & SYN or here not in first:
        first[here] = p.seq
        highest.setdefault(here, 0)
    seq = (p.seq - first[here]) % (1 << 32)
    words = [",".join(name for bit, name in _FLAGS if p.flags & bit)]
    weight = 3 if p.flags & (SYN | FIN | RST) else 0
    size = len(p.payload)
    words.append(f"seq {seq}")
    if p.flags & 0x10 and there in first:
        words.append(f"ack {(p.ack - first[there]) % (1 << 32)}")
    if size:
        words.append(f"len {size}")
    end = seq + size
    if size and seq < highest[here] and (highest[here] - seq) < _HALF:
        words.append("again")
        weight = 3
    highest[here] = max(highest[here], end if end < _HALF else 0)
    if p.window == 0 and not p.flags & RST:
        words.append("win 0")
        weight = max(weight, 1)
    if p.sack and there in first:
        blocks = [f"{(a - first[there]) % (1 << 32)}-{(b - first[there]) % (1 << 32)}" for a, b in p.sack[:1]]
        words.append("sack " + " ".join(blocks))
        weight = max(weight, 1)
    return Rung(p, " ".join(words), _weighed(p, weight))


def _other(p: Seen) -> Rung:
    if p.fragment_offset:
        return Rung(p, f"{p.protocol.upper()} fragment at {p.fragment_offset}, {len(p.payload)} B", _weighed(p, 1))
    if p.protocol == "icmp" and p.icmp:
        kind = {(3, 3): "port unreachable", (3, 4): "fragmentation needed", (11, 1): "reassembly time exceeded"}
        return Rung(p, f"ICMP {kind.get(p.icmp, f'type {p.icmp[0]} code {p.icmp[1]}')}", 3)
    more = ", first fragment" if p.more_fragments else ""
    return Rung(p, f"{p.protocol.upper()} to {p.target_port} len {len(p.payload)}{more}", _weighed(p, 0))


def _weighed(p: Seen, weight: int) -> int:
    """Weight for what the wire did, beyond delaying it."""
    if p.dropped:
        return 4
    return max(weight, 2) if any(w in p.fate for w in ("duplicated", "reordered")) else weight


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


def draw(packets: Sequence[Seen], hosts: Sequence[str], columns: int, most: int = 24) -> list[str]:
    """The lines of the ladder, each at most about *columns* wide."""
    if not packets:
        return []
    found = rungs(packets)
    pauses = silences(packets)
    for i in pauses:  # Who fell silent, and who spoke first again.
        found[i - 1] = replace(found[i - 1], weight=max(2, found[i - 1].weight))
        found[i] = replace(found[i], weight=max(2, found[i].weight))
    shown = select(found, most)
    note_width = 30
    lane = max(24, (columns - 14 - note_width) // max(1, len(hosts) - 1))
    at = {host: i * lane for i, host in enumerate(hosts)}
    lines = [" " * 12 + "".join(host.ljust(lane) for host in hosts).rstrip()]
    start = packets[0].time
    before = -1
    for i in shown:
        if i > before + 1:
            skipped = found[before + 1 : i]
            size = sum(r.packet.length for r in skipped)
            lines.append(console.style(f"{'…':>10}  {len(skipped)} packets, {_bytes(size)}, not shown", "dim"))
        elif i in pauses:
            lines.append(console.style(f"{'┆':>11} {pauses[i]:.0f} ms of silence", "yellow"))
        before = i
        lines.append(_line(found[i], at, lane, 1000 * (found[i].packet.time - start)))
    return lines


def _line(rung: Rung, at: dict[str, int], lane: int, milliseconds: float) -> str:
    p = rung.packet
    left, right = at.get(p.source), at.get(p.target)
    stamp = f"{milliseconds:8.1f}ms  "
    if left is None or right is None or left == right:
        return f"{stamp}{p.source} > {p.target}: {rung.label}   {p.fate}"
    forward = left < right
    length = abs(right - left) - 1
    label = f" {rung.label} "[: length - 6]
    if forward:
        body = "├─" + label.ljust(length - 3, "─") + "▶"
        if p.dropped:
            body = "├─" + label + "─── ✗"
    else:
        body = "◀" + label.rjust(length - 3, "─") + "─┤"
        if p.dropped:
            body = ("✗ ───" + label + "─┤").rjust(length)
    body = body.ljust(length)
    text = stamp + " " * min(left, right) + " " + body
    colour = _colour(rung)
    fate = "   " + console.style(p.fate, *(colour or ("dim",))) if p.fate else ""
    return console.style(text, *colour) + fate


def _colour(rung: Rung) -> tuple[str, ...]:
    if rung.packet.dropped or rung.packet.flags & RST:
        return ("red",)
    if "again" in rung.label or "win 0" in rung.label or "sack" in rung.label:
        return ("yellow",)
    return ("cyan",) if rung.packet.flags & (SYN | FIN) else ()


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
