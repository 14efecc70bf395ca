"""Steps C of this lab's check: header compression."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hpack

from labkit.check import Check, step
from labkit.learner import load

asking: Any = load(Path(__file__).with_name("asking.py"), "labs_http2_asking")
anew, ask, caret, hexed, outcome = asking.anew, asking.ask, asking.caret, asking.hexed, asking.outcome
pair = asking.pair
COMPRESSION_ERROR, PATIENCE, SHARED = asking.COMPRESSION_ERROR, asking.PATIENCE, asking.SHARED


class Field(NamedTuple):
    """A part of a header block, as hex, and the field that it is; no name where it is a size update, or nothing."""

    wire: str
    name: str = ""
    value: str = ""


Block = Sequence[Field]


class Blocks(NamedTuple):
    """Header blocks for a decoder of their own, with a table of *most* bytes (0: as many as by default)."""

    blocks: Sequence[Block]
    why: str = ""
    most: int = 0
    refused: bool = False  # the last of them must be


def bad(why: str, *wires: str, most: int = 0) -> Blocks:
    """Blocks as hex, of which the last must be refused."""
    return Blocks([[Field(wire)] for wire in wires], why, most, refused=True)


async def fields_of(c: Check, *cases: Blocks) -> None:
    """Feed all blocks to decoders in the learner's process; judge what they made of them."""
    jobs = [[case.most, [as_bytes(block).hex() for block in case.blocks]] for case in cases]
    for case, seen in zip(cases, await ask(c, "fields_role", jobs), strict=True):
        anew(c, f"HeaderDecoder({case.most or ''})")
        for number, (block, one) in enumerate(zip(case.blocks, seen, strict=False), 1):
            c.did(f"> {hexed(as_bytes(block)) or '(an empty block)'}")
            c.did(f"< {listed(as_fields(one))}" if "value" in one else f"! {outcome(one)}")
            if not case.refused:
                same_fields(c, block, one, case.why)
            elif number < len(case.blocks) and "value" not in one:
                c.fail(f"Your decoder raised {outcome(one)} for a header block that is in order.")
            elif number == len(case.blocks):
                must_be_refused(c, "block", one, case.why)


def as_bytes(block: Block) -> bytes:
    return bytes.fromhex("".join(part.wire for part in block))


def as_fields(one: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(bytes.fromhex(name), bytes.fromhex(value)) for name, value in one["value"]]


def same_fields(c: Check, block: Block, one: dict[str, Any], why: str) -> None:
    ending = f": {why}." if why else "."
    if "value" not in one:
        c.fail(f"Your decoder raised {outcome(one)} for a header block that is in order{ending}")
    got = as_fields(one)
    at = number = 0
    for part in block:
        end = at + len(part.wire) // 2
        if part.name:
            wanted = (part.name.encode(), part.value.encode(errors="surrogateescape"))
            if got[number : number + 1] != [wanted]:
                c.did(f"= of {hexed(as_bytes(block))}")
                caret(c, at, end, "this one")
                came = pair(got[number]) if number < len(got) else "nothing"
                c.fail(f"Field {number + 1} of a block is wrong{ending}", got=came, wanted=pair(wanted))
            number += 1
        at = end
    if len(got) > number:
        c.fail(f"The block has {number} fields, and your decoder found {len(got)}{ending}", got=listed(got))


def must_be_refused(c: Check, kind: str, one: dict[str, Any], why: str) -> None:
    """What an attempt came to must be COMPRESSION_ERROR, of the connection."""
    if one.get("error") != [COMPRESSION_ERROR, 0]:
        how = "" if "value" in one else " with Http2Error(COMPRESSION_ERROR)"
        got = listed(as_fields(one)) if kind == "block" and "value" in one else outcome(one)
        c.fail(f"This {kind} must be refused{how}: {why}.", got=got, wanted="Http2Error(COMPRESSION_ERROR)")


def listed(fields: Sequence[tuple[bytes, bytes]]) -> str:
    text = " | ".join(map(pair, fields))
    return (text[:66] + " …" if len(text) > 66 else text) or "no fields"


def as_integer(value: int, bits: int) -> bytes:
    """RFC 7541 §5.1, the other way round."""
    most = 2**bits - 1
    if value < most:
        return bytes((value,))
    data = bytearray((most,))
    value -= most
    while value >= 128:
        data.append(value % 128 + 128)
        value //= 128
    return bytes((*data, value))


@step(
    "C: integers",
    rfc="RFC 7541 §5.1, and its examples in C.1",
    symptom="The numbers of HPACK begin in the middle of a byte. Yours is another number, or ends at another place.",
    where="If the prefix is not all ones, it is the number. If it is, the number goes on, seven bits in each byte, the "
    "least significant first, as long as the first bit is 1; and 2ᴺ-1 is added. So 2ᴺ-1 itself is a prefix of ones and "
    "a byte of 0. The bits before the prefix are not yours.",
    code="most = 2**bits - 1\nvalue = data[at] & most\nif value < most:\n    return value, at + 1\n"
    "for shift in (0, 7, 14, 21, 28):\n    at += 1\n    value += (data[at] & 0x7F) << shift\n"
    "    if data[at] < 0x80: ...",
    seconds=PATIENCE,
)
async def integers(c: Check) -> None:
    cases = [
        ("0a", 0, 5, 10, "C.1.1: 10 fits into five bits"),
        ("1f 9a 0a", 0, 5, 1337, "C.1.2: 31 + 26 + 10 × 128"),
        ("2a", 0, 8, 42, "C.1.3: 42 at the beginning of a byte"),
        ("ea", 0, 5, 10, "the three bits before the prefix belong to something else"),
        ("ff 9a 0a", 0, 5, 1337, "the three bits before the prefix belong to something else"),
        ("1e", 0, 5, 30, "30 is less than 31, and is all there is"),
        ("1f 00", 0, 5, 31, "all ones say that more follows, and a 0 follows: 31 + 0"),
        ("1f 01", 0, 5, 32, "31 + 1"),
        ("7f 00", 0, 7, 127, "the prefix has seven bits: 127 + 0"),
        ("0f 0d", 0, 4, 28, "the prefix has four bits: 15 + 13"),
        ("ff 80 01", 0, 8, 383, "255 + 0 + 1 × 128"),
        ("3f e1 1f", 0, 5, 4096, "31 + 97 + 31 × 128"),
        ("82 1f 9a 0a 05", 1, 5, 1337, "it begins at data[1], and ends at data[4]"),
        ("05 0a", 1, 5, 10, "it begins at data[1]"),
        ("1f 80 80 80 80 00", 0, 5, 31, "five bytes of nothing behind the prefix are a waste, and allowed"),
    ]
    cases += [(as_integer(value, bits).hex(" "), 0, bits, value, "") for bits in (4, 5, 6, 7)
              for value in (2**bits - 2, 2**bits - 1, 2**bits, 2**bits + 127, 2**bits + 128, 16384, 2**32 - 1)
              ]  # fmt: skip
    found = await ask(c, "integer_role", [[data, at, bits] for data, at, bits, *_ in cases])
    for (data, at, bits, value, why), one in zip(cases, found, strict=True):
        c.did(f"> {data}")
        caret(c, at, at + 1, f"the last {bits} bits of this byte are the prefix")
        ending = f": {why}." if why else "."
        if "value" not in one:
            c.fail(f"Your decode_integer() raised {outcome(one)} for the number {value:,}{ending}")
        end = len(bytes.fromhex(data)) - (data == "82 1f 9a 0a 05")
        if one["value"] != [value, end]:
            c.fail(f"This is the number {value:,}, and it ends at {end}{ending}", got=f"{one['value']}",
                   wanted=f"({value}, {end})")  # fmt: skip


@step(
    "C: an integer has an end",
    rfc="RFC 7541 §5.1: encodings that exceed implementation limits, in value or octet length, MUST be treated as "
    "decoding errors",
    symptom="A number goes on and on, or stops where the bytes do, and your decoder goes with it.",
    where="Our limits: at most five bytes behind the prefix, and at most 2³²-1. A byte of 0x80 adds nothing and asks "
    "for more; a megabyte of them is a number, too. Where the bytes end before the number, it is the same error.",
    code="for shift in range(0, 35, 7):   # and no `while True`\n    ...\nraise Http2Error(COMPRESSION_ERROR)",
    seconds=PATIENCE,
)
async def endless_integers(c: Check) -> None:
    wrong = {
        b"\x1f" + b"\x80" * 5 + b"\0": "there are six bytes behind the prefix",
        b"\x1f" + b"\x80" * 100_000 + b"\0": "there are 100,001 bytes behind the prefix",
        b"\x1f" + b"\xff" * 10: "it has more bytes than any number may have, and no end",
        as_integer(2**32, 5): "2³² is one more than allowed",
        as_integer(2**32 + 1, 7): "2³² + 1 is too much; who counts in 32 bits reads 1",
        as_integer(2**35, 5): "2³⁵ is too much; who counts in 32 bits reads 0",
        as_integer(2**64 + 5, 5): "2⁶⁴ + 5 has too many bytes; who counts in 64 bits reads 5",
        b"\x1f": "the prefix says that more follows, and nothing does",
        b"\x1f\x9a": "the last byte says that more follows, and nothing does",
        b"\x1f\x80\x80\x80\x80": "the last byte says that more follows, and nothing does",
        b"": "there is no byte",
    }
    found = await ask(c, "integer_role", [[data.hex(), 0, 7 if data[:1] == b"\x7f" else 5] for data in wrong])
    for (data, why), one in zip(wrong.items(), found, strict=True):
        c.did(f"> {hexed(data) or '(nothing)'}")
        c.did(f"< {outcome(one)}")
        must_be_refused(c, "integer", one, why)


C21 = Field("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key", "custom-header")
C22 = Field("040c2f73616d706c652f70617468", ":path", "/sample/path")
C23 = Field("100870617373776f726406736563726574", "password", "secret")
GET, POST, HTTP, ROOT = (Field("82", ":method", "GET"), Field("83", ":method", "POST"), Field("86", ":scheme", "http"),
                         Field("84", ":path", "/"))  # fmt: skip
HOST = Field("410f7777772e6578616d706c652e636f6d", ":authority", "www.example.com")


@step(
    "C: fields out of the static table, and literal ones",
    rfc="RFC 7541 §6.1, §6.2, and the examples in C.2",
    symptom="The first bits of a field say what it is. Yours was taken for something else, or ends elsewhere.",
    where="1: a field of the table, index 7 bits. 01: literal, and kept in the table, index 6 bits. 0000 and 0001: "
    "literal, not kept, index 4 bits. The index is that of the name; if it is 0 the name follows as a string. A "
    "string is its length (7 bits behind the H bit) and its bytes. Index 1 is STATIC[0].",
    code="if first & 0x80: ...\nelif first & 0x40: ...\nelif first & 0x20: ...   # a size, see below\nelse: ...",
    seconds=PATIENCE,
)
async def static_fields(c: Check) -> None:
    blocks: list[Block] = [
        [GET], [C22], [C23], [C21], [GET, HTTP, ROOT, HOST],
        [Field("81", ":authority"), Field("bd", "www-authenticate")],  # the ends of the table
        [Field("0f0d0431323334", "content-length", "1234")],  # an index that does not fit into four bits
        [Field("1f0d0431323334", "content-length", "1234"), Field("88", ":status", "200")],
        [Field("000161" + "7f41" + (b"x" * 192).hex(), "a", "x" * 192), GET],  # a length that does not fit into seven
        [Field("00016100", "a"), Field("0001620163", "b", "c")],
        [Field("0003582d610120", "X-a", " "), Field("000161" + "03" + "c3a9ff", "a", "\xe9\udcff")],  # nobody's to mend
        [],
    ]  # fmt: skip
    await fields_of(c, *(Blocks([block]) for block in blocks))


@step(
    "C: Huffman strings",
    rfc="RFC 7541 §5.2: if the H bit is set, the string is Huffman-coded; examples in C.4 and C.6",
    symptom="A string has its first bit (H) set, and came out as it stands there.",
    where="FROM_HUFFMAN() is given. The length is that of the coded string. Not every sequence of bits is a code: what "
    "it raises then is not an Http2Error.",
    code="try:\n    return FROM_HUFFMAN(text), end\n"
    "except HPACKError:\n    raise Http2Error(COMPRESSION_ERROR) from None",
    seconds=PATIENCE,
)
async def huffman(c: Check) -> None:
    host = Field("418cf1e3c2e5f23a6ba0ab90f4ff", ":authority", "www.example.com")
    custom = Field("408825a849e95ba97d7f8925a849e95bb8e8b4bf", "custom-key", "custom-value")
    await fields_of(
        c,
        *(Blocks([block]) for block in ([GET, HTTP, ROOT, host], [custom, GET], [Field("00016180", "a"), GET])),
        bad("eight bits of ones are more padding than a code may have", "00016181ff"),
        bad("there stands the code for the end of a string (EOS)", "00016184ffffffff"),
        bad("the bits behind the last letter are not the padding, which is ones", "0001618100"),
    )


@step(
    "C: the table that grows",
    rfc="RFC 7541 §2.3.2, §2.3.3, §6.2.1, and the example in C.3",
    symptom="A field that was sent before is named by its index, and another field came out.",
    where="Behind the 61 of the static table comes the dynamic one: 62 is always the newest, and each new one moves "
    "the others on by one. It outlives the block. Only literals that begin with 01 are kept.",
    code="self._entries.insert(0, (name, value))   # the newest first\n...\n[*STATIC, *self._entries][index - 1]",
    seconds=PATIENCE,
)
async def dynamic_table(c: Check) -> None:
    host = Field("be", ":authority", "www.example.com")
    cached = Field("58086e6f2d6361636865", "cache-control", "no-cache")
    requests: list[Block] = [
        [GET, HTTP, ROOT, HOST],
        [GET, HTTP, ROOT, host, cached],
        [GET, Field("87", ":scheme", "https"), Field("85", ":path", "/index.html"),
         Field("bf", ":authority", "www.example.com"),
         Field("400a637573746f6d2d6b65790c637573746f6d2d76616c7565", "custom-key", "custom-value")],
        [Field("be", "custom-key", "custom-value"), Field("bf", "cache-control", "no-cache"),
         Field("c0", ":authority", "www.example.com")],
    ]  # fmt: skip
    kept: list[Block] = [
        [C21, Field("be", "custom-key", "custom-header"), Field("7e0161", "custom-key", "a"),
         Field("be", "custom-key", "a"), Field("bf", "custom-key", "custom-header")],
        [Field("0f2f0162", "custom-key", "b"), Field("1f2f0163", "custom-key", "c"), Field("be", "custom-key", "a"),
         Field("bf", "custom-key", "custom-header")],
        [Field("7f00" + "0164", "custom-key", "d"), Field("c0", "custom-key", "custom-header")],
    ]  # fmt: skip
    newest, next_one = (Field(index, "custom-key", "custom-header") for index in ("be", "bf"))
    many = [[Field("40017802" + f"{number:02d}".encode().hex(), "x",
                   f"{number:02d}")] for number in range(70)]  # fmt: skip
    late = [[Field((b"\xff" + as_integer(61 + 70, 7)[1:]).hex(), "x", "00"), Field("be", "x", "69")]]
    await fields_of(
        c,
        Blocks(requests, "these are the requests of RFC 7541 C.3, in one connection"),
        Blocks(kept, "of the literals, only those that begin with 01 are kept"),
        Blocks([[C21, C21], [newest, next_one]], "the same field was kept twice: two entries (§2.3.2)"),
        Blocks([*many, *late], "seventy fields were kept, and 131 is the oldest"),
    )


@step(
    "C: two connections at a time",
    rfc="RFC 9113 §4.3: field compression is stateful, and its state is the connection's. " + SHARED,
    symptom="A field of one connection came out of another: a cookie, perhaps. The worst thing that can happen.",
    where="What is written in the class body, and not in __init__, exists once, for all connections.",
    code="def __init__(self, ...):\n    self._entries = []",
    seconds=PATIENCE,
)
async def two_tables(c: Check) -> None:
    c.did("> to one HeaderDecoder: a: b, to be kept; to another one: c: d")
    c.did("> to each: index 62, its newest entry")
    found = await c.start("two_tables_role", host="client").result(PATIENCE - 1)
    if found.get("value") != ["a: b", "c: d"]:
        c.fail("Two HeaderDecoders disturb each other.", got=outcome(found), wanted="['a: b', 'c: d']")


@step(
    "C: the table has a size, and what is old goes",
    rfc="RFC 7541 §4.1: an entry's size is its name's length, its value's, and 32; §4.4: eviction; example in C.5",
    symptom="Your table keeps more than it may, or less: then the two ends mean different fields by the same index.",
    where="Sum up the sizes, each with its 32. While that is more than allowed, the oldest goes. An entry that is "
    "larger than the table empties it, and is no error.",
    code="def size(self):\n    return sum(len(n) + len(v) + 32 for n, v in self._entries)\n...\n"
    "while self.size() > self._limit:\n    self._entries.pop()",
    seconds=PATIENCE,
)
async def eviction(c: Check) -> None:
    date = "4d6f6e2c203231204f637420323031332032303a31333a323"
    private = Field("580770726976617465", "cache-control", "private")
    location = Field("6e1768747470733a2f2f7777772e6578616d706c652e636f6d", "location", "https://www.example.com")
    cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
    responses: list[Block] = [
        [Field("4803333032", ":status", "302"), private,
         Field("611d" + date + "120474d54", "date", "Mon, 21 Oct 2013 20:13:21 GMT"), location],
        [Field("4803333037", ":status", "307"), Field("c1", "cache-control", "private"),
         Field("c0", "date", "Mon, 21 Oct 2013 20:13:21 GMT"), Field("bf", "location", "https://www.example.com")],
        [Field("88", ":status", "200"), Field("c1", "cache-control", "private"),
         Field("611d" + date + "220474d54", "date", "Mon, 21 Oct 2013 20:13:22 GMT"),
         Field("c0", "location", "https://www.example.com"), Field("5a04677a6970", "content-encoding", "gzip"),
         Field("7738" + cookie.encode().hex(), "set-cookie", cookie)],
        [Field("be", "set-cookie", cookie), Field("bf", "content-encoding", "gzip"),
         Field("c0", "date", "Mon, 21 Oct 2013 20:13:22 GMT")],
    ]  # fmt: skip
    a, b, newest, older = Field("4001610141", "a", "A"), Field("4001620142", "b", "B"), Field("be", "b", "B"), "bf"
    large = Field("40017821" + "79" * 33, "x", "y" * 33)
    await fields_of(
        c,
        Blocks(responses, "these are the responses of RFC 7541 C.5, with a table of 256 bytes", 256),
        Blocks([[a, b, newest, Field(older, "a", "A")]], "two entries of 34 bytes each fit into 68", 68),
        Blocks([[a, b, newest]], "of two entries of 34 bytes the newer one fits into 67", 67),
        bad("two entries have 34 bytes each, 67 are allowed: the older one is gone", a.wire + b.wire + older, most=67),
        Blocks([[a, large, GET]], "an entry that is larger than the table is no error, and a field all the same", 65),
        bad(
            "four entries would be 278 bytes, and 256 are allowed: the oldest is gone",
            *(as_bytes(block).hex() for block in responses[:3]),
            "c1",
            most=256,
        ),
        Blocks(
            [[a, Field("7e0142", "a", "B"), Field("be", "a", "B")]],
            "a new entry may take its name from one that it drives out (§4.4)",
            67,
        ),
        Blocks([[Field("40016102c3a9", "a", "é"), b, newest, Field("bf", "a", "é")]], "a length counts bytes", 69),
        bad("a length counts bytes: 35 and 34 are more than 68", "40016102c3a9" + b.wire + "bf", most=68),
        bad("an entry that is larger than the table empties it", a.wire + large.wire + "be", most=65),
    )


@step(
    "C: the sender changes the table's size",
    rfc="RFC 7541 §6.3, §4.2, §4.3: not above what was allowed, and at the beginning of a block",
    symptom="The sender of the fields says how much of your table it uses. What must happen to entries that no longer "
    "fit, and do they come back when it says a larger size again? How large may it be, and where may it be said?",
    where="001 and the size in 5 bits. Smaller: evict at once, and keep to it in the blocks to come. It may grow again "
    "up to what was allowed at first (max_size). Several may stand in front of the first field, none behind it.",
    code="self._limit, at = decode_integer(block, at, 5)\nif self._limit > self._allowed or fields:\n"
    "    raise Http2Error(COMPRESSION_ERROR)\nself._evict()",
    seconds=PATIENCE,
)
async def size_update(c: Check) -> None:
    a, b = Field("4001610141", "a", "A"), Field("4001620142", "b", "B")
    newest, older = Field("be", "b", "B"), Field("bf", "a", "A")
    to_0, to_34, to_68, to_4096 = Field("20"), Field("3f03"), Field("3f25"), Field("3fe11f")
    good = [
        (0, [[a, b], [to_4096, newest, older]]),
        (0, [[to_0, GET], [to_4096, a, b, newest, older]]),
        (0, [[a, b], [to_68], [newest, older]]),
        (0, [[a, b], [to_34, newest], [newest]]),
        (100, [[to_0, to_68, a, b, newest, older]]),
    ]
    two = a.wire + b.wire
    emptied, late = "the table had 0 bytes in between", "a size update stands behind a field, and its place is in front"
    await fields_of(
        c,
        *(Blocks(blocks, "a size update is no field, and what fits stays", most) for most, blocks in good),
        bad("a size of 0 empties the table", two, "20be"),
        bad(emptied + ", so it is empty", two, "203fe11fbe"),
        bad("a size of 34 bytes leaves room for the newer entry alone", two, "3f03bf"),
        bad("since the block before, the table has 34 bytes", "3f03" + a.wire, b.wire + "bf"),
        bad("4,097 bytes, and 4,096 are allowed", "3fe21f"),
        bad("101 bytes, and 100 are allowed", "3f46", most=100),
        bad(emptied + ", but 101 bytes are still more than the 100 that are allowed", "20", "3f46", most=100),
        bad(late, "823fe11f"),
        bad(late, "8220"),
    )


@step(
    "C: what is no header block",
    rfc="RFC 7541 §6.1: an index of 0, §2.3.3: an index greater than the tables: decoding errors. RFC 9113 §4.3: "
    "COMPRESSION_ERROR, of the connection",
    symptom="A block names a field that is not there, or ends in the middle, and your decoder makes something of it.",
    where="Python's table[-1] is the last one, and data[5:99] is as much as there is: neither complains. Compare "
    "first. The error is the connection's: after it the two tables are no longer the same.",
    code="if not 1 <= index <= len(table):\n    raise Http2Error(COMPRESSION_ERROR)\n...\n"
    "if at + size > len(data):\n    raise Http2Error(COMPRESSION_ERROR)",
    seconds=PATIENCE,
)
async def no_block(c: Check) -> None:
    empty = "62 is behind the static table, and nothing was kept"
    cases = {
        "80": "index 0 is nobody's",
        "be": empty,
        "7e0161": empty,
        "0f2f0161": empty,
        "ff00": "there is no field 127",
        "ffffffffff07": "there is no field 2,147,483,774",
        "40": "the name is missing",
        "4001": "the name has one byte, and it is missing",
        "400161": "the value is missing",
        "4001610562": "the value has five bytes, and one is there",
        "4001610262": "the value has two bytes, and one is there",
        "0084": "a name of four bytes is missing",
        "04": "the value is missing",
        "0f": "the index ends in the middle",
        "ff": "the index ends in the middle",
        "3f": "the size ends in the middle",
        "00016" + "17f": "the length ends in the middle",
        "0001617f8080808000" + "61": "the value has 127 bytes, and one is there",
    }
    await fields_of(
        c,
        *(bad(why, block) for block, why in cases.items()),
        bad("one entry was kept, 62, and there is no 63", C21.wire, "bf"),
        bad("nothing was kept: a literal that begins with 0000 or 0001 is not", C22.wire + C23.wire, "be"),
    )


@step(
    "C: blocks of another author, whole and broken",
    rfc="RFC 7541, all of it. RFC 9113 §4.3: a decoding error is a connection error of type COMPRESSION_ERROR",
    symptom="The Python library hpack wrote blocks, some were broken on purpose, and it reads them otherwise than you "
    "do; or something else than Http2Error came out.",
    where="The last block of the story is the one; those before it filled the table. Which field is the first that "
    "differs? What do your two tables hold by then?",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def foreign_blocks(c: Check) -> None:
    chance = random.Random(7541)
    jobs = [(chance.choice((100, 200, 4096)), some_blocks(chance)) for _ in range(40)]
    for _, blocks in jobs:
        if chance.random() < 0.7:
            block = bytearray(blocks[-1])
            for _ in range(chance.randint(1, 3)):
                at, byte = chance.randrange(len(block)), chance.randrange(256)
                block[at] = chance.choice((0, 0x20, 0x80, 0xBE, 0xC4, 0xFF, byte))
            blocks[-1] = bytes(block[: chance.randint(1, len(block))])
    seen = await ask(c, "fields_role", [[most, [block.hex() for block in blocks]] for most, blocks in jobs])
    refusals = 0
    for (most, blocks), found in zip(jobs, seen, strict=True):
        theirs = hpack.Decoder()
        theirs.max_allowed_table_size = theirs.header_table_size = most
        anew(c, f"HeaderDecoder({most})")
        for block, one in zip(blocks, found, strict=False):
            c.did(f"> {hexed(block)}")
            if "raised" in one:
                c.fail(f"Your decoder raised {one['raised']}. Whoever uses it catches Http2Error, and nothing else.")
            try:
                wanted = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
            except hpack.HPACKError as error:
                if one.get("error") != [COMPRESSION_ERROR, 0]:
                    c.fail(f"hpack refuses this block ({error}), and your decoder did not.", got=outcome(one)[:200],
                           wanted="Http2Error(COMPRESSION_ERROR)")  # fmt: skip
                refusals += 1
                break
            if "error" in one:
                c.fail("Your decoder refused a block that is in order.", got=outcome(one), wanted=listed(wanted))
            got = as_fields(one)
            if got != wanted:
                c.fail("Your decoder reads other fields in this block than hpack does.", got=listed(got),
                       wanted=listed(wanted))  # fmt: skip
    c.did(f"= {len(jobs)} connections, {refusals} of them with a broken block: as hpack read them")


def some_blocks(chance: random.Random) -> list[bytes]:
    """Header blocks of one connection, by an encoder that may change the size of its table."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 100
    blocks = []
    for _ in range(chance.randint(1, 8)):
        if chance.random() < 0.3:
            encoder.header_table_size = chance.choice((0, 34, 60, 80, 100))
        fields = [(chance.choice((b":path", b"cookie", b"x", b"etag", b"a-b")),
                   chance.choice((b"/", b"", b"1", b"22", b"x" * 40)), chance.random() < 0.2)
                  for _ in range(chance.randint(1, 6))]  # fmt: skip
        blocks.append(encoder.encode(fields, huffman=chance.random() < 0.3))
    return blocks
