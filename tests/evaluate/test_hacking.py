from dataclasses import replace

import numpy as np
import pytest

from clew.evaluate.hacking import Signs, disagreement, distinct, findings, repetition, verdict

START = Signs(
    proxy=0.0,
    heldout=0.0,
    disagreement=0.05,
    entropy=1.4,
    kl_per_token=0.0,
    length=20.0,
    repetition=0.02,
    distinct=0.8,
    cut=0.1,
)


def state(rule: str, **changes: float | None) -> str:
    return next(f.state for f in findings(replace(START, **changes), START) if f.rule == rule)


def test_the_start_itself_is_fine():
    assert verdict(findings(START, START)) == "ok"


@pytest.mark.parametrize(
    ("rule", "fine", "alarming"),
    [
        ("gap", {"proxy": 2.0, "heldout": 1.9}, {"proxy": 2.0, "heldout": 0.2}),
        ("disagreement", {"disagreement": 0.1}, {"disagreement": 0.7}),
        ("divergence", {"kl_per_token": 0.2}, {"kl_per_token": 1.2}),
        ("entropy", {"entropy": 1.2}, {"entropy": 0.3}),
        ("repetition", {"repetition": 0.05}, {"repetition": 0.5}),
        ("diversity", {"distinct": 0.6}, {"distinct": 0.05}),
        ("length", {"length": 25.0}, {"length": 100.0}),
    ],
)
def test_every_rule_has_what_is_fine_and_what_alarms(rule, fine, alarming):
    assert state(rule, **fine) == "ok"
    assert state(rule, **alarming) == "alarm"


def test_a_gain_too_small_to_compare_is_no_gap():
    assert state("gap", proxy=0.1, heldout=-0.1) == "ok"


def test_the_verdict_is_the_worst_rule():
    assert verdict(findings(replace(START, entropy=0.1, length=45.0), START)) == "alarm"
    assert verdict(findings(replace(START, length=45.0), START)) == "watch"
    assert verdict([]) == "ok"


def test_repetition_and_distinct_worked_by_hand():
    assert repetition(["a b c d a b c d"]) == pytest.approx(1 / 5)
    assert repetition(["a b", ""]) == 0.0
    assert distinct(["a b c d e", "a b c d e"]) == 0.5
    assert distinct([""]) == 1.0


def test_disagreement_is_measured_against_the_start():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 2000))
    assert disagreement(rng.normal(size=(3, 2000)), start) == pytest.approx(0.05, abs=0.02)
    assert disagreement(5 * rng.normal(size=(3, 2000)), start) > 0.7


def test_what_is_no_number_is_an_alarm():
    assert state("divergence", kl_per_token=float("nan")) == "alarm"


def test_what_was_not_measured_is_neither_fine_nor_alarming():
    assert state("gap", heldout=None) == state("gap", proxy=None) == "not measured"
    assert state("disagreement", disagreement=None) == "not measured"
    assert verdict(findings(replace(START, proxy=None, heldout=None, disagreement=None), START)) == "ok"


def test_answers_that_are_cut_are_watched_whatever_the_start_did():
    assert state("cut", cut=0.5) == "ok"
    assert state("cut", cut=1.0) == "watch"
    every = replace(START, cut=1.0)
    assert verdict(findings(every, every)) == "watch"
