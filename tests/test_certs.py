"""The lab's certificates: the good ones hold, every bad one fails for its one fault, and what ends is renewed."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

import certs
from certs import contexts, profile
from certs.__main__ import main
from certs.kinds import KINDS, REVOKED, STAPLED
from certs.show import pin, shown
from tests.conftest import TICK, need_tool

AUTHORITIES = [name for name, kind in KINDS.items() if kind.use == "authority"]
LEAVES = [name for name in KINDS if name not in AUTHORITIES]
GOOD = [name for name in LEAVES if not KINDS[name].fault]
BAD = [name for name in LEAVES if KINDS[name].fault]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fresh certificates, and with root.crl and intermediate.crl in one file."""
    path = tmp_path_factory.mktemp("certs")
    certs.ensure(path)
    (path / "all.crls").write_bytes((path / "root.crl").read_bytes() + (path / "intermediate.crl").read_bytes())
    return path


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=400 * TICK, **options
    )


def save(path: Path, *chain: x509.Certificate) -> Path:
    path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
    return path


# --- What is made -------------------------------------------------------------------------------


def test_everything_is_made_once_and_only_its_owner_can_read_the_keys(tmp_path):
    old = os.umask(0)  # Then only what a program asks for itself keeps others out.
    try:
        written = certs.ensure(tmp_path / "new")
    finally:
        os.umask(old)
    names = {f"{name}.{ending}" for name in KINDS for ending in ("pem", "key")}
    names |= {f"{name}.crl" for name in REVOKED} | {f"{name}.ocsp" for name in STAPLED}
    assert {path.name for path in written} == {path.name for path in (tmp_path / "new").iterdir()} == names
    for path in written:
        assert path.stat().st_mode & 0o777 == (0o600 if path.suffix == ".key" else 0o644), path.name
    assert certs.ensure(tmp_path / "new") == []


def test_it_costs_little(tmp_path):
    """Every server and client asks for the certificates when it starts. The processor's time, not the clock's."""

    def cost() -> float:
        begin = time.process_time()
        certs.ensure(tmp_path)
        return time.process_time() - begin

    assert cost() < 3
    assert min(cost() for _ in range(5)) < 0.05


def test_git_never_sees_them(folder):
    need_tool("git")
    files = [f"certs/{path.name}" for path in folder.iterdir() if path.suffix != ".crls"] + ["certs/root.key.new"]
    ignored = run("git", "check-ignore", *files, cwd=certs.FOLDER.parent)
    assert set(files) - set(ignored.stdout.split()) == set()
    kept = run("git", "ls-files", "certs", cwd=certs.FOLDER.parent).stdout.split()
    assert all(name.endswith(".py") for name in kept)


@pytest.mark.parametrize("name", KINDS)
def test_certificates_follow_the_profile(folder, name):
    """RFC 5280 §4, and what browsers ask for beyond it."""
    kind, certificate = KINDS[name], certs.read_chain(name, folder)[0]
    assert certificate.version is x509.Version.v3
    assert 2**64 < certificate.serial_number < 2**159  # §4.1.2.2: at most 20 octets, and positive
    critical = {type(extension.value) for extension in certificate.extensions if extension.critical}
    everywhere = {x509.BasicConstraints, x509.KeyUsage}
    assert critical == everywhere | ({x509.NameConstraints} if name in ("root", "unknown-root") else set())
    purposes = {
        "server": [ExtendedKeyUsageOID.SERVER_AUTH],
        "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
        "authority": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    }[kind.use]
    if name in ("root", "unknown-root"):
        assert x509.ExtendedKeyUsage not in {type(extension.value) for extension in certificate.extensions}
    else:
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == purposes
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if kind.use != "authority":
        assert life <= timedelta(days=90)
        assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    if kind.signer:
        signer = certs.read_chain(kind.signer, folder)[0]
        assert certificate.not_valid_after_utc <= signer.not_valid_after_utc
        assert certificate.not_valid_before_utc >= signer.not_valid_before_utc
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey) != kind.rsa


def test_serial_numbers_and_keys_differ(folder):
    made = [certs.read_chain(name, folder)[0] for name in KINDS]
    assert len({one.serial_number for one in made}) == len({pin(one) for one in made}) == len(KINDS)


# --- The strictest reading of openssl: every certificate, good and bad ------------------------------


def verify(folder: Path, name: str, *instead: object, crl: bool = True, host: str = "server.lab") -> str:
    """What `openssl verify` finds first: "OK" or "10 certificate has expired"."""
    purpose = "sslclient" if KINDS[name].use == "client" and name != "wrong-purpose" else "sslserver"
    command = ["openssl", "verify", "-x509_strict"]
    command += ["-CAfile", folder / "root.pem"] * ("-CAfile" not in instead)
    command += ["-untrusted", folder / f"{name}.pem"] * ("-untrusted" not in instead)
    command += ["-purpose", purpose] * ("-purpose" not in instead)
    command += ["-verify_hostname", host] * (purpose == "sslserver")
    if crl:
        command += ["-crl_check_all", "-CRLfile", folder / "root.crl", "-CRLfile", folder / "intermediate.crl"]
    done = run(*command, *instead, folder / f"{name}.pem")
    assert (done.returncode == 0) == done.stdout.endswith(": OK\n")
    found = re.search(r"error (\d+) at \d+ depth lookup: (.*)", done.stderr)
    assert (found is None) == (done.returncode == 0), done.stderr
    return f"{found[1]} {found[2]}" if found else "OK"


@pytest.mark.parametrize("name", GOOD)
def test_the_good_ones_hold(folder, name):
    need_tool("openssl")
    host = {"www": "www.lab", "site": "site.lab"}.get(name, "server.lab")
    assert verify(folder, name, host=host) == "OK"
    if KINDS[name].use == "server":
        assert verify(folder, name, host="other.lab") == "62 hostname mismatch"
        assert verify(folder, name, "-purpose", "sslclient", host=host) == "26 unsuitable certificate purpose"


@pytest.mark.parametrize("host", ["server.lab", "localhost", "server"])
@pytest.mark.parametrize("name", ["server", "server-rsa"])
def test_the_servers_names(folder, name, host):
    need_tool("openssl")
    assert verify(folder, name, host=host) == "OK"


def test_a_wildcard_is_one_label(folder):
    need_tool("openssl")
    assert verify(folder, "www", host="shop.www.lab") == "OK"
    assert verify(folder, "www", host="a.shop.www.lab") == "62 hostname mismatch"


ERRORS = {
    "expired": "10 certificate has expired",
    "not-yet-valid": "9 certificate is not yet valid",
    "wrong-name": "62 hostname mismatch",
    "self-signed": "18 self-signed certificate",
    "unknown-ca": "19 self-signed certificate in certificate chain",
    "revoked": "23 certificate revoked",
    "no-intermediate": "20 unable to get local issuer certificate",
    "wrong-purpose": "26 unsuitable certificate purpose",
    "forbidden-name": "47 permitted subtree violation",
    "not-a-ca": "79 invalid CA certificate",
    "client-expired": "10 certificate has expired",
    "client-unknown": "19 self-signed certificate in certificate chain",
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_one_has_an_error(folder, name):
    need_tool("openssl")
    assert verify(folder, name) == ERRORS[name]


def resigned(folder: Path, path: Path, name: str, **changes: object) -> Path:
    """The same certificate with the same name and key, but for one thing that it says."""
    kind = dataclasses.replace(KINDS[name], **changes)
    own, signer = certs.read_chain(name, folder)[0], certs.read_key(kind.signer or name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "subject", lambda _: own.subject)
        return save(path, profile.sign(kind, own.public_key(), own.issuer, signer, datetime.now(UTC)))


@pytest.mark.parametrize("name", BAD)
def test_each_bad_one_has_only_that_fault(folder, tmp_path, name):
    """With its one fault mended, or not asked about, it holds."""
    need_tool("openssl")
    chain = certs.read_chain(name, folder)
    once = int((chain[0].not_valid_before_utc + timedelta(days=1)).timestamp())
    stranger = folder / "unknown-root.pem"
    mended = {
        # Then there were other lists.
        "expired": lambda: verify(folder, name, "-attime", once, crl=False),
        "client-expired": lambda: verify(folder, name, "-attime", once, crl=False),
        "not-yet-valid": lambda: verify(folder, name, "-attime", once, crl=False),
        "wrong-name": lambda: verify(folder, name, host="another.lab"),
        # Who trusts it, or its root. They publish no lists.
        "self-signed": lambda: verify(folder, name, "-CAfile", folder / "self-signed.pem", crl=False),
        "unknown-ca": lambda: verify(folder, name, "-CAfile", stranger, crl=False),
        "client-unknown": lambda: verify(folder, name, "-CAfile", stranger, crl=False),
        "revoked": lambda: verify(folder, name, crl=False),
        "no-intermediate": lambda: verify(folder, name, "-untrusted", folder / "intermediate.pem"),
        "wrong-purpose": lambda: verify(folder, name, "-purpose", "sslclient"),
        # The same root, without its constraints; the same site, as an authority.
        "forbidden-name": lambda: verify(
            folder, name, "-CAfile", resigned(folder, tmp_path / "root.pem", "root", constrained=False)
        ),
        "not-a-ca": lambda: verify(
            folder, name, "-untrusted", resigned(folder, tmp_path / "site.pem", "site", use="authority"), crl=False
        ),
    }
    assert mended[name]() == "OK"


@pytest.mark.parametrize(
    "name", ["expired", "client-expired", "not-yet-valid", "self-signed", "unknown-ca", "not-a-ca"]
)
def test_those_without_a_list_are_on_none(folder, name):
    """The rest of the proof above, where no list could be asked."""
    for signer in REVOKED:
        crl = x509.load_pem_x509_crl((folder / f"{signer}.crl").read_bytes())
        assert crl.get_revoked_certificate_by_serial_number(certs.read_chain(name, folder)[0].serial_number) is None


# --- The root can do no harm ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "by"),
    [
        (("bank.example",), "root"),
        (("bank.example",), "intermediate"),
        (("server.lab", "bank.example"), "root"),
        (("mylab",), "root"),
        (("*.example",), "root"),
        (("9.9.9.9",), "root"),
        (("2001:db8::1",), "root"),
        (("someone@mail.example",), "root"),
        ((), "root"),  # the common name, as it was done before there were alternative names
    ],
)
def test_who_steals_a_key_can_name_nothing_but_the_lab(folder, tmp_path, names, by):
    need_tool("openssl", "certtool")
    common_name = "server.lab" if names else "bank.example"
    kind = dataclasses.replace(KINDS["server"], names=names, common_name=common_name, signer=by)
    signer, key = certs.read_chain(by, folder)[0], ec.generate_private_key(ec.SECP256R1())
    forged = profile.sign(kind, key.public_key(), signer.subject, certs.read_key(by, folder), datetime.now(UTC))
    path = save(tmp_path / "forged.pem", forged, *([signer] if by != "root" else []))
    root = folder / "root.pem"
    done = run("openssl", "verify", "-CAfile", root, "-untrusted", path, path)
    assert "error 47 at 0 depth lookup: permitted subtree violation" in done.stderr
    done = run("certtool", "--verify", "--load-ca-certificate", root, "--infile", path)
    if names:  # GnuTLS does not take a common name for a host's name.
        assert "The certificate chain violates the signer's constraints." in done.stdout
        assert done.returncode == 1


def test_there_is_no_authority_below_the_intermediate(folder, tmp_path):
    """Who steals its key cannot make others to steal (RFC 5280 §4.2.1.9, pathLenConstraint)."""
    need_tool("openssl")
    signer, signer_key = certs.read_chain("intermediate", folder)[0], certs.read_key("intermediate", folder)
    below_kind = dataclasses.replace(KINDS["intermediate"], signer="intermediate", common_name="Another CA")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    another = profile.sign(below_kind, key.public_key(), signer.subject, signer_key, now)
    leaf = profile.sign(
        KINDS["server"], ec.generate_private_key(ec.SECP256R1()).public_key(), another.subject, key, now
    )
    path = save(tmp_path / "leaf.pem", leaf, another, signer)
    done = run("openssl", "verify", "-CAfile", folder / "root.pem", "-untrusted", path, path)
    assert "error 25 at 2 depth lookup: path length constraint exceeded" in done.stderr


# --- Renewal ----------------------------------------------------------------------------------------


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the certificates, to break."""
    shutil.copytree(folder, tmp_path / "own")  # with modes
    return tmp_path / "own"


def below(*names: str) -> set[str]:
    """What has to be made when these are: they, all that they signed, and what is said about it."""
    new = set(names)
    for name, kind in KINDS.items():
        new |= {name} if kind.signer in new else set()
    files = {f"{name}.pem" for name in new} | {f"{name}.ocsp" for name in STAPLED if name in new}
    return files | {f"{signer}.crl" for signer, listed in REVOKED.items() if new & {signer, *listed}}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flip(path: Path) -> None:
    """Change one bit of the last byte: the signature's."""
    data = path.read_bytes()
    if path.suffix == ".ocsp":  # The intermediate's certificate is not in it, so its signature is the end.
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return
    load = x509.load_pem_x509_crl if path.suffix == ".crl" else x509.load_pem_x509_certificate
    kind = b"X509 CRL" if path.suffix == ".crl" else b"CERTIFICATE"
    der = load(data).public_bytes(Encoding.DER)
    rest = data.split(b"-----END " + kind + b"-----\n", 1)[1]
    body = base64.encodebytes(der[:-1] + bytes([der[-1] ^ 1]))
    path.write_bytes(b"-----BEGIN " + kind + b"-----\n" + body + b"-----END " + kind + b"-----\n" + rest)


FAULTS = [
    ("server.pem", Path.unlink, below("server"), "it is missing"),
    ("server.key", Path.unlink, below("server"), "server.key is missing"),
    ("server.pem", cut, below("server"), "it cannot be read"),
    ("server.key", cut, below("server"), "it cannot be read"),
    ("server.pem", lambda path: path.write_bytes(b""), below("server"), "it cannot be read"),
    ("server.pem", flip, below("server"), "its signature is not its signer's"),
    ("server.key", lambda path: path.chmod(0o640), below("server"), "others could read its key"),
    ("server.key", lambda path: path.write_bytes(path.with_name("www.key").read_bytes()), below("server"),
     "its key is another's"),
    ("server-rsa.key", lambda path: path.chmod(0o604), below("server-rsa"), "others could read its key"),
    ("revoked.pem", cut, below("revoked"), "it cannot be read"),
    ("site.key", Path.unlink, below("site"), "site.key is missing"),
    ("unknown-root.pem", cut, below("unknown-root"), "it cannot be read"),
    ("intermediate.pem", flip, below("intermediate"), "its signature is not its signer's"),
    ("root.pem", flip, below("root"), "its signature is not its signer's"),
    ("root.key", Path.unlink, below("root"), "root.key is missing"),
    ("intermediate.crl", Path.unlink, {"intermediate.crl"}, "it is missing"),
    ("intermediate.crl", cut, {"intermediate.crl"}, "it cannot be read"),
    ("intermediate.crl", flip, {"intermediate.crl"}, "its signature is not its signer's"),
    ("intermediate.crl", lambda path: path.write_bytes(path.with_name("root.crl").read_bytes()), {"intermediate.crl"},
     "its signature is not its signer's"),
    ("revoked.ocsp", cut, {"revoked.ocsp"}, "it cannot be read"),
    ("revoked.ocsp", flip, {"revoked.ocsp"}, "its signature is not its signer's"),
    ("revoked.ocsp", lambda path: path.write_bytes(path.with_name("server.ocsp").read_bytes()), {"revoked.ocsp"},
     "this version of the lab makes it otherwise"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "harm", "files", "why"), FAULTS)
def test_what_is_broken_is_made_anew_and_nothing_else(own, file, harm, files, why):
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    harm(own / file)
    wanted = certs.wanting(own)
    assert next(iter(wanted.values())) == why
    assert set(wanted) == files
    certs.ensure(own)
    assert certs.wanting(own) == {}
    keys = {file.replace(".pem", ".key") for file in files}
    assert {name for name, data in before.items() if (own / name).read_bytes() != data} == files | keys


def test_a_new_root_renews_all(own, tmp_path):
    """Somebody put another root in its place, which is in order: it signed nothing here."""
    certs.ensure(tmp_path / "other")
    for name in ("root.pem", "root.key"):
        shutil.copy(tmp_path / "other" / name, own)
    wanted = certs.wanting(own)
    assert set(wanted) == below("root") - {"root.pem"}
    assert wanted["intermediate.pem"] == wanted["site.pem"] == "its signature is not its signer's"
    certs.ensure(own)
    assert verify(own, "server") == "OK"


def test_another_version_of_the_lab_renews_what_it_makes_otherwise(own, monkeypatch):
    monkeypatch.setitem(KINDS, "server", dataclasses.replace(KINDS["server"], names=("server.lab", "new.lab")))
    assert certs.wanting(own) == {
        "server.pem": "this version of the lab makes it otherwise",
        "server.ocsp": "server is new",
    }
    certs.ensure(own)
    assert verify(own, "server", host="new.lab") == "OK"


def test_what_ends_is_renewed_before_it_does(own):
    """At each of these times, days from now: what is renewed, that it holds then, and that nothing more is wanted."""
    now = datetime.now(UTC)
    usual = {f"{name}.pem" for name in LEAVES if KINDS[name].days == (0, 90)}
    said = {f"{name}.crl" for name in REVOKED} | {f"{name}.ocsp" for name in STAPLED}
    for days, files in (
        (22, set()),
        (24, said),  # a week before the lists end
        (83, usual | said),
        (359, usual | said | {"not-yet-valid.pem"}),  # a week before it begins
        (600, usual | said | below("intermediate")),  # while it outlives what it signs
        (2600, usual | said | below("root")),
    ):
        then = now + timedelta(days=days)
        assert set(certs.wanting(own, then)) == files, days
        certs.ensure(own, then)
        assert certs.wanting(own, then) == {}
        assert verify(own, "server", "-attime", int(then.timestamp())) == "OK"
    for name in BAD:
        assert verify(own, name, "-attime", int(then.timestamp())) == ERRORS[name]


@pytest.mark.parametrize("days", [-2, -200, -4000])
def test_a_clock_that_was_wrong_is_noticed(own, days):
    """Made in the future, as this clock sees it."""
    then = datetime.now(UTC) + timedelta(days=days)
    assert certs.wanting(own, then)["server.pem"] in ("it is from the future", "intermediate is new")
    certs.ensure(own, then)
    assert verify(own, "server", "-attime", int(then.timestamp())) == "OK"


def test_several_at_once_make_one_set(tmp_path):
    """A lab starts servers and clients together, and each asks."""
    code = "import certs, pathlib, sys; print(len(certs.ensure(pathlib.Path(sys.argv[1]))))"
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": certs.FOLDER.parent}
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new")], **pipes) for _ in range(3)]
    made = [process.communicate()[0].strip() for process in started]
    assert sorted(made) == ["0", "0", str(len(list((tmp_path / "new").iterdir())))]
    assert certs.wanting(tmp_path / "new") == {}


def test_what_a_killed_one_left_behind_does_no_harm(own):
    (own / "server.key.new").write_text("half a key")
    (own / "server.key.new").chmod(0o644)
    (own / "server.pem").unlink()
    certs.ensure(own)
    assert (own / "server.key").stat().st_mode & 0o777 == 0o600
    assert certs.wanting(own) == {}
    assert not list(own.glob("*.new"))


def test_where_no_modes_are_kept_keys_are_not_made_for_ever(own, monkeypatch):
    """A Windows drive under WSL: every file is everybody's, whatever one asks for."""
    (own / "server.key").chmod(0o777)
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result((real(fd).st_mode | 0o077, *real(fd)[1:])))
    assert certs.wanting(own) == {}


# --- The command line -------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    """python -m certs, in this process: the exit code, what it prints, and what it complains about."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["certs", *map(str, arguments)])
        code = main()
        return code, *capsys.readouterr()

    return call


def test_make_tells_what_was_made_and_why(command, tmp_path):
    code, said, _ = command("--folder", tmp_path / "new")
    assert code == 0
    assert "made  root.pem             it is missing\n" in said
    assert "made  server.pem           intermediate is new\n" in said
    assert "Where you trust the lab's old one" in said
    _, again, _ = command("--folder", tmp_path / "new")
    assert again.startswith("The lab's certificates are all there, and good for more than a week.\n")


def test_a_folder_that_cannot_be_written(own):
    start = [sys.executable, "-m", "certs", "--folder", own]
    if os.geteuid() == 0:  # root, but without its rights
        start[:0] = [need_tool("setpriv"), "--securebits=+noroot", "--inh-caps=-all", "--bounding-set=-all"]
    own.chmod(0o555)
    try:
        assert run(*start, cwd=certs.FOLDER.parent).returncode == 0  # Nothing is wanting: nothing is written.
        own.chmod(0o755)
        (own / "server.pem").unlink()
        own.chmod(0o555)
        done = run(*start, cwd=certs.FOLDER.parent)
    finally:
        own.chmod(0o755)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"certs: {own}/server.key.new cannot be written: Permission denied.\n"


def test_a_folder_that_is_none(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, said, complaint = command("--folder", tmp_path / "file")
    assert (code, said) == (2, "")
    assert complaint == f"certs: {tmp_path}/file/root.pem cannot be written: Not a directory.\n"


def test_list_names_all_and_the_faults(command):
    code, said, _ = command("list")
    assert code == 0
    for name, kind in KINDS.items():
        assert re.search(rf"^  {name} +{re.escape(kind.fault or kind.about)}$", said, re.MULTILINE)
    assert all(len(line) <= 80 for line in said.splitlines())


@pytest.mark.parametrize("name", KINDS)
def test_show_says_all_that_matters(folder, name):
    lines = list(shown(name, folder))
    assert all(len(line) <= 80 for line in lines)
    kind, text = KINDS[name], "\n".join(lines)
    assert text.startswith(f"{name}: ")
    assert (f"One fault: {kind.fault}." in text) == bool(kind.fault)
    assert f"1. {kind.common_name}\n" in text
    if kind.names:
        assert re.search(rf"   names +{re.escape(kind.names[0])}", text)
    assert text.count("signed by      itself") == 1  # the root, which ends every chain
    assert text.rindex("signed by      itself") > text.rindex("signed by") - 1
    assert text.count("key pin") == text.count("fingerprint") == text.count("serial")


def test_show_server(folder):
    text = "\n".join(shown("server", folder))
    assert "names          server.lab, localhost, server, 127.0.0.1" in text
    assert re.search(r"valid +\d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d: 89 days left", text)
    assert "key            ECDSA, P-256" in text
    assert "good for       TLS servers (serverAuth)" in text
    assert "2. Networking Lab Intermediate CA\n" in text
    assert "authority      yes, with no other authorities below it" in text
    assert "3. Networking Lab Root CA  (not sent)\n" in text
    assert "only for       localhost, lab, server and below" in text
    assert "RSA, 2048 bits" in "\n".join(shown("server-rsa", folder))
    assert "ended 1 day ago" in "\n".join(shown("expired", folder))
    assert "begins in 36" in "\n".join(shown("not-yet-valid", folder))
    assert "its key was in the wrong hands" in "\n".join(shown("revoked", folder))


def test_show_agrees_with_openssl(folder):
    need_tool("openssl")
    text = "".join(line[18:] for line in shown("server", folder) if line.startswith(("   fing", "         ")))
    done = run("openssl", "x509", "-in", folder / "server.pem", "-noout", "-fingerprint", "-sha256")
    assert done.stdout.split("=")[1].strip() in text.replace("\n", "")
    key = run("openssl", "x509", "-in", folder / "server.pem", "-noout", "-pubkey").stdout
    der = base64.b64decode("".join(key.splitlines()[1:-1]))
    assert pin(certs.read_chain("server", folder)[0]) == base64.b64encode(hashlib.sha256(der).digest()).decode()


def test_show_a_file(command, folder, tmp_path):
    """Any certificates, such as those with which the check of lab 04 has caught somebody."""
    file = tmp_path / "chain.pem"
    strange = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\5\0"), True)
    limits = x509.NameConstraints(None, [x509.DNSName("secret.lab"), x509.DirectoryName(x509.Name([]))])
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CODE_SIGNING])
    key = ed25519.Ed25519PrivateKey.generate()
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        x509.Name([]), x509.Name([]), key.public_key(), 7, now - timedelta(1), now + timedelta(1)
    )
    for value, critical in (strange, (limits, True), (purposes, False)):
        builder = builder.add_extension(value, critical)
    odd, own_server = builder.sign(key, None), certs.read_chain("server", folder)[0]
    file.write_bytes(b"chain for server.lab\n" + save(tmp_path / "both.pem", odd, own_server).read_bytes())
    code, said, complaint = command("show", file)
    assert (code, complaint) == (0, "")
    assert all(len(line) <= 80 for line in said.splitlines())
    for text in ("1. (no subject)\n   signed by      itself", "never for      secret.lab and below",
                 "unknown        1.3.6.1.4.1.32473.1, and critical", "(serverAuth) and 1.3.6.1.5.5.7.3.3",
                 "key            Ed25519PublicKey", "\n\n2. "):  # fmt: skip
        assert text in said
    file.write_text("nothing")
    assert command("show", file) == (2, "", f"certs: {file} has no certificates in PEM.\n")


@pytest.mark.parametrize("content", ["raise ImportError('no module')", "VERSION = 1"])
def test_another_python_is_told_so_in_a_sentence(tmp_path, content):
    """python3 -m certs, where the system's cryptography is missing, or so old that a part of it is."""
    (tmp_path / "cryptography.py").write_text(content)
    path = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run(sys.executable, "-m", "certs", "list", cwd=certs.FOLDER.parent, env=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("certs: this Python has no cryptography, or one that is too old.\n")
    assert done.stderr.endswith("The lab's own has it:  .venv/bin/python -m certs\n")
    assert done.stderr.count("\n") == 2


def test_a_new_root_is_told_to_who_trusted_the_old(own, capsys):
    """Whoever makes it: a server, a client, an experiment. Nothing is told where there was none."""
    contexts.ensure.cache_clear()
    contexts.ensure(own)
    assert capsys.readouterr() == ("", "")
    (own / "root.key").unlink()
    contexts.ensure.cache_clear()
    contexts.ensure(own)
    contexts.ensure.cache_clear()
    told = f"The lab's root is new. Where you trust the old one, put this one in its place: {own / 'root.pem'}\n"
    assert capsys.readouterr() == ("", told)


def test_show_an_unknown_name_lists_the_known(command):
    code, said, complaint = command("show", "sevrer")
    assert (code, said) == (2, "")
    assert complaint.startswith("certs: there is no certificate 'sevrer', and no such file. There are:\n")
    assert all(name in complaint for name in KINDS)


def test_a_reader_that_goes_away_is_no_error(folder):
    done = run(
        "sh", "-c", f"'{sys.executable}' -m certs --folder '{folder}' show server | head -1", cwd=certs.FOLDER.parent
    )
    assert (done.stdout, done.stderr) == ("server: the lab's server, with an ECDSA key\n", "")


# --- What everybody says who meets a bad one --------------------------------------------------------


SERVERS = [name for name in LEAVES if KINDS[name].use == "server" or name == "wrong-purpose"]
STAPLES = [f"{name}+answer" for name in STAPLED]  # with a signed answer about its revocation

NAME = "The name in the certificate does not match the expected."
STRANGER = "The certificate issuer is unknown."
# What GnuTLS and Chromium say. curl and Python say what OpenSSL says (above), of which they are made.
OTHERS = {
    "expired": ("The certificate chain uses expired certificate.", "ERR_CERT_DATE_INVALID"),
    "not-yet-valid": ("The certificate chain uses not yet valid certificate.", "ERR_CERT_DATE_INVALID"),
    "wrong-name": (NAME, "ERR_CERT_COMMON_NAME_INVALID"),
    "self-signed": (STRANGER, "ERR_CERT_AUTHORITY_INVALID"),
    "unknown-ca": (STRANGER, "ERR_CERT_AUTHORITY_INVALID"),
    "revoked": ("", ""),  # Nobody looks, unless told so or given the answer.
    "revoked+answer": ("The certificate chain is revoked.", "ERR_CERT_REVOKED"),
    "no-intermediate": (STRANGER, "ERR_CERT_AUTHORITY_INVALID"),
    "wrong-purpose": ("The certificate chain does not match the intended purpose.", "ERR_CERT_INVALID"),
    "forbidden-name": ("The certificate chain violates the signer's constraints.", "ERR_CERT_INVALID"),
    "not-a-ca": (
        "The certificate issuer is not a CA. The certificate chain violates the signer's constraints.",
        "ERR_CERT_INVALID",
    ),
}


@pytest.fixture(scope="module")
def ports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The port of an `openssl s_server` with each certificate."""
    need_tool("openssl")
    scratch, started = tmp_path_factory.mktemp("chains"), {}
    for name in [*SERVERS, *STAPLES]:
        file = name.removesuffix("+answer")
        command = [
            "openssl",
            "s_server",
            "-www",
            "-accept",
            "127.0.0.1:0",
            "-cert",
            f"{file}.pem",
            "-key",
            f"{file}.key",
        ]
        if rest := certs.read_chain(file, folder)[1:]:
            command += ["-cert_chain", str(save(scratch / f"{name}.rest", *rest))]
        if name in STAPLES:
            command += ["-status_file", f"{file}.ocsp"]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started[name] = subprocess.Popen(command, cwd=folder, text=True, **pipes)
    try:
        found = {}
        for name, process in started.items():
            while not (line := process.stdout.readline()).startswith("ACCEPT"):
                assert line, f"openssl s_server with {name} has ended"
            found[name] = int(line.rsplit(":", 1)[1])
        yield found
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def s_client(folder: Path, port: int, *more: object) -> str:
    done = run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-verify_hostname", "server.lab", "-CAfile",
        folder / "root.pem", "-verify_return_error", *more,
    )  # fmt: skip
    assert (done.returncode == 0) == ("Verify return code: 0 (ok)" in done.stdout)
    found = re.search(r"Verify return code: (\d+) \((.*)\)", done.stdout)
    return f"{found[1]} {found[2]}"


def curl(folder: Path, port: int, *more: object) -> str:
    """ "200", or what curl says."""
    done = run(
        "curl", "-sS", "--cacert", folder / "root.pem", "--resolve", f"server.lab:{port}:127.0.0.1", "-o", os.devnull,
        "-w", "%{http_code}", *more, f"https://server.lab:{port}/",
    )  # fmt: skip
    assert (done.returncode == 0) == (done.stdout == "200")
    return done.stderr.splitlines()[0] if done.stderr else done.stdout


def python(folder: Path, port: int, crl: bool = False) -> str:
    context = ssl.create_default_context(cafile=folder / "root.pem")
    if crl:
        context.load_verify_locations(folder / "all.crls")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    with socket.create_connection(("127.0.0.1", port), timeout=100 * TICK) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="server.lab"):
                return "OK"
        except ssl.SSLCertVerificationError as error:
            return f"{error.verify_code} {error.verify_message}"


def gnutls(folder: Path, port: int) -> str:
    """ "", or what GnuTLS says."""
    done = run(
        "gnutls-cli", "--x509cafile", folder / "root.pem", "--verify-hostname", "server.lab", "--sni-hostname",
        "server.lab", "--port", port, "127.0.0.1",
    )  # fmt: skip
    assert (done.returncode == 0) == ("Status: The certificate is trusted." in done.stdout)
    found = re.search(r"Status: The certificate is NOT trusted\. (.*?) *$", done.stdout, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("name", ["server", "server-rsa"])
def test_all_accept_the_good_ones(folder, ports, name):
    need_tool("openssl", "curl", "gnutls-cli")
    assert s_client(folder, ports[name]) == "0 ok"
    assert curl(folder, ports[name], "--crlfile", folder / "all.crls") == "200"
    assert python(folder, ports[name], crl=True) == "OK"
    assert gnutls(folder, ports[name]) == ""


@pytest.mark.parametrize("name", [name for name in BAD if name in SERVERS and name != "revoked"])
def test_all_refuse_a_bad_one_and_say_why(folder, ports, name):
    need_tool("openssl", "curl", "gnutls-cli")
    assert s_client(folder, ports[name]) == ERRORS[name]
    _, why = ERRORS[name].split(" ", 1)
    if name == "wrong-name":
        assert "no alternative certificate subject name matches target host name" in curl(folder, ports[name])
        assert python(folder, ports[name]).startswith("62 Hostname mismatch")
    else:
        assert curl(folder, ports[name]) == f"curl: (60) SSL certificate problem: {why}"
        assert python(folder, ports[name]) == ERRORS[name]
    assert gnutls(folder, ports[name]) == OTHERS[name][0]


def test_a_revoked_one_is_accepted_by_all_who_do_not_ask(folder, ports):
    need_tool("openssl", "curl", "gnutls-cli")
    port = ports["revoked"]
    assert s_client(folder, port) == "0 ok"
    assert (curl(folder, port), python(folder, port), gnutls(folder, port)) == ("200", "OK", "")


def test_a_revoked_one_is_refused_by_who_has_the_list(folder, ports):
    need_tool("openssl", "curl", "certtool")
    port = ports["revoked"]
    assert s_client(folder, port, "-crl_check", "-CRL", folder / "intermediate.crl") == "23 certificate revoked"
    assert (
        curl(folder, port, "--crlfile", folder / "all.crls")
        == "curl: (60) SSL certificate problem: certificate revoked"
    )
    assert python(folder, port, crl=True) == "23 certificate revoked"
    done = run(
        "certtool", "--verify", "--load-ca-certificate", folder / "root.pem", "--load-crl", folder / "intermediate.crl",
        "--infile", folder / "revoked.pem",
    )  # fmt: skip
    assert "The certificate chain is revoked." in done.stdout


def test_a_revoked_one_is_refused_by_who_gets_the_answer(folder, ports):
    need_tool("curl", "gnutls-cli")
    port = ports["revoked+answer"]
    assert curl(folder, port, "--cert-status") == "curl: (91) SSL certificate revocation reason: keyCompromise (1)"
    assert gnutls(folder, port) == OTHERS["revoked+answer"][0]
    assert curl(folder, ports["server+answer"], "--cert-status") == "200"
    assert gnutls(folder, ports["server+answer"]) == ""


def browse(home: Path, urls: list[str]) -> dict[str, str]:
    """How Chromium fares with each of these: "" or its error. One start, one page of pictures."""
    page, log = home / "page.html", home / "net.json"
    page.write_text("".join(f'<img src="{url}">' for url in urls))
    done = run(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={home}/profile", "--dump-dom",
        "--host-resolver-rules=MAP * 127.0.0.1", f"--log-net-log={log}", page.as_uri(),
        env={**os.environ, "HOME": str(home)},
    )  # fmt: skip
    assert done.stdout.count("<img") == len(urls), done.stderr
    known = json.loads(log.read_text())
    names = {number: name for name, number in known["constants"]["netError"].items()}
    addresses: dict[int, str] = {}
    found: dict[str, str] = {}
    for event in known["events"]:
        told, source = event.get("params", {}), event["source"]["id"]
        if told.get("url") in urls:
            addresses[source] = told["url"]
            found.setdefault(told["url"], "")
        if source in addresses and told.get("net_error"):
            found[addresses[source]] = names[told["net_error"]]
    return found


def test_chromium_trusts_the_root_and_refuses_every_bad_one(folder, ports, tmp_path):
    need_tool("chromium", "certutil")
    store = tmp_path / ".pki" / "nssdb"
    store.mkdir(parents=True)
    run("certutil", "-d", f"sql:{store}", "-N", "--empty-password", check=True)
    run(
        "certutil",
        "-d",
        f"sql:{store}",
        "-A",
        "-t",
        "C,,",
        "-n",
        "Networking Lab",
        "-i",
        folder / "root.pem",
        check=True,
    )

    wanted = {f"https://server.lab:{ports[name]}/": OTHERS[name][1] for name in OTHERS}
    for host in ("server.lab", "localhost", "server", "127.0.0.1"):
        wanted |= {f"https://{host}:{ports[name]}/": "" for name in ("server", "server-rsa")}
    wanted |= {f"https://{host}:{ports['www']}/": "" for host in ("www.lab", "shop.www.lab")}
    wanted[f"https://bank.example:{ports['forbidden-name']}/"] = "ERR_CERT_INVALID"
    assert browse(tmp_path, list(wanted)) == wanted

    run("certutil", "-d", f"sql:{store}", "-D", "-n", "Networking Lab", check=True)
    good = f"https://server.lab:{ports['server']}/"
    assert browse(tmp_path, [good]) == {good: "ERR_CERT_AUTHORITY_INVALID"}
