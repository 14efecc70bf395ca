r"""The grammar of HTTP/1.1 as pure functions: text in, values out, or RemoteProtocolError with the status to answer.

Fast and strict at once: one compiled expression takes a whole block of field lines apart. From the first bad line on,
the rest comes out as a field without a name, and then a slow pass (`why_not`) finds out what to tell the peer.
Nothing is repaired and nothing guessed: what two parsers may read in two ways is how requests are smuggled
(RFC 9112 §11.2). Text is one character per byte (latin-1). Sections without the name of an RFC are of RFC 9112.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

from protocols.errors import RemoteProtocolError

Pairs = Sequence[tuple[str, str]]  # names and values, in order

# `++` and `*+` never give back what they took: no input takes more than linear time.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
VALUE = r"[\t -~\x80-\xff]*+"  # tab, space, visible, obs-text; never CR, LF, NUL (RFC 9110 §5.5)
QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
EXTENSIONS = rf"(?:[ \t]*;[ \t]*{TOKEN}(?:[ \t]*=[ \t]*(?:{TOKEN}|{QUOTED}))?)*"  # §7.1.1

FIELD = re.compile(rf"({TOKEN}):[ \t]*+({VALUE})(?<![ \t])\r\n|(?s:.+)")  # or all the rest
# Path and query (RFC 3986 §3.3, §3.4). Browsers send [ ] { } | ^ and ` in a query as they are; the grammar has none of
# them, a sender has to encode them, and we refuse.
ORIGIN = r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]++|%[0-9A-Fa-f]{2})*+"
COMMON_LINE = re.compile(rf"({TOKEN}) ({ORIGIN}) HTTP/1\.1")
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]++) HTTP/([0-9])\.([0-9])")
STATUS_LINE = re.compile(rf"HTTP/([0-9])\.([0-9]) ([1-9][0-9][0-9]) ({VALUE})")
CHUNK_LINE = re.compile(rf"([0-9A-Fa-f]++)({EXTENSIONS})\r\n".encode("latin-1"))
ORIGIN_FORM = re.compile(ORIGIN)
ABSOLUTE_FORM = re.compile(r"(?i:https?)://([^/?#]*+)(.*)")
# uri-host [ ":" port ] (RFC 9110 §7.2), less the comma: to whoever reads a list it would be two hosts.
HOST = re.compile(r"(\[[0-9A-Fa-f:.]++\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]++|%[0-9A-Fa-f]{2})++)(?::([0-9]{0,5}+))?")
COMMON_HOST = re.compile(r"[A-Za-z0-9\-._]++(?::[0-9]{1,4}+)?")
BROKEN = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00")  # what no later byte can mend

BREAKS = {
    b"\n": "a line that ends with LF alone, not with CRLF (§2.2)",
    b"\r": "a CR without its LF (§2.2)",
    b"\0": "a NUL, which no line may have",
}
LONGEST_METHOD = 32  # bytes; the longest that is registered has 17 (UPDATEREDIRECTREF)


def request_line(line: str) -> tuple[str, str, tuple[int, int]]:
    """Return method, target and version (§3). HTTP/1.2 is read as 1.1 (RFC 9110 §2.5)."""
    if match := COMMON_LINE.fullmatch(line):
        method, target = match.groups()
        if method != "CONNECT" and len(method) <= LONGEST_METHOD:
            return method, target, (1, 1)
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise RemoteProtocolError("the first line is not: method, one space, target, one space, HTTP/1.1 (§3)", 400)
    method, target, major, minor = match.groups()
    if major != "1":  # Another major version has messages of another shape.
        raise RemoteProtocolError(f"HTTP/{major}.{minor} is not spoken here", 505)
    if method == "CONNECT" or not ORIGIN_FORM.fullmatch(target):
        _check_target(method, target)
    if len(method) > LONGEST_METHOD:
        raise RemoteProtocolError("a method longer than any that there is (§3)", 501)
    return method, target, (1, int(minor))


def too_long(line: bytes, limit: int) -> RemoteProtocolError:
    """Say what is wrong with a first line of which more than *limit* bytes are here."""
    method, space, _ = line.decode("latin-1").partition(" ")
    if not re.fullmatch(TOKEN, method):
        return RemoteProtocolError("the first line does not begin with a method (§3)", 400)
    if not space:
        return RemoteProtocolError("a method longer than any that there is (§3)", 501)
    return RemoteProtocolError(f"a request line of more than {limit} bytes (§3)", 414)


def _check_target(method: str, target: str) -> None:
    """The forms of §3.2 that are not a plain path."""
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if method == "CONNECT":
        good = re.fullmatch(".+:0*[1-9][0-9]*", target) and is_host(target)  # Port 0 is none (RFC 9110 §9.3.6).
        wrong = "" if good else "CONNECT needs host:port (§3.2.3)"
    elif "#" in target:
        wrong = "a fragment, which is for the client alone (§3.2)"
    elif absolute:
        path = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
        wrong = "" if is_host(absolute[1]) and ORIGIN_FORM.fullmatch(path) else "not a URI by RFC 3986"
    elif target == "*":
        wrong = "" if method == "OPTIONS" else "* is for OPTIONS only (§3.2.4)"
    elif target.startswith("/"):
        wrong = "a character that has to be percent-encoded (RFC 3986 §2)"
    else:
        wrong = "neither a path that begins with / nor a whole URI (§3.2)"
    if wrong:
        raise RemoteProtocolError(f"the target is refused: {wrong}", 400)


def is_host(value: str) -> bool:
    """Is this "host" or "host:port", without user, path, list or space (RFC 9110 §7.2)?"""
    match = HOST.fullmatch(value)
    if not match or (match[2] and int(match[2]) > 65535):
        return False
    if value[0] == "[":
        try:
            ipaddress.IPv6Address(match[1][1:-1])
        except ValueError:
            return False
    return True


def host_of(fields: Mapping[str, str], target: str, version: tuple[int, int]) -> str | None:
    """Return the one host that a request is for (§3.2). A whole URI as target has the say (§3.2.2)."""
    host = fields.get("host")
    if host is None:
        if version > (1, 0):
            raise RemoteProtocolError("no Host (§3.2)", 400)
    elif not (COMMON_HOST.fullmatch(host) or is_host(host)):
        more = ": it is a list, or was sent twice" if "," in host else ""
        raise RemoteProtocolError(f"Host is not host or host:port{more} (§3.2)", 400)
    if target[0] != "/" and (absolute := ABSOLUTE_FORM.fullmatch(target)):
        return absolute[1]
    return host


def status_line(line: str) -> tuple[int, str, tuple[int, int]]:
    """Return status, reason and version (§4)."""
    match = STATUS_LINE.fullmatch(line)
    if not match:
        raise RemoteProtocolError("the first line is not: HTTP/1.1, one space, three digits, one space, a reason (§4)")
    major, minor, status, reason = match.groups()
    if major != "1":
        raise RemoteProtocolError(f"HTTP/{major}.{minor} is not spoken here")
    return int(status), reason, (1, int(minor))


def field_lines(block: str, most: int) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Read field lines, each with its CRLF (§5): as a mapping from lower-case names, and as the pairs that were sent.

    The values of a repeated name become one list, joined by ", " (RFC 9110 §5.3).
    """
    pairs = FIELD.findall(block)
    fields = {name.lower(): value for name, value in pairs}
    if "" in fields:
        stripped = re.sub(r"(?<![ \t])[ \t]++\r\n", "\r\n", block)  # Whitespace after a value is no part of it (§5.1).
        if stripped == block or block[0] in " \t":
            raise RemoteProtocolError(why_not(block), 400)
        return field_lines(stripped, most)
    if len(pairs) > most:
        raise RemoteProtocolError(f"more than {most} field lines", 431)
    if len(fields) != len(pairs):
        fields = {}
        for name, value in pairs:
            key = name.lower()
            fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return fields, pairs


def why_not(block: str) -> str:
    """Say what is wrong with the first bad line of a block of field lines."""
    for line in block.split("\n")[:-1]:
        name, colon, value = line[:-1].partition(":")
        if not line.endswith("\r"):
            return BREAKS[b"\n"]
        if line[0] in " \t":
            return "a line that begins with whitespace: folded lines are obsolete (§5.2)"
        if "\r" in line[:-1]:
            return BREAKS[b"\r"]
        if not colon:
            return "a field line without a colon (§5)"
        if name[-1:] in (" ", "\t"):
            return "whitespace between a field's name and its colon (§5.1)"
        if not re.fullmatch(TOKEN, name):
            return "a field's name that is empty or has a character that no name may have (RFC 9110 §5.1)"
        if not re.fullmatch(VALUE, value):
            return f"a control character in the value of {name} (RFC 9110 §5.5)"
    return "an empty line in the wrong place"


def tokens(value: str) -> list[str]:
    """Return the members of a comma-separated list in lower case (RFC 9110 §5.6.1: empty ones do not count)."""
    return [token for part in value.lower().split(",") if (token := part.strip(" \t"))]


def persists(fields: Mapping[str, str], version: tuple[int, int]) -> bool:
    """Is the sender of this head ready for another message on the connection (§9.3)?"""
    connection = fields.get("connection")
    if connection is None or connection == "keep-alive":  # by far the most
        return version > (1, 0) or connection is not None
    options = tokens(connection)
    return "close" not in options and (version > (1, 0) or "keep-alive" in options)
