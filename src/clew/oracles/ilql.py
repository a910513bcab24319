"""ILQL on an enumerable world: expectiles, fixed points state by state, decoding, and the recipe's own loop."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from clew.batch import Batch, Metric, Objective, Outputs, Term
from clew.data.collate import collate
from clew.experience import token_rewards
from clew.learn.learner import Part
from clew.losses.q import expectile, perturbed, td_targets
from clew.models.reference import follow
from clew.oracles import exact
from clew.oracles.recipes import FASTER, NOWHERE, Rehearsal
from clew.oracles.result import Result, minimise, root
from clew.oracles.worlds import TablePolicy, TableQ, Tree, random_logits, random_rewards, table_of, total_variation
from clew.recipes import ilql
from clew.types import Rollout, Score

TREE = Tree(3, 3)
TIGHT, SOLVED = 1e-7, 1e-6
NEAR_ONE = 1 - 1e-9
SAYS_V = "the expectile of Q over pi_beta, state by state"


class Setting:
    """A behaviour policy and rewards; the batch of all sequences, each weighed by how often it is in the data."""

    def __init__(self, seed: int, law: Tensor | None = None) -> None:
        self.behaviour = TablePolicy(TREE, random_logits(TREE, seed)) if law is None else table_of(TREE, law)
        self.rewards = random_rewards(TREE, seed + 1)
        batch = collate([[row] for row in TREE.rows()])
        logps = self.behaviour.sequence_logps().detach()
        none = [Score(0.0)] * batch.num_rows
        on_tokens = token_rewards(batch, self.rewards, none, torch.zeros(batch.tokens.shape, dtype=torch.float64), 0.0)
        self.batch = batch.with_extras(rewards=on_tokens).with_weights(token=logps.exp()[:, None] * batch.mask)
        self.visited = TREE.states(batch)[batch.mask].unique()

    def answers(self) -> list[tuple[Rollout, Score]]:
        rows = zip(TREE.rows(), self.rewards.tolist(), strict=True)
        return [(Rollout("", row.tokens, row.mask, [], "end", 0, "", ""), Score(reward)) for row, reward in rows]

    def solved(self, backup: Callable[[Tensor, Tensor], float], *, gamma: float = 1.0) -> TableQ:
        """Q and V by dynamic programming, V = backup(pi_beta, Q) of every state; heads and targets agree."""
        model = TableQ(TREE, self.behaviour.logits.detach())
        probs = self.behaviour.logits.detach().softmax(1)

        def value(prefix: tuple[int, ...]) -> float:
            state = _state(prefix)
            for token in range(TREE.vocab):
                after = (*prefix, token)
                ends = after in TREE.index
                worth = float(self.rewards[TREE.index[after]]) if ends else gamma * value(after)
                for table in (model.q.table, model.target.table):
                    table.data[:, state, token] = worth
            model.v.data[state] = backup(probs[state], model.q.table.data[0, state])
            return float(model.v.data[state])

        value(())
        return model


def _state(prefix: tuple[int, ...]) -> int:
    code = 0
    for token in prefix:
        code = code * TREE.vocab + token
    return sum(TREE.vocab**d for d in range(len(prefix))) + code


def expectile_of(probs: Tensor, q: Tensor, tau: float) -> float:
    """The root of tau E(Q - x)+ = (1 - tau) E(x - Q)+, whatever the losses say."""

    def slope(x: float) -> float:
        gap = q - x
        return float((probs * (tau * gap.clamp(min=0) - (1 - tau) * (-gap).clamp(min=0))).sum())

    return float(brentq(slope, float(q.min()) - 1, float(q.max()) + 1, xtol=1e-15))  # type: ignore[arg-type]


def soft(probs: Tensor, q: Tensor, beta: float) -> float:
    return float((probs.log() + beta * q).logsumexp(0) / beta)


def converged(world: Setting, **options: Any) -> TableQ:
    """Each loss to its minimum, then the targets moved, as often as the tree is deep."""
    model, objective = TableQ(TREE), ilql.q_objective(configured(**options))
    for _ in range(TREE.depth):
        for name in ("value", "q", "value"):
            minimise(model, Part(world.batch, term_of(objective, name)))
            follow(model.target, model.q, decay=0.0)
    return model


def term_of(objective: Objective, name: str) -> Objective:
    """Minimised one at a time, since the value of each changes with what the others hold fixed."""

    def alone(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        return [term for term in objective(outputs, batch)[0] if term.name == name], []

    return alone


def configured(**options: Any) -> ilql.ILQL:
    usual: dict[str, Any] = {"out": "", "model": "", "data": NOWHERE, "normalise": "none"}
    return ilql.ILQL(**(usual | options))


def minimiser(numbers: Tensor, tau: float, probs: Tensor | None = None) -> float:
    """Of the value loss over numbers, where its own gradient vanishes."""

    def slope(x: float) -> float:
        at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        losses = expectile(at, numbers, tau=tau)
        (losses.sum() if probs is None else (probs * losses).sum()).backward()
        assert at.grad is not None
        return float(at.grad)

    return root(slope)


def expectiles() -> Iterator[Result]:
    """What minimises the value loss over a handful of numbers."""
    numbers = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.1], dtype=torch.float64)
    evenly = torch.full_like(numbers, 1 / 5)
    yield Result("expectile, tau 0.5", "the mean", abs(minimiser(numbers, 0.5) - float(numbers.mean())), TIGHT)
    yield Result("expectile, tau -> 1", "the best", abs(minimiser(numbers, NEAR_ONE) - float(numbers.max())), TIGHT)
    says, target = "tau E(Q - x)+ = (1 - tau) E(x - Q)+", expectile_of(evenly, numbers, 0.7)
    yield Result("expectile, tau 0.7", says, abs(minimiser(numbers, 0.7) - target), TIGHT)
    turned = abs(minimiser(numbers, 0.3) - target)
    yield Result("expectile, its weights the wrong way round", says, turned, TIGHT, wrong=True)


def values() -> Iterator[Result]:
    """V given targets that differ from each other and from the Q that is being learnt."""
    world, says = Setting(4), "the expectile of min(target Q) over pi_beta"
    model, config = TableQ(TREE), configured(tau=0.7)
    generator = torch.Generator().manual_seed(7)
    for table in (model.q.table, model.target.table):
        table.data = torch.randn(table.shape, generator=generator, dtype=torch.float64)
    probs, smaller = world.behaviour.logits.detach().softmax(1), model.target.table.amin(0)
    right = torch.tensor([expectile_of(p, q, 0.7) for p, q in zip(probs, smaller, strict=True)])

    def miss(change: Change = unchanged) -> float:
        """How far off V is at its minimum."""
        model.v.data.zero_()
        objective = term_of(ilql.q_objective(config), "value")
        minimise(model, Part(world.batch, lambda outputs, batch: objective(change(model, outputs, batch), batch)))
        return float((model.v.detach() - right)[world.visited].abs().max())

    yield Result("expectile, from the targets' smaller Q", says, miss(), SOLVED)
    yield Result("value loss from the online Q", says, miss(from_online), SOLVED, wrong=True)
    yield Result("value loss from the targets' mean", says, miss(from_mean), SOLVED, wrong=True)


Change = Callable[[TableQ, Outputs, Batch], Outputs]


def unchanged(model: TableQ, outputs: Outputs, batch: Batch) -> Outputs:
    return outputs


def from_online(model: TableQ, outputs: Outputs, batch: Batch) -> Outputs:
    assert outputs.q is not None
    return outputs._replace(target_q=outputs.q.amin(-1).detach())


def from_mean(model: TableQ, outputs: Outputs, batch: Batch) -> Outputs:
    states, tokens = TREE.states(batch), batch.tokens.clamp(max=TREE.vocab - 1)
    return outputs._replace(target_q=model.target.table.mean(0)[states, tokens] * batch.mask)


def targets() -> Iterator[Result]:
    """What Q is regressed on, token by token, given V."""
    world, gamma, says = Setting(9), 0.9, "r + gamma V(next state), and r alone where the answer ends"
    batch, model = world.batch, TableQ(TREE)
    model.v.data = torch.randn(TREE.num_states, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    right = torch.zeros_like(batch.extras["rewards"])
    for b, sequence in enumerate(TREE.sequences):
        for t in range(len(sequence)):
            ends = t + 1 == len(sequence)
            right[b, t + 1] = world.rewards[b] if ends else gamma * model.v.detach()[_state(sequence[: t + 1])]
    values = model.evaluate(batch).values
    assert values is not None
    values, rewards, mask = values.detach(), batch.extras["rewards"], batch.mask

    def miss(found: Tensor) -> float:
        return float(((found - right) * mask).abs().max())

    plain = td_targets(rewards, values, mask, gamma=gamma)
    yield Result("td_targets", says, miss(plain), TIGHT)
    late = values.roll(-1, 1) * mask * mask.roll(-1, 1)
    yield Result("V read one state late", says, miss(td_targets(rewards, late, mask, gamma=gamma)), TIGHT, wrong=True)
    last = (rewards != 0).to(values.dtype)
    yield Result("terminal V not zero", says, miss(plain + gamma * last * values), TIGHT, wrong=True)
    discounted = miss(td_targets(gamma * rewards, values, mask, gamma=gamma))
    yield Result("gamma applied to the last reward", says, discounted, TIGHT, wrong=True)


def fixed_points() -> Iterator[Result]:
    """Q and V with targets that follow, to the end."""
    world = Setting(12)
    visited = world.visited

    def gap(model: TableQ, right: Tensor) -> float:
        return float((model.v.detach() - right)[visited].abs().max())

    sarsa = exact.state_values(TREE, world.behaviour, world.rewards)
    yield Result(
        "tabular ILQL, tau 0.5", "V of pi_beta (SARSA)", gap(converged(world, tau=0.5, gamma=1.0), sarsa), SOLVED
    )
    right = world.solved(lambda probs, q: expectile_of(probs, q, 0.7), gamma=0.9).v.detach()
    yield Result("tabular ILQL, tau 0.7, gamma 0.9", SAYS_V, gap(converged(world, tau=0.7, gamma=0.9), right), SOLVED)
    turned = gap(converged(world, tau=0.3, gamma=0.9), right)
    yield Result("tabular ILQL, its expectile the wrong way round", SAYS_V, turned, SOLVED, wrong=True)
    best = world.solved(lambda probs, q: float(q.max())).v.detach()
    near = world.solved(lambda probs, q: minimiser(q, NEAR_ONE, probs))
    yield Result(
        "tabular ILQL, tau -> 1", "the best that the data have, by dynamic programming", gap(near, best), TIGHT
    )


def conservatism() -> Iterator[Result]:
    """The term alone makes Q a copy of pi_beta: what a large coefficient does to it."""
    world, model = Setting(15), TableQ(TREE)

    minimise(model, Part(world.batch, term_of(ilql.q_objective(configured(cql=1.0)), "conservative")))
    found = TablePolicy(TREE, model.q.table.detach()[1]).sequence_logps()
    miss = total_variation(found, world.behaviour.sequence_logps().detach())
    yield Result("conservative", "softmax(Q) = pi_beta", miss, SOLVED)

    beta, config = 0.5, configured(awac_beta=0.5)
    model = world.solved(lambda probs, q: expectile_of(probs, q, 0.7))
    model.policy.logits.data.zero_()
    minimise(model, Part(world.batch, term_of(ilql.q_objective(config), "awac")))
    target = TablePolicy(TREE, world.behaviour.logits.detach() + beta * model.q.table.detach()[0])
    miss = total_variation(model.policy.sequence_logps(), target.sequence_logps().detach())
    yield Result("advantage_weighted, in ilql", "pi_beta exp(beta (Q - V)) / Z(s)", miss, SOLVED)


def decoding() -> Iterator[Result]:
    world, beta = Setting(18), 1.5
    behaviour = world.behaviour.sequence_logps().detach()
    says, best = "ref exp(beta r)", exact.rlhf_optimum(behaviour, world.rewards, 1 / beta)
    model = world.solved(lambda probs, q: soft(probs, q, beta))
    zero = total_variation(model.decoded(beta=0.0).sequence_logps(), behaviour)
    yield Result("perturbed, beta 0", "pi_beta", zero, TIGHT)
    yield Result("perturbed, V soft", says, total_variation(model.decoded(beta=beta).sequence_logps(), best), TIGHT)
    hard = world.solved(lambda probs, q: expectile_of(probs, q, 0.5))
    missed = total_variation(hard.decoded(beta=beta).sequence_logps(), best)
    yield Result("perturbed by Q of tau 0.5, as if V were soft", says, missed, TIGHT, wrong=True)
    logits, q = world.behaviour.logits.detach(), model.target.table.amin(0)
    advantages = q - model.v.detach()[:, None]
    same = (perturbed(logits, advantages, beta=beta) - perturbed(logits, q, beta=beta)).log_softmax(1)
    shift = float((same - same.mean(1, keepdim=True)).abs().max())
    yield Result("perturbed, by Q and by Q - V", "the same distribution", shift, TIGHT)
    one = TablePolicy(TREE, torch.zeros_like(logits).scatter(1, (logits + beta * q).argmax(1, keepdim=True), 1e4))
    says, target = "the best token after the perturbation", one.sequence_logps().detach()
    greedy = model.decoded(beta=beta, top_k=1).sequence_logps()
    yield Result("perturbed, top_k 1", says, total_variation(greedy, target), TIGHT)
    early = TablePolicy(TREE, perturbed(logits, q, beta=0.0, top_k=1) + beta * q).sequence_logps()
    yield Result("top_k before the perturbation", says, total_variation(early, target), TIGHT, wrong=True)


def recipe() -> Iterator[Result]:
    """Its own loop, on data in which every answer comes as often as it does."""
    counts = np.random.default_rng(0).integers(1, 4, size=len(TREE.sequences))
    world = Setting(21, law=torch.tensor(counts / counts.sum()).log())
    answers = [pair for pair, n in zip(world.answers(), counts, strict=True) for _ in range(n)]
    right = world.solved(lambda probs, q: expectile_of(probs, q, 0.7), gamma=0.9)

    def trained(**options: Any) -> TableQ:
        model = TableQ(TREE)
        usual: dict[str, Any] = {"batch": len(answers), "steps": 200, "cql": 0.0, "gamma": 0.9, "learner": FASTER}
        ilql.train(model, answers, [], configured(**(usual | options)), Rehearsal())
        return model

    model, beta = trained(polyak=0.5, polyak_every=1), 2.0
    cloned = total_variation(model.policy.sequence_logps(), world.behaviour.sequence_logps().detach())
    yield Result("recipe ilql, its language model", "the distribution of the data", cloned, 2e-3)
    miss = float((model.v.detach() - right.v.detach())[world.visited].abs().max())
    yield Result("recipe ilql, V", SAYS_V, miss, 5e-3)
    says, target = "pi_beta exp(beta (Q - V)) of those Q", right.decoded(beta=beta).sequence_logps().detach()
    found = total_variation(model.decoded(beta=beta).sequence_logps(), target)
    yield Result("recipe ilql, decoded", says, found, 5e-3)
    still = total_variation(trained(polyak=1e-3, polyak_every=5).decoded(beta=beta).sequence_logps(), target)
    yield Result("recipe ilql, targets that hardly follow", says, still, 5e-3, wrong=True)


def checks() -> Iterator[Result]:
    for part in (expectiles, values, targets, fixed_points, conservatism, decoding, recipe):
        yield from part()
