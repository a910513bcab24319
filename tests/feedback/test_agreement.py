import json
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau

from clew.feedback.agreement import (
    ALPHA_BANDS,
    RAW_BANDS,
    REFERENCES,
    alpha,
    band,
    bootstrap,
    both,
    cohen,
    fleiss,
    gwet,
    kendall_tau,
    kendall_w,
    places,
    raw_agreement,
)
from clew.feedback.crowd import Vote, Votes, majority
from clew.feedback.records import Feedback, Ranking, Rater

# Krippendorff's example: four observers, twelve units, gaps
CANONICAL = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
# Wikipedia's example of Fleiss's kappa: ten items, fourteen raters, five classes
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def table(text: str) -> Votes:
    rows = [line.split() for line in text.strip().splitlines()]
    return Votes.of(
        Vote(f"u{i:02}", f"r{a}", int(value))
        for a, row in enumerate(rows)
        for i, value in enumerate(row)
        if value != "."
    )


def random_table(seed: int, *, raters: int = 5, items: int = 40, classes: int = 4) -> Votes:
    """Raters who agree somewhat, with a quarter of the judgements missing."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, classes + 1, items)
    said = np.where(rng.random((raters, items)) < 0.6, truth, rng.integers(1, classes + 1, (raters, items)))
    seen = rng.random((raters, items)) < 0.75
    return Votes.of(Vote(f"u{i:02}", f"r{a}", int(said[a, i])) for a, i in zip(*np.nonzero(seen), strict=True))


@pytest.mark.parametrize(
    ("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_of_the_canonical_example(level, expected):
    votes = table(CANONICAL)
    assert alpha(votes.counts(), level=level, values=votes.classes) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval", "ratio"])
@pytest.mark.parametrize("seed", range(3))
def test_alpha_is_that_of_the_krippendorff_library(level, seed):
    krippendorff = pytest.importorskip("krippendorff", reason="GPL, so not among our dependencies")
    votes = random_table(seed)
    said = np.full((len(votes.raters), len(votes.items)), np.nan)
    said[votes.rater, votes.item] = np.array(votes.classes)[votes.label]
    theirs = krippendorff.alpha(reliability_data=said, level_of_measurement=level)
    assert alpha(votes.counts(), level=level, values=votes.classes) == pytest.approx(theirs, abs=1e-6)


def test_alpha_is_one_for_full_agreement_and_near_zero_for_chance():
    assert alpha(np.array([[3.0, 0.0], [0.0, 3.0]])) == 1
    chance = np.random.default_rng(0).multinomial(4, [0.3, 0.3, 0.4], 4000).astype(float)
    assert abs(alpha(chance)) < 0.02


def test_alpha_ignores_items_that_one_rater_judged():
    counts = random_table(0).counts()
    alone = np.eye(counts.shape[1])
    assert alpha(np.concatenate([counts, alone])) == pytest.approx(alpha(counts))


def test_nominal_alpha_does_not_know_the_order_of_classes_and_ordinal_does():
    counts = random_table(1).counts()
    moved = counts[:, [2, 0, 3, 1]]
    assert alpha(moved) == pytest.approx(alpha(counts))
    assert alpha(moved, level="ordinal") != pytest.approx(alpha(counts, level="ordinal"), abs=1e-3)


def test_alpha_at_level_interval_does_not_change_with_scale_and_needs_numbers():
    counts = random_table(2).counts()
    one, other = [1.0, 2.0, 3.0, 4.0], [12.0, 14.0, 16.0, 18.0]
    assert alpha(counts, level="interval", values=one) == pytest.approx(alpha(counts, level="interval", values=other))
    with pytest.raises(ValueError, match="pass values"):
        alpha(counts, level="interval")


def test_one_value_everywhere_gives_nothing_to_compare():
    counts = np.array([[3.0, 0.0], [2.0, 0.0]])
    assert np.isnan(alpha(counts))
    assert np.isnan(fleiss(counts[:1]))
    assert np.isnan(raw_agreement(np.eye(2)))
    assert np.isnan(gwet(np.eye(2)))


def test_fleiss_of_the_wikipedia_example():
    assert fleiss(np.array(FLEISS, dtype=float)) == pytest.approx(0.2099, abs=5e-5)


def test_fleiss_asks_for_the_same_number_of_raters_everywhere():
    with pytest.raises(ValueError, match="2 to 3"):
        fleiss(np.array([[2.0, 0.0], [2.0, 1.0]]))


def test_raw_agreement_by_hand():
    # of two, agree: 1 pair of 1; of three, two agree: 1 pair of 3
    assert raw_agreement(np.array([[2.0, 0.0], [2.0, 1.0], [1.0, 0.0]])) == pytest.approx(2 / 4)


def test_gwet_by_hand_and_steady_where_kappa_collapses():
    # Two raters: both yes on 118 items, both no on 2, different on 5
    counts = np.array([[2.0, 0.0]] * 118 + [[1.0, 1.0]] * 5 + [[0.0, 2.0]] * 2)
    share = (118 * 2 + 5) / 250
    chance = 2 * share * (1 - share)
    assert gwet(counts) == pytest.approx((120 / 125 - chance) / (1 - chance))
    assert gwet(counts) > 0.9 > 0.5 > fleiss(counts)


def test_cohen_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed .7, expected .5
    found = np.array([[20.0, 5.0], [10.0, 15.0]])
    assert cohen(found) == pytest.approx(0.4)
    assert cohen(found, weights="quadratic") == pytest.approx(0.4)  # two classes: one distance


def test_weighted_cohen_forgives_near_misses():
    near = np.array([[8.0, 4.0, 0.0], [4.0, 8.0, 4.0], [0.0, 4.0, 8.0]])
    same, linear, quadratic = (cohen(near, weights=w) for w in ("same", "linear", "quadratic"))
    assert same < linear < quadratic < 1
    # by hand: rows 12, 16, 12 of 40; squared distance observed 16 / 40, expected (2 * 12 * 28 * ... ) / 1600
    expected = (2 * 12 * 16 + 2 * 16 * 12 + 2 * 12 * 12 * 4) / 1600
    assert quadratic == pytest.approx(1 - (16 / 40) / expected)


def test_table_of_two_raters_counts_what_both_judged():
    votes = table("1 2 1 .\n1 1 . 2")
    assert both(votes, "r0", "r1").tolist() == [[1, 0], [1, 0]]


def test_concordance_of_equal_and_of_opposed_rankings():
    order = np.arange(6.0)
    assert kendall_w(np.stack([order] * 3)) == pytest.approx(1)
    assert kendall_w(np.stack([order, order[::-1]])) == pytest.approx(0)
    assert np.isnan(kendall_w(np.ones((3, 4))))


def test_concordance_is_mean_rank_correlation():
    """Without ties (m W - 1) / (m - 1) is the mean of Spearman's rho over pairs (Kendall 1948)."""
    rng = np.random.default_rng(0)
    ranks = np.stack([rng.permutation(8).astype(float) for _ in range(4)])
    rhos = [np.corrcoef(a, b)[0, 1] for a, b in combinations(ranks, 2)]
    assert (4 * kendall_w(ranks) - 1) / 3 == pytest.approx(np.mean(rhos))


def test_tau_is_the_mean_over_pairs_on_what_both_placed():
    nan = float("nan")
    found = kendall_tau(np.array([[0, 1, 2, 3], [0, 1, 3, nan], [1, 0, 2, 2]]))
    pairs = [([0, 1, 2], [0, 1, 3]), ([0, 1, 2, 3], [1, 0, 2, 2]), ([0, 1, 3], [1, 0, 2])]
    assert found == pytest.approx(np.mean([kendalltau(a, b).statistic for a, b in pairs]))
    assert np.isnan(kendall_tau(np.array([[1.0, 2.0]])))


def test_places_are_aligned_by_item_whatever_order_was_shown():
    def ranked(items, groups, rater, missing=()):
        answer = Ranking(groups=groups, not_rankable=missing)
        return Feedback(task_id="t", items=items, rater=Rater(id=rater, kind="person"), answer=answer)

    found = places([ranked(("a", "b", "c"), ((0,), (1, 2)), "r0"), ranked(("c", "a", "b"), ((1,), (0,)), "r1", (2,))])
    np.testing.assert_array_equal(found["a|b|c"], [[0, 1, 1], [0, np.nan, 1]])


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    """Two raters right with chance .9 of two equal classes: alpha is (2 * .9 - 1) ** 2 = .64."""
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = rng.integers(2, size=150)
        said = np.where(rng.random((2, 150)) < 0.9, truth, 1 - truth)
        counts = np.stack([(said == 0).sum(0), (said == 1).sum(0)], axis=1).astype(float)
        found = bootstrap(counts, alpha, repeats=100, seed=seed)
        assert found.low <= found.value <= found.high
        covered += found.low <= 0.64 <= found.high
    assert covered >= 33  # 38 expected of 40; fewer than 33 has a chance below 1 %


def test_bootstrap_repeats_with_its_seed():
    counts = random_table(0).counts()
    ordinal = partial(alpha, level="ordinal")
    assert bootstrap(counts, ordinal, repeats=50, seed=1) == bootstrap(counts, ordinal, repeats=50, seed=1)


def test_bands_say_what_is_usual_and_what_is_suspicious():
    assert [band(v, RAW_BANDS).state for v in (0.5, 0.7, 0.9, 0.97, 1.0)] == ["alarm", "ok", "ok", "watch", "watch"]
    assert [band(v, ALPHA_BANDS).state for v in (0.5, 0.7, 0.9)] == ["watch", "ok", "ok"]
    assert all(0.6 < reference.agreement < 0.9 for reference in REFERENCES)


def test_people_of_pandalm_agree_as_known(shared_data):
    """Of the 477 rows that are here; .864 is of the whole set, of which the others are kept back."""
    rows = json.loads((shared_data / "pandalm" / "testset-v1.json").read_text())
    said = np.array([[row[f"annotator{a}"] for row in rows] for a in (1, 2, 3)], dtype=float)
    votes = Votes.of(Vote(f"{i}", f"{a}", said[a, i]) for a, i in np.ndindex(said.shape))
    assert alpha(votes.counts()) == pytest.approx(0.917, abs=5e-4)


def test_a_model_agrees_with_the_majority_of_pandalm_less_than_people_with_each_other(shared_data):
    people, model = (
        json.loads((shared_data / "pandalm" / f"{name}.json").read_text())
        for name in ("testset-v1", "gpt-3.5-turbo-testset-v1")
    )
    votes = Votes.of(
        Vote(f"{i:03}", f"{a}", str(row[f"annotator{a}"])) for i, row in enumerate(people) for a in (1, 2, 3)
    )
    said = [{"Tie": "0"}.get(row["gpt_result"], row["gpt_result"]) for row in model]
    agreed = np.mean([a == b for a, b in zip(majority(votes).labels.values(), said, strict=True)])
    assert agreed == pytest.approx(0.715, abs=5e-4)
    assert agreed < raw_agreement(votes.counts())


def test_people_of_mt_bench_agree_about_as_others_found(shared_data):
    """Of pairs of votes on one first turn, neither of them a tie, .84 say the same; of the whole published set, .82."""
    rows = map(json.loads, (shared_data / "mt_bench_judgments" / "human.jsonl").read_text().splitlines())
    votes = Votes.of(
        Vote(f"{r['question_id']}|{min(r['model_a'], r['model_b'])}|{max(r['model_a'], r['model_b'])}", r["judge"], r[r["winner"]])
        for r in rows
        if r["turn"] == 1 and r["winner"] in ("model_a", "model_b")
    )  # fmt: skip
    assert raw_agreement(votes.counts()) == pytest.approx(0.842, abs=0.005)
