"""The check of this lab: a verifier of chains and names, first its pieces, then the whole, then on a socket.

The chains it asks about are in chains.py. This page asks, judges and explains.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import ssl
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from labkit.check import Check, step
from labkit.learner import load
from protocols import tls

chains: Any = load(Path(__file__).with_name("chains.py"), "labs_tls_chains")
HOST, NOW = chains.HOST, chains.NOW

BY_HAND = "server_role"
PATIENCE = 10  # seconds for a step: they take a hundredth of that, but not on a machine that is very busy
MOST = 0.5  # seconds of processor time for one question: they take a thousandth of that, the hostile chains a tenth
PROJECT = Path(__file__).resolve().parents[2]
CHAIN, ROOTS = "captures/tls-check-chain.pem", "captures/tls-check-roots.pem"
FILES = PROJECT / CHAIN, PROJECT / ROOTS

NAMES = "RFC 9525 §6.3: labels are compared as ASCII without regard to case, and each must match"
PATH = "RFC 5280 §6.1: each certificate is issued by the next, and the last by a trust anchor"

AFTER = """
You have written what stands between a user and everybody who can sit on the wire. The errors of this exercise were
all made in earnest. Internet Explorer let every certificate issue others, CA or not (CVE-2002-0862), and nine years
later iOS did so again (CVE-2011-0228). When the root AddTrust expired on 30 May 2020, clients that knew only one way
up refused servers that were all right. Go had no limit on the work (CVE-2018-16875), and forgot that a wildcard covers
what is excluded (CVE-2025-61727).

What production verifiers have beside yours: revocation (CRLs, OCSP, short lives), Certificate Transparency (who else
has a certificate for my name?), signatures and keys that are too weak, certificate policies, constraints on other
kinds of names. A certificate that cannot be read makes yours raise a ValueError: so its caller must take every
exception for a refusal. Where verifiers differ: openssl takes the last second for gone, and falls back to the common
name when there is no DNS name beside it, unless it is told not to; neither stands in an RFC that is in force. And they
ask the operating system whom to trust: the weakest of more than a hundred roots vouches for every name there is,
unless it is constrained as the lab's root is. This check reads the chain off the wire, in the clear, which TLS 1.2
allows everybody to do; in TLS 1.3 it is encrypted.
"""


# -- What runs in the learner's own process ------------------------------------------------------------


class TookTooLong(BaseException):
    """No Exception, so that `except Exception` does not catch it."""


def judge_role(exercise: ModuleType, questions: str) -> list[dict[str, Any]]:
    """Call functions of the exercise, each with its arguments as `packed` has packed them; what came of it."""
    return [answered(exercise, name, unpacked(arguments)) for name, arguments in json.loads(questions)]


def answered(exercise: ModuleType, name: str, arguments: Any) -> dict[str, Any]:
    """What came of one call: a value, a refusal, an exception, or no end."""

    def stop(*_: object) -> None:
        raise TookTooLong

    signal.signal(signal.SIGPROF, stop)
    try:
        signal.setitimer(signal.ITIMER_PROF, MOST)
        value = getattr(exercise, name)(*arguments)
        return {"value": packed(list(value) if isinstance(value, tuple) else value)}
    except exercise.Refused as error:
        return {"refused": str(error.args[0]) if error.args else "", "more": ", ".join(map(str, error.args[1:]))}
    except TookTooLong:
        return {"late": True}
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
        place = f" (line {lines[-1]} of your file)" if lines else ""
        return {"raised": f"{type(error).__name__}: {error}"[:200] + place}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def packed(value: Any) -> Any:
    """Certificates and times as JSON can say them."""
    if isinstance(value, x509.Certificate):
        return {"der": value.public_bytes(serialization.Encoding.DER).hex()}
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, list | tuple):
        return [packed(one) for one in value]
    return value if isinstance(value, str | bool | int | None) else {"other": repr(value)[:80]}


def unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [unpacked(one) for one in value]
    if isinstance(value, dict) and "der" in value:
        return x509.load_der_x509_certificate(bytes.fromhex(value["der"]))
    if isinstance(value, dict) and "time" in value:
        return datetime.fromisoformat(value["time"])
    return value


def client_role(exercise: ModuleType, address: str, port: str, roots: str, hosts: str) -> list[dict[str, Any]]:
    """Connect once for each host; let the learner judge the chain that came; send a password only if it is good."""
    return [visited(exercise, address, int(port), unpacked(json.loads(roots)), host) for host in json.loads(hosts)]


def visited(exercise: ModuleType, address: str, port: int, roots: list[x509.Certificate], host: str) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # Only here: the exercise verifies instead.
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # The chain is in the clear there, so all can see what was judged.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)
    received = b""
    with socket.create_connection((address, port), timeout=5) as sock:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                secured.do_handshake()
                break
            sock.sendall(outgoing.read())
            data = sock.recv(65536)
            received += data
            incoming.write(data)
        chain = [x509.load_der_x509_certificate(der) for der in sent_chain(received)]
        said = answered(exercise, "verify", (chain, roots, host, NOW))
        if "value" in said:
            secured.write(f"password for {host}".encode())
        with contextlib.suppress(ssl.SSLWantReadError):
            secured.unwrap()  # close_notify
        sock.sendall(outgoing.read())
        return {**said, "port": sock.getsockname()[1], "chain": len(chain)}


def sent_chain(received: bytes) -> list[bytes]:
    """The certificates in the server's first flight, as anybody on the way reads them. (RFC 5246 §7.4.2)"""
    records, messages = tls.Records(), tls.Messages()
    records.receive_data(received)
    while (record := records.next_event()) and record.type == tls.ContentType.HANDSHAKE:
        messages.receive_data(record.data)
        while message := messages.next_event():
            if message.type == tls.HandshakeType.CERTIFICATE:
                return tls.certificates(message.body, tls.Version.TLS_1_2)
    raise ValueError("no Certificate message in what the server sent")


def server_role(exercise: ModuleType, host: str, port: str) -> None:
    """For a terminal: send PEM, get the verdict. Roots, then a line “chain for HOST at TIME”, then the chain."""
    with socket.create_server((host, int(port))) as listening:
        while True:
            sock, _ = listening.accept()
            with sock, contextlib.suppress(ConnectionError):
                sock.settimeout(0.5)
                text = b""
                with contextlib.suppress(TimeoutError):  # Some nc do not say that their input has ended.
                    while data := sock.recv(65536):
                        text += data
                sock.sendall(f"{verdict_on(exercise, text)}\n".encode())


def verdict_on(exercise: ModuleType, text: bytes) -> str:
    parts = re.split(rb"^chain for (\S+)(?: at (\S+))?.*$", text, maxsplit=1, flags=re.MULTILINE)
    try:
        if len(parts) == 1:  # Only a chain: the lab's root, the lab's server, today.
            parts = [(PROJECT / "certs" / "root.pem").read_bytes(), HOST.encode(), b"", text]
        roots, chain = (x509.load_pem_x509_certificates(parts[i]) for i in (0, 3))
        now = datetime.fromisoformat(parts[2].decode()) if parts[2] else datetime.now(UTC)
    except OSError:
        return "no verdict: there is no certs/root.pem; `make certs` makes it"
    except ValueError:
        return "no verdict: that is no chain of certificates in PEM"
    said = answered(exercise, "verify", (chain, roots, parts[1].decode(), now))
    if "refused" in said:
        return f"refused: {said['refused']} ({said['more']})"
    return "accepted" if "value" in said else f"no verdict: {said.get('raised', 'it took too long')}"


# -- How the steps ask and judge -----------------------------------------------------------------------


async def asked(c: Check, questions: Sequence[tuple[str, tuple[Any, ...]]]) -> list[dict[str, Any]]:
    """Put questions, a function and its arguments each, to the learner's program."""
    found: list[dict[str, Any]] = await c.start("judge_role", json.dumps(packed(questions)), host="client").result(
        PATIENCE - 1
    )
    return found


async def judge(c: Check, function: str, cases: Sequence[chains.Case]) -> None:
    """Ask one of the learner's functions about each case; the first answer that is wrong ends the check."""
    for case, said in zip(cases, await asked(c, [(function, case.arguments(function)) for case in cases]), strict=True):
        if wrong := what_is_wrong(function, case, said):
            tell(c, function, case, said)
            by_hand = write_down(c, case)
            what, *compared = wrong
            got, wanted = compared or (None, None)
            c.fail(what, got=got, wanted=wanted, reproduce=by_hand if function == "verify" else "")


def what_is_wrong(function: str, case: chains.Case, said: dict[str, Any]) -> tuple[str, ...]:
    """A sentence, and perhaps what was got and what was wanted; () where the answer is right."""
    mine, refused = f"Your {function}()", said.get("refused")
    if "late" in said:
        return (f"{mine} was still at work after {MOST:g} s, with {case.what}. {case.why}",)
    if "raised" in said:
        return (f"{mine} raised {said['raised']}, and should have judged {case.what}.",)
    if function == "is_for":
        value = said.get("value", f"Refused({refused!r})")
        if not isinstance(value, bool):
            return f"{mine} must return True or False.", str(value), str(not case.wanted)
        if value and case.wanted:
            return f"{mine} takes {case.what} for one for {case.host}. {case.why}", "True", "False"
        if not value and not case.wanted:
            return f"{mine} does not take {case.what} for one for {case.host}. {case.why}", "False", "True"
        return ()
    wanted = "Refused, the reason is " + " or ".join(f"“{word}”" for word in case.wanted)
    got = f"Refused, the reason is “{refused}”"
    if refused is None and case.wanted:
        return f"{mine} accepts {case.what}. {case.why}", "accepted", wanted
    if refused is not None and not case.wanted:
        return f"{mine} refuses {case.what}. {case.why}", got, "accepted"
    if refused is not None and refused not in case.wanted:
        return f"{mine} refuses {case.what}, but for another reason than its one fault. {case.why}", got, wanted
    if refused is None and function == "verify" and (reason := why_no_path(case, said["value"])):
        return (f"{mine} accepts {case.what}, rightly; but it must return the path that convinced you, from the leaf "
                f"up to one of the roots, and {reason}.",)  # fmt: skip
    return ()


def why_no_path(case: chains.Case, value: Any) -> str:
    """What is wrong with a path that was returned, or ""."""
    path = unpacked(value)
    if not isinstance(path, list) or not all(isinstance(one, x509.Certificate) for one in path):
        return "this is no list of certificates"
    if not path or path[0] != case.chain[0]:
        return "this one does not begin with the leaf"
    if path[-1] not in case.trusted:
        return "this one does not end with a root"
    for one, issuer in pairwise(path):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, InvalidSignature):
            return "in this one a certificate is not issued by the next"
    return ""


def tell(c: Check, function: str, case: chains.Case, said: dict[str, Any]) -> None:
    """The story: what was asked, and what the answer was."""
    if function == "verify":
        c.did(f"> verify() for {case.host} at {case.now:%Y-%m-%d %H:%M:%S}, the chain as it was sent:")
        tell_all(c, case.chain)
        c.did("  and your roots:")
        tell_all(c, case.trusted[-1:] if len(case.trusted) > 3 else case.trusted)
        if len(case.trusted) > 3:
            c.did(f"    … and {len(case.trusted) - 1} more before it")
    else:
        second = {"is_for": case.host, "check_alone": f"{case.now:%Y-%m-%d %H:%M:%S}"}.get(function)
        c.did(f"> {function}() of   {in_words(case.path[case.at].certificate)}")
        c.did(f"  and {second}" if second else "  with below it, the leaf first:")
        tell_all(c, [] if second else [made.certificate for made in case.path[: case.at]])
    said_no = f"! Refused: {said.get('refused')}" + (f" ({said['more']})" if said.get("more") else "")
    if "value" in said:
        c.did(f"< {said['value'] if isinstance(said['value'], bool) else 'accepted'}")
    else:
        c.did(said_no if "refused" in said else f"! {said.get('raised', 'no answer')}")


def tell_all(c: Check, certificates: Sequence[x509.Certificate]) -> None:
    for certificate in certificates[:5]:
        c.did("    " + in_words(certificate))
    if len(certificates) > 5:
        c.did(f"    … and {len(certificates) - 5} more: .venv/bin/python -m certs show {CHAIN}")


def in_words(certificate: x509.Certificate) -> str:
    """A certificate in a line."""
    found = {type(one.value): one.value for one in certificate.extensions}
    shown = ", ".join(map(plain, found.get(x509.SubjectAlternativeName, ())))
    return (f"{named(certificate.subject)}{f' for {shown}' if shown else ''}, issued by {named(certificate.issuer)}, "
            f"{certificate.not_valid_before_utc:%m-%d %H:%M:%S} to {certificate.not_valid_after_utc:%m-%d %H:%M:%S}"
            f"\n          {'; '.join(says(certificate)) or 'no extensions but its names'}")  # fmt: skip


def says(certificate: x509.Certificate) -> Iterator[str]:
    """What it may do, and what it says besides."""
    for one in certificate.extensions:
        match one.value:
            case x509.BasicConstraints(ca=is_ca, path_length=length):
                yield ("CA" if is_ca else "no CA") + ("" if length is None else f", path length {length}")
            case x509.KeyUsage() as usage:
                yield "key usage " + (", ".join(bit for bit in chains.BITS[:-2] if getattr(usage, bit)) or "none")
            case x509.ExtendedKeyUsage() as purposes:
                yield "for " + ", ".join(purpose._name for purpose in purposes)
            case x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=excluded):
                for word, trees in (("permits", permitted), ("excludes", excluded)):
                    if trees:
                        yield f"{word} {', '.join(map(plain, trees))}"
            case x509.SubjectAlternativeName() | x509.SubjectKeyIdentifier() | x509.AuthorityKeyIdentifier():
                pass
            case _:
                yield f"{one.oid.dotted_string}{', critical' if one.critical else ''}"


def plain(name: x509.GeneralName) -> str:
    value = getattr(name, "value", name)
    return named(value) if isinstance(value, x509.Name) else str(value)


def named(name: x509.Name) -> str:
    return name.rfc4514_string() or "(no subject)"


def write_down(c: Check, case: chains.Case) -> str:
    """Write the chain to files, and tell the line that asks openssl about it; return the one that asks the learner's.

    The line that names host and time means nothing to openssl, and all to `server_role`.
    """
    chain, roots = FILES
    try:
        chain.parent.mkdir(exist_ok=True)
        roots.write_bytes(pem(case.trusted))
        chain.write_bytes(f"chain for {case.host} at {case.now.isoformat()}\n".encode() + pem(case.chain))
    except OSError:
        return ""
    chain, roots = (path.relative_to(PROJECT) for path in FILES)
    c.did(f"= openssl verify says of this chain: {case.openssl}. Ask it yourself:")
    c.did("    " + openssl_line(case, chain, roots))
    return f"cat {roots} {chain} | nc -w2 127.0.0.1 7004"


def openssl_line(case: chains.Case, chain: Path, roots: Path) -> str:
    is_address = ":" in case.host or case.host.replace(".", "").isdigit()
    return (f"openssl verify -CAfile {roots} -untrusted {chain} -purpose sslserver -attime {case.now.timestamp():.0f} "
            f"-verify_{'ip' if is_address else 'hostname'} {case.host} {chain}")  # fmt: skip


def pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


async def compare_names(
    c: Check, pairs: dict[tuple[str, str], bool], why: dict[tuple[str, str], str], rule: str
) -> None:
    """Ask matches() about pairs of a presented name and a host."""
    for (pair, wanted), said in zip(pairs.items(), await asked(c, [("matches", pair) for pair in pairs]), strict=True):
        call = f"matches({pair[0]!r}, {pair[1]!r})"
        if "value" not in said:
            c.fail(
                f"Your {call} must return True or False: {said.get('raised') or 'it raised Refused, or took too long'}."
            )
        c.did(f"> {call}   < {said['value']}")
        if said["value"] is not wanted:
            c.fail(f"Your {call} is {said['value']}, and must be {wanted}: {why.get(pair, rule)}.")


# -- Names ---------------------------------------------------------------------------------------------


@step(
    "A name is the host's, or it is not",
    rfc=NAMES,
    symptom="When are two names the same one? Say it in words, without Python, and say what a label is. Then ask your "
    "code about evil-server.lab.",
    where="endswith(), startswith() and `in` compare letters, and a name is made of labels. A regular expression takes "
    "a dot for any letter. The case of letters does not matter, nor does a dot behind the last label of the host.",
    code='presented, host = presented.lower(), host.lower().removesuffix(".")\nif presented == host:\n    return True',
    seconds=PATIENCE,
)
async def exact_names(c: Check) -> None:
    case = "the case of letters does not matter"
    whole = "whole labels are compared, all of them, and not letters"
    pairs = {
        (HOST, HOST): True, (HOST, "evil-server.lab"): False, (HOST, "SERVER.Lab"): True,
        ("Server.LAB", HOST): True, (HOST, "server.lab."): True,
        ("xn--bcher-kva.lab", "XN--BCHER-KVA.lab"): True, ("localhost", "localhost"): True,
        (HOST, "evil.server.lab"): False, (HOST, "server.lab.evil.example"): False,
        (HOST, "server"): False, ("server", HOST): False, ("lab", HOST): False, (HOST, "serverxlab"): False,
        (HOST, "server.lab2"): False, (HOST, "server.lab.."): False, (HOST, ".server.lab"): False, ("", HOST): False,
        ("xn--bcher-kva.lab", "bcher.lab"): False,
    }  # fmt: skip
    why = {
        (HOST, "SERVER.Lab"): case, ("Server.LAB", HOST): case, ("xn--bcher-kva.lab", "XN--BCHER-KVA.lab"): case,
        (HOST, "server.lab."): "a dot at the end says that nothing is to be added to the name (RFC 1034 §3.1), and it "
        "is the same name", (HOST, "serverxlab"): "a dot is a dot",
    }  # fmt: skip
    await compare_names(c, pairs, why, whole)


@step(
    "A wildcard is one label, the first, and the whole of it",
    rfc="RFC 9525 §6.3: one wildcard character, as the complete content of the left-most label, for exactly one label",
    symptom="Write down which hosts *.www.lab is for, and which it is not. How many dots has each? What is the "
    "wildcard in w*.www.lab, in www.*.lab, in * alone?",
    where="Only the left-most label may be “*”, and “w*” is not “*”. It stands for exactly one label, and the rest of "
    "the name must be there and be equal. Is yours a pattern of the shell (fnmatch) or a regular expression? Their "
    "stars cross dots.",
    code='star, _, parent = presented.partition(".")\nlabel, _, rest = host.partition(".")\n'
    'return star == "*" and label != "" and parent == rest != ""     # and no "*" in the parent',
    seconds=PATIENCE,
)
async def wildcards(c: Check) -> None:
    web = "web.www.lab"
    one = "a wildcard stands for exactly one label"
    first = "only the whole left-most label may be a wildcard; any other is invalid and MUST be ignored"
    pairs = {
        ("*.www.lab", web): True, ("*.WWW.lab", "Web.www.LAB"): True, ("*.www.lab", "web.www.lab."): True,
        ("*.www.lab", "xn--bcher-kva.www.lab"): True, ("*.www.lab", "www.lab"): False,
        ("*.www.lab", "a.web.www.lab"): False, ("*.www.lab", "web.xwww.lab"): False,
        ("*.www.lab", "webwww.lab"): False, ("*.www.lab", "web.www.lab.evil.example"): False,
        ("*.www.lab", ".www.lab"): False, ("*.*.lab", "web.www.lab"): False, ("www.*.lab", "www.web.lab"): False,
        ("web.*", "web.lab"): False, ("w*.www.lab", web): False, ("*b.www.lab", web): False,
        ("w*b.www.lab", web): False, ("**.www.lab", web): False, ("xn--*.www.lab", "xn--bcher-kva.www.lab"): False,
        ("*", "localhost"): False, ("*", HOST): False, ("*.", "localhost."): False, ("*.", HOST): False,
        ("?eb.www.lab", web): False, ("[w]eb.www.lab", web): False, ("*www.lab", "evilwww.lab"): False,
        (".www.lab", web): False,
    }  # fmt: skip
    why = dict.fromkeys(pairs, first) | {
        ("*.www.lab", host): one
        for host in (web, "www.lab", "a.web.www.lab", "web.www.lab.", "xn--bcher-kva.www.lab", ".www.lab")
    }
    everything = (
        "alone it would be everybody's certificate, and nobody takes it (RFC 9525 §3: protocols may be stricter)"
    )
    why |= dict.fromkeys((("*", "localhost"), ("*", HOST), ("*.", "localhost."), ("*.", HOST)), everything)
    why |= dict.fromkeys([pair for pair in pairs if "*" not in pair[0]], "“*” is the only wildcard there is")
    rest = "behind the wildcard all labels must be equal"
    why |= {("*.www.lab", host): rest for host in ("web.xwww.lab", "webwww.lab", "web.www.lab.evil.example")}
    why["*.WWW.lab", "Web.www.LAB"] = "the case of letters does not matter"
    await compare_names(c, pairs, why, first)


@step(
    "Whom a certificate is for stands in its subjectAltName",
    rfc="RFC 9525 §2: the common name is not used; §6.2 to §6.4: DNS names and addresses, each with its kind",
    symptom="What kinds of names can a certificate have, and which of them may answer for the host you were given? Is "
    "that host a name or an address, and who tells you?",
    where="Ask first whether the host is an address: ipaddress.ip_address() raises ValueError if not. An address is "
    "compared with iPAddress entries alone, a DNS name with dNSName entries alone.",
    code="names = extension(leaf, x509.SubjectAlternativeName)      # perhaps None\n"
    "names.get_values_for_type(x509.DNSName)                  # list of str\n"
    "names.get_values_for_type(x509.IPAddress)                # list of ipaddress.IPv4Address, IPv6Address",
    seconds=PATIENCE,
)
async def alternative_names(c: Check) -> None:
    await judge(c, "is_for", chains.name_cases())


# -- One certificate -----------------------------------------------------------------------------------


@step(
    "Valid from its first second to its last",
    rfc="RFC 5280 §4.1.2.5: from notBefore through notAfter, inclusive; §6.1.3 (a)(2): it includes the current time",
    symptom="A validity period has two ends. On which side of each does its own second lie? And in which time zone are "
    "the times that you compare?",
    where="A validity period has two ends, and both belong to it. `now` knows its time zone, so compare it with what "
    "does, too: the attributes whose names end with _utc.",
    code='if now < certificate.not_valid_before_utc:\n    raise Refused("not yet valid")\n'
    'if now > certificate.not_valid_after_utc:\n    raise Refused("expired")',
    seconds=PATIENCE,
)
async def dates(c: Check) -> None:
    await judge(c, "check_alone", chains.dates_cases())


@step(
    "Good for a server",
    rfc="RFC 5280 §4.2.1.12: if the extension is present, the certificate MUST only be used for one of the purposes "
    "indicated; RFC 8446 §4.4.2.2: digitalSignature MUST be set if the key usage extension is present",
    symptom="What does a certificate say about what its key is for, and where? (Two places.) What does it mean if one "
    "of them is missing? And what does a server do with its key in a handshake, what an authority?",
    where="extendedKeyUsage is a list of purposes. keyUsage says what the key may do: a server signs the handshake "
    "with it, an authority (basic constraints) signs certificates, and need not be able to do the other. Where one of "
    "the extensions is missing, it restricts nothing.",
    code="purposes = extension(certificate, x509.ExtendedKeyUsage)\n"
    'if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:\n    raise Refused("purpose")\n'
    'if not (basic and basic.ca) and usage and not usage.digital_signature:\n    raise Refused("purpose")',
    seconds=PATIENCE,
)
async def purposes(c: Check) -> None:
    await judge(c, "check_alone", chains.purpose_cases())


@step(
    "What is critical is handled, or the certificate is refused",
    rfc="RFC 5280 §4.2: MUST reject a critical extension that it does not recognize or cannot process",
    symptom="“Critical” is a message from who signed to who verifies. What does it ask of a program that does not know "
    "the extension? And is to parse one the same as to act on it?",
    where="Each extension has an `oid` and says whether it is `critical`. Which do you act upon? Five kinds: basic "
    "constraints, key usage, extended key usage, name constraints, subjectAltName.",
    code="for one in certificate.extensions:\n    if one.critical and one.oid not in HANDLED:\n"
    '        raise Refused("critical", one.oid)',
    seconds=PATIENCE,
)
async def critical_extensions(c: Check) -> None:
    await judge(c, "check_alone", chains.critical_cases())


# -- One certificate and what is below it --------------------------------------------------------------


@step(
    "Only an authority may issue certificates",
    rfc="RFC 5280 §6.1.4 (k) and (n): the CA flag is set, and keyCertSign where there is a key usage",
    symptom="You own a good certificate for your own site, and its key. What keeps you from signing one for "
    "bank.example with it? Who looks at that?",
    where="The CA flag is in basic constraints; no basic constraints, no flag. The key usage has a say, too, but only "
    "where it is there.",
    code="basic, usage = extension(issuer, x509.BasicConstraints), extension(issuer, x509.KeyUsage)\n"
    "if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):\n"
    '    raise Refused("not a CA")',
    seconds=PATIENCE,
)
async def authorities(c: Check) -> None:
    await judge(c, "check_issuer", chains.authority_cases())


@step(
    "And only so many below one another",
    rfc="RFC 5280 §4.2.1.9: the most non-self-issued intermediates that may follow; the last certificate is not one",
    symptom="Draw the path, the root on top. Whom does the number in the root count, and whom not? What would it mean "
    "if it were 0, and what if it were missing?",
    where="The leaf, below[0], is no authority. 0 is a limit and None is not. Who has certified a new key of its own "
    "(subject and issuer are equal) is not counted twice.",
    code="authorities = [one for one in below[1:] if one.subject != one.issuer]\n"
    "if basic.path_length is not None and len(authorities) > basic.path_length:\n"
    '    raise Refused("path length")',
    seconds=PATIENCE,
)
async def path_length(c: Check) -> None:
    await judge(c, "check_issuer", chains.path_length_cases())


@step(
    "And only for the names it may vouch for",
    rfc="RFC 5280 §4.2.1.10, §6.1.3 (b) and (c): each name of each certificate below is permitted and not excluded",
    symptom="For which certificates does a constraint hold, and for which of their names? Which names does a "
    "certificate have that are not in its subjectAltName? And what if the constraint is on another kind of names?",
    where="Every name of every certificate below counts, not only the one that was asked for. Compare names with "
    "subtrees of their own form. A subtree of DNS names begins at a dot, and is reached by adding labels on the left. "
    "For a wildcard that meets an excluded name: what does it stand for? Exempt is who is self-issued (subject and "
    "issuer are equal, an authority's new key), unless it is the leaf. A subject is a name, too: a directoryName, "
    "where it is not empty, and a constraint on a form that you cannot compare means “critical”.",
    code="permitted = [tree for tree in limits.permitted_subtrees or () if type(tree) is type(name)]\n"
    'if permitted and not any(is_within(name, tree) for tree in permitted):\n    raise Refused("constraints")\n'
    "...\n"
    'base = tree.value.lower().removeprefix(".")                     # some write one in front\n'
    'f".{name.value}".lower().endswith(f".{base}")                   # DNSName; an empty base is above all\n'
    "name.value in tree.value                                        # IPAddress: an address in a network",
    seconds=PATIENCE,
)
async def constraints(c: Check) -> None:
    await judge(c, "check_names", chains.constraint_cases())


# -- The chain -----------------------------------------------------------------------------------------


@step(
    "From the leaf to a root that you have",
    rfc=PATH + "; its signature is verified with the issuer's key (§6.1.3 a1)",
    symptom="You are the forger: you can write every name and every date, and send any certificate that you have seen. "
    "What can you not do? That is what the verifier has to ask for.",
    where="Names can be copied, signatures cannot: `issued` looks at both. A path is good when its last certificate is "
    "in `roots`: the very same certificate, and not one of the same name, nor one that signs itself.",
    code="paths = [[leaf]]\nwhile paths:\n    path = paths.pop()\n    if path[-1] in roots:\n        return path\n"
    "    paths += [[*path, one] for one in (*others, *roots) if one not in path and issued(one, path[-1])]\n"
    'raise Refused("unknown authority")',
    seconds=PATIENCE,
)
async def trust(c: Check) -> None:
    await judge(c, "verify", chains.trust_cases())


@step(
    "Every rule for every certificate of the path",
    rfc="RFC 5280 §6.1.3 for each certificate, §6.1.4 for each but the leaf; RFC 9525 §6 for the leaf",
    symptom="Which of your functions is asked about the leaf, which about the intermediates, which about the root? "
    "Make a table. The failure names a piece that is right alone, and is not asked here.",
    where="is_for() is asked about the leaf, check_alone() about each certificate of the path, the root too; "
    "check_issuer() and check_names() about each but the leaf, with all that is below it.",
    code="*below, top = path\ncheck_alone(top, now)\nif below:\n    check_issuer(top, below)\n"
    "    check_names(top, below)",
    seconds=PATIENCE,
)
async def every_rule(c: Check) -> None:
    kinds = ("names", "dates", "purposes", "critical", "authorities", "path lengths", "constraints", "roots")
    await judge(c, "verify", [case for kind in kinds for case in chains.TABLES[kind]()])


@step(
    "Good chains that look odd",
    rfc="RFC 8446 §4.4.2: be prepared to handle potentially extraneous certificates and arbitrary orderings",
    symptom="Is there a path, though this one is none? What does your program do when a certificate that it has tried "
    "turns out to be bad? And what, when the leaf itself is among the roots?",
    where="The second certificate need not be the first one's issuer, and the last need not be a root. A way up that "
    "fails says nothing about the next one: remember why, and go on. A leaf that you have as a root is "
    "a path of one certificate: it need not be an authority, for it issues nothing.",
    code="except Refused as error:\n    refusal = error     # no path leads through here; perhaps one leads round it\n"
    "    continue",
    seconds=PATIENCE,
)
async def good_chains(c: Check) -> None:
    await judge(c, "verify", chains.good_cases())


@step(
    "A chain that leads nowhere, in many ways",
    rfc="RFC 4158 §5.2: detect loops; CVE-2018-16875: limit the work",
    symptom="Who decides how many certificates are sent, and who signs them? How many ways are there through n "
    "authorities that have all signed each other?",
    where="A certificate that is in the path already leads in a circle. And where there are thousands of ways, nobody "
    "needs them all: good paths are short and soon found.",
    code="for _ in range(50):     # instead of: while paths; or, if your function calls itself:\n"
    "self.calls += 1         # count the calls, in something that all of them share, and give up at 50",
    seconds=PATIENCE,
)
async def hostile(c: Check) -> None:
    await judge(c, "verify", chains.hostile_cases())


# -- On a socket ---------------------------------------------------------------------------------------


@step(
    "On the wire: the password goes to the right server, and to no other",
    rfc="RFC 5246 §7.4.2: the Certificate message, the leaf first; RFC 9525 §6.6: without a match the client goes no "
    "further",
    symptom="The same rules, in a real handshake. Which server was it, and what is wrong with its chain? The capture "
    "has it.",
    where="The handshake is done by Python's ssl with its own verification off; before the first byte of data your "
    "verify() is asked. It gets the chain as it stands in the Certificate message, in the clear.",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def on_the_wire(c: Check) -> None:
    address = c.net.server.address
    server = chains.leaf(chains.intermediate(), HOST, chains.ip(address))
    forger = chains.authority("Root")
    forged = chains.authority("Intermediate", forger)
    expired = chains.leaf(chains.intermediate(), end=NOW - chains.DAY / 2)
    visits = [
        (HOST, "the server", (server, chains.intermediate()), ""),
        (address, "the server, by its address", (server, chains.intermediate()), ""),
        (HOST, "a forger with a root of the same name", (chains.leaf(forged), forged, forger), "unknown authority"),
        ("bank.lab", "the server, when bank.lab was meant", (server, chains.intermediate()), "name"),
        (HOST, "the server with an old certificate", (expired, chains.intermediate()), "expired"),
    ]
    contexts = [server_context([made.certificate for made in chain], chain[0].key) for _, _, chain, _ in visits]
    with c.net.server.listen(0) as listening:
        port = listening.getsockname()[1]
        hosts, roots = json.dumps([visit[0] for visit in visits]), json.dumps(packed([chains.root().certificate]))
        program = c.start("client_role", address, port, roots, hosts, host="client")
        answering = asyncio.create_task(
            asyncio.to_thread(lambda: [receive(listening, context) for context in contexts])
        )
        try:
            found = await program.result(PATIENCE - 2)
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # Else a thread would wait for a client that has crashed.
            received = await answering
    for (host, who, _, reason), said, came in zip(visits, found, received, strict=True):
        c.did(f"> {who}: a chain of {said['chain']} certificates, for {host}")
        c.did(
            f"< {came.decode()!r}" if came else f"< nothing: {said.get('refused') or said.get('raised') or 'too late'}"
        )
        mine = f"tcp.port == {said['port']}"
        certificate = f"{mine} && tls.handshake.type == 11"
        if "value" not in said and "refused" not in said:
            c.fail(f"Your verify() gave no answer for the chain of {who}: {said.get('raised', 'it took too long')}.",
                   filter=certificate)  # fmt: skip
        if came and reason:
            c.fail(f"Your client has sent its password to {who}: there the chain must be refused, “{reason}”.",
                   filter=f"{mine} && tls.record.content_type == 23")  # fmt: skip
        if not came and not reason:
            c.fail(f"Your client has refused {who}, for the reason “{said.get('refused')}”.", filter=certificate)


def server_context(chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """A server's side of TLS that sends these certificates. The ssl module takes them from files only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.NamedTemporaryFile() as file:  # Mode 0600, and gone at the end of the block.
        file.write(pem(chain) + secret)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def receive(listening: socket.socket, context: ssl.SSLContext) -> bytes:
    """Accept a client, and return the first that it sends, b"" if it closes instead."""
    try:
        sock, _ = listening.accept()
        sock.settimeout(5)
        with context.wrap_socket(sock, server_side=True) as secured:
            return secured.recv(1000)
    except OSError:  # It has gone in the middle, or has never come.
        return b""
