"""Answers compared with an opponent's: what is journalled, what is learnt from it, what a best response gains."""

import pytest
import torch

from clew.duels import Sides, best_responses, compared, experience, objective
from clew.learn.learner import Part
from clew.oracles.games import exploitability, game
from clew.oracles.result import gradient
from clew.oracles.worlds import TableEngine, TablePolicy, Tree, random_logits
from clew.types import Prompt, Rollout, Sampling

TREE = Tree(3, 2)
PROMPTS = [Prompt(str(i), (TREE.start,), "") for i in range(6)]


def said(text):
    return Rollout("p", [1, 2], [False, True], [0.0, 0.0], "end", 0, "", text)


def table(wins):
    """A preference by texts; None where there is nothing in the table."""
    return lambda a, b: [wins.get(x.text + y.text) for x, y in zip(a, b, strict=True)]


def test_the_best_response_is_chosen_by_one_half_and_measured_on_the_other():
    wins = {"p1": 1.0, "p2": 0.0, "p3": 0.8, "p4": 0.4, "q1": 0.5, "q2": 1.0, "q3": 0.5, "q4": 1.0}
    ours = [said(t) for t in "1234"]
    pool = [said(t) for t in "pq"]
    (gain,) = best_responses(table(wins), [ours], [pool])
    assert gain == pytest.approx((0.0 + 0.4) / 2 - 0.5)  # p won on 1 and 3, and q would have won on 2 and 4
    assert best_responses(table({}), [ours], [pool]) == [None]
    assert best_responses(table(wins), [ours[:1]], [pool]) == [None]
    assert best_responses(table(wins), [], []) == []


def judge(preference):
    values = preference.tolist()
    places = lambda rows: [TREE.index[tuple(r.tokens[1:])] for r in rows]  # noqa: E731
    return lambda a, b: [values[i][j] for i, j in zip(places(a), places(b), strict=True)]


@pytest.fixture
def world():
    policy, reference = (TablePolicy(TREE, random_logits(TREE, seed)) for seed in (1, 2))
    preference = game(len(TREE.sequences), 3)
    engine = TableEngine(policy)
    return policy, reference, preference, Sides(engine, engine, TableEngine(reference), judge(preference))


def test_on_average_the_best_response_found_gains_less_than_there_is_to_gain(world):
    policy, _, preference, sides = world
    prompts = [Prompt(str(i), (TREE.start,), "") for i in range(200)]
    records = compared(sides, prompts, Sampling(2), 4, (0, 0), measured=200)
    gains = [record["score"]["parts"]["exploitability"] for record in records[::4]]
    there_is = exploitability(policy.sequence_logps().detach(), preference)
    assert 0 < sum(gains) / len(gains) < there_is


def test_an_opponent_that_is_the_policy_says_something_else_and_only_few_prompts_are_measured(world):
    *_, sides = world
    records = compared(sides, PROMPTS, Sampling(2), 2, (0, 5), measured=2)
    assert len(records) == 12
    assert [r["rollout"]["text"] for r in records] != [r["opponent"] for r in records]
    assert ["reference" in r["score"]["parts"] for r in records] == [True] * 4 + [False] * 8
    assert {r["rollout"]["version"] for r in records} == {5}
    assert records[-1]["tokens_of_others"] == len(records[-1]["opponent"].split())
    assert records == compared(sides, PROMPTS, Sampling(2), 2, (0, 5), measured=2)
    assert records != compared(sides, PROMPTS, Sampling(2), 2, (0, 6), measured=2)


def test_what_is_learnt_is_the_mean_over_answers_of_sums_over_their_tokens(world):
    policy, reference, _, sides = world
    records = compared(sides, PROMPTS, Sampling(2), 1, (0, 0), measured=0)
    batch, metrics = experience(records, reference, tau=0.3, max_tokens=1 << 20)
    found = -gradient(policy, Part(batch, objective))
    expected = torch.zeros_like(policy.logits)
    for record in records:
        sequence = TREE.index[tuple(record["rollout"]["tokens"][1:])]
        logp = policy.sequence_logps()[sequence]
        (score,) = torch.autograd.grad(logp, policy.logits)
        first = TREE.states(batch)[0, 1]
        expected[first] += score[first] * (
            record["score"]["value"] - 0.5 - 0.3 * float((logp - reference.sequence_logps()[sequence]).detach())
        )
    torch.testing.assert_close(found.view_as(expected)[0], expected[0] / 6, atol=1e-6, rtol=0)
    values = [record["score"]["value"] for record in records]
    assert metrics["preference/opponent"] == pytest.approx(sum(values) / 6)
    assert "preference/reference" not in metrics


def test_answers_that_nobody_judges_are_left_out_and_counted(world):
    _, reference, _, sides = world
    some = sides._replace(preference=lambda a, b: [None if r.prompt_id == "2" else 1.0 for r in a])
    records = compared(some, PROMPTS, Sampling(2), 2, (0, 0), measured=6)
    batch, metrics = experience(records, reference, tau=0.3, max_tokens=1 << 20)
    assert batch.num_rows == 10
    assert metrics["preference/abstained"] == pytest.approx(2 / 12)
    assert metrics["preference/reference"] == 1.0
    none = sides._replace(preference=lambda a, b: [None for _ in a])
    with pytest.raises(ValueError, match="abstained in every one"):
        experience(compared(none, PROMPTS, Sampling(2), 2, (0, 0), measured=0), reference, tau=0.3, max_tokens=1 << 20)
