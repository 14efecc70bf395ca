"""What makes a message in HTTP/2: the fields of a request, as pure functions on what HPACK gave (RFC 9113 §8).

HTTP/1.1's first line has become fields whose names begin with a colon, so that there is nothing but fields:

    :method   GET            Each exactly once, before all others. `:authority` is what was Host.
    :scheme   https
    :authority  server.lab
    :path     /text
    accept    */*            lower-case

A message that breaks these rules is malformed (§8.1.1): RemoteProtocolError, whose code is what to end the stream with.
Where the message is well-formed and only its content is refused, the code is a status to answer with (400, 431, …).
What is let through here may reach a server that speaks HTTP/1.1, where a line break in a value, or a Transfer-Encoding,
is a second request for those who know how (§10.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1_syntax import LONGEST_METHOD, ORIGIN_FORM, TOKEN, is_host, tokens
from protocols.http2_frames import ErrorCode

Raw = tuple[tuple[bytes, bytes], ...]  # a field section as HPACK gives it
Pairs = Sequence[tuple[str, str]]

NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++")  # a token without capitals (§8.2.1)
VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*+(?<![\t ]))?)?")  # no control, no space at an end (§8.2.1)
PSEUDO = (b":method", b":scheme", b":authority", b":path")
METHOD = re.compile(TOKEN)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+\-.]*+")
OF_THE_CONNECTION = frozenset(("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"))
LENGTH = re.compile(r"[0-9]++")


class Priority(NamedTuple):
    """RFC 9218 §4: how urgent (0 is most), and whether a part of it is of use before the rest is there."""

    urgency: int = 3
    incremental: bool = False


class Head(NamedTuple):
    """What the fields of a request say."""

    method: str
    target: str  # path and query, "*", or for CONNECT host:port
    fields: Mapping[str, str]  # lower-case names; `host` is the authority. Shared: do not change it.
    pairs: Pairs  # the fields as they were sent, without those that begin with a colon
    length: int | None  # of the body, if that was told
    expects_continue: bool
    priority: Priority


def malformed(reason: str) -> RemoteProtocolError:
    """RFC 9113 §8.1.1."""
    return RemoteProtocolError(f"malformed: {reason}", ErrorCode.PROTOCOL_ERROR)


@lru_cache(maxsize=64)  # A client sends the same few heads again and again.
def request_head(raw: Raw) -> Head:
    """Read the fields of a request."""
    pseudo: dict[bytes, str] = {}
    for name, value in raw:
        if name[:1] != b":":
            break
        if name not in PSEUDO:
            raise malformed(f"{name[:40]!r} is no field of a request (§8.3)")
        if name in pseudo:
            raise malformed(f"{name!r} twice (§8.3)")
        if not VALUE.fullmatch(value):
            raise malformed(f"a character that no field may have, in {name!r} (§8.2.1)")
        pseudo[name] = value.decode("latin-1")
    fields, pairs = regular_fields(raw[len(pseudo) :])
    method, scheme, authority, path = map(pseudo.get, PSEUDO)
    if method is None or not METHOD.fullmatch(method):
        raise malformed("no method (§8.3.1)")
    if method == "CONNECT":
        if scheme is not None or path is not None or authority is None:
            raise malformed("CONNECT has an authority, and neither scheme nor path (§8.5)")
        path = authority
    elif scheme is None or not SCHEME.fullmatch(scheme) or not path:
        raise malformed("no scheme, or no path (§8.3.1)")
    elif path[0] != "/" and (path, method) != ("*", "OPTIONS"):
        raise malformed("a path that does not begin with / (§8.3.1)")
    host = fields.get("host")
    if authority is not None and host is not None and authority.lower() != host.lower():
        raise malformed("one :authority, and another Host (§8.3.1)")
    length = content_length(fields)

    if authority is None and host is None:
        raise RemoteProtocolError("neither :authority nor Host (RFC 9110 §7.2)", 400)
    fields["host"] = authority or host or ""
    if not is_host(fields["host"]):
        raise RemoteProtocolError("the authority is not host or host:port (RFC 9110 §7.2)", 400)
    if path[0] == "/" and not ORIGIN_FORM.fullmatch(path):
        raise RemoteProtocolError("a character in the path that has to be percent-encoded (RFC 3986 §2)", 400)
    if len(method) > LONGEST_METHOD:
        raise RemoteProtocolError("a method longer than any that there is", 501)
    expected = tokens(fields.get("expect", ""))
    if set(expected) - {"100-continue"}:
        raise RemoteProtocolError("an expectation that is not known here (RFC 9110 §10.1.1)", 417)
    return Head(method, path, fields, pairs, length, bool(expected), priority(fields.get("priority", "")))


def regular_fields(raw: Raw) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Read fields of a head after those with a colon, or trailers: as a mapping, and as the pairs that were sent."""
    fields: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name, value in raw:
        if not NAME.fullmatch(name):
            raise malformed(why_not(name))
        if not VALUE.fullmatch(value):
            raise malformed(f"a control character, or a space at an end, in the value of {name[:40]!r} (§8.2.1)")
        key, text = name.decode(), value.decode("latin-1")
        if key in OF_THE_CONNECTION or (key == "te" and text.lower() != "trailers"):
            raise malformed(f"{key}: that is about a connection of HTTP/1.1 (§8.2.2)")
        pairs.append((key, text))
        if key in fields:
            text = f"{fields[key]}{'; ' if key == 'cookie' else ', '}{text}"  # Cookie comes in crumbs (§8.2.3).
        fields[key] = text
    return fields, pairs


def why_not(name: bytes) -> str:
    """Say what is wrong with the name of a field."""
    if name[:1] == b":":
        return f"{name[:40]!r} after an ordinary field, or in trailers (§8.3, §8.1)"
    if name.lower() != name:
        return f"capitals in the name of a field, {name[:40]!r} (§8.2.1)"
    return f"a name with a character that no name may have, or with none: {name[:40]!r} (§8.2.1)"


def content_length(fields: Mapping[str, str]) -> int | None:
    """The length that was told; a list of one and the same number counts once (RFC 9110 §8.6)."""
    if "content-length" not in fields:
        return None
    values = {value.strip(" \t") for value in fields["content-length"].split(",")}
    value = values.pop()
    if values or not LENGTH.fullmatch(value):
        raise malformed("Content-Length is not a number (RFC 9110 §8.6)")
    return int(value.lstrip("0")[:20] or 0)  # 20 digits are too many for any limit.


def priority(value: str) -> Priority:
    """Read `u=1, i`. What is not understood is ignored (RFC 9218 §4, §5)."""
    urgency, incremental = Priority()
    for member in value.split(","):
        key, _, rest = member.partition(";")[0].strip(" \t").partition("=")
        if key == "u" and rest in ("0", "1", "2", "3", "4", "5", "6", "7"):
            urgency = int(rest)
        elif key == "i" and rest in ("", "?0", "?1"):
            incremental = rest != "?0"
    return Priority(urgency, incremental)


@lru_cache(maxsize=1024)
def encode_field(name: str, value: str) -> tuple[bytes, bytes]:
    """A field that is to be sent, as HPACK takes it."""
    try:
        raw = name.lower().encode("ascii"), value.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"a field with a character that no field may have: {name!r}") from None
    if not NAME.fullmatch(raw[0]) or not VALUE.fullmatch(raw[1]) or name.lower() in OF_THE_CONNECTION:
        raise LocalProtocolError(f"a field that HTTP/2 must not carry: {name!r}")
    return raw
