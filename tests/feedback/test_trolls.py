import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import kstest, norm

from benchmarks.trolls import DESIGNS, one_seed, summary
from clew.feedback.aggregate import Outcome, bradley_terry
from clew.feedback.tastes import Ballots, calibrated, consensus
from clew.feedback.trolls import disbelief, kept, suspicions


def crowd(seed, slopes, *, items=24, votes=60, left=0.0):
    """Raters with these slopes on items' worth, `votes` each; names in order of slopes. Gives judgements and worth."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=items)
    judged = []
    for u, slope in enumerate(slopes):
        for _ in range(votes):
            i, j = rng.choice(items, 2, replace=False)
            says = float(rng.random() < expit(slope * (worth[i] - worth[j]) + left))
            judged.append(Outcome(f"i{i:02}", f"i{j:02}", says, rater=f"r{u:02}"))
    return judged, worth


def flagged(found):
    return [s.rater for s in found if s.flagged]


def test_disbelief_worked_by_hand():
    # p = 0.8 and 0.2: z = sum(1 - p(said)) less its mean, over its standard deviation sqrt(2 * 0.16) in units of 2p - 1
    logits = logit(np.array([0.8, 0.2]))
    assert disbelief(np.array([1.0, 0.0]), logits) == pytest.approx(-0.4 / np.sqrt(0.32))
    assert disbelief(np.array([0.0, 1.0]), logits) == pytest.approx(1.6 / np.sqrt(0.32))


def test_disbelief_is_the_sum_of_what_is_not_believed_in_standard_deviations():
    """METHODS E5, where the rater takes the first as often as expected, so that there is no lean to fit."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=30)
    logits = np.concatenate([half, -half])
    says = np.concatenate([np.ones(30), np.zeros(30)])
    p = expit(logits)
    not_believed = np.where(says == 1, 1 - p, p)
    variance = (p * (1 - p) * (1 - 2 * p) ** 2).sum()
    expected = (2 * p * (1 - p)).sum()
    assert disbelief(says, logits) == pytest.approx((not_believed.sum() - expected) / np.sqrt(variance))


def test_sides_do_not_matter():
    rng = np.random.default_rng(1)
    logits, says = rng.normal(size=50), (rng.random(50) < 0.5).astype(float)
    turned = np.where(np.arange(50) % 2 == 0, 1, -1)
    assert disbelief(1 - says, -logits, floor=0.5) == pytest.approx(disbelief(says, logits, floor=0.5))
    # of single pairs only up to the lean, which is of sides
    other = np.where(turned == 1, says, 1 - says)
    assert disbelief(other, logits * turned) == pytest.approx(disbelief(says, logits), abs=0.5)


@pytest.mark.parametrize("left", [0.0, 2.0])
def test_disbelief_is_standard_normal_for_whoever_follows_and_leans(left):
    rng = np.random.default_rng(2)
    z = []
    for _ in range(1500):
        logits = 2 * rng.normal(size=80)
        follows = logit((1 + 0.5 * np.tanh(logits / 2)) / 2) + left
        z.append(disbelief((rng.random(80) < expit(follows)).astype(float), logits, floor=0.5))
    assert np.mean(z) == pytest.approx(0, abs=0.08)
    assert np.std(z) == pytest.approx(1, abs=0.06)
    assert np.mean(np.array(z) > 1.645) == pytest.approx(0.05, abs=0.015)


def test_who_always_says_the_same_cannot_be_disbelieved():
    assert disbelief(np.ones(20), np.linspace(-1, 1, 20)) == pytest.approx(0, abs=0.1)


def test_shuffled_votes_give_uniform_p_values_and_from_ones_own_votes_they_do_not():
    unseen, seen = [], []
    for seed in range(16):
        judged, _ = crowd(seed, [0.0] * 8, items=40, votes=40)
        unseen += [s.z for s in suspicions(judged)]
        ballots, strengths = Ballots.of(judged), bradley_terry(judged)
        expected = calibrated(np.array([strengths[o.first] - strengths[o.second] for o in judged]), ballots)
        mine = [ballots.rater == u for u in range(8)]
        seen += [disbelief(ballots.says[m], expected[m], floor=0.65) for m in mine]
    assert kstest(norm.sf(unseen), "uniform").pvalue > 0.01
    assert kstest(norm.sf(seen), "uniform").pvalue < 1e-6


def test_trolls_are_found_and_noisy_raters_are_not():
    found = [suspicions(crowd(seed, [3.0] * 8 + [1.0] * 4 + [-2.0] * 2)[0]) for seed in range(2)]
    hits = [name for f in found for name in flagged(f)]
    assert sum(name in ("r12", "r13") for name in hits) >= 4
    assert sum(name not in ("r12", "r13") for name in hits) <= 1


def test_a_troll_of_twenty_votes_is_found():
    z = []
    for seed in range(20):
        judged, _ = crowd(seed, [4.0] * 7, items=12)
        own, _ = crowd(seed, [4.0] * 7 + [-4.0], items=12)
        ballots = Ballots.of(judged + [o for o in own if o.rater == "r07"][:20])
        others = consensus(ballots.only(ballots.rater != 7))
        mine = ballots.only(ballots.rater == 7)
        z.append(disbelief(mine.says, others.contrast(mine)[:, 0], floor=0.5))
    assert np.mean(norm.sf(z) < 0.05) >= 0.95


def test_constant_answers_are_found_and_a_left_bias_is_no_reason():
    judged, _ = crowd(0, [3.0] * 8)
    leaning, _ = crowd(0, [3.0] * 8, left=1.5)
    judged = [o for o in judged if o.rater not in ("r06", "r07")] + [o for o in leaning if o.rater == "r06"]
    judged += [o._replace(probability=1.0) for o in leaning if o.rater == "r07"]
    found = suspicions(judged)
    assert flagged(found) == ["r07"]
    assert found[7].reason == "constant"


def test_gaslighting_one_topic_is_found_by_topic_alone():
    judged, _ = crowd(1, [4.0] * 10, votes=80)
    topics = ["war" if k % 4 == 0 else "peace" for k in range(len(judged))]
    judged = [
        o._replace(probability=1 - o.probability) if t == "war" and o.rater == "r03" else o
        for o, t in zip(judged, topics, strict=True)
    ]
    found = suspicions(judged, topics=topics)
    assert flagged(found) == ["r03"]
    assert (found[3].reason, found[3].topic) == ("topic", "war")
    assert flagged(suspicions(judged)) == []


def test_a_flag_is_a_filter_whatever_the_order():
    judged, _ = crowd(3, [3.0] * 8 + [-3.0, 0.0])
    before = list(judged)
    found = suspicions(judged)
    assert judged == before
    assert flagged(found) == ["r08", "r09"]
    assert {o.rater for o in judged} - {o.rater for o in kept(judged, found)} == {"r08", "r09"}
    shuffled = [judged[k] for k in np.random.default_rng(0).permutation(len(judged))]
    again = suspicions(shuffled)
    assert flagged(again) == flagged(found)
    assert [s.z for s in again] == pytest.approx([s.z for s in found], abs=0.02)


def test_spammers_who_copy_each_other_do_not_vouch_for_each_other():
    judged, _ = crowd(4, [3.0] * 10 + [0.0], votes=40)
    judged += [o._replace(rater="r99") for o in judged if o.rater == "r10"]
    assert flagged(suspicions(judged)) == []
    assert flagged(suspicions(judged, together=[("r10", "r99")])) == ["r10", "r99"]


def test_chances_of_a_reward_model_take_the_place_of_votes():
    """Pairs that nobody shares: votes alone say nothing, a reward model does."""
    rng = np.random.default_rng(5)
    judged, chances = [], []
    for u, slope in enumerate([3.0] * 9 + [-3.0]):
        for k in range(60):
            gap = rng.normal() * 1.4
            judged.append(Outcome(f"a{u}-{k}", f"b{u}-{k}", float(rng.random() < expit(slope * gap)), rater=f"r{u:02}"))
            chances.append(float(expit(gap + 0.3 * rng.normal())))
    assert flagged(suspicions(judged)) == []
    assert flagged(suspicions(judged, chances=chances)) == ["r09"]


def test_few_votes_are_no_ground_for_a_flag():
    judged, _ = crowd(6, [4.0] * 8 + [-4.0])
    few = [o for o in judged if o.rater != "r08"] + [o for o in judged if o.rater == "r08"][:10]
    assert flagged(suspicions(few)) == []
    assert flagged(suspicions(few, fewest=10)) == ["r08"]


def test_the_benchmark_in_small():
    found = summary([one_seed(seed, DESIGNS["prompts, sharpness 3"]) for seed in (2000, 2001, 2002)])
    assert found["recall"]["value"] >= 0.9
    assert found["false discoveries"]["value"] <= 0.1
    assert found["gain over plain"]["with slopes"]["value"] > 0.05
    assert found["copying found"] == "3 of 3"


@pytest.mark.slow
def test_spammers_and_trolls_are_found_over_twenty_seeds_and_other_opinions_left_alone():
    found = summary([one_seed(seed, DESIGNS["prompts, sharpness 3"]) for seed in range(2000, 2020)])
    assert found["recall"]["value"] >= 0.9
    assert found["false discoveries"]["value"] <= 0.1
    assert found["raters of another opinion flagged"]["value"] <= 0.1
    assert found["gain over plain"]["Crowd-BT"]["low"] > 0
    assert found["gain over plain"]["with slopes"]["low"] > 0
