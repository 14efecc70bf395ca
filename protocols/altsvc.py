"""Alternative services: "all that you find here you also find there" (RFC 7838). The field's grammar, and what is kept.

    Alt-Svc: h3=":443"; ma=86400, h2="other.example:8443"; persist=1

    h3        the protocol, as ALPN names it; what no token may have is percent-encoded
    ":443"    where: a host (none: the same one) and a port
    ma=86400  for how many seconds this is so; persist=1: also when the client moves to another network

An alternative is a route and not another origin: the URL, Host, SNI and the name that the certificate must have stay
what they were (§2). So nobody who can only add a field, or listen on some port, can take over an origin (§9.1, §9.2).

Nothing here raises, whatever a server sends. Sections without the name of an RFC are of RFC 7838.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple, TypeVar

from protocols.http1_syntax import QUOTED, TOKEN, is_host

DAY = 86400  # seconds that an alternative is good for, if nothing else is said (§3.1)
ENDLESS = 1 << 31  # seconds: more than that is that (RFC 9111 §1.2.2)
MAX_ALTERNATIVES = 10  # that are kept of a list, which could be as long as a server likes
MAX_ORIGINS = 1000  # that are remembered: pages can lead us to any number of them
BROKEN = 300.0  # seconds that an alternative is left alone after it has failed; then twice as long, and so on, up to
LONGEST = 2.0 * DAY

OWS = r"[ \t]*+"
PARAMETER = rf"{OWS};{OWS}(?:({TOKEN})=({TOKEN}|{QUOTED}))?"  # One may be empty (RFC 9110 §5.6.6).
ALTERNATIVE = re.compile(rf"({TOKEN})=({QUOTED})((?:{PARAMETER})*+)")
MEMBER = re.compile(rf"((?:{QUOTED}|[^,\"])++)(?=,|\Z)")  # of a list; what is quoted may have a comma
AUTHORITY = re.compile(r"(.*):([0-9]{1,5})")
ENCODED = re.compile(r"%([0-9A-F]{2})")  # upper case only (§3)
PLAIN = re.compile(rf"(?!%){TOKEN}")

Origin = tuple[str, str, int]
"""Scheme, host, port."""
Route = tuple[bytes, str, int]
"""Protocol, host, port."""
K = TypeVar("K")
V = TypeVar("V")


class Alternative(NamedTuple):
    """Where else an origin's resources are to be had."""

    protocol: bytes  # as ALPN names it
    host: str  # "": the origin's own
    port: int
    max_age: int = DAY  # seconds since the answer was made
    persist: bool = False

    @property
    def route(self) -> Route:
        """What makes it this one and no other (§2)."""
        return self[:3]

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"


def parse(value: str) -> list[Alternative] | None:
    """Read the field, the server's favourite first. []: "clear", forget them all. None: nothing of it makes sense.

    What is broken is left out, and the rest counts. An unclosed quotation mark hides all that is behind it.
    """
    found: list[Alternative] = []
    at = 0
    while at < len(value):
        member = MEMBER.match(value, at)
        if member is None:
            if value[at] != ",":
                break  # a quotation mark that nothing closes
            at += 1
            continue
        at = member.end()
        text = member[1].strip(" \t")
        if text == "clear":  # in small letters only. It has the say also where others are beside it (§3).
            return []
        one = _alternative(text)
        if one:
            found.append(one)
    return found[:MAX_ALTERNATIVES] or None


def _alternative(text: str) -> Alternative | None:
    match = ALTERNATIVE.fullmatch(text)
    if match is None:
        return None
    protocol, place = decode_protocol(match[1]), AUTHORITY.fullmatch(_text(match[2]))
    if protocol is None or place is None:
        return None
    host, port = place[1].lower(), int(place[2])
    if (host and not is_host(f"{host}:{port}")) or not 0 < port < 65536:
        return None
    given = {name.lower(): _text(word) for name, word in re.findall(PARAMETER, match[3]) if name}
    age = given.get("ma", str(DAY))
    if not (age.isascii() and age.isdigit()):
        return None
    # §3.1: another value of persist is as if it were not there, as are parameters that nobody knows (§3).
    return Alternative(protocol, host, port, min(int(age[:20]), ENDLESS), given.get("persist") == "1")


def _text(word: str) -> str:
    """What a token or a quoted string means (RFC 9110 §5.6.4)."""
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word[:1] == '"' else word


def decode_protocol(text: str) -> bytes | None:
    """`w%3Dx` is w=x. None: this is not the one way in which a name is to be written (§3), so it is no name."""
    name = ENCODED.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")
    return name if encode_protocol(name) == text else None


def encode_protocol(name: bytes) -> str:
    """A name of ALPN as a token: percent-encoded is what has to be, and nothing else (§3)."""
    return "".join(char if PLAIN.fullmatch(char) else f"%{ord(char):02X}" for char in name.decode("latin-1"))


def field(*alternatives: Alternative) -> str:
    """The value of Alt-Svc for these: "clear" for none."""
    return (
        ", ".join(
            f'{encode_protocol(one.protocol)}="{one.authority}"; ma={one.max_age}{"; persist=1" if one.persist else ""}'
            for one in alternatives
        )
        or "clear"
    )


class Cache:
    """What origins have told of their alternatives, and which of those have let us down. *now*: seconds of any clock.

    broken   seconds that an alternative is not tried again, after the first failure; doubled by each that follows
    """

    def __init__(self, broken: float = BROKEN) -> None:
        self._first = broken
        self._known: dict[Origin, list[tuple[Alternative, float]]] = {}  # and until when
        self._failures: dict[tuple[Origin, Route], tuple[int, float]] = {}  # how many in a row, and until when

    def learn(self, origin: Origin, value: str, now: float, *, age: float = 0) -> None:
        """The origin, or an alternative of it, has answered with this field: it replaces what was known (§3.1).

        *age* is that of the answer (RFC 9111 §4.2.3): one that a cache has kept for an hour tells what was so then.
        """
        found = parse(value)
        if found is None:
            return
        self._keep(origin, [(one, now - age + one.max_age) for one in found if one.max_age > age])

    def find(self, origin: Origin, protocols: Container[bytes], now: float) -> Alternative | None:
        """The best that is fresh, of these protocols, and not known to be broken. To open connections with (§2.2)."""
        for one, until in self._known.get(origin, ()):
            if one.protocol in protocols and now < until and now >= self._broken_until(origin, one):
                return one
        return None

    def failed(self, origin: Origin, one: Alternative, now: float) -> float:
        """No connection came about, or it has gone silent. Return for how many seconds it is now left alone (§2.4)."""
        count, _ = self._failures.pop((origin, one.route), (0, 0.0))
        seconds = min(self._first * 2.0 ** min(count, 64), LONGEST)
        _put(self._failures, (origin, one.route), (count + 1, now + seconds))
        return seconds

    def works(self, origin: Origin, one: Alternative) -> None:
        """It has answered: what was is forgotten."""
        self._failures.pop((origin, one.route), None)

    def forget(self, origin: Origin, one: Alternative) -> None:
        """It says that it does not speak for this origin: 421 (§6)."""
        self._keep(origin, [entry for entry in self._known.get(origin, ()) if entry[0].route != one.route])

    def network_changed(self) -> None:
        """What was near may be far now, and what was blocked may be open (§2.2)."""
        self._failures.clear()
        for origin, known in list(self._known.items()):
            self._keep(origin, [entry for entry in known if entry[0].persist])

    def _keep(self, origin: Origin, known: list[tuple[Alternative, float]]) -> None:
        self._known.pop(origin, None)
        if known:
            _put(self._known, origin, known)

    def _broken_until(self, origin: Origin, one: Alternative) -> float:
        return self._failures.get((origin, one.route), (0, 0.0))[1]


def _put(table: dict[K, V], key: K, value: V) -> None:
    """The oldest gives way."""
    table[key] = value
    if len(table) > MAX_ORIGINS:
        del table[next(iter(table))]
