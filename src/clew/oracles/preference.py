"""Preference losses at the optimum of their population: every pair of sequences, weighed by its probability."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations

import torch
from torch import Tensor

from clew.batch import Batch
from clew.data.collate import collate
from clew.learn.learner import Part
from clew.losses import pair as losses
from clew.losses.pair import PairLogps
from clew.losses.single import kto
from clew.oracles import exact
from clew.oracles.result import Result, gradient, minimise, root
from clew.oracles.worlds import TablePolicy, Tree, random_logits, random_rewards, total_variation
from clew.pairwise import pair_objective
from clew.recipes.preference import kto_objective

TREE, FIXED, TWO = Tree(3, 3), Tree(3, 2, fixed=True), Tree(2, 1)
BETA, TAU, EPS = 0.5, 0.5, 0.1
TIGHT = 1e-6


class Setting:
    """A tree with a reference, rewards, and the law by which pairs are drawn and judged."""

    def __init__(self, tree: Tree, *, seed: int = 0, rewards: Tensor | None = None) -> None:
        self.tree = tree
        self.reference = TablePolicy(tree, random_logits(tree, seed))
        self.ref = self.reference.sequence_logps().detach()
        self.rewards = random_rewards(tree, seed + 1) if rewards is None else rewards
        self.preference = exact.bradley_terry(self.rewards)
        self.sampling = torch.full_like(self.ref, 1 / len(self.ref))

    def batch(self, preference: Tensor | None = None) -> Batch:
        """All ordered pairs of different sequences, first chosen, weighed by mu_i mu_j P(i beats j)."""
        judged = self.preference if preference is None else preference
        rows = self.tree.rows()
        pairs = list(permutations(range(len(rows)), 2))
        batch = collate([[rows[i], rows[j]] for i, j in pairs], ranks=[[0, 1]] * len(pairs))
        law = torch.stack([self.sampling[i] * self.sampling[j] * judged[i, j] for i, j in pairs])
        refs = torch.stack([self.ref[k] for pair in pairs for k in pair])
        return batch.with_weights(item=law).with_extras(
            ref_logps=refs, agreement=torch.ones(len(pairs), dtype=torch.float64)
        )

    def fitted(self, loss: partial[Tensor], batch: Batch | None = None) -> TablePolicy:
        policy = TablePolicy(self.tree, self.reference.logits.detach())
        minimise(policy, Part(batch or self.batch(), pair_objective(loss)))
        return policy

    def distance(self, policy: TablePolicy, target: Tensor) -> float:
        return total_variation(policy.sequence_logps(), target)


def population() -> Iterator[Result]:
    """Losses with a closed form over all sequences."""
    world = Setting(TREE)
    best = exact.rlhf_optimum(world.ref, world.rewards, BETA)
    says = "ref exp(r / beta)"
    yield Result("dpo", says, world.distance(world.fitted(partial(losses.dpo, beta=BETA)), best), TIGHT)

    flipped = (1 - EPS) * world.preference + EPS * world.preference.T
    noisy = world.batch(flipped)
    robust = world.fitted(partial(losses.robust_dpo, beta=BETA, flip_rate=EPS), noisy)
    yield Result("robust_dpo, 10 % of labels flipped", says, world.distance(robust, best), TIGHT)
    wrong = world.fitted(partial(losses.dpo, beta=BETA), noisy)
    yield Result("dpo on flipped labels as if clean", says, world.distance(wrong, best), TIGHT, wrong=True)
    wrong = world.fitted(partial(_mean_dpo, beta=BETA))
    yield Result("dpo on mean instead of summed log-ratios", says, world.distance(wrong, best), TIGHT, wrong=True)
    wrong = world.fitted(partial(losses.dpo, beta=BETA), _without_stop_tokens(world))
    yield Result("dpo without the stop token", says, world.distance(wrong, best), TIGHT, wrong=True)

    cycle = torch.sigmoid(torch.triu(random_logits(Tree(len(world.ref), 2), 3)[1:], 1))
    cyclic = torch.triu(cycle, 1) + torch.tril(1 - cycle.T, -1) + 0.5 * torch.eye(len(cycle), dtype=torch.float64)
    says, target = "ref exp(p(y beats mu) / tau), cyclic", exact.ipo_optimum(world.ref, world.sampling, cyclic, TAU)
    intransitive = world.batch(cyclic)
    fitted = world.fitted(partial(losses.ipo, tau=TAU), intransitive)
    yield Result("ipo", says, world.distance(fitted, target), TIGHT)
    wrong = world.fitted(partial(losses.ipo_mean, tau=TAU), intransitive)
    yield Result("ipo, length-normalised, as the summed one", says, world.distance(wrong, target), TIGHT, wrong=True)

    even = Setting(FIXED, seed=5)
    target = exact.ipo_optimum(even.ref, even.sampling, FIXED.depth * even.preference, TAU)
    fitted = even.fitted(partial(losses.ipo_mean, tau=TAU))
    yield Result("ipo_mean, equal lengths T", "ref exp(T p(y beats mu) / tau)", even.distance(fitted, target), TIGHT)


def two_answers() -> Iterator[Result]:
    """Losses whose optimum is known for two answers: the logit of the first, from the loss's own stationarity."""
    p = 0.8
    ratio = exact.logit(p)
    world = Setting(TWO, seed=2, rewards=torch.tensor([ratio, 0.0], dtype=torch.float64))
    offset = float(world.ref[0] - world.ref[1])

    def logit_of(loss: Callable[..., Tensor], **options: float) -> float:
        logps = world.fitted(partial(loss, **options)).sequence_logps().detach()
        return float(logps[0] - logps[1])

    smoothed = exact.logit((1 - 2 * EPS) * p + EPS) / BETA + offset
    found = logit_of(losses.dpo, beta=BETA, label_smoothing=EPS)
    yield Result("cdpo", "beta gap = logit((1-2eps) p + eps)", abs(found - smoothed), TIGHT)
    wrong = abs(logit_of(losses.dpo, beta=BETA) - smoothed)
    yield Result("cdpo with its smoothing ignored", "beta gap = logit((1-2eps) p + eps)", wrong, TIGHT, wrong=True)

    found = abs(logit_of(losses.hinge, beta=BETA) - (1 / BETA + offset))
    yield Result("hinge", "beta gap = 1, where p > 1/2", found, 1e-4)

    beta, margin = 2.0, 1.0
    sigma = torch.sigmoid

    def simpo_slope(u: float) -> float:
        x = torch.tensor(beta * u, dtype=torch.float64)
        return float(p * sigma(margin - x) - (1 - p) * sigma(margin + x))

    target = root(simpo_slope)
    found = abs(logit_of(losses.simpo, beta=beta, margin=margin) - target)
    yield Result("simpo", "p s(m - b u) = (1-p) s(m + b u)", found, TIGHT)

    lam = 0.1

    def orpo_slope(u: float) -> float:  # NLL pulls to p; log odds of one-token answers are +-u, their gap 2u
        x = torch.tensor(u, dtype=torch.float64)
        nll = sigma(x) - p
        return float(nll + 2 * lam * ((1 - p) * sigma(2 * x) - p * sigma(-2 * x)))

    target = root(orpo_slope)
    yield Result("orpo", "s(u) - p + 2 lam (s(2u) - p) = 0", abs(logit_of(losses.orpo, lam=lam) - target), TIGHT)


def at_the_reference() -> Iterator[Result]:
    """Value and gradient at a gap of zero (METHODS, section C), where the optimum has no closed form."""
    for loss, value, chosen, rejected in (
        (losses.apo_zero, 1.0, -BETA / 4, BETA / 4),
        (losses.apo_down, 1.0, 0.0, BETA / 4),
    ):
        logps = torch.full((2, 1), -1.3, dtype=torch.float64, requires_grad=True)
        ref, one = logps.detach(), torch.ones(1)
        out = loss(PairLogps(logps[0], logps[1], ref[0], ref[1], one, one), beta=BETA)
        found = torch.autograd.grad(out.sum(), logps)[0].flatten()
        expected = torch.tensor([value, chosen, rejected], dtype=torch.float64)
        miss = float((torch.cat([out.detach(), found]) - expected).abs().max())
        yield Result(loss.__name__, "value and gradient at the reference", miss, 1e-12)


def kahneman_tversky() -> Iterator[Result]:
    """KTO with z fixed: its gradient in closed form, and the answer that its weights drive to nothing."""
    arms = Tree(5, 1)
    world = Setting(arms, seed=7)
    good = torch.tensor([0.9, 0.7, 0.55, 0.45, 0.2], dtype=torch.float64)  # P(desirable | answer)
    z, rows = 0.05, arms.rows()
    batch = collate([[row] for row in rows + rows])
    batch = batch.with_extras(
        ref_logps=world.ref.repeat(2),
        desirable=torch.tensor([True] * 5 + [False] * 5),
        agreement=torch.ones(10),
        z=torch.full((10,), z, dtype=torch.float64),
    ).with_weights(item=torch.cat([good, 1 - good]) / 5)
    part = Part(batch, kto_objective(partial(kto, beta=BETA)))

    policy = TablePolicy(arms, random_logits(arms, 8))
    logps = policy.sequence_logps().detach()
    slope = torch.sigmoid(BETA * (logps - world.ref - z))
    pull = (good - (1 - good)) / 5 * BETA * slope * (1 - slope)
    expected = -(pull - logps.exp() * pull.sum())
    miss = float((gradient(policy, part) - expected).abs().max())
    yield Result("kto, gradient", "-(a - pi sum a)", miss, 1e-12)

    minimise(policy, part)
    gone = float(policy.sequence_logps().detach().exp()[3:].sum())
    yield Result("kto, limit", "answers with P(good) < 1/2 vanish", gone, 1e-3)


def _mean_dpo(pair: PairLogps, *, beta: float) -> Tensor:
    gap = pair.chosen_ratio / pair.chosen_length - pair.rejected_ratio / pair.rejected_length
    return -torch.nn.functional.logsigmoid(beta * gap)


def _without_stop_tokens(world: Setting) -> Batch:
    """The same pairs with EOS left out of the mask and of the reference's sums."""
    batch = world.batch()
    mask = batch.mask & (batch.tokens != 0)
    masked = Batch(batch.tokens, batch.real, mask, batch.item, batch.rank, batch.weights, batch.extras)
    refs = world.reference.evaluate(masked).logps
    assert refs is not None
    return masked.with_extras(ref_logps=masked.per_row(refs.detach()))


def checks() -> Iterator[Result]:
    yield from population()
    yield from two_answers()
    yield from at_the_reference()
    yield from kahneman_tversky()
