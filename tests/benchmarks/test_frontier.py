"""What frontier.py makes of its cells: best of n over all choices, curves between their points, areas beside TRL's."""

from itertools import combinations

import frontier
import numpy as np
import pytest


def point(policy, step, gain, kl=0.0, *, final=False):
    gold = {"value": 1 + gain}
    return {"policy": policy, "step": step, "final": final, "gold": gold, "gain": {"value": gain}, "kl": {"value": kl}}


def cell(method, seed, gains):
    own = [point(method, 8 * (i + 1), gain, (i + 1.0) ** 2) for i, gain in enumerate(gains)]
    start = point("baseline", 0, 0.0, final=True)
    return {"method": method, "seed": seed, "points": [start, *own, {**own[-1], "step": -1, "final": True}]}


def test_best_of_n_is_the_mean_over_all_choices_by_another_measure():
    worth, by = np.random.default_rng(0).normal(size=(2, 3, 8))
    found = {p["n"]: p["gold"] for p in frontier.means_of_best(worth, by)}
    for n in (1, 2, 4, 8):
        chosen = [
            row[max(c, key=lambda i: judged[i])]
            for row, judged in zip(worth, by, strict=True)
            for c in combinations(range(8), n)
        ]
        assert found[n] == pytest.approx(np.mean(chosen), abs=1e-12)


def test_a_curve_is_read_on_the_line_between_its_points_and_not_beyond_them():
    root, gold = frontier.curve(cell("ppo", 0, [0.5, 0.7]))
    assert (root, gold) == ([0.0, 1.0, 2.0, 2.0], [1.0, 1.5, 1.7, 1.7])
    assert frontier.reached(root, gold, 1.5) == pytest.approx(1.6)
    assert frontier.reached(root, gold, 2.5) is None


def test_an_area_is_the_mean_gain_on_the_way():
    assert frontier.area(cell("ppo", 0, [0.5, 1.0])) == pytest.approx(0.5)  # a line from 0 to 1
    turned = cell("ppo", 0, [1.0, 1.0])
    turned["points"].reverse()
    assert frontier.area(turned) == pytest.approx(0.75)


def test_areas_are_compared_seed_by_seed():
    ours = [cell("rloo", seed, [0.5 + 0.1 * seed, 1.0 + 0.2 * seed]) for seed in range(3)]
    theirs = [cell("trl-rloo", seed, [0.4 + 0.1 * seed, 0.8 + 0.2 * seed]) for seed in range(3)]
    (found,) = frontier.against_trl([*ours, *theirs]).values()
    assert [found[key] for key in ("difference", "low", "high")] == pytest.approx([0.1] * 3)
    assert frontier.against_trl(ours) == {}
