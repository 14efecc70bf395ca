"""Hostile and odd messages, what must become of each, and the sentence of the RFC that says so.

A case that is accepted tells the message that must come out; one that is refused tells the status that answers it (for
a response, which nobody answers: just that it is refused). Where a sentence says MAY we refuse, for what one reader of
a message overlooks and another obeys is what request smuggling is made of. Where it says MUST accept, we accept.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Message(NamedTuple):
    """A request that is accepted."""

    method: str = "GET"
    target: str = "/"
    body: bytes = b""
    trailers: dict[str, str] = {}  # noqa: RUF012
    keep_alive: bool = True
    fields: dict[str, str] = {}  # noqa: RUF012  # only those that the case is about


class Answer(NamedTuple):
    """A response that is accepted."""

    status: int = 200
    body: bytes = b""
    trailers: dict[str, str] = {}  # noqa: RUF012
    keep_alive: bool = True
    fields: dict[str, str] = {}  # noqa: RUF012
    reason: str | None = None


class Case(NamedTuple):
    name: str
    wire: bytes
    want: tuple[Any, ...]  # Messages or Answers, in order; a status or REFUSED at the end if that is how it ends
    rule: str
    limits: dict[str, int] = {}  # noqa: RUF012
    fin: bool = False  # the peer then ends its side of the connection
    asked: tuple[str, ...] = ("GET",)  # for a response: the methods of the requests that it and its followers answer
    rest: bytes = b""  # what must be handed over untouched, since it is HTTP no more


class Endless(NamedTuple):
    """Bytes without an end: *start*, then *more* for ever. Refused when *limit* is passed, not when it is over."""

    name: str
    start: bytes
    more: bytes
    want: int
    limit: int  # how many bytes may be taken in before it is refused, apart from the read that passes it
    rule: str
    limits: dict[str, int] = {}  # noqa: RUF012


REFUSED = 0  # A response that is refused is answered by nothing.

# --- The sentences ------------------------------------------------------------------------------------------------

GRAMMAR = (
    "RFC 9112 §2.2: receives a sequence of octets that does not match the HTTP-message grammar aside from the "
    "robustness exceptions listed above, the server SHOULD respond with a 400 (Bad Request) response"
)
BARE_LF = (
    "RFC 9112 §2.2: Although the line terminator for the start-line and fields is the sequence CRLF, a recipient MAY "
    "recognize a single LF as a line terminator"
)
BARE_CR = (
    "RFC 9112 §2.2: A recipient of such a bare CR MUST consider that element to be invalid or replace each bare CR "
    "with SP before processing the element"
)
EMPTY_LINE = (
    "RFC 9112 §2.2: a server that is expecting to receive and parse a request-line SHOULD ignore at least one empty "
    "line (CRLF) received prior to the request-line"
)
SPACE_FIRST = (
    "RFC 9112 §2.2: A recipient that receives whitespace between the start-line and the first header field MUST "
    "either reject the message as invalid or consume each whitespace-preceded line"
)
VERSION = 'RFC 9112 §2.3: HTTP-version = HTTP-name "/" DIGIT "." DIGIT'
VERSION_CASE = "RFC 9112 §2.3: HTTP-version is case-sensitive."
REQUEST_LINE = (
    "RFC 9112 §3: A request-line begins with a method token, followed by a single space (SP), the request-target, and "
    "another single space (SP), and ends with the protocol version."
)
LONG_METHOD = (
    "RFC 9112 §3: A server that receives a method longer than any that it implements SHOULD respond with a 501 (Not "
    "Implemented) status code."
)
LONG_TARGET = (
    "RFC 9112 §3: A server that receives a request-target longer than any URI it wishes to parse MUST respond with a "
    "414 (URI Too Long) status code"
)
LINE_8000 = (
    "RFC 9112 §3: It is RECOMMENDED that all HTTP senders and recipients support, at a minimum, request-line lengths "
    "of 8000 octets."
)
METHOD = "RFC 9112 §3.1: method = token"
METHOD_CASE = "RFC 9112 §3.1: The request method is case-sensitive."
TARGET_SPACE = "RFC 9112 §3.2: No whitespace is allowed in the request-target."
TARGET = (
    "RFC 9112 §3.2: Recipients of an invalid request-line SHOULD respond with either a 400 (Bad Request) error or a "
    "301 (Moved Permanently) redirect with the request-target properly encoded."
)
HOST = (
    "RFC 9112 §3.2: A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that "
    "lacks a Host header field and to any request message that contains more than one Host header field line or a "
    "Host header field with an invalid field value."
)
EMPTY_HOST = (
    "RFC 9112 §3.3: If the target URI's authority component is empty and its URI scheme requires a non-empty "
    'authority (as is the case for "http" and "https"), the server can reject the request'
)
ORIGIN_FORM = 'RFC 9112 §3.2.1: origin-form = absolute-path [ "?" query ]'
ABSOLUTE_FORM = (
    "RFC 9112 §3.2.2: A server MUST accept the absolute-form in requests even though most HTTP/1.1 clients will only "
    "send the absolute-form to a proxy."
)
URI_WINS = (
    "RFC 9112 §3.2.2: the origin server MUST ignore the received Host header field (if any) and instead use the host "
    "information of the request-target"
)
AUTHORITY_FORM = "RFC 9112 §3.2.3: The authority-form of request-target is only used for CONNECT requests"
ASTERISK_FORM = "RFC 9112 §3.2.4: The asterisk-form of request-target is only used for a server-wide OPTIONS request"
STATUS_LINE = "RFC 9112 §4: status-line = HTTP-version SP status-code SP [ reason-phrase ]"
STATUS_SPACE = (
    "RFC 9112 §4: A server MUST send the space that separates the status-code from the reason-phrase even when the "
    "reason-phrase is absent"
)
STATUS_DIGITS = "RFC 9112 §4: status-code = 3DIGIT"
REASON = "RFC 9112 §4: reason-phrase = 1*( HTAB / SP / VCHAR / obs-text )"
FIELD_LINE = 'RFC 9112 §5: field-line = field-name ":" OWS field-value OWS'
SPACE_COLON = (
    "RFC 9112 §5.1: A server MUST reject, with a response status code of 400 (Bad Request), any received request "
    "message that contains whitespace between a header field name and colon."
)
SPACE_COLON_ANSWER = "RFC 9112 §5.1: No whitespace is allowed between the field name and colon."
STRIP = (
    "RFC 9112 §5.1: OWS occurring before the first non-whitespace octet of the field line value, or after the last "
    "non-whitespace octet of the field line value, is excluded by parsers"
)
FOLD = (
    'RFC 9112 §5.2: A server that receives an obs-fold in a request message that is not within a "message/http" '
    "container MUST either reject the message by sending a 400 (Bad Request)"
)
FOLD_ANSWER = (
    'RFC 9112 §5.2: A user agent that receives an obs-fold in a response message that is not within a "message/http" '
    "container MUST replace each received obs-fold with one or more SP octets"
)
FRAMING = "RFC 9112 §6: Request message framing is independent of method semantics."
CODING_UNKNOWN = (
    "RFC 9112 §6.1: A server that receives a request message with a transfer coding it does not understand SHOULD "
    "respond with 501 (Not Implemented)."
)
CODING = "RFC 9112 §6.1: A recipient MUST be able to parse the chunked transfer coding"
CHUNKED_TWICE = "RFC 9112 §6.1: A sender MUST NOT apply the chunked transfer coding more than once to a message body"
CODING_IN_10 = (
    "RFC 9112 §6.1: A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header field "
    "MUST treat the message as if the framing is faulty"
)
BOTH = "RFC 9112 §6.1: A server MAY reject a request that contains both Content-Length and Transfer-Encoding"
BOTH_ANSWER = (
    "RFC 9112 §6.3: Such a message might indicate an attempt to perform request smuggling (Section 11.2) or response "
    "splitting (Section 11.1) and ought to be handled as an error."
)
NO_BODY = (
    "RFC 9112 §6.3: Any response to a HEAD request and any response with a 1xx (Informational), 204 (No Content), or "
    "304 (Not Modified) status code is always terminated by the first empty line after the header fields"
)
TUNNEL = (
    "RFC 9112 §6.3: Any 2xx (Successful) response to a CONNECT request implies that the connection will become a "
    "tunnel immediately after the empty line"
)
NOT_FINAL = (
    "RFC 9112 §6.3: If a Transfer-Encoding header field is present in a request and the chunked transfer coding is "
    "not the final encoding, the message body length cannot be determined reliably; the server MUST respond with the "
    "400 (Bad Request) status code"
)
LENGTH_INVALID = (
    "RFC 9112 §6.3: If a message is received without Transfer-Encoding and with an invalid Content-Length header "
    "field, then the message framing is invalid and the recipient MUST treat it as an unrecoverable error"
)
LENGTH = (
    "RFC 9112 §6.3: If a valid Content-Length header field is present without Transfer-Encoding, its decimal value "
    "defines the expected message body length in octets."
)
CUT_SHORT = (
    "RFC 9112 §6.3: If the sender closes the connection or the recipient times out before the indicated number of "
    "octets are received, the recipient MUST consider the message to be incomplete"
)
NO_LENGTH = (
    "RFC 9112 §6.3: If this is a request message and none of the above are true, then the message body length is zero"
)
UNTIL_CLOSE = (
    "RFC 9112 §6.3: this is a response message without a declared message body length, so the message body length is "
    "determined by the number of octets received prior to the server closing the connection"
)
CODING_CASE = "RFC 9112 §7: All transfer-coding names are case-insensitive"
CHUNK = "RFC 9112 §7.1: chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF"
CHUNK_SIZE = "RFC 9112 §7.1: chunk-size = 1*HEXDIG"
LAST_CHUNK = 'RFC 9112 §7.1: last-chunk = 1*("0") [ chunk-ext ] CRLF'
CHUNK_OVERFLOW = (
    "RFC 9112 §7.1: recipients MUST anticipate potentially large hexadecimal numerals and prevent parsing errors due "
    "to integer conversion overflows"
)
CODING_PARAMETER = (
    "RFC 9112 §7.1: The chunked coding does not define any parameters. Their presence SHOULD be treated as an error."
)
EXTENSION = 'RFC 9112 §7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )'
EXTENSION_IGNORED = "RFC 9112 §7.1.1: A recipient MUST ignore unrecognized chunk extensions."
EXTENSION_LIMIT = "RFC 9112 §7.1.1: A server ought to limit the total length of chunk extensions received in a request"
TRAILERS = "RFC 9112 §7.1.2: trailer-section = *( field-line CRLF )"
INCOMPLETE_CHUNKED = (
    "RFC 9112 §8: A message body that uses the chunked transfer coding is incomplete if the zero-sized chunk that "
    "terminates the encoding has not been received."
)
INCOMPLETE_HEAD = (
    "RFC 9112 §8: A server that receives an incomplete request message, usually due to a canceled request or a "
    "triggered timeout exception, MAY send an error response prior to closing the connection."
)
CLIENT_LIMIT = (
    "RFC 9110 §2.3: A recipient SHOULD parse a received protocol element defensively, with only marginal expectations "
    "that the element will conform to its ABNF grammar and fit within a reasonable buffer size."
)
INCOMPLETE_ANSWER = (
    "RFC 9112 §8: A client that receives an incomplete response message, which can occur when a connection is closed "
    "prematurely or when decoding a supposedly chunked transfer coding fails, MUST record the message as incomplete."
)
NO_TE = "RFC 9112 §7.4: if no TE field is present, the only acceptable transfer coding is chunked"
SWITCH_NOT_ASKED = (
    "RFC 9110 §7.8: A server MUST NOT switch to a protocol that was not indicated by the client in the corresponding "
    "request's Upgrade header field."
)
NOT_ASKED = (
    "RFC 9112 §9.2: If a client receives data on a connection that doesn't have outstanding requests, the client MUST "
    "NOT consider that data to be a valid response; the client SHOULD close the connection"
)
IN_ORDER = (
    "RFC 9112 §9.2: MUST associate each received response message on that connection to the first outstanding request "
    "that has not yet received a final (non-1xx) response"
)
CLOSE = (
    'RFC 9112 §9.3: If the "close" connection option is present (Section 9.6), the connection will not persist after '
    "the current response"
)
PERSIST = "RFC 9112 §9.3: If the received protocol is HTTP/1.1 (or later), the connection will persist"
PERSIST_10 = (
    'RFC 9112 §9.3: If the received protocol is HTTP/1.0, the "keep-alive" connection option is present, either the '
    "recipient is not a proxy or the message is a response"
)
CLOSE_10 = "RFC 9112 §9.3: The connection will close after the current response."
PIPELINE = "RFC 9112 §9.3.2: A client that supports persistent connections MAY pipeline its requests"
NO_MORE = "RFC 9112 §9.6: The server MUST NOT process any further requests received on that connection."
MAJOR = (
    "RFC 9110 §15.6.6: The 505 (HTTP Version Not Supported) status code indicates that the server does not support, "
    "or refuses to support, the major version of HTTP that was used in the request message."
)
MINOR = (
    "RFC 9110 §6.2: A recipient that receives a message with a major version number that it implements and a minor "
    "version number higher than what it implements SHOULD process the message as if it were in the highest minor "
    "version"
)
# TCP has 65,535 ports.
TCP_PORT = "RFC 9110 §4.2.1: a potential HTTP origin server listening for TCP ([TCP]) connections on a given port"
EMPTY_URI_HOST = (
    'RFC 9110 §4.2.1: A sender MUST NOT generate an "http" URI with an empty host identifier. A recipient that '
    "processes such a URI reference MUST reject it as invalid."
)
USERINFO = (
    'RFC 9110 §4.2.4: Before making use of an "http" or "https" URI reference received from an untrusted source, a '
    "recipient SHOULD parse for userinfo and treat its presence as an error"
)
FIELD_NAME = "RFC 9110 §5.1: field-name = token"
NAME_CASE = "RFC 9110 §5.1: Field names are case-insensitive"
COMBINE = (
    "RFC 9110 §5.2: When a field name is repeated within a section, its combined field value consists of the list of "
    "corresponding field line values within that section, concatenated in order"
)
FIELD_LIMIT = (
    "RFC 9110 §5.4: A server that receives a request header field line, field value, or set of fields larger than it "
    "wishes to process MUST respond with an appropriate 4xx (Client Error) status code."
)
TOO_LARGE = (
    "RFC 6585 §5: The 431 status code indicates that the server is unwilling to process the request because its "
    "header fields are too large."
)
CONTROLS = (
    "RFC 9110 §5.5: a recipient of CR, LF, or NUL within a field value MUST either reject the message or replace each "
    "of those characters with SP"
)
OTHER_CONTROLS = "RFC 9110 §5.5: Field values containing other CTL characters are also invalid"
OPAQUE = (
    "RFC 9110 §5.5: A recipient SHOULD treat other allowed octets in field content (i.e., obs-text) as opaque data."
)
EMPTY_VALUE = "RFC 9110 §5.5: field-value = *field-content"
EMPTY_ELEMENTS = "RFC 9110 §5.6.1.2: A recipient MUST parse and ignore a reasonable number of empty list elements"
BAD_WHITESPACE = (
    "RFC 9110 §5.6.3: A recipient MUST parse for such bad whitespace and remove it before interpreting the protocol "
    "element."
)
QUOTED = "RFC 9110 §5.6.4: quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE"
NOT_IN_TRAILERS = (
    "RFC 9110 §6.5.1: Many fields cannot be processed outside the header section because their evaluation is "
    "necessary prior to receiving the content, such as those that describe message framing, routing, authentication"
)
FRAGMENT = (
    "RFC 9110 §7.1: The target URI excludes the reference's fragment component, if any, since fragment identifiers "
    "are reserved for client-side processing"
)
ONLY_THERE = "RFC 9110 §7.1: These forms MUST NOT be used with other methods."
HOST_SYNTAX = 'RFC 9110 §7.2: Host = uri-host [ ":" port ]'
OPTION = "RFC 9110 §7.6.1: connection-option = token"
OPTION_CASE = "RFC 9110 §7.6.1: Connection options are case-insensitive."
UPGRADE = (
    "RFC 9110 §7.8: A server MAY ignore a received Upgrade header field if it wishes to continue using the current "
    "protocol on that connection."
)
LENGTH_DIGITS = "RFC 9110 §8.6: Content-Length = 1*DIGIT"
LENGTH_VALID = "RFC 9110 §8.6: Any Content-Length field value greater than or equal to zero is valid."
LENGTH_HUGE = (
    "RFC 9110 §8.6: a recipient MUST anticipate potentially large decimal numerals and prevent parsing errors due to "
    "integer conversion overflows"
)
LENGTH_LIST = (
    "RFC 9110 §8.6: a recipient of a Content-Length header field value consisting of the same decimal value repeated "
    'as a comma-separated list (e.g, "Content-Length: 42, 42") MAY either reject the message as invalid or replace'
)
CONNECT_PORT = "RFC 9110 §9.3.6: A server MUST reject a CONNECT request that targets an empty or invalid port number"
CONNECT_IGNORES = (
    "RFC 9110 §9.3.6: A client MUST ignore any Content-Length or Transfer-Encoding header fields received in a "
    "successful response to CONNECT."
)
EXPECT_CASE = "RFC 9110 §10.1.1: The Expect field value is case-insensitive."
EXPECT_OTHER = (
    "RFC 9110 §10.1.1: A server that receives an Expect field value containing a member other than 100-continue MAY "
    "respond with a 417 (Expectation Failed) status code"
)
EXPECT_10 = (
    "RFC 9110 §10.1.1: A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that "
    "expectation."
)
CLASS = "RFC 9110 §15: a client MUST understand the class of any status code, as indicated by the first digit"
STATUS_RANGE = (
    "RFC 9110 §15: A client that receives a response with an invalid status code SHOULD process the response as if it "
    "had a 5xx (Server Error) status code."
)
INTERIM = (
    "RFC 9110 §15.2: A client MUST be able to parse one or more 1xx responses received prior to a final response, "
    "even if the client does not expect one."
)
SWITCHING = (
    "RFC 9110 §15.2.2: the server understands and is willing to comply with the client's request, via the Upgrade "
    "header field (Section 7.8), for a change in the application protocol being used on this connection"
)
CONTENT_TOO_LARGE = (
    "RFC 9110 §15.5.14: The 413 (Content Too Large) status code indicates that the server is refusing to process a "
    "request because the request content is larger than the server is willing or able to process."
)
PERCENT = 'RFC 3986 §2.1: pct-encoded = "%" HEXDIG HEXDIG'
SCHEME_CASE = (
    "RFC 3986 §3.1: An implementation should accept uppercase letters as equivalent to lowercase in scheme names "
    '(e.g., allow "HTTP" as well as "http")'
)
IP_LITERAL = 'RFC 3986 §3.2.2: IP-literal = "[" ( IPv6address / IPvFuture ) "]"'
REG_NAME = "RFC 3986 §3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims )"
PORT = "RFC 3986 §3.2.3: port = *DIGIT"
PCHAR = 'RFC 3986 §3.3: pchar = unreserved / pct-encoded / sub-delims / ":" / "@"'
QUERY = 'RFC 3986 §3.4: query = *( pchar / "/" / "?" )'

# --- How the bytes of the cases are put together ------------------------------------------------------------------


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1", body: bytes = b"") -> bytes:
    """A request with a good Host and *fields*, which come as they are."""
    return raw(line, b"Host: lab.test", *fields, body=body)


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return get(*fields, line=b"POST / HTTP/1.1", body=body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def line(line: bytes) -> bytes:
    """A request that is good, except perhaps for its first line."""
    return get(line=line)


def sized(length: bytes) -> bytes:
    """`hello` with this Content-Length."""
    return post(b"Content-Length: " + length, body=b"hello")


def coded(coding: bytes) -> bytes:
    """`hello` in a chunk, with this Transfer-Encoding."""
    return post(b"Transfer-Encoding: " + coding, body=HELLO)


def hello(size: bytes) -> bytes:
    """`hello` in a chunk, with this line in front."""
    return chunked(size + b"\r\nhello\r\n0\r\n\r\n")


def trailer(lines: bytes) -> bytes:
    """No chunk but the last, and these trailers."""
    return chunked(b"0\r\n" + lines + b"\r\n\r\n")


def host(value: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return raw(line, b"Host: " + value)


def answer(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return raw(line, *fields, body=body)


def status(line: bytes) -> bytes:
    """A response without content and with this first line."""
    return answer(b"Content-Length: 0", line=line)


def raw(*lines: bytes, body: bytes = b"") -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


GOOD = get()
CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"  # what `hello` is, chunked
SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: lab.test\r\n\r\n"


def ok(name: str, wire: bytes, rule: str, *want: Message | Answer | int, **more: Any) -> Case:
    return Case(name, wire, want or (Message(),), rule, **more)


def no(name: str, wire: bytes, status: int, rule: str, **more: Any) -> Case:
    return Case(name, wire, (status,), rule, **more)


def posted(body: bytes, trailers: dict[str, str] | None = None) -> Message:
    return Message("POST", "/", body, trailers or {})


HELLO_POSTED = posted(b"hello")

# --- Requests -----------------------------------------------------------------------------------------------------

SMUGGLING = [
    no("CL and TE", post(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nG"), 400, BOTH),
    no("TE and CL", post(CHUNKED, b"Content-Length: 4", body=b"5c\r\nGPOST / HTTP/1.1\r\n"), 400, BOTH),
    no("TE and CL that agree", post(CHUNKED, b"Content-Length: 15", body=HELLO), 400, BOTH),
    no("TE and an empty CL", post(CHUNKED, b"Content-Length:", body=HELLO), 400, BOTH),
    no("CL 0 and TE on a GET", get(b"Content-Length: 0", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), 400, BOTH),
    no("CL and TE, both in odd case", post(b"cOnTeNt-LeNgTh: 6", b"tRaNsFeR-eNcOdInG: chunked"), 400, NAME_CASE),
    ok("CL", sized(b"5"), LENGTH, HELLO_POSTED),
    ok("CL 0", post(b"Content-Length: 0"), LENGTH_VALID, posted(b"")),
    ok("CL with leading zeros", sized(b"0005"), LENGTH_DIGITS, HELLO_POSTED),
    ok("CL on a GET", get(b"Content-Length: 5", body=b"hello"), FRAMING, Message(body=b"hello")),
    ok("CL with spaces and tabs around", sized(b"\t 5\t "), STRIP, HELLO_POSTED),
    ok("the body is a request", post(b"Content-Length: 39", body=SMUGGLED), LENGTH, posted(SMUGGLED)),
    ok("neither CL nor TE: the bytes are the next request", post(body=GOOD), NO_LENGTH, posted(b""), Message()),
    no("neither CL nor TE, yet a body", post(body=b"hello\r\n\r\n"), 400, NO_LENGTH)._replace(want=(posted(b""), 400)),
    no("CL twice, equal", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400, LENGTH_LIST),
    no("CL twice, different", post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), 400, LENGTH_INVALID),
    no("CL twice, one empty", post(b"Content-Length: 5", b"Content-Length:", body=b"hello"), 400, LENGTH_INVALID),
    no("CL list, equal", sized(b"5, 5"), 400, LENGTH_LIST),
    no("CL list, different", sized(b"5, 6"), 400, LENGTH_INVALID),
    no("CL list with an empty element", sized(b"5,"), 400, LENGTH_INVALID),
    no("CL +5", sized(b"+5"), 400, LENGTH_DIGITS),
    no("CL -5", sized(b"-5"), 400, LENGTH_DIGITS),
    no("CL -0", post(b"Content-Length: -0"), 400, LENGTH_DIGITS),
    no("CL 0x5", sized(b"0x5"), 400, LENGTH_DIGITS),
    no("CL 5e0", sized(b"5e0"), 400, LENGTH_DIGITS),
    no("CL 5.0", sized(b"5.0"), 400, LENGTH_DIGITS),
    no("CL 1_0: int() would take it", post(b"Content-Length: 1_0", body=b"0123456789"), 400, LENGTH_DIGITS),
    no("CL 1 0", post(b"Content-Length: 1 0", body=b"0123456789"), 400, LENGTH_DIGITS),
    no("CL empty", post(b"Content-Length:", body=b"hello"), 400, LENGTH_DIGITS),
    no("CL of a space", sized(b" "), 400, LENGTH_DIGITS),
    no("CL quoted", sized(b'"5"'), 400, LENGTH_DIGITS),
    no("CL with a parameter", sized(b"5; q=1"), 400, LENGTH_DIGITS),
    no("CL letters", sized(b"five"), 400, LENGTH_DIGITS),
    no("CL superscript: isdigit() would take it", post(b"Content-Length: \xb2", body=b"hi"), 400, LENGTH_DIGITS),
    no("CL in Arabic digits", post("Content-Length: ٥".encode(), body=b"hello"), 400, LENGTH_DIGITS),
    no("CL with a vertical tab: strip() would take it", sized(b"\x0b5"), 400, OTHER_CONTROLS),
    no("CL with a form feed", sized(b"5\x0c"), 400, OTHER_CONTROLS),
    no("CL with a NEL: strip() would take it", sized(b"5\x85"), 400, LENGTH_DIGITS),
    no("CL with a no-break space", sized(b"\xa05"), 400, LENGTH_DIGITS),
    no("CL with a NUL", sized(b"5\0"), 400, CONTROLS),
    no("CL of 2^64 + 5", sized(b"18446744073709551621"), 413, LENGTH_HUGE),
    no("CL of 5000 digits: int() would raise", post(b"Content-Length: " + b"9" * 5000), 413, LENGTH_HUGE),
    ok(
        "CL of 5000 zeros and a 5",
        post(b"Content-Length: " + b"0" * 5000 + b"5", body=b"hello"),
        LENGTH_HUGE,
        HELLO_POSTED,
    ),
    no("space before the colon of CL", post(b"Content-Length : 5", body=b"hello"), 400, SPACE_COLON),
    no("tab before the colon of TE", post(b"Transfer-Encoding\t: chunked", body=HELLO), 400, SPACE_COLON),
    no("CL folded", post(b"Content-Length:\r\n 5", body=b"hello"), 400, FOLD),
    no("CL in a field that hides in an LF", post(b"X: a\nContent-Length: 39", body=SMUGGLED), 400, BARE_LF),
    no("CL in a field that hides in a CR", post(b"X: a\rContent-Length: 39", body=SMUGGLED), 400, BARE_CR),
    ok("a name that ends like CL", post(b"X-Content-Length: 5"), LENGTH, posted(b"")),
    ok("a name that CGI would confuse with CL", post(b"Content_Length: 5"), FIELD_NAME, posted(b"")),
]

CODINGS = [
    ok("TE chunked", chunked(HELLO), CODING, HELLO_POSTED),
    ok("TE CHUNKED", post(b"TRANSFER-ENCODING: CHUNKED", body=HELLO), CODING_CASE, HELLO_POSTED),
    ok("TE cHuNkEd", post(b"transfer-encoding: cHuNkEd", body=HELLO), CODING_CASE, HELLO_POSTED),
    ok("TE with tabs around", post(b"Transfer-Encoding:\tchunked\t", body=HELLO), STRIP, HELLO_POSTED),
    ok("TE on a GET", get(CHUNKED, body=HELLO), FRAMING, Message(body=b"hello")),
    # A reasonable number is none in the field that tells where a message ends: readers differ. Of these three, nginx
    # 1.22 takes none, httptools 0.9 the first.
    no("TE with an empty element before", coded(b", chunked"), 400, EMPTY_ELEMENTS),
    no("TE with an empty element behind", coded(b"chunked,"), 400, EMPTY_ELEMENTS),
    no("TE chunked and an empty field", post(CHUNKED, b"Transfer-Encoding:", body=HELLO), 400, EMPTY_ELEMENTS),
    no("TE xchunked", coded(b"xchunked"), 400, NOT_FINAL),
    no("TE chunkedx", coded(b"chunkedx"), 400, NOT_FINAL),
    no("TE identity: obsolete since RFC 7230", post(b"Transfer-Encoding: identity"), 400, NOT_FINAL),
    no("TE gzip", post(b"Transfer-Encoding: gzip"), 400, NOT_FINAL),
    no("TE gzip, chunked", coded(b"gzip, chunked"), 501, CODING_UNKNOWN),
    no("TE gzip and chunked in two fields", post(b"Transfer-Encoding: gzip", CHUNKED, body=HELLO), 501, CODING_UNKNOWN),
    no("TE identity, chunked", coded(b"identity, chunked"), 501, CODING_UNKNOWN),
    no("TE chunked, gzip", coded(b"chunked, gzip"), 400, NOT_FINAL),
    no("TE chunked and gzip in two fields", post(CHUNKED, b"Transfer-Encoding: gzip", body=HELLO), 400, NOT_FINAL),
    no("TE chunked, identity", coded(b"chunked, identity"), 400, NOT_FINAL),
    no("TE chunked, gzip, chunked", coded(b"chunked, gzip, chunked"), 400, CHUNKED_TWICE),
    no("TE chunked, chunked", coded(b"chunked, chunked"), 400, CHUNKED_TWICE),
    no("TE chunked in two fields", post(CHUNKED, CHUNKED, body=HELLO), 400, CHUNKED_TWICE),
    no("TE empty", post(b"Transfer-Encoding:", body=HELLO), 400, NOT_FINAL),
    no("TE of commas", coded(b", ,"), 400, NOT_FINAL),
    no("TE quoted", coded(b'"chunked"'), 400, NOT_FINAL),
    no("TE in single quotes", coded(b"'chunked'"), 400, NOT_FINAL),
    no("TE chunked with a parameter", coded(b"chunked;q=1"), 400, CODING_PARAMETER),
    no("TE two words", coded(b"chunked chunked"), 400, NOT_FINAL),
    no("TE behind a colon", coded(b": chunked"), 400, NOT_FINAL),
    no("TE with a vertical tab before", coded(b"\x0bchunked"), 400, OTHER_CONTROLS),
    no("TE with a form feed behind", coded(b"chunked\x0c"), 400, OTHER_CONTROLS),
    no("TE with a NUL behind", coded(b"chunked\0"), 400, CONTROLS),
    no("TE with a CR behind", coded(b"chunked\r"), 400, BARE_CR),
    no("TE with a no-break space behind: strip() takes it", coded(b"chunked\xa0"), 400, NOT_FINAL),
    no("TE folded", post(b"Transfer-Encoding:\r\n chunked", body=HELLO), 400, FOLD),
    no("TE folded in two", coded(b"gzip,\r\n\tchunked"), 400, FOLD),
    no("TE in HTTP/1.0", get(CHUNKED, line=b"POST / HTTP/1.0", body=HELLO), 400, CODING_IN_10),
    no(
        "TE and CL in HTTP/1.0",
        get(CHUNKED, b"Content-Length: 15", line=b"POST / HTTP/1.0", body=HELLO),
        400,
        CODING_IN_10,
    ),
    no("TE gzip in HTTP/1.0", get(b"Transfer-Encoding: gzip", line=b"POST / HTTP/1.0"), 400, CODING_IN_10),
    ok("a name that CGI would confuse with TE", post(b"Transfer_Encoding: chunked"), FIELD_NAME, posted(b"")),
]

CHUNKS = [
    ok("no chunk but the last", chunked(b"0\r\n\r\n"), LAST_CHUNK, posted(b"")),
    ok("two chunks", chunked(b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), CHUNK, HELLO_POSTED),
    ok("size in capital hex", chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), CHUNK_SIZE, posted(b"0123456789")),
    ok("size in small hex", chunked(b"a\r\n0123456789\r\n0\r\n\r\n"), CHUNK_SIZE, posted(b"0123456789")),
    ok("size with leading zeros", hello(b"0005"), CHUNK_SIZE, HELLO_POSTED),
    ok("last chunk of many zeros", chunked(b"5\r\nhello\r\n0000\r\n\r\n"), LAST_CHUNK, HELLO_POSTED),
    ok("the data looks like a chunk", chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"), CHUNK, posted(b"0\r\n\r\n")),
    no("size empty", hello(b""), 400, CHUNK_SIZE),
    no("size of letters", hello(b"xyz"), 400, CHUNK_SIZE),
    no("size +5", hello(b"+5"), 400, CHUNK_SIZE),
    no("size -5", hello(b"-5"), 400, CHUNK_SIZE),
    no("size -0", chunked(b"5\r\nhello\r\n-0\r\n\r\n"), 400, LAST_CHUNK),
    no("size 0x5: int(…, 16) would take it", hello(b"0x5"), 400, CHUNK_SIZE),
    no("size 0_5: int(…, 16) would take it", hello(b"0_5"), 400, CHUNK_SIZE),
    no("size 5h", hello(b"5h"), 400, CHUNK_SIZE),
    no("size 5.0", hello(b"5.0"), 400, CHUNK_SIZE),
    no("space before the size", hello(b" 5"), 400, CHUNK_SIZE),
    no("tab before the size", hello(b"\t5"), 400, CHUNK_SIZE),
    no("space after the size", hello(b"5 "), 400, CHUNK_SIZE),
    no("space after the last size", chunked(b"5\r\nhello\r\n0 \r\n\r\n"), 400, LAST_CHUNK),
    no("two sizes", hello(b"5 5"), 400, CHUNK_SIZE),
    no("size in Arabic digits", chunked("٥\r\nhello\r\n0\r\n\r\n".encode()), 400, CHUNK_SIZE),
    no("size of 2^64 + 5", hello(b"10000000000000005"), 413, CHUNK_OVERFLOW),
    no("size of 2^63", hello(b"8000000000000000"), 413, CHUNK_OVERFLOW),
    no("size of 2^32 + 5", hello(b"100000005"), 413, CHUNK_OVERFLOW),
    no("size of 40 digits", chunked(b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n"), 413, CHUNK_OVERFLOW),
    no("bare LF after the size", chunked(b"5\nhello\r\n0\r\n\r\n"), 400, CHUNK),
    no("bare CR after the size", chunked(b"5\rhello\r\n0\r\n\r\n"), 400, CHUNK),
    no("two CRs after the size", hello(b"5\r"), 400, BARE_CR),
    no("bare LF after the data", chunked(b"5\r\nhello\n0\r\n\r\n"), 400, CHUNK),
    no("bare CR after the data", chunked(b"5\r\nhello\r0\r\n\r\n"), 400, CHUNK),
    no("nothing after the data", chunked(b"5\r\nhello0\r\n\r\n"), 400, CHUNK),
    no("two other bytes after the data", chunked(b"5\r\nhelloXY0\r\n\r\n"), 400, CHUNK),
    no("LF CR after the data", chunked(b"5\r\nhello\n\r0\r\n\r\n"), 400, CHUNK),
    no("an empty line after the data", chunked(b"5\r\nhello\r\n\r\n0\r\n\r\n"), 400, CHUNK_SIZE),
    no("data shorter than its size", hello(b"6"), 400, CHUNK),
    no("data longer than its size", hello(b"4"), 400, CHUNK),
    no("bare LF after the last size", chunked(b"5\r\nhello\r\n0\n\r\n"), 400, LAST_CHUNK),
    no("bare LF at the very end", chunked(b"5\r\nhello\r\n0\r\n\n"), 400, CHUNK),
    no("bare CR at the very end", chunked(b"5\r\nhello\r\n0\r\n\rX"), 400, BARE_CR),
    ok("extension, a name", hello(b"5;a"), EXTENSION_IGNORED, HELLO_POSTED),
    ok("extension, a token", hello(b"5;a=b"), EXTENSION_IGNORED, HELLO_POSTED),
    ok("extensions, three", hello(b"5;a;b=c;d=e"), EXTENSION_IGNORED, HELLO_POSTED),
    ok("extension on the last chunk", chunked(b"5\r\nhello\r\n0;a=b\r\n\r\n"), EXTENSION_IGNORED, HELLO_POSTED),
    ok("extension quoted", hello(b'5;a="b;c=d"'), EXTENSION, HELLO_POSTED),
    ok("extension with quoted pairs", hello(b'5;a="\\"\\\\ b"'), QUOTED, HELLO_POSTED),
    ok("extension with obs-text in quotes", hello(b'5;a="\xe9"'), QUOTED, HELLO_POSTED),
    ok("extension with bad whitespace", hello(b"5 ;\ta = b"), BAD_WHITESPACE, HELLO_POSTED),
    no("extension without a name", hello(b"5;"), 400, EXTENSION),
    no("extension that is only a value", hello(b"5;=b"), 400, EXTENSION),
    no("extension without its value", hello(b"5;a="), 400, EXTENSION),
    no("two semicolons", hello(b"5;;a"), 400, EXTENSION),
    no("extension of two words", hello(b"5;a b"), 400, EXTENSION),
    no("space behind the extension", hello(b"5;a "), 400, EXTENSION),
    no("extension with an open quote", hello(b'5;a="b'), 400, QUOTED),
    no("extension with a CRLF in quotes", hello(b'5;a="\r\n"'), 400, QUOTED),
    no("extension that ends in a backslash", hello(b'5;a="b\\'), 400, QUOTED),
    no("extension with a bare LF", chunked(b"5;a\nhello\r\n0\r\n\r\n"), 400, EXTENSION),
    no("extension with a bare CR", hello(b"5;a\rb"), 400, BARE_CR),
    no("extension with a NUL", hello(b"5;a\0"), 400, EXTENSION),
    no("extension with a control in quotes", hello(b'5;a="\x07"'), 400, QUOTED),
    no("extension with a DEL in quotes", hello(b'5;a="\x7f"'), 400, QUOTED),
    no("extension with obs-text, not quoted", hello(b"5;a=\xe9"), 400, EXTENSION),
    no("extension behind a comma", hello(b"5,a=b"), 400, EXTENSION),
    ok(
        "trailers",
        chunked(b"5\r\nhello\r\n0\r\nX-Sum: 5d41402a\r\nX-Other: \t a b \r\n\r\n"),
        TRAILERS,
        posted(b"hello", {"x-sum": "5d41402a", "x-other": "a b"}),
    ),
    ok("a trailer twice", trailer(b"X: 1\r\nx: 2"), COMBINE, posted(b"", {"x": "1, 2"})),
    ok("a trailer with no value", trailer(b"X:"), EMPTY_VALUE, posted(b"", {"x": ""})),
    no("Content-Length as a trailer", trailer(b"Content-Length: 5"), 400, NOT_IN_TRAILERS),
    no("Transfer-Encoding as a trailer", trailer(b"transfer-encoding: chunked"), 400, NOT_IN_TRAILERS),
    no("Host as a trailer", trailer(b"Host: evil.test"), 400, NOT_IN_TRAILERS),
    no("Authorization as a trailer", trailer(b"Authorization: Basic eA=="), 400, NOT_IN_TRAILERS),
    no("trailer without a colon", trailer(b"X-Sum"), 400, TRAILERS),
    no("trailer without a name", trailer(b": 5"), 400, FIELD_NAME),
    no("trailer with a space before the colon", trailer(b"X : 5"), 400, SPACE_COLON),
    no("trailer folded", trailer(b"X: 1\r\n 2"), 400, FOLD),
    no("trailer behind a space", trailer(b" X: 1"), 400, TRAILERS),
    no("trailer with a bare LF", trailer(b"X: 1\nY: 2"), 400, BARE_LF),
    no("trailer with a bare CR", trailer(b"X: 1\rY: 2"), 400, BARE_CR),
    no("trailer with a NUL", trailer(b"X: 1\0"), 400, CONTROLS),
    no("request line where trailers are", trailer(b"GET /admin HTTP/1.1"), 400, TRAILERS),
    no("the end comes in a chunk", chunked(b"5\r\nhel"), 400, INCOMPLETE_CHUNKED, fin=True),
    no("the end comes after a chunk", chunked(b"5\r\nhello\r\n"), 400, INCOMPLETE_CHUNKED, fin=True),
    no("the end comes before the last line", chunked(b"5\r\nhello\r\n0\r\n"), 400, INCOMPLETE_CHUNKED, fin=True),
]

LINES = [
    ok("a plain GET", GOOD, REQUEST_LINE),
    ok("one empty line before", b"\r\n" + GOOD, EMPTY_LINE),
    ok("an empty line between two", GOOD + b"\r\n" + GOOD, EMPTY_LINE, Message(), Message()),
    no("a bare LF before", b"\n" + GOOD, 400, BARE_LF),
    no("a bare CR before", b"\r" + GOOD, 400, BARE_CR),
    no("a space before", b" " + GOOD, 400, REQUEST_LINE),
    no("a line of a space before", b" \r\n" + GOOD, 400, GRAMMAR),
    no("a line of a tab before", b"\t\r\n" + GOOD, 400, GRAMMAR),
    no("a byte order mark before", b"\xef\xbb\xbf" + GOOD, 400, METHOD),
    no("a NUL before", b"\0" + GOOD, 400, METHOD),
    no("two spaces after the method", line(b"GET  / HTTP/1.1"), 400, REQUEST_LINE),
    no("two spaces before the version", line(b"GET /  HTTP/1.1"), 400, REQUEST_LINE),
    no("a tab after the method", line(b"GET\t/ HTTP/1.1"), 400, REQUEST_LINE),
    no("a tab before the version", line(b"GET /\tHTTP/1.1"), 400, REQUEST_LINE),
    no("a vertical tab after the method", line(b"GET\x0b/ HTTP/1.1"), 400, REQUEST_LINE),
    no("a form feed before the version", line(b"GET /\x0cHTTP/1.1"), 400, REQUEST_LINE),
    no("a bare CR after the method", line(b"GET\r/ HTTP/1.1"), 400, BARE_CR),
    no("a space behind the version", line(b"GET / HTTP/1.1 "), 400, REQUEST_LINE),
    no("a tab behind the version", line(b"GET / HTTP/1.1\t"), 400, REQUEST_LINE),
    no("a word behind the version", line(b"GET / HTTP/1.1 x"), 400, REQUEST_LINE),
    no("a CR behind the version", line(b"GET / HTTP/1.1\r"), 400, BARE_CR),
    no("no method", line(b" / HTTP/1.1"), 400, METHOD),
    no("no target", line(b"GET HTTP/1.1"), 400, REQUEST_LINE),
    no("an empty target", line(b"GET  HTTP/1.1"), 400, REQUEST_LINE),
    no("only a method", line(b"GET"), 400, REQUEST_LINE),
    no("no version: HTTP/0.9", b"GET /\r\n\r\n", 400, REQUEST_LINE),
    no("no version, with fields", line(b"GET /"), 400, REQUEST_LINE),
    no("a space instead of the version", line(b"GET / "), 400, VERSION),
    no("a response", answer(b"Content-Length: 0"), 400, METHOD),
    no("no HTTP at all", b"hello, is anybody there?\r\n\r\n", 400, GRAMMAR),
    no(
        "a TLS ClientHello",
        bytes.fromhex("16030100 31 0100002d 0303") + bytes(32) + b"\0\0\x02\x13\x01\x01\0\r\n\r\n",
        400,
        GRAMMAR,
    ),
    no("an SMTP greeting", b"EHLO lab.test\r\n\r\n", 400, REQUEST_LINE),
    no("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400, REQUEST_LINE),
    ok("a method nobody knows", line(b"BREW / HTTP/1.1"), METHOD, Message("BREW")),
    ok("a method in small letters", line(b"get / HTTP/1.1"), METHOD_CASE, Message("get")),
    ok("a method of every tchar", line(b"!#$%&'*+-.^_`|~09azAZ / HTTP/1.1"), METHOD, Message("!#$%&'*+-.^_`|~09azAZ")),
    no("a colon in the method", line(b"GET: / HTTP/1.1"), 400, METHOD),
    no("a slash in the method", line(b"GE/T / HTTP/1.1"), 400, METHOD),
    no("brackets in the method", line(b"[GET] / HTTP/1.1"), 400, METHOD),
    no("a NUL in the method", line(b"GE\0T / HTTP/1.1"), 400, METHOD),
    no("an accent in the method", line(b"G\xc9T / HTTP/1.1"), 400, METHOD),
    no("a method of 33 letters", get(line=b"M" * 33 + b" / HTTP/1.1"), 501, LONG_METHOD),
    ok(
        "a line of 8000 bytes",
        get(line=b"GET /" + b"a" * 7986 + b" HTTP/1.1"),
        LINE_8000,
        Message(target="/" + "a" * 7986),
    ),
    no("a target of 9000 bytes", get(line=b"GET /" + b"a" * 8999 + b" HTTP/1.1"), 414, LONG_TARGET),
    no("bare LFs everywhere", GOOD.replace(b"\r\n", b"\n"), 400, BARE_LF),
    no("bare CRs everywhere", GOOD.replace(b"\r\n", b"\r"), 400, BARE_CR),
    no("a bare LF behind the request line", b"GET / HTTP/1.1\nHost: lab.test\r\n\r\n", 400, BARE_LF),
    no("a bare LF behind a field", b"GET / HTTP/1.1\r\nHost: lab.test\n\r\n", 400, BARE_LF),
    no("a bare LF at the end of the head", b"GET / HTTP/1.1\r\nHost: lab.test\r\n\n", 400, BARE_LF),
    no("a bare CR at the end of the head", b"GET / HTTP/1.1\r\nHost: lab.test\r\n\r" + GOOD, 400, BARE_CR),
    no("two CRs and an LF", b"GET / HTTP/1.1\r\nHost: lab.test\r\r\n\r\n", 400, BARE_CR),
    no("LF CR for CRLF", GOOD.replace(b"\r\n", b"\n\r"), 400, BARE_LF),
    no("the end comes in the request line", b"GET / HT", 400, INCOMPLETE_HEAD, fin=True),
    no("the end comes in the fields", b"GET / HTTP/1.1\r\nHost: la", 400, INCOMPLETE_HEAD, fin=True),
    no("the end comes in the body", post(b"Content-Length: 5", body=b"hell"), 400, CUT_SHORT, fin=True),
    ok("the end comes between two requests", GOOD, PERSIST, Message(), fin=True),
    ok("the end comes before any request", b"", PERSIST, fin=True)._replace(want=()),
    ok("the end comes after an empty line", b"\r\n", EMPTY_LINE, fin=True)._replace(want=()),
]

VERSIONS = [
    ok("HTTP/1.0", line(b"GET / HTTP/1.0"), CLOSE_10, Message(keep_alive=False)),
    ok("HTTP/1.2 is 1.1", line(b"GET / HTTP/1.2"), MINOR),
    ok("HTTP/1.9 is 1.1", get(CHUNKED, line=b"GET / HTTP/1.9", body=HELLO), MINOR, Message(body=b"hello")),
    no("HTTP/1.2 needs a Host too", raw(b"GET / HTTP/1.2"), 400, MINOR),
    no("HTTP/1.10", line(b"GET / HTTP/1.10"), 400, VERSION),
    no("HTTP/01.1", line(b"GET / HTTP/01.1"), 400, VERSION),
    no("HTTP/1.01", line(b"GET / HTTP/1.01"), 400, VERSION),
    no("HTTP/11", line(b"GET / HTTP/11"), 400, VERSION),
    no("HTTP/1", line(b"GET / HTTP/1"), 400, VERSION),
    no("HTTP/1.", line(b"GET / HTTP/1."), 400, VERSION),
    no("HTTP/.1", line(b"GET / HTTP/.1"), 400, VERSION),
    no("HTTP/", line(b"GET / HTTP/"), 400, VERSION),
    no("HTTP 1.1", line(b"GET / HTTP 1.1"), 400, VERSION),
    no("HTTP/1,1", line(b"GET / HTTP/1,1"), 400, VERSION),
    no("HTTP/+1.1", line(b"GET / HTTP/+1.1"), 400, VERSION),
    no("HTTP/-1.1", line(b"GET / HTTP/-1.1"), 400, VERSION),
    no("HTTP/1.x", line(b"GET / HTTP/1.x"), 400, VERSION),
    no("HTTP/1.\xb9: isdigit() would take it", line(b"GET / HTTP/1.\xb9"), 400, VERSION),
    no("http/1.1", line(b"GET / http/1.1"), 400, VERSION_CASE),
    no("Http/1.1", line(b"GET / Http/1.1"), 400, VERSION_CASE),
    no("HTTPS/1.1", line(b"GET / HTTPS/1.1"), 400, VERSION),
    no("HTTP /1.1", line(b"GET / HTTP /1.1"), 400, VERSION),
    no("HTTP/ 1.1", line(b"GET / HTTP/ 1.1"), 400, VERSION),
    no("RTSP/1.0", line(b"OPTIONS / RTSP/1.0"), 400, VERSION),
    no("HTTP/0.9", line(b"GET / HTTP/0.9"), 505, MAJOR),
    no("HTTP/2.0", line(b"GET / HTTP/2.0"), 505, MAJOR),
    no("HTTP/3.0", line(b"GET / HTTP/3.0"), 505, MAJOR),
    no("HTTP/9.9", line(b"GET / HTTP/9.9"), 505, MAJOR),
    no("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, MAJOR),
]

TARGETS = [
    ok("a path", line(b"GET /a/b.html HTTP/1.1"), ORIGIN_FORM, Message(target="/a/b.html")),
    ok("a path and a query", line(b"GET /a?b=c&d HTTP/1.1"), ORIGIN_FORM, Message(target="/a?b=c&d")),
    ok("an empty query", line(b"GET /? HTTP/1.1"), ORIGIN_FORM, Message(target="/?")),
    ok("question marks and slashes in the query", line(b"GET /?a?/b HTTP/1.1"), QUERY, Message(target="/?a?/b")),
    ok("empty segments", line(b"GET //a//b HTTP/1.1"), ORIGIN_FORM, Message(target="//a//b")),
    ok("dot segments", line(b"GET /a/../b HTTP/1.1"), ORIGIN_FORM, Message(target="/a/../b")),
    ok("every pchar", line(b"GET /-._~!$&'()*+,;=:@%20 HTTP/1.1"), PCHAR, Message(target="/-._~!$&'()*+,;=:@%20")),
    ok("an encoded NUL: the site's business", line(b"GET /%00 HTTP/1.1"), PERCENT, Message(target="/%00")),
    ok("an encoded CRLF", line(b"GET /%0d%0aX:%20y HTTP/1.1"), PERCENT, Message(target="/%0d%0aX:%20y")),
    no("no leading slash", line(b"GET index.html HTTP/1.1"), 400, ORIGIN_FORM),
    no("only a query", line(b"GET ?a=b HTTP/1.1"), 400, ORIGIN_FORM),
    no("dots without a slash", line(b"GET ../etc/passwd HTTP/1.1"), 400, ORIGIN_FORM),
    no("a space in the path", line(b"GET /a b HTTP/1.1"), 400, TARGET_SPACE),
    no("a space in the query", line(b"GET /?a b HTTP/1.1"), 400, TARGET_SPACE),
    no("a tab in the path", line(b"GET /a\tb HTTP/1.1"), 400, TARGET_SPACE),
    no("a fragment", line(b"GET /a#b HTTP/1.1"), 400, FRAGMENT),
    no("a fragment in the query", line(b"GET /?a#b HTTP/1.1"), 400, FRAGMENT),
    no("a backslash", line(b"GET /a\\b HTTP/1.1"), 400, PCHAR),
    no("backslashes for slashes", line(b"GET \\\\evil.test\\ HTTP/1.1"), 400, ORIGIN_FORM),
    no("a NUL in the path", line(b"GET /a\0b HTTP/1.1"), 400, PCHAR),
    no("an escape in the path", line(b"GET /\x1b[31m HTTP/1.1"), 400, PCHAR),
    no("a DEL in the path", line(b"GET /\x7f HTTP/1.1"), 400, PCHAR),
    no("a bare CR in the path", line(b"GET /a\rb HTTP/1.1"), 400, BARE_CR),
    no("a bare LF in the path", line(b"GET /a\nb HTTP/1.1"), 400, BARE_LF),
    no("Latin-1 in the path", line(b"GET /caf\xe9 HTTP/1.1"), 400, TARGET),
    no("UTF-8 in the path", get(line="GET /café HTTP/1.1".encode()), 400, TARGET),
    no("square brackets in the query", line(b"GET /?a[]=b HTTP/1.1"), 400, QUERY),
    no("braces and a bar in the query", line(b"GET /?{a|b} HTTP/1.1"), 400, QUERY),
    no("angle brackets", line(b"GET /<script> HTTP/1.1"), 400, PCHAR),
    no("a double quote", line(b'GET /" HTTP/1.1'), 400, PCHAR),
    no("a percent sign alone", line(b"GET /100% HTTP/1.1"), 400, PERCENT),
    no("a percent sign and one digit", line(b"GET /%4 HTTP/1.1"), 400, PERCENT),
    no("a percent sign and letters", line(b"GET /%zz HTTP/1.1"), 400, PERCENT),
    no("a percent sign in the query", line(b"GET /?100% HTTP/1.1"), 400, PERCENT),
    ok("absolute", line(b"GET http://lab.test/a?b HTTP/1.1"), ABSOLUTE_FORM, Message(target="http://lab.test/a?b")),
    ok("absolute, https", line(b"GET https://lab.test/ HTTP/1.1"), ABSOLUTE_FORM, Message(target="https://lab.test/")),
    ok("absolute, no path", line(b"GET http://lab.test HTTP/1.1"), ABSOLUTE_FORM, Message(target="http://lab.test")),
    ok("absolute, HTTP", line(b"GET HTTP://LAB.test/ HTTP/1.1"), SCHEME_CASE, Message(target="HTTP://LAB.test/")),
    ok(
        "absolute, a port",
        line(b"GET http://lab.test:80/ HTTP/1.1"),
        ABSOLUTE_FORM,
        Message(target="http://lab.test:80/"),
    ),
    ok("absolute, IPv6", line(b"GET http://[::1]:80/ HTTP/1.1"), IP_LITERAL, Message(target="http://[::1]:80/")),
    ok(
        "absolute, and another Host: the URI wins",
        line(b"GET http://other.test/ HTTP/1.1"),
        URI_WINS,
        Message(target="http://other.test/", fields={"host": "other.test"}),
    ),
    ok(
        "absolute in HTTP/1.0 without a Host",
        raw(b"GET http://lab.test/ HTTP/1.0"),
        ABSOLUTE_FORM,
        Message(target="http://lab.test/", keep_alive=False),
    ),
    no("absolute without a Host", raw(b"GET http://lab.test/ HTTP/1.1"), 400, HOST),
    no("absolute and two Hosts", get(b"Host: lab.test", line=b"GET http://lab.test/ HTTP/1.1"), 400, HOST),
    no("absolute and an invalid Host", host(b"a b", b"GET http://lab.test/ HTTP/1.1"), 400, HOST),
    no("absolute, no host", line(b"GET http:///a HTTP/1.1"), 400, EMPTY_URI_HOST),
    no("absolute, only a port", line(b"GET http://:80/ HTTP/1.1"), 400, EMPTY_URI_HOST),
    no("absolute, userinfo", line(b"GET http://user:pw@lab.test/ HTTP/1.1"), 400, USERINFO),
    no("absolute, an @ in front", line(b"GET http://@lab.test/ HTTP/1.1"), 400, USERINFO),
    no("absolute, a fragment", line(b"GET http://lab.test/#a HTTP/1.1"), 400, FRAGMENT),
    no("absolute, a port of letters", line(b"GET http://lab.test:http/ HTTP/1.1"), 400, PORT),
    no("absolute, port 99999", line(b"GET http://lab.test:99999/ HTTP/1.1"), 400, TCP_PORT),
    no("absolute, an open bracket", line(b"GET http://[::1/ HTTP/1.1"), 400, IP_LITERAL),
    no("absolute, one slash", line(b"GET http:/lab.test/ HTTP/1.1"), 400, ABSOLUTE_FORM),
    no("absolute, no scheme", line(b"GET ://lab.test/ HTTP/1.1"), 400, ABSOLUTE_FORM),
    no("authority with GET", line(b"GET lab.test:80 HTTP/1.1"), 400, AUTHORITY_FORM),
    ok("CONNECT", line(b"CONNECT lab.test:443 HTTP/1.1"), AUTHORITY_FORM, Message("CONNECT", "lab.test:443")),
    ok("CONNECT, IPv6", line(b"CONNECT [::1]:443 HTTP/1.1"), AUTHORITY_FORM, Message("CONNECT", "[::1]:443")),
    no("CONNECT without a port", line(b"CONNECT lab.test HTTP/1.1"), 400, CONNECT_PORT),
    no("CONNECT, an empty port", line(b"CONNECT lab.test: HTTP/1.1"), 400, CONNECT_PORT),
    no("CONNECT, port 0", line(b"CONNECT lab.test:0 HTTP/1.1"), 400, CONNECT_PORT),
    no("CONNECT, port 99999", line(b"CONNECT lab.test:99999 HTTP/1.1"), 400, CONNECT_PORT),
    no("CONNECT, a port of letters", line(b"CONNECT lab.test:https HTTP/1.1"), 400, CONNECT_PORT),
    no("CONNECT without a host", line(b"CONNECT :443 HTTP/1.1"), 400, AUTHORITY_FORM),
    no("CONNECT to a path", line(b"CONNECT / HTTP/1.1"), 400, AUTHORITY_FORM),
    no("CONNECT to a URI", line(b"CONNECT http://lab.test:443/ HTTP/1.1"), 400, AUTHORITY_FORM),
    no("CONNECT with userinfo", line(b"CONNECT a@lab.test:443 HTTP/1.1"), 400, AUTHORITY_FORM),
    ok("OPTIONS *", line(b"OPTIONS * HTTP/1.1"), ASTERISK_FORM, Message("OPTIONS", "*")),
    ok("OPTIONS /", line(b"OPTIONS / HTTP/1.1"), ASTERISK_FORM, Message("OPTIONS", "/")),
    no("GET *", line(b"GET * HTTP/1.1"), 400, ASTERISK_FORM),
    no("CONNECT *", line(b"CONNECT * HTTP/1.1"), 400, ONLY_THERE),
    no("options *", line(b"options * HTTP/1.1"), 400, METHOD_CASE),
    no("OPTIONS **", line(b"OPTIONS ** HTTP/1.1"), 400, ASTERISK_FORM),
    no("OPTIONS *?a", line(b"OPTIONS *?a HTTP/1.1"), 400, ASTERISK_FORM),
]

HOSTS = [
    ok("Host with a port", host(b"lab.test:7003"), HOST_SYNTAX, Message(fields={"host": "lab.test:7003"})),
    ok("Host with an empty port", host(b"lab.test:"), PORT),
    ok("Host, IPv4", host(b"127.0.0.1:7003"), HOST_SYNTAX),
    ok("Host, IPv6", host(b"[::1]"), IP_LITERAL),
    ok("Host, IPv6 with a port", host(b"[2001:db8::1]:7003"), IP_LITERAL),
    ok("Host, IPv6 that ends in IPv4", host(b"[::ffff:127.0.0.1]"), IP_LITERAL),
    ok("Host with an underscore", host(b"my_host"), REG_NAME),
    ok("Host percent-encoded", host(b"l%C3%A4b.test"), REG_NAME),
    ok("Host with a dot behind", host(b"lab.test."), REG_NAME),
    ok("Host in capitals", raw(b"GET / HTTP/1.1", b"HOST: LAB.TEST"), NAME_CASE),
    ok("no Host in HTTP/1.0", raw(b"GET / HTTP/1.0"), HOST, Message(keep_alive=False)),
    no("no Host", raw(b"GET / HTTP/1.1"), 400, HOST),
    no("no Host, but an X-Host", raw(b"GET / HTTP/1.1", b"X-Host: lab.test"), 400, HOST),
    no("no Host, but a Host_", raw(b"GET / HTTP/1.1", b"Host_: lab.test"), 400, HOST),
    no("Host twice, different", get(b"Host: evil.test"), 400, HOST),
    no("Host twice, equal", get(b"Host: lab.test"), 400, HOST),
    no("Host twice, in odd case", get(b"hOsT: lab.test"), 400, HOST),
    no("Host twice in HTTP/1.0", get(b"Host: lab.test", line=b"GET / HTTP/1.0"), 400, HOST),
    no("Host invalid in HTTP/1.0", host(b"a b", b"GET / HTTP/1.0"), 400, HOST),
    no("Host empty", host(b""), 400, EMPTY_HOST),
    no("Host of only a port", host(b":80"), 400, EMPTY_HOST),
    no("Host list", host(b"lab.test, evil.test"), 400, HOST),
    # A comma is in the grammar of reg-name, yet to whoever combines field lines (RFC 9110 §5.2) this is two of them.
    no("Host list without a space", host(b"lab.test,evil.test"), 400, HOST),
    no("Host of two words", host(b"lab.test evil.test"), 400, HOST),
    no("Host with userinfo", host(b"user@lab.test"), 400, HOST_SYNTAX),
    no("Host with a path", host(b"lab.test/a"), 400, HOST_SYNTAX),
    no("Host with a query", host(b"lab.test?a"), 400, HOST_SYNTAX),
    no("Host with a fragment", host(b"lab.test#a"), 400, HOST_SYNTAX),
    no("Host with a scheme", host(b"http://lab.test"), 400, HOST_SYNTAX),
    no("Host with a backslash", host(b"lab.test\\evil"), 400, REG_NAME),
    no("Host with a port of letters", host(b"lab.test:http"), 400, PORT),
    no("Host with a negative port", host(b"lab.test:-1"), 400, PORT),
    no("Host with port 99999", host(b"lab.test:99999"), 400, TCP_PORT),
    no("Host with port 65536", host(b"lab.test:65536"), 400, TCP_PORT),
    no("Host with a port of 5000 digits", host(b"lab.test:" + b"9" * 5000), 400, TCP_PORT),
    no("Host with two ports", host(b"lab.test:80:80"), 400, PORT),
    no("Host with a space before the port", host(b"lab.test :80"), 400, HOST_SYNTAX),
    no("Host with an open bracket", host(b"[::1"), 400, IP_LITERAL),
    no("Host with a bracket behind", host(b"::1]"), 400, IP_LITERAL),
    no("Host, IPv6 without brackets", host(b"2001:db8::1"), 400, IP_LITERAL),
    no("Host, empty brackets", host(b"[]"), 400, IP_LITERAL),
    no("Host, letters in brackets", host(b"[lab.test]"), 400, IP_LITERAL),
    no("Host, IPv4 in brackets", host(b"[127.0.0.1]"), 400, IP_LITERAL),
    no("Host, IPv6 of nine pieces", host(b"[1:2:3:4:5:6:7:8:9]"), 400, IP_LITERAL),
    no("Host, IPv6 with two elisions", host(b"[1::2::3]"), 400, IP_LITERAL),
    no("Host, IPv6 and more", host(b"[::1]evil.test"), 400, HOST_SYNTAX),
    no("Host with a bad percent sign", host(b"lab%zz.test"), 400, PERCENT),
    no("Host with quotes", host(b'"lab.test"'), 400, REG_NAME),
    no("Host with angle brackets", host(b"<lab.test>"), 400, REG_NAME),
    no("Host with a NUL", host(b"lab.test\0.evil"), 400, CONTROLS),
    no("Host in Latin-1", host(b"l\xe4b.test"), 400, REG_NAME),
    no("space before the colon of Host", raw(b"GET / HTTP/1.1", b"Host : lab.test"), 400, SPACE_COLON),
    no("Host folded", raw(b"GET / HTTP/1.1", b"Host:", b" lab.test"), 400, FOLD),
]

FIELDS = [
    ok("no space behind the colon", get(b"X:y"), FIELD_LINE, Message(fields={"x": "y"})),
    ok("spaces and tabs around a value", get(b"X: \t y z\t "), STRIP, Message(fields={"x": "y z"})),
    ok("an empty value", get(b"X:"), EMPTY_VALUE, Message(fields={"x": ""})),
    ok("a value of spaces", get(b"X:  \t "), STRIP, Message(fields={"x": ""})),
    ok("a colon in the value", get(b"X: a:b"), FIELD_LINE, Message(fields={"x": "a:b"})),
    ok("a value that starts with a colon", get(b"X::"), FIELD_LINE, Message(fields={"x": ":"})),
    ok("a tab in a value", get(b"X: a\tb"), STRIP, Message(fields={"x": "a\tb"})),
    ok("Latin-1 in a value", get(b"X: caf\xe9"), OPAQUE, Message(fields={"x": "caf\xe9"})),
    ok("bytes 80 and FF in a value", get(b"X: \x80\xff"), OPAQUE, Message(fields={"x": "\x80\xff"})),
    ok("a no-break space is no space", get(b"X: \xa0y\xa0"), STRIP, Message(fields={"x": "\xa0y\xa0"})),
    ok(
        "a name of every tchar",
        get(b"!#$%&'*+-.^_`|~09aZ: y"),
        FIELD_NAME,
        Message(fields={"!#$%&'*+-.^_`|~09az": "y"}),
    ),
    ok("a field twice", get(b"X: a", b"Y: b", b"x: c"), COMBINE, Message(fields={"x": "a, c", "y": "b"})),
    ok("a value in quotes with a comma", get(b'X: "a, b"'), FIELD_LINE, Message(fields={"x": '"a, b"'})),
    no("a space before the colon", get(b"X : y"), 400, SPACE_COLON),
    no("a tab before the colon", get(b"X\t: y"), 400, SPACE_COLON),
    no("a space in a name", get(b"X Y: z"), 400, FIELD_NAME),
    no("a space before the first field", raw(b"GET / HTTP/1.1", b" Host: lab.test"), 400, SPACE_FIRST),
    no("a tab before the first field", raw(b"GET / HTTP/1.1", b"\tX: y", b"Host: lab.test"), 400, SPACE_FIRST),
    no("a line of a space as first field", raw(b"GET / HTTP/1.1", b" ", b"Host: lab.test"), 400, SPACE_FIRST),
    no("a space before a later field", get(b" X: y"), 400, FOLD),
    no("a folded value", get(b"X: a", b" b"), 400, FOLD),
    no("a value folded with a tab", get(b"X: a", b"\tb"), 400, FOLD),
    no("a fold of nothing", get(b"X: a", b" "), 400, FOLD),
    no("no colon", get(b"X"), 400, FIELD_LINE),
    no("no name", get(b": y"), 400, FIELD_NAME),
    no("only a colon", get(b":"), 400, FIELD_NAME),
    no("a bare CR in a value", get(b"X: a\rb"), 400, BARE_CR),
    no("a bare CR in a name", get(b"X\rY: a"), 400, BARE_CR),
    no("a bare LF in a value", get(b"X: a\nb"), 400, BARE_LF),
    no("a bare LF that makes another field", get(b"X: a\nY: b"), 400, BARE_LF),
    no("a NUL in a value", get(b"X: a\0b"), 400, CONTROLS),
    no("a NUL in a name", get(b"X\0Y: a"), 400, FIELD_NAME),
    no("a bell in a value", get(b"X: a\x07"), 400, OTHER_CONTROLS),
    no("a backspace in a value", get(b"X: a\x08b"), 400, OTHER_CONTROLS),
    no("a vertical tab in a value", get(b"X: a\x0bb"), 400, OTHER_CONTROLS),
    no("a form feed in a value", get(b"X: a\x0cb"), 400, OTHER_CONTROLS),
    no("a file separator in a value: splitlines() splits there", get(b"X: a\x1cY: b"), 400, OTHER_CONTROLS),
    no("an escape in a value", get(b"X: \x1b[31m"), 400, OTHER_CONTROLS),
    no("a DEL in a value", get(b"X: a\x7f"), 400, OTHER_CONTROLS),
    ok("a NEL in a value: splitlines() splits there", get(b"X: a\x85Y: b"), OPAQUE, Message(fields={"x": "a\x85Y: b"})),
    no("a DEL in a name", get(b"X\x7f: a"), 400, FIELD_NAME),
    no("Latin-1 in a name", get(b"Caf\xe9: a"), 400, FIELD_NAME),
    no(
        "a Kelvin sign in a name: lower() makes it a k",
        get("Cooie: a".replace("o", "\u212a", 1).encode()),
        400,
        FIELD_NAME,
    ),
    no("parentheses in a name", get(b"X(Y): a"), 400, FIELD_NAME),
    no("a quote in a name", get(b'"X": a'), 400, FIELD_NAME),
    no("a comma in a name", get(b"X,Y: a"), 400, FIELD_NAME),
    no("a slash in a name", get(b"X/Y: a"), 400, FIELD_NAME),
    no("an equals sign for the colon", get(b"X=y"), 400, FIELD_LINE),
    no("a request line among the fields", get(b"GET /admin HTTP/1.1"), 400, FIELD_LINE),
    ok("a hundred fields", get(*[b"X: y"] * 99), FIELD_LIMIT),
    no("a hundred and one fields", get(*[b"X: y"] * 100), 431, TOO_LARGE),
    no("a field larger than all may be", get(b"X: " + b"y" * 40000), 431, TOO_LARGE),
    no("fields larger than they may be together", get(*[b"X: " + b"y" * 1000] * 40), 431, TOO_LARGE),
    no("a name larger than all may be", get(b"X" * 40000 + b": y"), 431, TOO_LARGE),
    no(
        "trailers larger than they may be",
        chunked(b"0\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 40 + b"\r\n"),
        431,
        TOO_LARGE,
    ),
    no("a hundred and one trailers", chunked(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"), 431, TOO_LARGE),
]

CONNECTIONS = [
    ok("Connection: close", get(b"Connection: close"), CLOSE, Message(keep_alive=False)),
    ok("Connection: CLOSE", get(b"connection: CLOSE"), OPTION_CASE, Message(keep_alive=False)),
    ok("close in a list", get(b"Connection: foo, close ,bar"), CLOSE, Message(keep_alive=False)),
    ok(
        "close in a second field",
        get(b"Connection: keep-alive", b"Connection: close"),
        CLOSE,
        Message(keep_alive=False),
    ),
    ok("close wins over keep-alive", get(b"Connection: close, keep-alive"), CLOSE, Message(keep_alive=False)),
    ok("close among empty elements", get(b"Connection: ,,close,"), EMPTY_ELEMENTS, Message(keep_alive=False)),
    ok("what is behind a close is no request", get(b"Connection: close") + GOOD, NO_MORE, Message(keep_alive=False)),
    ok("Connection: keep-alive", get(b"Connection: keep-alive"), PERSIST),
    ok("Connection: closed", get(b"Connection: closed"), PERSIST),
    ok("Connection: x-close", get(b"Connection: x-close"), PERSIST),
    ok("Connection: close and a no-break space: strip() takes it", get(b"Connection: close\xa0"), OPTION),
    ok("Connection without a value", get(b"Connection:"), PERSIST),
    ok("Connection that names Host", get(b"Connection: host"), PERSIST),
    ok(
        "keep-alive in HTTP/1.0",
        get(b"Connection: Keep-Alive", line=b"GET / HTTP/1.0"),
        PERSIST_10,
        Message(keep_alive=True),
    ),
    ok(
        "keep-alive and close in HTTP/1.0",
        get(b"Connection: keep-alive, close", line=b"GET / HTTP/1.0"),
        CLOSE,
        Message(keep_alive=False),
    ),
    ok("what is behind an HTTP/1.0 request", line(b"GET / HTTP/1.0") + GOOD, NO_MORE, Message(keep_alive=False)),
    ok("two pipelined", GOOD + line(b"GET /2 HTTP/1.1"), PIPELINE, Message(), Message(target="/2")),
    ok(
        "three pipelined, with bodies",
        sized(b"5") + chunked(HELLO) + GOOD,
        PIPELINE,
        HELLO_POSTED,
        HELLO_POSTED,
        Message(),
    ),
    ok("a good one and a bad one", GOOD + b"G@T / HTTP/1.1\r\n\r\n", GRAMMAR, Message(), 400),
    ok(
        "a body that is longer than it said",
        post(b"Content-Length: 4", body=b"hello\r\n\r\n"),
        LENGTH,
        posted(b"hell"),
        400,
    ),
    ok(
        "an upgrade that we may ignore",
        get(b"Connection: upgrade", b"Upgrade: websocket") + GOOD,
        UPGRADE,
        Message(fields={"upgrade": "websocket"}),
        Message(),
    ),
    ok(
        "Expect: 100-continue",
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
        EXPECT_CASE,
        HELLO_POSTED,
    ),
    ok(
        "Expect: 100-Continue",
        post(b"Expect: 100-Continue", b"Content-Length: 5", body=b"hello"),
        EXPECT_CASE,
        HELLO_POSTED,
    ),
    ok(
        "Expect: 100-continue twice",
        post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
        EXPECT_OTHER,
        HELLO_POSTED,
    ),
    ok(
        "Expect: 100-continue and an empty element",
        post(b"Expect: ,100-continue", b"Content-Length: 5", body=b"hello"),
        EMPTY_ELEMENTS,
        HELLO_POSTED,
    ),
    ok(
        "Expect in HTTP/1.0",
        get(b"Expect: 100-continue", b"Content-Length: 5", line=b"POST / HTTP/1.0", body=b"hello"),
        EXPECT_10,
        HELLO_POSTED._replace(keep_alive=False),
    ),
    no("Expect something else", post(b"Expect: 200-ok", b"Content-Length: 5", body=b"hello"), 417, EXPECT_OTHER),
    no(
        "Expect more than that",
        post(b"Expect: 100-continue, tea", b"Content-Length: 5", body=b"hello"),
        417,
        EXPECT_OTHER,
    ),
    no("Expect 100-continued", post(b"Expect: 100-continued", b"Content-Length: 5", body=b"hello"), 417, EXPECT_OTHER),
    ok("a body of just what is allowed", sized(b"5"), CONTENT_TOO_LARGE, HELLO_POSTED, limits={"max_body": 5}),
    no("a body that will be too large", post(b"Content-Length: 6"), 413, CONTENT_TOO_LARGE, limits={"max_body": 5}),
    ok("chunks of just what is allowed", chunked(HELLO), CONTENT_TOO_LARGE, HELLO_POSTED, limits={"max_body": 5}),
    no("a chunk that will be too large", chunked(b"6\r\n"), 413, CONTENT_TOO_LARGE, limits={"max_body": 5}),
    no("chunks too large together", chunked(b"3\r\nhel\r\n3\r\n"), 413, CONTENT_TOO_LARGE, limits={"max_body": 5}),
]

GROUPS = {
    "content-length and smuggling": SMUGGLING,
    "transfer codings": CODINGS,
    "chunks": CHUNKS,
    "request lines": LINES,
    "versions": VERSIONS,
    "targets": TARGETS,
    "host": HOSTS,
    "fields": FIELDS,
    "connection, expect, limits": CONNECTIONS,
}
REQUESTS = [case for cases in GROUPS.values() for case in cases]

ENDLESS_REQUESTS = [
    Endless("an endless method", b"", b"M", 501, 256, LONG_METHOD, {"max_line": 256}),
    Endless("endless bytes that are no method", b"", b"(", 400, 256, METHOD, {"max_line": 256}),
    Endless("an endless target", b"GET /", b"a", 414, 256, LONG_TARGET, {"max_line": 256}),
    Endless("an endless URI", b"GET http://lab.test/", b"a", 414, 256, LONG_TARGET, {"max_line": 256}),
    Endless("endless spaces in the request line", b"GET / HTTP/1.1", b" ", 414, 256, LONG_TARGET, {"max_line": 256}),
    Endless("endless empty lines", b"", b"\r\n", 400, 8192, EMPTY_LINE),
    Endless("an endless name", b"GET / HTTP/1.1\r\n", b"X", 431, 512, TOO_LARGE, {"max_fields_size": 512}),
    Endless("an endless value", b"GET / HTTP/1.1\r\nX: ", b"y", 431, 512, TOO_LARGE, {"max_fields_size": 512}),
    Endless(
        "endless spaces in a value", b"GET / HTTP/1.1\r\nX: y", b" ", 431, 512, TOO_LARGE, {"max_fields_size": 512}
    ),
    Endless("endless large fields", b"GET / HTTP/1.1\r\n", b"X: y\r\n", 431, 512, TOO_LARGE, {"max_fields_size": 512}),
    Endless("endless small fields", b"GET / HTTP/1.1\r\n", b"X: y\r\n", 431, 66, TOO_LARGE, {"max_fields": 10}),
    Endless("a bare LF, then nothing that matters", b"GET / HTTP/1.1\n", b"X: y\r\n", 400, 1, BARE_LF),
    Endless("a NUL, then nothing that matters", b"GET / HTTP/1.1\r\nX: \0", b"y", 400, 1, CONTROLS),
    Endless("an endless size of zeros", chunked(b""), b"0", 400, 1024, CHUNK_SIZE),
    Endless("an endless size", chunked(b""), b"f", 400, 1024, CHUNK_OVERFLOW),
    Endless("an endless extension", chunked(b"5;"), b"a", 400, 1024, EXTENSION_LIMIT),
    Endless("an endless extension in quotes", chunked(b'5;a="'), b"b", 400, 1024, EXTENSION_LIMIT),
    Endless("endless extensions", chunked(b"5"), b";a=b", 400, 1024, EXTENSION_LIMIT),
    Endless(
        "endless chunks of a byte and an extension",
        chunked(b""),
        b"1;" + b"a" * 998 + b"\r\nx\r\n",
        400,
        17 * 1005,
        EXTENSION_LIMIT,
    ),
    Endless("an endless trailer", chunked(b"0\r\nX: "), b"y", 431, 512, TOO_LARGE, {"max_fields_size": 512}),
    Endless("endless trailers", chunked(b"0\r\n"), b"X: y\r\n", 431, 66, TOO_LARGE, {"max_fields": 10}),
    Endless(
        "an endless body of chunks", chunked(b""), b"5\r\nhello\r\n", 413, 1000, CONTENT_TOO_LARGE, {"max_body": 400}
    ),
    Endless("an endless chunk", chunked(b"ffffffffffffffff\r\n"), b"x", 413, 0, CONTENT_TOO_LARGE, {"max_body": 400}),
]

# --- Responses ----------------------------------------------------------------------------------------------------

CODED = answer(CHUNKED, body=HELLO)
HELLO_SAID = Answer(body=b"hello")


def bad(name: str, wire: bytes, rule: str, *want: Answer, **more: Any) -> Case:
    return Case(name, wire, (*want, REFUSED), rule, **more)


RESPONSES = [
    # The status line.
    ok("200", answer(b"Content-Length: 5", body=b"hello"), LENGTH, HELLO_SAID),
    ok("a reason of several words", status(b"HTTP/1.1 404 Not Found"), REASON, Answer(404, reason="Not Found")),
    ok("no reason", status(b"HTTP/1.1 200 "), STATUS_SPACE, Answer(reason="")),
    ok("a reason in Latin-1", status(b"HTTP/1.1 200 \xe7a va"), REASON, Answer(reason="\xe7a va")),
    ok("a tab in the reason", status(b"HTTP/1.1 200 a\tb"), REASON, Answer(reason="a\tb")),
    ok("a status nobody knows", status(b"HTTP/1.1 471 Hm"), CLASS, Answer(471)),
    ok("a status of class 7", status(b"HTTP/1.1 700 Hm"), STATUS_RANGE, Answer(700)),
    ok(
        "HTTP/1.0",
        answer(b"Content-Length: 5", line=b"HTTP/1.0 200 OK", body=b"hello"),
        CLOSE_10,
        Answer(body=b"hello", keep_alive=False),
    ),
    ok("HTTP/1.2 is 1.1", answer(CHUNKED, line=b"HTTP/1.2 200 OK", body=HELLO), MINOR, HELLO_SAID),
    bad("no space after the status", status(b"HTTP/1.1 200"), STATUS_SPACE),
    bad("a status of two digits", status(b"HTTP/1.1 20 OK"), STATUS_DIGITS),
    bad("a status of four digits", status(b"HTTP/1.1 2000 OK"), STATUS_DIGITS),
    bad("a status of class 0", status(b"HTTP/1.1 099 Hm"), CLASS),
    bad("a status with a sign", status(b"HTTP/1.1 +20 OK"), STATUS_DIGITS),
    bad("a status of letters", status(b"HTTP/1.1 abc OK"), STATUS_DIGITS),
    bad("a superscript in the status: isdigit() would take it", status(b"HTTP/1.1 20\xb2 OK"), STATUS_DIGITS),
    bad("no status", status(b"HTTP/1.1  OK"), STATUS_DIGITS),
    bad("two spaces before the status", status(b"HTTP/1.1  200 OK"), STATUS_LINE),
    bad("a tab before the status", status(b"HTTP/1.1\t200 OK"), STATUS_LINE),
    bad("a space before the version", status(b" HTTP/1.1 200 OK"), STATUS_LINE),
    bad("a NUL in the reason", status(b"HTTP/1.1 200 O\0K"), REASON),
    bad("a bare CR in the reason", status(b"HTTP/1.1 200 O\rK"), BARE_CR),
    bad("an escape in the reason", status(b"HTTP/1.1 200 \x1b[31m"), REASON),
    bad("HTTP/2.0", status(b"HTTP/2.0 200 OK"), MAJOR),
    bad("HTTP/0.9", status(b"HTTP/0.9 200 OK"), MAJOR),
    bad("HTTP/1.10", status(b"HTTP/1.10 200 OK"), VERSION),
    bad("http/1.1", status(b"http/1.1 200 OK"), VERSION_CASE),
    bad("ICY: an old radio", answer(line=b"ICY 200 OK"), VERSION),
    bad("an HTTP/0.9 answer, which is only a body", b"<html>\r\n<p>hello\r\n\r\n", STATUS_LINE),
    bad("a request", GOOD, STATUS_LINE),
    bad("an empty line before", b"\r\n" + CODED, STATUS_LINE),
    bad("bare LFs everywhere", CODED.replace(b"\r\n", b"\n"), BARE_LF),
    bad("a bare LF at the end of the head", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n", BARE_LF),
    # Fields.
    ok(
        "spaces and tabs around a value",
        answer(b"X:\t a b \t", CHUNKED, body=HELLO),
        STRIP,
        Answer(body=b"hello", fields={"x": "a b"}),
    ),
    ok(
        "Latin-1 in a value",
        answer(b"X: \xe9", CHUNKED, body=HELLO),
        OPAQUE,
        Answer(body=b"hello", fields={"x": "\xe9"}),
    ),
    ok(
        "a field twice",
        answer(b"X: a", b"x: b", CHUNKED, body=HELLO),
        COMBINE,
        Answer(body=b"hello", fields={"x": "a, b"}),
    ),
    ok(
        "a folded value",
        answer(b"X: a \t", b" \t b", CHUNKED, body=HELLO),
        FOLD_ANSWER,
        Answer(body=b"hello", fields={"x": "a b"}),
    ),
    ok(
        "a value folded twice",
        answer(b"X: a", b"\tb", b" c", CHUNKED, body=HELLO),
        FOLD_ANSWER,
        Answer(body=b"hello", fields={"x": "a b c"}),
    ),
    ok("a folded Content-Length", answer(b"Content-Length:", b" 5", body=b"hello"), FOLD_ANSWER, HELLO_SAID),
    bad(
        "a Content-Length folded into two numbers",
        answer(b"Content-Length: 1", b" 0", body=b"0123456789"),
        LENGTH_DIGITS,
    ),
    bad("a space before the first field", answer(b" X: a", CHUNKED, body=HELLO), SPACE_FIRST),
    bad("a space before the colon", answer(b"X : a", CHUNKED, body=HELLO), SPACE_COLON_ANSWER),
    bad("a space before the colon of Content-Length", answer(b"Content-Length : 5", body=b"hello"), SPACE_COLON_ANSWER),
    bad("no colon", answer(b"X", CHUNKED, body=HELLO), FIELD_LINE),
    bad("no name", answer(b": a", CHUNKED, body=HELLO), FIELD_NAME),
    bad("a NUL in a value", answer(b"X: \0", CHUNKED, body=HELLO), CONTROLS),
    bad("a bare CR in a value", answer(b"X: a\rb", CHUNKED, body=HELLO), BARE_CR),
    bad("a bare LF in a value", answer(b"X: a\nb", CHUNKED, body=HELLO), BARE_LF),
    bad("a DEL in a value", answer(b"X: \x7f", CHUNKED, body=HELLO), OTHER_CONTROLS),
    bad("a hundred and one fields", answer(*[b"X: y"] * 101), CLIENT_LIMIT),
    bad("fields larger than they may be", answer(b"X: " + b"y" * 40000), CLIENT_LIMIT),
    # Where the body ends.
    ok("chunked", CODED, CHUNK, HELLO_SAID),
    ok("chunked, with trailers", answer(CHUNKED, body=b"0\r\nX: y\r\n\r\n"), TRAILERS, Answer(trailers={"x": "y"})),
    ok("neither: until the end", answer(body=b"hello"), UNTIL_CLOSE, Answer(body=b"hello", keep_alive=False), fin=True),
    ok("neither, and no body", answer(), UNTIL_CLOSE, Answer(keep_alive=False), fin=True),
    ok(
        "neither: what follows is body", answer(body=CODED), UNTIL_CLOSE, Answer(body=CODED, keep_alive=False), fin=True
    ),
    ok("Content-Length with leading zeros", answer(b"Content-Length: 0005", body=b"hello"), LENGTH_DIGITS, HELLO_SAID),
    bad("Content-Length and Transfer-Encoding", answer(b"Content-Length: 5", CHUNKED, body=HELLO), BOTH_ANSWER),
    bad("Transfer-Encoding and Content-Length", answer(CHUNKED, b"Content-Length: 15", body=HELLO), BOTH_ANSWER),
    bad("Content-Length twice, equal", answer(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), LENGTH_LIST),
    bad(
        "Content-Length twice, different",
        answer(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"),
        LENGTH_INVALID,
    ),
    bad("Content-Length list", answer(b"Content-Length: 5, 5", body=b"hello"), LENGTH_LIST),
    bad("Content-Length -1", answer(b"Content-Length: -1", body=b"hello"), LENGTH_DIGITS),
    bad("Content-Length +5", answer(b"Content-Length: +5", body=b"hello"), LENGTH_DIGITS),
    bad("Content-Length empty", answer(b"Content-Length:", body=b"hello"), LENGTH_DIGITS),
    bad("Content-Length of 5000 digits", answer(b"Content-Length: " + b"9" * 5000), LENGTH_HUGE),
    bad("Transfer-Encoding gzip", answer(b"Transfer-Encoding: gzip", body=b"hello"), NO_TE, fin=True),
    bad("Transfer-Encoding gzip, chunked", answer(b"Transfer-Encoding: gzip, chunked", body=HELLO), NO_TE),
    bad("Transfer-Encoding identity", answer(b"Transfer-Encoding: identity", body=b"hello"), NO_TE, fin=True),
    bad("Transfer-Encoding chunked twice", answer(CHUNKED, CHUNKED, body=HELLO), CHUNKED_TWICE),
    bad("Transfer-Encoding empty", answer(b"Transfer-Encoding:", body=HELLO), NO_TE),
    bad("Transfer-Encoding in HTTP/1.0", answer(CHUNKED, line=b"HTTP/1.0 200 OK", body=HELLO), CODING_IN_10),
    bad("a chunk with a bare LF", answer(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"), CHUNK),
    bad("a chunk without an end", answer(CHUNKED, body=b"5\r\nhelloo\r\n0\r\n\r\n"), CHUNK),
    bad("a chunk of -1", answer(CHUNKED, body=b"-1\r\n\r\n"), CHUNK_SIZE),
    bad("a chunk of 0x5", answer(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"), CHUNK_SIZE),
    bad("a chunk of 2^64 + 5", answer(CHUNKED, body=b"10000000000000005\r\nhello\r\n0\r\n\r\n"), CHUNK_OVERFLOW),
    bad("Content-Length as a trailer", answer(CHUNKED, body=b"0\r\nContent-Length: 5\r\n\r\n"), NOT_IN_TRAILERS),
    bad("a body larger than we take", answer(b"Content-Length: 6"), CLIENT_LIMIT, limits={"max_body": 5}),
    bad("a body until the end, larger than we take", answer(body=b"hello!"), CLIENT_LIMIT, limits={"max_body": 5}),
    bad("the end comes before the answer", b"", INCOMPLETE_ANSWER, fin=True),
    bad("the end comes in the status line", b"HTTP/1.1 200", INCOMPLETE_ANSWER, fin=True),
    bad("the end comes in the fields", b"HTTP/1.1 200 OK\r\nX: y\r\n", INCOMPLETE_ANSWER, fin=True),
    bad("the end comes in the body", answer(b"Content-Length: 5", body=b"hell"), CUT_SHORT, fin=True),
    bad("the end comes before the last chunk", answer(CHUNKED, body=b"5\r\nhello\r\n"), INCOMPLETE_CHUNKED, fin=True),
    bad(
        "the end comes before the last line", answer(CHUNKED, body=b"5\r\nhello\r\n0\r\n"), INCOMPLETE_CHUNKED, fin=True
    ),
    # Answers that have no body, whatever they say.
    ok("to HEAD", answer(b"Content-Length: 5"), NO_BODY, Answer(fields={"content-length": "5"}), asked=("HEAD",)),
    ok("to HEAD, chunked", answer(CHUNKED), NO_BODY, Answer(), asked=("HEAD",)),
    ok("to HEAD, neither", answer(), NO_BODY, Answer(), asked=("HEAD",)),
    ok(
        "to HEAD, then to GET",
        answer(b"Content-Length: 5") + CODED,
        NO_BODY,
        Answer(),
        HELLO_SAID,
        asked=("HEAD", "GET"),
    ),
    ok("204", answer(line=b"HTTP/1.1 204 No Content"), NO_BODY, Answer(204)),
    ok(
        "204 with a Content-Length", answer(b"Content-Length: 5", line=b"HTTP/1.1 204 No Content"), NO_BODY, Answer(204)
    ),
    ok(
        "304 with a Content-Length",
        answer(b"Content-Length: 5", line=b"HTTP/1.1 304 Not Modified"),
        NO_BODY,
        Answer(304),
    ),
    ok("304, chunked", answer(CHUNKED, line=b"HTTP/1.1 304 Not Modified"), NO_BODY, Answer(304)),
    ok(
        "205 has a body like any other",
        answer(CHUNKED, line=b"HTTP/1.1 205 Reset Content", body=HELLO),
        CHUNK,
        Answer(205, b"hello"),
    ),
    bad("204 and a body after all", answer(line=b"HTTP/1.1 204 No Content", body=b"hello"), NOT_ASKED, Answer(204)),
    bad(
        "a body behind an answer to HEAD",
        answer(b"Content-Length: 5", body=b"hello"),
        NOT_ASKED,
        Answer(),
        asked=("HEAD",),
    ),
    # Interim answers.
    ok("100, then 200", raw(b"HTTP/1.1 100 Continue") + CODED, INTERIM, Answer(100), HELLO_SAID),
    ok(
        "103 twice, then 200",
        raw(b"HTTP/1.1 103 Early Hints", b"Link: </a>") * 2 + CODED,
        INTERIM,
        Answer(103),
        Answer(103),
        HELLO_SAID,
    ),
    ok(
        "199 with a Content-Length",
        raw(b"HTTP/1.1 199 Hm", b"Content-Length: 5") + CODED,
        INTERIM,
        Answer(199),
        HELLO_SAID,
    ),
    bad("100, then the end", raw(b"HTTP/1.1 100 Continue"), INCOMPLETE_ANSWER, Answer(100), fin=True),
    ok(
        "101, and another protocol",
        raw(b"HTTP/1.1 101 Switching Protocols", b"Connection: upgrade", b"Upgrade: lab") + b"\0\1\2",
        SWITCHING,
        Answer(101, keep_alive=False),
        asked=("UPGRADE",),
        rest=b"\0\1\2",
    ),
    bad(
        "101 to whom did not ask",
        raw(b"HTTP/1.1 101 Switching Protocols", b"Upgrade: lab") + b"\0\1\2",
        SWITCH_NOT_ASKED,
    ),
    ok("200 to CONNECT", answer(body=b"\0\1\2"), TUNNEL, Answer(keep_alive=False), asked=("CONNECT",), rest=b"\0\1\2"),
    ok(
        "200 to CONNECT, with a length that does not count",
        answer(b"Content-Length: 5", CHUNKED, body=b"hello"),
        CONNECT_IGNORES,
        Answer(keep_alive=False),
        asked=("CONNECT",),
        rest=b"hello",
    ),
    ok(
        "407 to CONNECT has a body",
        answer(CHUNKED, line=b"HTTP/1.1 407 Hm", body=HELLO),
        TUNNEL,
        Answer(407, b"hello"),
        asked=("CONNECT",),
    ),
    # One after the other.
    ok(
        "two answers to two requests",
        CODED + answer(b"Content-Length: 0"),
        IN_ORDER,
        HELLO_SAID,
        Answer(),
        asked=("GET", "GET"),
    ),
    ok("close", answer(b"Connection: close", CHUNKED, body=HELLO), CLOSE, Answer(body=b"hello", keep_alive=False)),
    ok(
        "close in odd case and a list",
        answer(b"connection: x, CLOSE", CHUNKED, body=HELLO),
        OPTION_CASE,
        Answer(body=b"hello", keep_alive=False),
    ),
    ok(
        "keep-alive in HTTP/1.0",
        answer(b"Connection: keep-alive", b"Content-Length: 5", line=b"HTTP/1.0 200 OK", body=b"hello"),
        PERSIST_10,
        HELLO_SAID,
    ),
    ok(
        "keep-alive, but the body goes on until the end",
        answer(b"Connection: keep-alive", line=b"HTTP/1.0 200 OK", body=b"hello"),
        UNTIL_CLOSE,
        Answer(body=b"hello", keep_alive=False),
        fin=True,
    ),
    ok(
        "an answer behind a close answers nothing",
        answer(b"Connection: close", CHUNKED, body=HELLO) + CODED,
        CLOSE,
        Answer(body=b"hello", keep_alive=False),
        asked=("GET", "GET"),
    ),
    bad("an answer that nobody asked for", CODED + CODED, NOT_ASKED, HELLO_SAID),
    bad("a byte behind the answer", CODED + b"x", NOT_ASKED, HELLO_SAID),
    bad("an answer before any request", CODED, NOT_ASKED, asked=()),
]

ENDLESS_RESPONSES = [
    Endless("an endless reason", b"HTTP/1.1 200 ", b"a", REFUSED, 256, CLIENT_LIMIT, {"max_line": 256}),
    Endless("an endless line that is no status line", b"", b"a", REFUSED, 256, CLIENT_LIMIT, {"max_line": 256}),
    Endless("an endless value", b"HTTP/1.1 200 OK\r\nX: ", b"y", REFUSED, 512, CLIENT_LIMIT, {"max_fields_size": 512}),
    Endless(
        "an endless folded value",
        b"HTTP/1.1 200 OK\r\nX: a",
        b"\r\n b",
        REFUSED,
        512,
        CLIENT_LIMIT,
        {"max_fields_size": 512},
    ),
    Endless("endless fields", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", REFUSED, 66, CLIENT_LIMIT, {"max_fields": 10}),
    Endless("an endless extension", answer(CHUNKED, body=b"5;"), b"a", REFUSED, 1024, CLIENT_LIMIT),
    Endless(
        "an endless trailer",
        answer(CHUNKED, body=b"0\r\nX: "),
        b"y",
        REFUSED,
        512,
        CLIENT_LIMIT,
        {"max_fields_size": 512},
    ),
    Endless(
        "an endless body of chunks", answer(CHUNKED), b"5\r\nhello\r\n", REFUSED, 1000, CLIENT_LIMIT, {"max_body": 400}
    ),
    Endless("an endless body until the end", answer(), b"x", REFUSED, 400, CLIENT_LIMIT, {"max_body": 400}),
]
