"""One experiment: what is run again, and what that leaves in the capture."""

from __future__ import annotations

import pytest

from labkit import catalog
from labkit.lab import Network, experiment
from labkit.run import TRIES, run_experiment, sections
from tests.conftest import need_wire


@pytest.fixture
def lab(monkeypatch):
    """A lab whose experiments can be set."""

    class Lab(catalog.Lab):
        def experiments(self):
            return self.declared

    return Lab("tcp", 93, catalog.lab("tcp").folder)  # port 7093: others test on 7001


def declare(lab, tries, measure):
    """An experiment that notes each try in the file *tries*, for each is a process of its own."""

    @experiment(title="a title", question="a question?", choices=("yes", "no"), answer="yes", needs_wire=True)
    async def again(net: Network) -> None:
        """A reason."""
        listening = net.server.listen(net.port)
        net.client.connect(net.server, net.port).close()
        listening.close()
        with tries.open("a") as file:
            file.write("x")
        measure(net, tries.stat().st_size)

    object.__setattr__(lab, "declared", [again])
    return again


def run(lab, tmp_path, measure):
    need_wire()
    tries, capture = tmp_path / "tries", tmp_path / "x.pcapng"
    one = declare(lab, tries, lambda net, n: net.exactly("always", 1, 1))
    run_experiment(lab, one, capture)  # the section before it, which must stay
    tries.unlink()
    before = capture.stat().st_size
    outcome = run_experiment(lab, declare(lab, tries, measure), capture, append=True)
    assert sections(capture) == 2
    assert capture.stat().st_size > before
    return outcome, tries.stat().st_size


def test_what_is_only_too_slow_is_run_again_and_told(lab, tmp_path):
    outcome, tries = run(lab, tmp_path, lambda net, n: net.measure("time", 100 if n == 1 else 5, "ms", at_most=10))
    assert (outcome.state, tries) == ("passed", 2)
    assert "time: 100 ms, expected at most 10 ms" in outcome.events[0]["note"]
    assert [event["value"] for event in outcome.measures] == [5]
    assert len({packet.source_port for packet in outcome.packets}) == 2, "packets of the try that does not count"


def test_what_is_always_too_slow_has_failed(lab, tmp_path):
    outcome, tries = run(lab, tmp_path, lambda net, n: net.measure("time", 100, "ms", at_most=10))
    assert (outcome.state, tries) == ("failed", TRIES)


@pytest.mark.parametrize(
    "measure",
    [
        lambda net, n: net.exactly("a count", 2, 1),
        lambda net, n: net.measure("time", 1, "ms", at_least=2),
        lambda net, n: net.expect("something", False),
        lambda net, n: (net.measure("time", 100, "ms", at_most=10), net.expect("something", False)),
    ],
    ids=["a count", "too fast", "not seen", "slow and wrong"],
)
def test_what_is_wrong_is_not_run_again(lab, tmp_path, measure):
    outcome, tries = run(lab, tmp_path, measure)
    assert (outcome.state, tries) == ("failed", 1)


def test_without_a_wire_it_is_the_same(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_NO_WIRE", "1")
    from labkit.run import why_no_wire

    why_no_wire.cache_clear()
    tries = tmp_path / "tries"
    one = declare(lab, tries, lambda net, n: net.measure("time", 100 if n == 1 else 5, "ms", at_most=10))
    object.__setattr__(one, "needs_wire", False)
    try:
        assert run_experiment(lab, one, None).state == "passed"
    finally:
        why_no_wire.cache_clear()
    assert tries.stat().st_size == 2
