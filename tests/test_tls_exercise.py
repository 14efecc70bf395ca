"""The exercise of lab 04: what its check believes, and its solution, against two verifiers that no one here wrote.

`openssl verify` is asked about every chain of the check and must answer as the check says it does. `cryptography` has a
verifier of its own, which the exercise does not use. Where one of them differs, it is named here, with the reason.
"""

from __future__ import annotations

import ipaddress
import random
import shlex
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from labkit import catalog, quiz
from labkit.catalog import ROOT
from labkit.learner import load
from labkit.run import run_experiment
from tests.conftest import need_tool, need_wire

LAB = ROOT / "labs" / "04-tls"
check = load(LAB / "check.py", "labs_tls_check")
chains = check.chains
solution = load(LAB / "solution.py", "labs_tls_solution")

# Chains about which openssl 3.0 decides otherwise than the check, and why.
OPENSSL_DIFFERS = {
    "a leaf in the last second of its validity": "it takes notAfter itself for gone",
    "a leaf with the common name server.lab, and no subjectAltName": "it falls back to the common name",
    "a leaf with the common name server.lab, for the address 127.0.0.1": "it falls back to the common name",
    "an intermediate with critical policy constraints": "it handles them, but only with -policy_check",
    "*.www.lab beside server.lab, and secret.www.lab is excluded": "it compares text with text",
}
# Chains that cryptography refuses, and the check calls good; the last is the other way round.
CRYPTOGRAPHY_DIFFERS = {
    "a leaf with an empty subject, its names and its purpose critical": "its profile wants a purpose not critical",
    "a leaf that has nothing but its names: no key usage, no purposes, no key identifiers": "it wants the last",
    "an intermediate without a key usage": "its profile wants every authority to have one",
    "a root with path length 1 and an intermediate that has certified its own new key": "it counts it",
    "server.lab under “.lab”, with a dot in front": "it takes that for no name at all",
    "a leaf whose key usage is cRLSign alone": "it looks for keyCertSign only",
}


def all_cases():
    return [case for table in chains.TABLES.values() for case in table()]


def verdict(case) -> str:
    """What the solution says: the reason, or "" if it accepts."""
    try:
        solution.verify(case.chain, case.trusted, case.host, case.now)
    except solution.Refused as error:
        return error.args[0]
    return ""


def ask_openssl(case, folder, *options: str) -> str:
    """What `openssl verify` says: its first error, or OK; by the very line that the check shows to a learner."""
    (folder / "chain.pem").write_bytes(check.pem(case.chain))
    (folder / "roots.pem").write_bytes(check.pem(case.trusted))
    line = check.openssl_line(case, folder / "chain.pem", folder / "roots.pem")
    done = subprocess.run([*shlex.split(line)[:2], *options, *shlex.split(line)[2:]], capture_output=True, text=True)
    errors = [text.partition("lookup: ")[2] for text in done.stderr.splitlines() if text.startswith("error ")]
    assert (done.returncode == 0) == (not errors), done.stderr
    return errors[0] if errors else "OK"


@pytest.fixture
def openssl(tmp_path):
    """Asks openssl about many cases, two at a time."""
    need_tool("openssl")

    def ask(number_and_case) -> str:
        number, case = number_and_case
        folder = tmp_path / str(number)
        folder.mkdir()
        return ask_openssl(case, folder)

    with ThreadPoolExecutor(2) as pool:
        yield lambda cases: list(pool.map(ask, enumerate(cases)))


def ask_cryptography(case) -> bool:
    try:
        host = x509.IPAddress(ipaddress.ip_address(case.host))
    except ValueError:
        host = x509.DNSName(case.host)
    verifier = PolicyBuilder().store(Store(case.trusted)).time(case.now).build_server_verifier(host)
    try:
        verifier.verify(case.chain[0], case.chain[1:])
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.what)
def test_the_solution_finds_the_one_fault(case):
    assert verdict(case) in (case.wanted or ("",))


def test_openssl_says_what_the_check_says_it_does(openssl):
    cases = all_cases()
    for case, said in zip(cases, openssl(cases), strict=True):
        assert said == case.openssl, case.what
    differs = {case.what for case in cases if (case.openssl == "OK") != (not case.wanted)}
    assert differs == OPENSSL_DIFFERS.keys()


def test_openssl_acts_on_policies_when_it_is_told_to(tmp_path):
    need_tool("openssl")
    (case,) = [case for case in all_cases() if "policy constraints" in case.what]
    assert ask_openssl(case, tmp_path) == "OK"
    assert ask_openssl(case, tmp_path, "-policy_check") == "no explicit policy"


def test_cryptography_decides_alike():
    differs = {case.what for case in all_cases() if ask_cryptography(case) != (not case.wanted)}
    assert differs == CRYPTOGRAPHY_DIFFERS.keys()


def test_cryptography_counts_the_self_issued():
    """With one more allowed it accepts the authority with two keys."""
    root = chains.authority("Root", path_length=2)
    old = chains.authority("Intermediate", root)
    new = chains.authority("Intermediate", old)
    assert ask_cryptography(chains.Case("two keys", (chains.leaf(new), new, old, root), ""))


NAMES = ["server.lab", "a.www.lab", "*.www.lab", "bank.example", "x.secret.lab", "verysecret.lab"]
ADDRESSES = ["10.1.2.3", "192.0.2.1", "2001:db8::1"]
TREES = ["lab", "www.lab", "secret.lab", "example", chains.ip("10.0.0.0/8"), chains.ip("2001:db8::/32")]


def random_case(chance: random.Random):
    """A path of up to three authorities, each and the leaf with a fault now and then, sent in any order."""

    def seldom(value, otherwise=None, of=40):
        return value if chance.randrange(of) == 0 else otherwise

    def trees(most):
        found = chance.sample(TREES, chance.randint(most // 2, most))
        return [x509.DNSName(one) if isinstance(one, str) else one for one in found] or None

    def dates():
        return {"start": chains.NOW + seldom(1, -1) * chains.DAY, "end": chains.NOW + seldom(-1, 2) * chains.DAY}

    path, stranger = [], chains.authority("Stranger")
    for name in ["Root", "Upper", "Lower"][: chance.randint(1, 3)]:
        allowed, never = trees(6), trees(1)
        limits = x509.NameConstraints(allowed, never) if allowed or never else None
        is_ca = seldom(False, True)
        path.append(chains.make(
            name, path[-1] if path else None, ca=is_ca, usage=seldom(["crl_sign"]),
            path_length=chance.choice([None, None, None, 0, 1, 2]) if is_ca else None,
            constraints=seldom(limits, None, 3),
            purposes=seldom([chains.EMAIL], chance.choice([None, [chains.SERVER_AUTH]])),
            signed_with=seldom(stranger.key if path else None), **dates(),
        ))  # fmt: skip
    names = chance.sample(NAMES, chance.randint(1, 2)) + [chains.ip(one) for one in chance.sample(ADDRESSES, 1)]
    purposes = seldom([chains.CLIENT_AUTH], [chains.SERVER_AUTH])
    leaf = chains.leaf(path[-1], *names, purposes=purposes, signed_with=seldom(stranger.key), **dates())
    covered = [getattr(name, "value", name) for name in names]
    host = str(chance.choice([*covered * 12, *NAMES, *ADDRESSES])).replace("*", "any")
    others = path[seldom(0, 1, 4) :] + [stranger] * chance.randrange(2)
    chance.shuffle(others)
    return chains.Case("", (leaf, *reversed(path)), "", host=host, sent=(leaf, *others))


def test_on_random_chains_all_three_agree(openssl):
    """Faults come alone and together: whether there is one is what they must agree on."""
    cases = [random_case(random.Random(number)) for number in range(120)]
    good = 0
    for number, (case, theirs) in enumerate(zip(cases, openssl(cases), strict=True)):
        mine = verdict(case)
        assert (mine == "") == (theirs == "OK") == ask_cryptography(case), (number, mine, theirs)
        good += mine == ""
    assert 30 < good < 90, good


def test_openssl_differs_on_some_names(openssl):
    """Claims that the sheet makes: parts of labels are wildcards to it, a final dot is not, and *.lab is too wide."""

    def named(presented, host):
        return chains.Case("", (chains.leaf(chains.root(), presented), chains.root()), "", host=host)

    differs = {("w*.www.lab", "web.www.lab"): "OK", ("server.lab", "server.lab."): "hostname mismatch",
               ("*.lab", "server.lab"): "hostname mismatch"}  # fmt: skip
    assert openssl([named(*pair) for pair in differs]) == list(differs.values())
    for (presented, host), theirs in differs.items():
        assert solution.matches(presented, host) == (theirs != "OK")


def test_on_random_names_openssl_agrees(openssl):
    chance = random.Random(9525)
    pairs = []
    for _ in range(60):
        host = [chance.choice(["a", "b", "www", "xn--a"]) for _ in range(chance.randint(3, 4))]
        presented = list(host)
        for _ in range(chance.choice([0, 0, 1, 2])):
            at = chance.choice([0, 0, chance.randrange(len(presented))])
            presented[at : at + chance.choice([0, 1, 1, 1])] = chance.choice([["*"], ["*"], ["*", "*"], ["A"], ["WWW"]])
        pairs.append((".".join(presented), ".".join(host)))
    root = chains.root()
    cases = [chains.Case("", (chains.leaf(root, presented), root), "", host=host) for presented, host in pairs]
    mine = [solution.matches(*pair) for pair in pairs]
    assert 10 < sum(mine) < 50
    for pair, ours, theirs in zip(pairs, mine, openssl(cases), strict=True):
        assert ours == (theirs == "OK"), pair


@pytest.mark.alone
def test_the_quiz_asks_for_the_servers_alert_and_not_for_the_clients(tmp_path):
    """The client whose server leaves without a word sends one, too, and it may be the first."""
    need_wire()
    need_tool("tshark")
    lab = catalog.lab("tls")
    (question,) = [one for one in quiz.questions(lab) if one.experiment == "without-a-word"]
    assert run_experiment(lab, lab.experiment("without-a-word"), tmp_path / "capture.pcapng").state == "passed"
    assert quiz.right_answer(lab, question, tmp_path / "capture.pcapng") == "70"


def test_a_failure_shows_what_the_certificates_say():
    told = []
    listener = type("Told", (), {"did": lambda self, text: told.append(text)})()
    (case,) = [case for case in all_cases() if "six authorities" in case.what]
    check.tell(listener, "verify", case, {"late": True})
    assert "    … and 26 more: .venv/bin/python -m certs show captures/tls-check-chain.pem" in told
    assert check.in_words(case.chain[1]).endswith("CA; key usage key_cert_sign, crl_sign")
    said = {text for one in all_cases() for made in one.path for text in check.says(made.certificate)}
    assert {"no CA", "CA, path length 0", "for clientAuth", "permits lab, 10.0.0.0/8, 127.0.0.0/8",
            "excludes secret.lab", "permits O=Lab",
            "1.3.6.1.4.1.32473.1, critical", "key usage crl_sign"} <= said  # fmt: skip


def test_what_is_written_down_can_be_asked_again(tmp_path, monkeypatch):
    """A failure leaves the chain in files: for openssl, and for the learner's own verify() by hand."""
    monkeypatch.setattr(check, "PROJECT", tmp_path)
    monkeypatch.setattr(check, "FILES", (tmp_path / "captures" / "chain.pem", tmp_path / "captures" / "roots.pem"))
    wanted = {"an intermediate that has expired a second ago": "refused: expired",
              "a leaf in the last second of its validity": "accepted",
              "a leaf for the address 2001:db8::1": "accepted"}  # fmt: skip
    for case in all_cases():
        if case.what in wanted:
            told = []
            check.write_down(type("Told", (), {"did": lambda self, text, told=told: told.append(text)})(), case)
            assert case.openssl in told[0]
            text = b"".join((tmp_path / "captures" / name).read_bytes() for name in ("roots.pem", "chain.pem"))
            assert check.verdict_on(solution, text).startswith(wanted.pop(case.what))
    assert not wanted


def test_what_cannot_be_read_is_not_accepted():
    """The extension is there, and is no list of names: `cryptography` says so when it is looked at."""
    garbage = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x05\x00")
    root = chains.root()
    leaf = chains.make("a server", root, purposes=[chains.SERVER_AUTH], more=[(garbage, False)])
    with pytest.raises(ValueError, match="asn1"):
        solution.verify([leaf.certificate], [root.certificate], chains.HOST, chains.NOW)


def test_a_chain_by_hand_needs_certificates():
    assert check.verdict_on(solution, b"chain for server.lab\nhello\n").startswith("no verdict: that is no chain")


def test_a_program_that_never_answers_is_stopped():
    """Also one that catches every Exception, and outside the main thread's signal there would be no end."""
    assert threading.current_thread() is threading.main_thread()

    class Exercise:
        Refused = solution.Refused
        __file__ = "exercise.py"

        @staticmethod
        def verify():
            while True:
                try:
                    sum(range(1000))
                except Exception:
                    continue

    assert check.answered(Exercise, "verify", []) == {"late": True}
