import numpy as np
import pytest

from clew.feedback.quality import Point, debiased, points, quality, rewards
from clew.feedback.records import Feedback, Flaws, Rater, Rating


def rated(values, rater="r", scale="s"):
    return [Point(f"i{k}", rater, scale, float(v)) for k, v in enumerate(values) if not np.isnan(v)]


def crowd(seed=0, items=40, raters=12, *, seen=0.5, noise=0.5):
    """True worth, and ratings with offsets, scales and gaps."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=items)
    given = []
    for a in range(raters):
        z = rng.uniform(0.5, 2) * worth + rng.normal(scale=3) + noise * rng.normal(size=items)
        given += rated(np.where(rng.random(items) < seen, z, np.nan), rater=f"r{a}")
    return worth, given


def correlation(found, worth):
    return np.corrcoef([found[f"i{k}"].value for k in range(len(worth))], worth)[0, 1]


def test_two_items_by_one_rater_are_as_far_apart_as_they_are_sure():
    found = debiased(rated([1.0, 3.0]))
    assert found["i1"].value == -found["i0"].value > 0
    assert 0 < found["i0"].error < 1


def test_two_raters_worked_by_hand():
    """Same ratings but for offset and scale, so no noise: worth is the standardised rating, -1.2247, 0, 1.2247."""
    found = debiased(rated([1, 2, 3], "a") + rated([10, 30, 50], "b"))
    assert found["i1"].value == pytest.approx(0, abs=1e-9)
    assert found["i2"].value == pytest.approx(np.sqrt(1.5), rel=0.02)
    assert found["i2"].error < 0.02


@pytest.mark.parametrize("change", [lambda z: z + 100, lambda z: 3 * z, lambda z: 0.2 * z - 5])
def test_offset_and_unit_of_one_rater_change_nothing(change):
    _, given = crowd()
    changed = [p._replace(value=change(p.value)) if p.rater == "r3" else p for p in given]
    assert {k: v.value for k, v in debiased(changed).items()} == pytest.approx(
        {k: v.value for k, v in debiased(given).items()}, abs=1e-6
    )


def test_order_of_ratings_changes_nothing():
    _, given = crowd()
    one, other = debiased(given), debiased(given[::-1])
    assert {k: q.value for k, q in other.items()} == pytest.approx({k: q.value for k, q in one.items()}, abs=1e-6)


def test_worth_is_recovered_and_by_plain_means_is_not():
    worth, given = crowd()
    means = {f"i{k}": np.mean([p.value for p in given if p.item == f"i{k}"]) for k in range(40)}
    plain = np.corrcoef([means[f"i{k}"] for k in range(40)], worth)[0, 1]
    assert correlation(debiased(given), worth) > 0.95
    assert plain < 0.9


def test_standard_errors_are_as_large_as_the_errors():
    misses = []
    for seed in range(30):
        worth, given = crowd(seed, noise=1.0, seen=0.4)
        found = debiased(given)
        centred = (worth - worth.mean()) / worth.std()
        misses += [(found[f"i{k}"].value - centred[k]) / found[f"i{k}"].error for k in range(40) if f"i{k}" in found]
    assert 0.85 < np.std(misses) < 1.2


def test_raters_who_never_vary_say_nothing_and_items_of_theirs_alone_are_middling():
    _, given = crowd()
    more = given + rated([5.0] * 41, "always five")
    found, without = debiased(more), debiased(given)
    assert [found[k].value for k in without] == pytest.approx([q.value for q in without.values()], abs=0.05)
    assert found["i40"].error == pytest.approx(1.0)
    assert debiased(rated([5.0, 5.0]))["i0"] == (0.0, 1.0)


def test_flaws_and_ratings_become_one_score():
    rng = np.random.default_rng(3)
    given = []
    for rater in "abc":
        given += rated(np.array([5, 4, 2, 1]) + rng.normal(scale=0.1, size=4), rater, "helpful")
        given += rated([0, 0, 1, 0], rater, "false")
    only_helpful = quality(given, {"helpful": 1.0})
    both = quality(given, {"helpful": 1.0, "false": -2.0})
    assert only_helpful["i2"].value > only_helpful["i3"].value
    assert both["i2"].value < both["i3"].value
    assert both["i0"].error > only_helpful["i0"].error


def test_scales_without_a_weight_are_refused():
    with pytest.raises(ValueError, match=r"none of the scales \['s'\]"):
        quality(rated([1, 2]), {"other": 1.0})


def test_the_last_answer_of_a_rater_counts():
    def said(answer):
        return Feedback(task_id="t", items=("a",), rater=Rater(id="r", kind="person"), answer=answer)

    found = points([said(Rating(scales={"s": 1})), said(Rating(scales={"s": 4})), said(Flaws(flaws={"false": True}))])
    assert found == [Point("a", "r", "s", 4.0), Point("a", "r", "false", 1.0)]


def test_rewards_do_not_depend_on_unit_or_on_the_level_of_a_prompt():
    strengths = {"a": 1.0, "b": -1.0, "c": 5.0, "d": 5.5, "e": 9.0}
    groups = {"a": "p", "b": "p", "c": "q", "d": "q", "e": "alone"}
    elo = {k: 1000 + 400 / np.log(10) * v + (300 if groups[k] == "q" else 0) for k, v in strengths.items()}
    found = rewards(strengths, groups)
    assert rewards(elo, groups) == pytest.approx(found)
    # within groups +-1 and +-0.25: spread sqrt((2 + 0.125) / 2) = 1.0308
    assert found == pytest.approx({"a": 0.9701, "b": -0.9701, "c": -0.2425, "d": 0.2425}, abs=1e-4)


def test_rewards_are_cut_and_equal_strengths_are_worth_nothing():
    many = {f"i{k}": 0.0 for k in range(99)} | {"odd": 50.0}
    assert rewards(many, dict.fromkeys(many, "p"))["odd"] == 3.0
    assert rewards({"a": 2.0, "b": 2.0}, {"a": "p", "b": "p"}) == {"a": 0.0, "b": 0.0}
