import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta, binomtest

from clew.feedback.records import Comparison, Feedback, Item, Rater, Rating
from clew.feedback.reliability import evidence_against, report

SHORT = {k: Item(prompt=f"q{k}", completion=f"short {k}") for k in range(60)}
LONG = {k: Item(prompt=f"q{k}", completion=f"long {k}" + " word" * (k % 7 + 5)) for k in range(60)}
ITEMS = {item.id: item for item in [*SHORT.values(), *LONG.values()]}


def said(rater, k, verdict, *, swapped=False, repeat=0, revision=0, seconds=None):
    """Of pair k: the short answer first, the long one second, but for swapped."""
    shown = (SHORT[k].id, LONG[k].id)
    return Feedback(
        task_id=f"t{k}",
        items=shown[::-1] if swapped else shown,
        rater=Rater(id=rater, kind="person"),
        answer=Comparison(verdict=verdict),
        repeat=repeat,
        revision=revision,
        seconds=seconds,
    )


def of(name, records, **options):
    return next(r for r in report(records, ITEMS, **options) if r.rater == name)


def test_a_report_worked_by_hand():
    verdicts = ["first", "first", "second", "tie", "first", "both_bad", "second", "first"]
    found = of("anna", [said("anna", k, v) for k, v in enumerate(verdicts)])
    assert found.num_answers == 8
    assert (found.left.value, found.left.num) == (4 / 6, 6)
    assert (found.longer.value, found.longer.num) == (2 / 6, 6)
    assert (found.ties.value, found.ties.num) == (2 / 8, 8)
    assert found.streak == 2
    assert found.entropy == pytest.approx(0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)
    assert found.left_false_discovery == pytest.approx(binomtest(4, 6).pvalue)
    assert found.seconds is None
    assert found.seconds_a_word is None


def test_accuracy_on_gold_is_by_item_whichever_side_it_is_shown_on():
    gold = {f"t{k}": SHORT[k].id for k in range(4)}
    records = [said("anna", 0, "first"), said("anna", 1, "second", swapped=True), said("anna", 2, "tie")]
    records += [said("anna", 3, "first", swapped=True), said("anna", 9, "second")]
    found = of("anna", records, gold=gold)
    assert (found.gold.value, found.gold.num) == (0.5, 4)
    assert found.gold_risk == pytest.approx(beta.cdf(0.6, 3, 3))
    assert of("anna", records).gold_risk == pytest.approx(0.6)


def test_agreement_leaves_ones_own_vote_out():
    records = [said(name, k, "first") for name in "abc" for k in range(3)]
    records[0] = said("a", 0, "second")  # against b and c
    found = {r.rater: r.agreement for r in report(records, ITEMS)}
    assert (found["a"].value, found["a"].num) == (2 / 3, 3)
    # of b and c on pair 0, the others are split: a said one thing, the third the other
    assert (found["b"].value, found["b"].num) == (1.0, 2)
    alone = of("a", [said("a", 0, "first")])
    assert alone.agreement.num == 0


def test_consistency_is_the_same_item_on_swapped_repeats():
    records = [said("anna", k, "first") for k in range(4)]
    records += [said("anna", 0, "second", swapped=True, repeat=1), said("anna", 1, "first", swapped=True, repeat=1)]
    records += [said("anna", 2, "tie", repeat=1)]
    found = of("anna", records)
    assert (found.consistency.value, found.consistency.num) == (1 / 3, 3)
    assert found.num_answers == 4


def test_the_latest_revision_counts_once():
    found = of("anna", [said("anna", 0, "second", revision=1), said("anna", 0, "first")])
    assert (found.num_answers, found.left.value) == (1, 0.0)


def test_a_left_bias_is_found_over_raters_with_few_false_alarms():
    rng = np.random.default_rng(0)
    records = [said(f"r{u}", k, "first" if rng.random() < 0.5 else "second") for u in range(9) for k in range(60)]
    records += [said("left", k, "first" if rng.random() < 0.85 else "second") for k in range(60)]
    assert [r.rater for r in report(records, ITEMS) if r.left_false_discovery < 0.05] == ["left"]


def test_length_preference_is_against_what_others_prefer():
    """All take the longer in 70 %, which is no bias of anyone; one takes it always."""
    rng = np.random.default_rng(1)
    records = [said(f"r{u}", k, "second" if rng.random() < 0.7 else "first") for u in range(6) for k in range(60)]
    records += [said("long", k, "second") for k in range(60)]
    found = report(records, ITEMS)
    assert [r.rater for r in found if r.longer_p < 0.01] == ["long"]
    assert binomtest(round(found[1].longer.value * 60), 60).pvalue < 0.05  # what half and half would have said


def test_seconds_a_word_is_what_is_read_and_outliers_do_not_count():
    reads = [said("reads", k, "first", seconds=0.3 * (k % 7 + 9) + 5 + (500 if k == 9 else 0)) for k in range(40)]
    clicks = [said("clicks", k, "first", seconds=2 + 0.01 * (k % 3)) for k in range(40)]
    found = {r.rater: r for r in report(reads + clicks, ITEMS)}
    assert found["reads"].seconds_a_word.slope == pytest.approx(0.3)
    assert found["clicks"].seconds_a_word.slope == pytest.approx(0, abs=0.01)
    assert found["clicks"].seconds == pytest.approx(2.01)


def test_evidence_worked_by_hand():
    # expected with chance 0.8, so 0.65 of who follows in half of the votes; said the other: 0.5 / 0.35 and 0.65 / 0.35
    against = evidence_against(np.array([0.0]), np.array([np.log(4)]))
    assert against == pytest.approx((0.5 / 0.35 + 0.65 / 0.35) / 2)
    assert evidence_against(np.array([]), np.array([])) == 1.0


def test_evidence_is_a_bet_that_those_who_follow_lose():
    rng = np.random.default_rng(2)
    logits = 2 * rng.normal(size=12)
    for follows, most in ((0.5, 1.05), (1.0, 0.3)):
        chance = (1 + follows * np.tanh(logits / 2)) / 2
        e = [evidence_against((rng.random(12) < chance).astype(float), logits) for _ in range(4000)]
        assert np.mean(e) <= most
    assert np.mean(np.array(e) >= 20) <= 0.05
    # a bet against who follows always would win against honest noise
    noisy = [
        evidence_against((rng.random(12) < 0.25 + 0.5 * expit(logits)).astype(float), logits, floor=1.0)
        for _ in range(4000)
    ]
    assert np.mean(noisy) > 1.5


def test_a_troll_stands_out_by_evidence():
    rng = np.random.default_rng(3)
    worth = rng.normal(size=60)
    records = []
    for u in range(8):
        for k in range(60):
            p = expit((3 if u < 7 else -3) * worth[k])
            records.append(said(f"r{u}", k, "first" if rng.random() < p else "second"))
    e = [r.e_value for r in report(records, ITEMS)]
    assert e[7] > 1000
    assert max(e[:7]) < 1


def test_other_answers_are_no_comparisons():
    rating = Feedback(
        task_id="t", items=(SHORT[0].id,), rater=Rater(id="a", kind="person"), answer=Rating(scales={"s": 1})
    )
    assert report([rating], ITEMS) == []
    assert report([], ITEMS) == []
