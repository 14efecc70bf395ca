"""What is told on the screen fits it, and gives nothing away."""

from __future__ import annotations

import pytest

from labkit import catalog, evidence, quiz
from labkit.narrate import _predict, in_order

EXPERIMENTS = [pytest.param(one, id=f"{lab.slug}-{one.name}") for lab in catalog.labs() for one in lab.experiments()]


def test_the_place_of_the_right_choice_says_nothing():
    experiments = [one for lab in catalog.labs() for one in lab.experiments()]
    places = [in_order(one).index(one.answer) for one in experiments]
    for place in range(3):
        assert len(experiments) / 5 < places.count(place) < len(experiments) / 2
    assert any(in_order(one) != list(one.choices) for one in experiments)


@pytest.mark.parametrize("one", EXPERIMENTS)
def test_choices_are_always_in_the_same_order_and_all_there(one):
    assert in_order(one) == in_order(one)
    assert sorted(in_order(one)) == sorted(one.choices)


@pytest.mark.parametrize("one", EXPERIMENTS)
@pytest.mark.parametrize("asking", [False, True])
def test_choices_fit_eighty_columns(one, asking, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("builtins.input", lambda _: "")
    _predict(one, asking)
    said = capsys.readouterr().out
    assert max(map(len, said.split(one.title)[0].splitlines())) <= 80
    for choice in one.choices:
        assert " ".join(choice.split()) in " ".join(said.split())


def test_the_introduction_of_the_quiz_is_cut_between_words(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(evidence, "fields", lambda *_: [["1"]])
    monkeypatch.setattr("builtins.input", lambda _: "quit")
    lab = catalog.lab("tcp")
    quiz.ask(lab, tmp_path / "tcp.pcapng")
    intro = capsys.readouterr().out.split("1. ")[0]
    assert "“quit” to leave." in " ".join(intro.split())
    assert max(map(len, intro.splitlines()[2:])) <= 80
