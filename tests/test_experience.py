"""Whole steps from prompts to advantages, on a tree where everything can be looked up."""

import pytest
import torch
from torch.testing import assert_close

from clew.config import Choice
from clew.experience import drawn, experience
from clew.losses.advantage import to_go
from clew.losses.kl import k1
from clew.oracles.worlds import TableEngine, TablePolicy, Tree, random_logits, random_rewards
from clew.shaping import KL, MissingEOS, Shaping
from clew.types import Prompt, Sampling, Score

TREE = Tree(3, 3)
REWARDS = random_rewards(TREE, 1)


def reward(rollouts):
    return [Score(float(REWARDS[TREE.index[tuple(r.tokens[1:])]])) for r in rollouts]


def constant(rollouts):
    return [Score(1.0) for _ in rollouts]


def prompts(num: int, start: int = 0) -> list[Prompt]:
    return [Prompt(str(i), (TREE.start,), "") for i in range(start, start + num)]


def learnt(shaping: Shaping, *, draws=None, score=reward, coefficient: float = 0.0):
    policy = TablePolicy(TREE, random_logits(TREE, 0))
    asked = draws or [prompts(6)]
    records = drawn(TableEngine(policy), score, asked, Sampling(TREE.depth), shaping, (0, 3))
    reference = TablePolicy(TREE)
    batch, metrics = experience(
        records, reference, None, shaping, values={"kl": coefficient}, longest=TREE.depth, max_tokens=1 << 30
    )
    return records, batch, metrics


def shaped(name: str, **options) -> Shaping:
    return Shaping(advantages=Choice(name=name), **options)


def test_remax_takes_off_the_reward_of_the_greedy_rollout():
    records, batch, _ = learnt(shaped("minus_greedy"))
    policy = TablePolicy(TREE, random_logits(TREE, 0))
    engine = TableEngine(policy)
    greedy = engine.generate(prompts(1), n=1, sampling=Sampling(TREE.depth, temperature=0.0), key=(0, 3))
    best = reward(greedy)[0].value
    assert best is not None
    expected = torch.tensor([r["score"]["value"] - best for r in records])
    assert_close(batch.extras["advantages"].float(), expected[:, None] * batch.mask)
    assert len({r.tokens[-1] for r in engine.generate(prompts(9), n=1, sampling=Sampling(3, 0.0), key=(1, 1))}) == 1


def test_without_a_critic_a_token_gets_what_is_still_to_come():
    _, batch, metrics = learnt(shaped("to_go"), coefficient=0.5)
    kl = k1(batch.extras["old_logps"], batch.extras["ref_logps"])
    found = batch.extras["advantages"]
    last = batch.lengths()
    rows = torch.arange(batch.num_rows)
    outcomes = found[rows, last] + 0.5 * kl[rows, last]  # the last token's own share
    rewards = -0.5 * kl * batch.mask
    rewards[rows, last] += outcomes
    assert_close(found, to_go(rewards, batch.mask))
    assert float(outcomes.mean()) == pytest.approx(metrics["objective/scores"], abs=1e-6)


def test_dynamic_sampling_draws_until_enough_groups_differ():
    draws = [prompts(6), prompts(6, 6), prompts(6, 12)]
    shaping = shaped("group_mean", group=2, draws=3)
    records, batch, _ = learnt(shaping, draws=draws)
    differing = batch.num_items
    drawn_groups = len(records) // 2
    assert drawn_groups in (6, 12, 18)
    assert differing >= 6 or drawn_groups == 18
    assert differing < drawn_groups  # on this tree two of six rollouts are often the same
    assert all(len(set(g.tolist())) > 1 for g in batch.per_item(batch.extras["advantages"].sum(1)))
    records, batch, _ = learnt(shaping, draws=draws, score=constant)
    assert (len(records) // 2, batch.num_items) == (18, 18)  # nothing differs: nothing is learnt, the run goes on
    assert not batch.extras["advantages"].any()


def test_from_rollouts_that_were_cut_nothing_is_learnt_where_they_are_ignored():
    _, every, _ = learnt(shaped("group_mean", group=4))
    _, some, _ = learnt(shaped("group_mean", group=4, missing_eos=MissingEOS(how="ignore")))
    ended = (every.tokens == 0).any(1)
    assert 0 < int(ended.sum()) < every.num_rows
    assert_close(some.extras["advantages"][ended], every.extras["advantages"][ended])
    assert not some.extras["advantages"][~ended].any()


def test_the_kl_in_the_loss_leaves_rewards_alone():
    shaping = shaped("group_mean", group=2, kl=KL(coefficient=0.5, place="loss"))
    _, batch, _ = learnt(shaping, coefficient=0.5)
    _, plain, _ = learnt(shaped("group_mean", group=2), coefficient=0.0)
    assert_close(batch.extras["advantages"], plain.extras["advantages"])


def test_metrics_name_the_parts_of_every_task():
    """Judges of one task alone: the first rollout's score has not all parts."""

    def of_tasks(rollouts):
        names = ["tidy" if r.prompt_id == rollouts[0].prompt_id else "kind" for r in rollouts]
        return [Score(1.0, {name: 1.0, "both": 0.5}) for name in names]

    *_, metrics = learnt(shaped("batch_mean"), score=of_tasks)
    assert {"rewards/tidy/mean", "rewards/kind/mean", "rewards/both/mean"} <= set(metrics)
