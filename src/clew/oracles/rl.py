"""Policy-gradient estimators against exact gradients, KL estimators against exact divergences, and what PPO becomes.

Expectations are exact: every sequence (or every k-tuple of them) once, weighed by its probability.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from clew.batch import Batch, Objective, Term, token_weights
from clew.data.collate import collate
from clew.experience import token_rewards
from clew.learn.learner import Part
from clew.losses import advantage as adv
from clew.losses.kl import forward_kl_loss, k1, k2, k3, reverse_kl_loss
from clew.losses.token import clipped, reinforce
from clew.losses.value import clipped_squared, squared
from clew.oracles import exact
from clew.oracles.result import Result, gradient, minimise
from clew.oracles.worlds import (
    TablePolicy,
    TableValue,
    Tree,
    random_logits,
    random_rewards,
    total_variation,
)
from clew.types import Score

TREE, ARMS = Tree(3, 3), Tree(5, 1)
BETA = 0.3
TIGHT = 1e-10
SAYS = "the exact gradient of E r"


class Setting:
    """A policy, a reference and rewards on a tree; the batch of all its sequences, each weighed by pi."""

    def __init__(self, tree: Tree, seed: int = 0) -> None:
        self.tree = tree
        self.policy = TablePolicy(tree, random_logits(tree, seed))
        self.reference = TablePolicy(tree, random_logits(tree, seed + 1))
        self.rewards = random_rewards(tree, seed + 2)
        self.ref = self.reference.sequence_logps().detach()
        self.values = exact.state_values(tree, self.policy, self.rewards)

    def batch(self, policy: TablePolicy | None = None) -> Batch:
        batch = collate([[row] for row in self.tree.rows()])
        old, ref = (m.evaluate(batch).logps for m in (policy or self.policy, self.reference))
        assert old is not None and ref is not None
        probability = batch.per_row(old.detach()).exp()
        return batch.with_extras(old_logps=old.detach(), ref_logps=ref.detach()).with_weights(
            token=probability[:, None] * batch.mask
        )

    def exact_gradient(self, value: Callable[[Tensor], Tensor]) -> Tensor:
        """Of a function of the exact log-probabilities [N]."""
        return torch.autograd.grad(value(self.policy.sequence_logps()), self.policy.logits)[0].flatten()

    def reward_gradient(self) -> Tensor:
        return self.exact_gradient(lambda logp: (logp.exp() * self.rewards).sum())

    def estimated(self, advantages: Tensor, loss: Callable[..., Tensor] = reinforce) -> Tensor:
        """Expected gradient (ascent) of a policy loss with these advantages [N, T]."""
        return -gradient(self.policy, Part(self.batch(), policy_term(loss, advantages)))


def policy_term(loss: Callable[..., Tensor], advantages: Tensor) -> Objective:
    return lambda outputs, batch: (
        [Term("policy", loss(outputs.logps, batch.extras["old_logps"], advantages), "token")],
        [],
    )


def off(found: Tensor, expected: Tensor) -> float:
    """Largest error, relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def single_rollouts() -> Iterator[Result]:
    world = Setting(TREE)
    batch, target = world.batch(), world.reward_gradient()
    whole = world.rewards[:, None] * batch.mask
    yield Result("reinforce", SAYS, off(world.estimated(whole), target), TIGHT)
    yield Result("clipped, at ratio 1", SAYS, off(world.estimated(whole, clipped), target), TIGHT)
    dual = partial(clipped, dual=3.0)
    yield Result("clipped, dual, at ratio 1", SAYS, off(world.estimated(whole, dual), target), TIGHT)

    states = TableValue(TREE)
    states.table.data.copy_(world.values)
    values = states.evaluate(batch).values
    assert values is not None
    values = values.detach()
    scores = [Score(0.0)] * batch.num_rows
    rewards = token_rewards(batch, world.rewards, scores, torch.zeros_like(whole), 0.0)
    for lam in (0.0, 0.95, 1.0):
        found = world.estimated(adv.gae(rewards, values, batch.mask, lam=lam))
        yield Result(f"gae, lambda {lam}, exact values", SAYS, off(found, target), TIGHT)
    wrong = world.estimated(_score_after_eos(rewards, values, batch))
    yield Result("gae, score placed behind EOS", SAYS, off(wrong, target), TIGHT, wrong=True)

    padded, ragged = adv.whiten(whole, batch.mask), adv.whiten(whole, torch.ones_like(batch.mask))
    alone = _whiten_without_padding(whole, batch.mask)
    yield Result("whiten", "statistics of scored tokens only", float((padded - alone).abs().max()), 1e-6)
    wrong_gap = float(((ragged - alone) * batch.mask).abs().max())
    yield Result(
        "whiten with padding in the statistics", "statistics of scored tokens only", wrong_gap, 1e-6, wrong=True
    )


def groups() -> Iterator[Result]:
    """Estimators that see k rollouts of a prompt: the mean over all k-tuples of a bandit."""
    world, k = Setting(ARMS, seed=4), 3
    target = world.reward_gradient()

    def mean(advantages: Callable[[Tensor], Tensor]) -> Tensor:
        logp = world.policy.sequence_logps()
        tuples = torch.tensor(list(product(range(ARMS.vocab), repeat=k)))
        probability = logp.detach()[tuples].sum(1).exp()
        weighed = probability[:, None] * advantages(world.rewards[tuples]) / k
        return torch.autograd.grad((weighed * logp[tuples]).sum(), world.policy.logits)[0].flatten()

    yield Result("leave_one_out (RLOO)", SAYS, off(mean(adv.leave_one_out), target), TIGHT)
    yield Result("batch_mean", SAYS, off(mean(_one_batch), target), TIGHT)
    shrunk = (1 - 1 / k) * target
    yield Result("group_mean (Dr. GRPO)", "(1 - 1/k) times it", off(mean(adv.group_mean), shrunk), TIGHT)
    yield Result("group_mean taken for unbiased", SAYS, off(mean(adv.group_mean), target), TIGHT, wrong=True)

    # GRPO has no closed form; its law: the advantage does not see a reward's offset and scale, and equal is zero.
    drawn = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same = float((adv.group_normalised(3 * drawn + 7) - adv.group_normalised(drawn)).abs().max())
    yield Result("group_normalised (GRPO)", "blind to offset and scale", same, 2e-3)
    equal = float(adv.group_normalised(torch.full((8, 4), 2.0)).abs().max())
    yield Result("group_normalised, equal rewards", "no gradient", equal, 1e-12)
    lone = float(adv.group_normalised(torch.full((8, 1), 2.0)).abs().max())
    yield Result("group_normalised, group of one", "no gradient", lone, 1e-12)
    yield Result("group of one keeping its raw reward", "no gradient", 2.0, 1e-12, wrong=True)
    found = mean(adv.group_normalised)
    scale = (found @ target) / (target @ target)  # the best it could be meant
    yield Result("group_normalised taken for unbiased", "its direction", off(found, scale * target), TIGHT, wrong=True)


def divergences() -> Iterator[Result]:
    world = Setting(TREE, seed=8)
    batch = world.batch()
    logp = world.policy.sequence_logps().detach()
    old, ref = batch.extras["old_logps"], batch.extras["ref_logps"]
    truth = float(exact.kl(logp, world.ref))
    sums = batch.per_row(old), batch.per_row(ref)
    for name, estimate in (("k1", k1), ("k3", k3)):
        value = float((logp.exp() * estimate(*sums)).sum())
        yield Result(f"{name}, value", "KL(pi || ref)", abs(value - truth), TIGHT)
    value = float((logp.exp() * k2(*sums)).sum())
    yield Result("k2, taken for a value", "KL(pi || ref)", abs(value - truth), 1e-3, wrong=True)

    reverse = world.exact_gradient(lambda lp: exact.kl(lp, world.ref))
    says = "the gradient of KL(pi || ref)"

    def of(penalty: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        def objective(outputs, b):
            return [Term("kl", penalty(outputs.logps, b.extras["ref_logps"], b.mask), "token")], []

        return gradient(world.policy, Part(world.batch(), objective))

    yield Result("reverse_kl_loss", says, off(of(reverse_kl_loss), reverse), TIGHT)
    inert = of(lambda a, b, m: k1(a, b) * m)
    yield Result("k1 as a loss", says, off(inert, reverse), TIGHT, wrong=True)
    own = of(lambda a, b, m: k2(a, b) * m)
    yield Result("k2 of each token's own log-ratio", says, off(own, reverse), TIGHT, wrong=True)

    # In the reward: per-token k1 with reward-to-go, the exact gradient of E r - beta KL.
    rewards = token_rewards(batch, world.rewards, [Score(0.0)] * batch.num_rows, k1(old, ref), BETA)
    to_go = adv.gae(rewards, torch.zeros_like(rewards), batch.mask, lam=1.0)
    target = world.exact_gradient(lambda lp: exact.rlhf_objective(lp, world.ref, world.rewards, BETA))
    yield Result("k1 in the reward", "the gradient of E r - beta KL", off(world.estimated(to_go), target), TIGHT)
    own = world.rewards[:, None] * batch.mask - BETA * k1(old, ref)
    wrong = off(world.estimated(own), target)
    yield Result("k1 in the reward, own token only", "the gradient of E r - beta KL", wrong, TIGHT, wrong=True)

    arms = Setting(ARMS, seed=9)
    forward = arms.exact_gradient(lambda lp: exact.kl(arms.ref, lp))

    def objective(outputs, b):
        return [Term("kl", forward_kl_loss(outputs.logps, b.extras["ref_logps"], b.mask), "token")], []

    found = gradient(arms.policy, Part(arms.batch(), objective))
    yield Result("forward_kl_loss (k3 in the loss)", "the gradient of KL(ref || pi)", off(found, forward), TIGHT)
    backward = arms.exact_gradient(lambda lp: exact.kl(lp, arms.ref))
    yield Result(
        "k3 in the loss taken for reverse KL", "the gradient of KL(pi || ref)", off(found, backward), TIGHT, wrong=True
    )


def fixed_points() -> Iterator[Result]:
    """Exact updates to the end: the policy that the objective means."""
    world = Setting(TREE, seed=12)
    says, best = "ref exp(r / beta)", exact.rlhf_optimum(world.ref, world.rewards, BETA)

    def trained(penalty: str) -> float:
        policy = TablePolicy(TREE, world.reference.logits.detach())
        solver = torch.optim.Adam(policy.parameters(), lr=0.1)
        for step in range(400):
            for group in solver.param_groups:
                group["lr"] = 0.1 * (1 - step / 400)
            batch = world.batch(policy)
            kl = k1(batch.extras["old_logps"], batch.extras["ref_logps"])
            scores = [Score(0.0)] * batch.num_rows
            rewards = token_rewards(batch, world.rewards, scores, kl, BETA if penalty == "reward" else 0.0)
            advantages = adv.gae(rewards, torch.zeros_like(rewards), batch.mask, lam=1.0)

            def objective(outputs, b, advantages=advantages):
                terms = [Term("policy", clipped(outputs.logps, b.extras["old_logps"], advantages), "token")]
                if penalty == "k1 loss":
                    terms.append(Term("kl", k1(outputs.logps, b.extras["ref_logps"]) * b.mask, "token", BETA))
                if penalty == "reverse":
                    loss = reverse_kl_loss(outputs.logps, b.extras["ref_logps"], b.mask)
                    terms.append(Term("kl", loss, "token", BETA))
                return terms, []

            gradient(policy, Part(batch, objective))
            solver.step()
        return total_variation(policy.sequence_logps(), best)

    yield Result("clipped, k1 in the reward", says, trained("reward"), 2e-3)
    yield Result("clipped, reverse_kl_loss", says, trained("reverse"), 2e-3)
    yield Result("clipped, k1 as a loss", says, trained("k1 loss"), 2e-3, wrong=True)


def values() -> Iterator[Result]:
    """A value model fitted to Monte-Carlo returns is V of the policy, state by state."""
    world = Setting(TREE, seed=15)
    batch = world.batch()
    returns = world.rewards[:, None] * batch.mask
    visited = TREE.states(batch)[batch.mask].unique()
    for name, loss in (("squared", squared), ("clipped_squared, old values renewed", clipped_squared)):
        model = TableValue(TREE)
        for _ in range(1 if loss is squared else 40):
            old = model.evaluate(batch).values
            assert old is not None
            fixed = old.detach()
            minimise(
                model,
                Part(batch, lambda o, b, f=fixed, fn=loss: ([Term("value", fn(o.values, f, returns), "token")], [])),
            )
        found = float((model.table.detach() - world.values)[visited].abs().max())
        yield Result(f"{name}", "V(s) = E[r | s]", found, 1e-6)
    weights = token_weights(batch.mask, "token")
    model = TableValue(TREE)
    minimise(
        model,
        Part(
            batch.with_weights(token=weights),
            lambda o, b: ([Term("value", squared(o.values, o.values, returns), "token")], []),
        ),
    )
    wrong = float((model.table.detach() - world.values)[visited].abs().max())
    yield Result("squared, every sequence alike", "V(s) = E[r | s]", wrong, 1e-6, wrong=True)


def _score_after_eos(rewards: Tensor, values: Tensor, batch: Batch, lam: float = 0.95) -> Tensor:
    """The score one place behind the last token, whose state has a value of its own (here 0, as padding has)."""
    moved = torch.zeros(len(rewards), rewards.shape[1] + 1, dtype=rewards.dtype)
    lengths = batch.mask.sum(1) + 1
    moved[torch.arange(len(rewards)), lengths] = rewards.sum(1)
    wide_values = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
    wide_mask = torch.arange(moved.shape[1]) <= lengths[:, None]
    wide_mask[:, 0] = False
    return adv.gae(moved, wide_values, wide_mask, lam=lam)[:, :-1] * batch.mask


def _whiten_without_padding(x: Tensor, mask: Tensor) -> Tensor:
    scored = x[mask]
    return torch.zeros_like(x).masked_scatter(mask, (scored - scored.mean()) / scored.std())


def _one_batch(rewards: Tensor) -> Tensor:
    """`batch_mean` where every tuple is a batch of its own."""
    return torch.stack([adv.batch_mean(row[None])[0] for row in rewards])


def checks() -> Iterator[Result]:
    yield from single_rollouts()
    yield from groups()
    yield from divergences()
    yield from fixed_points()
    yield from values()
