"""Nash learning on enumerable games: the regularised Nash point, exploitability, and the recipe's own loop."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clew.batch import Batch
from clew.data.collate import collate
from clew.duels import Sides, objective
from clew.judges.prefer import Preference, PreferenceSource
from clew.learn.learner import Optimiser, Part
from clew.losses.nash import EVEN, geometric_mixture, of_answers, of_tokens
from clew.models.reference import frozen
from clew.oracles import exact
from clew.oracles.games import (
    exploitability,
    game,
    goes_in_circles,
    itself,
    mirror_descent,
    nash_point,
    regularised_exploitability,
    response,
)
from clew.oracles.recipes import NOWHERE, Rehearsal
from clew.oracles.result import Result, gradient
from clew.oracles.worlds import TablePolicy, Tree, random_logits, random_rewards, table_of, total_variation
from clew.recipes import nash
from clew.types import Finished, Key, Prompt, Rollout, Sampling

TREE, ARMS = Tree(3, 3), Tree(5, 1)
TAU = 0.2
STILL = Optimiser(lr=0.1, schedule="linear", betas=(0.0, 0.99), eps=1e-2, clip=100.0, max_tokens=1 << 30)
"""Without momentum, which in a game turns with the opponent."""
GOLDEN = (5**0.5 - 1) / 2
TIGHT, NEAR = 1e-10, 1.5e-2
SAYS = "the gradient of P(pi beats opponent) - tau KL(pi || mu)"


def tabular() -> Iterator[Result]:
    """The two algorithms that are known to converge, and what does not."""
    tau, steps = 0.5, 1000
    schedule = [2 / (tau * (t + 2)) for t in range(steps)]
    exploited, bounds, alone, constant = list[float](), list[float](), list[float](), list[float]()
    for seed in range(5):
        preference = game(8, seed)
        assert goes_in_circles(preference)
        ref, start = (random_logits(Tree(8, 1), 100 + i * 50 + seed, 1.5)[0].log_softmax(0) for i in range(2))
        best = nash_point(ref, preference, tau, against=itself)
        path = list(mirror_descent(start, ref, preference, tau, rates=schedule, mixed=True))
        exploited.append(regularised_exploitability(path[-1], ref, preference, tau))
        bounds += [float(exact.kl(best, logp)) * tau**2 * (t + 2) / 8 for t, logp in enumerate(path)]
        (*_, own) = mirror_descent(start, ref, preference, tau, rates=[0.2] * 600, mixed=False)
        alone.append(regularised_exploitability(own, ref, preference, tau))
        (*_, fixed) = mirror_descent(start, ref, preference, tau, rates=[0.2] * 600, mixed=True)
        constant.append(total_variation(fixed, best))
    says = "regularised exploitability 0, games with circles"
    yield Result("nash-md, eta = 2 / (tau (t + 2))", says, max(exploited), 1e-3)
    yield Result("nash-md, its bound", "KL(nash || pi_T) tau^2 (T + 1) / 8 <= 1", max(bounds), 1.0)
    yield Result("self-play (beta 0) from a start that is not mu", says, max(alone), 1e-3)
    yield Result("nash-md, constant eta", "the Nash point", max(constant), 1e-4, wrong=True)


class Duel:
    """A tree, its preferences, a reference and a policy that is elsewhere."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.tree = tree
        self.reference = TablePolicy(tree, random_logits(tree, seed))
        self.policy = TablePolicy(tree, random_logits(tree, seed + 1))
        self.preference = game(len(tree.sequences), seed + 2)
        self.ref = self.reference.sequence_logps().detach()

    def batch(self, policy: TablePolicy) -> Batch:
        """All sequences, each weighed by its probability: an average over it is the exact mean over answers."""
        batch = collate([[row] for row in self.tree.rows()])
        old, ref = policy.evaluate(batch).logps, self.reference.evaluate(batch).logps
        assert old is not None and ref is not None
        probability = policy.sequence_logps().detach().exp()
        batch = batch.with_weights(token=probability[:, None] * batch.mask)
        return batch.with_extras(old_logps=old.detach(), ref_logps=ref.detach())

    def estimate(self, policy: TablePolicy, advantages: Callable[[Batch], Tensor]) -> Tensor:
        """The estimator's mean, from the recipe's own objective."""
        batch = self.batch(policy)
        return -gradient(policy, Part(batch.with_extras(advantages=advantages(batch)), objective))

    def factor(self, estimator: Callable[..., Tensor], opponent: Tensor) -> Callable[[Batch], Tensor]:
        wins = self.preference @ opponent.exp()
        return lambda b: estimator(wins, b.extras["old_logps"], b.extras["ref_logps"], b.mask, tau=TAU)

    def slope(self, policy: TablePolicy, opponent: Tensor) -> Tensor:
        """The gradient of the objective, by differentiating it."""
        logp = policy.sequence_logps()
        value = logp.exp() @ (self.preference @ opponent.exp()) - TAU * exact.kl(logp, self.ref)
        return torch.autograd.grad(value, policy.logits)[0].flatten()


def own_log_ratio_alone(preferences: Tensor, logps: Tensor, ref: Tensor, mask: Tensor, *, tau: float) -> Tensor:
    """TRL's Nash-MD: each token pays for its own log-ratio."""
    return (preferences[:, None] - EVEN - tau * (logps - ref)) * mask


def estimators() -> Iterator[Result]:
    """Means over all answers: the gradient, in either form; none at the Nash point."""
    duel = Duel(TREE, 71)
    opponent = random_logits(Tree(len(TREE.sequences), 1), 75)[0].log_softmax(0)
    target = duel.slope(duel.policy, opponent)
    for form in (of_answers, of_tokens):
        found = duel.estimate(duel.policy, duel.factor(form, opponent))
        yield Result(f"nash, {form.__name__}", SAYS, float((found - target).abs().max()), TIGHT)
    found = duel.estimate(duel.policy, duel.factor(own_log_ratio_alone, opponent))
    miss = float((found - target).abs().max())
    yield Result("nash, a token's own log-ratio alone (TRL)", SAYS, miss, TIGHT, wrong=True)
    through = duel.policy.sequence_logps()
    wins = through.exp() @ duel.preference @ through.exp() - TAU * exact.kl(through, duel.ref)
    both = torch.autograd.grad(wins, duel.policy.logits)[0].flatten()
    own = duel.slope(duel.policy, duel.policy.sequence_logps().detach())
    yield Result(
        "self-play, gradient through the opponent too", SAYS, float((both - own).abs().max()), TIGHT, wrong=True
    )
    best = nash_point(duel.ref, duel.preference, TAU, against=itself)
    there = table_of(TREE, best)
    slope = duel.estimate(there, duel.factor(of_tokens, best))
    yield Result("self-play at the Nash point", "no gradient on average", float(slope.abs().max()), TIGHT)


class Even:
    """Samples sequences of a table, as it is now, in shares as even as can be: right on average, with little noise.

    Equal steps or, for the other side, those of the golden ratio: then the pairs are even too.
    """

    def __init__(self, now: Callable[[], TablePolicy], *, golden: bool = False) -> None:
        self.now = now
        self.golden = golden
        self.version = 0

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: Key, finished: Finished | None = None
    ) -> list[Rollout]:
        table, rng, num = self.now(), np.random.default_rng(key), n * len(prompts)
        rows = table.tree.rows()
        logps = table.evaluate(collate([[row] for row in rows])).logps
        assert logps is not None
        cumulative = logps.sum(1).exp().cumsum(0).numpy()
        steps = np.arange(num) * (GOLDEN if self.golden else 1 / num)
        points = (steps + rng.random()) % 1 * cumulative[-1]
        drawn, said = np.searchsorted(cumulative, points, side="right").tolist(), logps.tolist()
        asked = [p.id for p in prompts for _ in range(n)]
        return [
            Rollout(name, rows[i].tokens, rows[i].mask, said[i][: len(rows[i].tokens)], "end", self.version, "", "")
            for name, i in zip(asked, drawn, strict=True)
        ]


def mixture(policy: TablePolicy, reference: TablePolicy, beta: float) -> TablePolicy:
    return TablePolicy(policy.tree, geometric_mixture(policy.logits.detach(), reference.logits.detach(), beta=beta))


def judge(duel: Duel) -> Preference:
    """The game's preferences of rollouts."""
    table: list[list[float | None]] = duel.preference.tolist()

    def preference(a: Sequence[Rollout], b: Sequence[Rollout]) -> list[float | None]:
        places = ([duel.tree.index[tuple(r.tokens[1:])] for r in side] for side in (a, b))
        return [table[i][j] for i, j in zip(*places, strict=True)]

    return preference


def trained(duel: Duel, **options: Any) -> TablePolicy:
    """A policy after the recipe's own loop, from where the duel's policy is."""
    policy, reference = TablePolicy(duel.tree, duel.policy.logits.detach()), duel.reference
    config = nash.Nash(
        out="", model="", reference="mu", data=NOWHERE, preference=PreferenceSource(model=""), tau=TAU,
        max_tokens=duel.tree.depth, **({"steps": 150, "prompts": 64, "answers": 1, "learner": STILL} | options),
    )  # fmt: skip
    average = frozen(policy) if config.opponent == "average" else None
    opponent = Even(lambda: mixture(policy, reference, config.mixture) if average is None else average, golden=True)
    sides = Sides(Even(lambda: policy), opponent, Even(lambda: reference), judge(duel))
    prompts = [Prompt(str(i), (duel.tree.start,), "") for i in range(config.prompts)]
    nash.train(policy, reference, average, sides, prompts, config, Rehearsal())
    return policy


def recipe() -> Iterator[Result]:
    """The recipe arrives where its opponent lets it: at the Nash point in self-play and with an average, else near."""
    duel, beta = Duel(Tree(3, 2), 84), 0.5
    best = nash_point(duel.ref, duel.preference, TAU, against=itself)
    own = nash_point(duel.ref, duel.preference, TAU, against=lambda logp: by_token(duel, logp, beta))
    gap, gains = total_variation(own, best), regularised_exploitability(own, duel.ref, duel.preference, TAU)
    found = {
        name: trained(duel, **options).sequence_logps().detach()
        for name, options in {
            "self-play": {"mixture": 0.0},
            "Nash-EMA": {"opponent": "average", "decay": 0.9},
            "mixture": {"mixture": beta},
        }.items()
    }
    for name in ("self-play", "Nash-EMA"):
        yield Result(f"recipe nash, {name}", "the regularised Nash point", total_variation(found[name], best), NEAR)
    says = f"its own fixed point ({gap:.3f} from the Nash point, exploitable by {gains:.3f})"
    yield Result(f"recipe nash, mixture {beta}", says, total_variation(found["mixture"], own), NEAR)
    missed = total_variation(found["mixture"], best)
    yield Result(f"recipe nash, mixture {beta}", "the Nash point", missed, NEAR, wrong=True)


def by_token(duel: Duel, logp: Tensor, beta: float) -> Tensor:
    """The law [N] of the token-wise mixture of the policy with these log-probabilities and the reference."""
    return mixture(table_of(duel.tree, logp), duel.reference, beta).sequence_logps().detach()


def mixtures() -> Iterator[Result]:
    """Tokens mixed are not sequences mixed, but where a sequence has one token."""
    duel, beta = Duel(TREE, 91), 0.5
    law = mixture(duel.policy, duel.reference, beta).sequence_logps().detach()
    whole = torch.lerp(duel.policy.sequence_logps().detach(), duel.ref, beta).log_softmax(0)
    missed = total_variation(whole, law)
    yield Result("mixture of sequences taken for that of tokens", "the law of the opponent", missed, 1e-3, wrong=True)


def games() -> Iterator[Result]:
    """Rock, paper, scissors; Bradley-Terry; and both exploitabilities against a search for the best response."""
    rock = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]], dtype=torch.float64)
    even = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    start = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    *_, last = mirror_descent(start, even, rock, 0.1, rates=[0.5] * 400, mixed=False)
    yield Result("rock, paper, scissors, uniform mu", "uniform", total_variation(last, even), 1e-6)
    yield Result("exploitability of uniform", "0", abs(exploitability(even, rock)), TIGHT)

    ref, truth = random_logits(ARMS, 95)[0].log_softmax(0), random_rewards(ARMS, 96)
    judged = exact.bradley_terry(truth)
    found = response(ref, ref, judged, TAU)
    missed = total_variation(found, exact.rlhf_optimum(ref, truth, TAU))
    says = "RLHF's optimum, mu exp(r / tau)"
    yield Result("best response to mu, Bradley-Terry preferences", says, missed, 1e-2, wrong=True)
    yield Result(
        "best response to mu",
        "IPO's optimum",
        total_variation(found, exact.ipo_optimum(ref, ref.exp(), judged, TAU)),
        TIGHT,
    )

    preference, logp = game(5, 97), random_logits(ARMS, 98)[0].log_softmax(0)
    free = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([free], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        ours = free.log_softmax(0)
        value = ours.exp() @ preference @ logp.exp() - TAU * (exact.kl(ours, ref) - exact.kl(logp, ref))
        (-value).backward()
        return -value

    solver.step(closure)  # type: ignore[arg-type]
    searched = -float(closure().detach()) - EVEN
    miss = abs(searched - regularised_exploitability(logp, ref, preference, TAU))
    yield Result("regularised exploitability", "that of a searched best response", miss, 1e-8)


def checks() -> Iterator[Result]:
    for part in (tabular, estimators, mixtures, games, recipe):
        yield from part()
