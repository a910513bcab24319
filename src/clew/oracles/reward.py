"""Reward-model losses on the whole population of judgements: do they recover the truth, up to what is identified?"""

from collections.abc import Callable, Iterator
from itertools import permutations

import torch
from torch import Tensor

from clew.batch import Batch, Term
from clew.data.collate import collate
from clew.judgements import Raters, rank_objective
from clew.learn.learner import Part
from clew.losses.rank import Ranked, all_pairs, crowd_bt, mixed_uniform, plackett_luce, rater_prior
from clew.losses.single import huber, ordered_cuts, ordinal, regression, thumbs
from clew.oracles.result import Result, minimise, root
from clew.oracles.worlds import TableReward, Tree, random_rewards

ARMS = Tree(4, 1)
TIGHT = 1e-6


def rankings(rewards: Tensor, size: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """Every ordered choice of `size` answers, with its Plackett-Luce probability given which answers were shown."""
    orders = list(permutations(range(len(rewards)), size))
    probabilities = []
    for order in orders:
        left = rewards[list(order)]
        probabilities.append(torch.stack([left[i] - left[i:].logsumexp(0) for i in range(size)]).sum().exp())
    return orders, torch.stack(probabilities)


def ranked_batch(
    orders: list[tuple[int, ...]], weights: Tensor, *, margin: float = 0.0, agreement: float = 1.0
) -> Batch:
    rows = ARMS.rows()
    ranks = [list(range(len(order))) for order in orders]
    batch = collate([[rows[i] for i in order] for order in orders], ranks=ranks)
    same = torch.ones(len(orders), dtype=torch.float64)
    return batch.with_weights(item=weights / weights.sum()).with_extras(
        margin=margin * same, agreement=agreement * same
    )


def fitted(loss: Callable[..., Tensor], batch: Batch, centre: float = 0.0) -> Tensor:
    model = TableReward(ARMS)
    minimise(model, Part(batch, rank_objective(loss, centre)))
    return model.table.detach()


def miss(found: Tensor, truth: Tensor) -> float:
    """Largest error once both have mean zero: comparisons leave the offset free."""
    return float(((found - found.mean()) - (truth - truth.mean())).abs().max())


def comparisons() -> Iterator[Result]:
    truth = random_rewards(ARMS, 11)
    says = "the true reward, up to an offset"
    pairs = ranked_batch(*rankings(truth, 2))
    yield Result("bradley_terry", says, miss(fitted(all_pairs, pairs), truth), TIGHT)
    yield Result("plackett_luce, K = 2", says, miss(fitted(plackett_luce, pairs), truth), TIGHT)
    triples = ranked_batch(*rankings(truth, 3))
    yield Result("all_pairs, K = 3", says, miss(fitted(all_pairs, triples), truth), TIGHT)
    yield Result("plackett_luce, K = 3", says, miss(fitted(plackett_luce, triples), truth), TIGHT)
    wrong = miss(fitted(_never_removed, triples), truth)
    yield Result("plackett_luce that never removes the placed", says, wrong, TIGHT, wrong=True)

    orders, probability = rankings(truth, 2)
    noisy = ranked_batch(orders, 0.9 * probability + 0.1 * 0.5)
    found = miss(fitted(_mixed, noisy), truth)
    yield Result("mixed_uniform, 10 % random answers", says, found, TIGHT)
    wrong = miss(fitted(all_pairs, noisy), truth)
    yield Result("bradley_terry on random answers as if honest", says, wrong, TIGHT, wrong=True)


def crowd() -> Iterator[Result]:
    """An honest rater who never sees the last answer, and an adversary who alone compares it."""
    truth, reliability = random_rewards(ARMS, 11), torch.tensor([0.9, 0.1], dtype=torch.float64)
    orders = [(order, rater) for rater in (0, 1) for order in permutations(range(4), 2) if rater or 3 not in order]
    rater = torch.tensor([r for _, r in orders])
    wins = torch.stack([torch.sigmoid(truth[i] - truth[j]) for (i, j), _ in orders])
    share = reliability[rater] * wins + (1 - reliability[rater]) * (1 - wins)
    batch = ranked_batch([order for order, _ in orders], share).with_extras(rater=rater)

    def fit(loss: Callable[..., Tensor]) -> float:
        model = TableReward(ARMS)
        model.set_raters(["honest", "adversary"], torch.tensor([1.4, 0.0]))
        assert model.raters is not None
        nothing = torch.zeros(2, dtype=torch.float64)
        minimise(model, Part(batch, rank_objective(loss, 0.0, Raters(model.raters, nothing, nothing, nothing + 1))))
        found = torch.sigmoid(model.raters.detach())
        return max(miss(model.table.detach(), truth), float((found - reliability).abs().max()))

    says = "the true reward and reliabilities"
    yield Result("crowd_bt, with an adversary", says, fit(crowd_bt), TIGHT)
    yield Result("crowd_bt that takes adversaries for noise", says, fit(_no_adversaries), TIGHT, wrong=True)
    yield Result("bradley_terry on an adversary's labels as if honest", says, fit(all_pairs), TIGHT, wrong=True)

    def slope(log_odds: float) -> float:
        odds = torch.tensor([log_odds], dtype=torch.float64, requires_grad=True)
        far = Ranked(*_far_apart(7, 3), odds.expand(10))  # 7 labels as the scores have it, 3 against
        loss = crowd_bt(far).sum() + rater_prior(odds, *torch.tensor([[4.0], [1.0]]).double()).sum()
        return float(torch.autograd.grad(loss, odds)[0])

    reliable = float(torch.sigmoid(torch.tensor(root(slope), dtype=torch.float64)))
    yield Result("rater_prior", "(right + 7) / (right + wrong + 10)", abs(reliable - 11 / 15), TIGHT)


def one_pair() -> Iterator[Result]:
    """Optimal gap of a single pair."""

    def gap(agreement: float, *, margin: float = 0.0, smoothing: float = 0.0) -> float:
        def loss(ranked: Ranked) -> Tensor:
            return all_pairs(ranked, label_smoothing=smoothing)

        one = torch.ones(1, dtype=torch.float64)
        table = fitted(loss, ranked_batch([(0, 1)], one, margin=margin, agreement=agreement))
        return float(table[0] - table[1])

    yield Result("soft label q", "gap = logit q", abs(gap(0.8) - _logit(0.8)), TIGHT)
    yield Result("label smoothing eps", "gap = logit(1 - eps)", abs(gap(1.0, smoothing=0.1) - _logit(0.9)), TIGHT)
    wide = abs(gap(0.8, margin=1.0) - _gap_with_margin(0.8, 1.0))
    yield Result("margin m with soft label q", "q s(m - x) = (1-q) s(m + x)", wide, TIGHT)

    truth = random_rewards(ARMS, 11)
    found = fitted(all_pairs, ranked_batch(*rankings(truth, 2)), centre=1e-4)
    yield Result("centring", "mean score 0", abs(float(found.mean())), TIGHT)


def ratings() -> Iterator[Result]:
    """Single answers: the population's mean rating, share of thumbs, and the levels of an ordinal scale."""
    rows = ARMS.rows()
    shares = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.4, 0.3], [0.6, 0.3, 0.1], [0.25, 0.5, 0.25]], dtype=torch.float64)
    batch = collate([[row] for row in rows for _ in range(3)]).with_weights(item=shares.flatten() / 4)
    levels = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).repeat(4)
    mean = (shares * torch.arange(3)).sum(1)

    def fit(loss: Callable[..., Tensor], labels: Tensor) -> TableReward:
        model = TableReward(ARMS)
        minimise(model, Part(batch, lambda outputs, b: ([Term("point", loss(outputs.scores, labels), "item")], [])))
        return model

    yield Result("regression", "mean rating", float((fit(regression, levels).table.detach() - mean).abs().max()), TIGHT)
    wide = float((fit(_wide_huber, levels).table.detach() - mean).abs().max())
    yield Result("huber, delta beyond the data", "mean rating", wide, TIGHT)
    up = (levels == 2).double()
    share = float((torch.sigmoid(fit(thumbs, up).table.detach()) - shares[:, 2]).abs().max())
    yield Result("thumbs", "share of thumbs up", share, TIGHT)

    # Data drawn from the ordinal model itself come back: same probability of every level for every answer.
    truth, cuts = random_rewards(ARMS, 12), torch.tensor([-0.5, 0.8], dtype=torch.float64)
    below = torch.sigmoid(cuts - truth[:, None])
    law = torch.cat([below[:, :1], below.diff(dim=1), 1 - below[:, -1:]], 1)
    model = TableReward(ARMS)
    model.set_cuts(torch.zeros(2))
    weighed = batch.with_weights(item=law.flatten() / 4)
    part = Part(
        weighed, lambda o, b: ([Term("point", ordinal(o.scores, levels.long(), ordered_cuts(_raw(model))), "item")], [])
    )
    minimise(model, part)
    found = torch.sigmoid(ordered_cuts(_raw(model)).detach() - model.table.detach()[:, None])
    yield Result("ordinal", "P(level <= k) = s(c_k - r)", float((found - below).abs().max()), TIGHT)


def _raw(model: TableReward) -> Tensor:
    assert model.cuts is not None
    return model.cuts


def _mixed(ranked: Ranked) -> Tensor:
    return mixed_uniform(ranked, noise=0.1)


def _no_adversaries(ranked: Ranked) -> Tensor:
    """Reliabilities below a half as a half."""
    assert ranked.log_odds is not None
    return crowd_bt(ranked._replace(log_odds=ranked.log_odds.clamp(min=0.0)))


def _far_apart(right: int, wrong: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pairs whose scores leave no doubt, in the order of the labels and against it."""
    scores = torch.tensor([[30.0, -30.0]] * right + [[-30.0, 30.0]] * wrong, dtype=torch.float64)
    num = len(scores)
    zero = torch.zeros(num, dtype=torch.float64)
    return scores, torch.tensor([[0, 1]] * num), torch.ones(num, 2, dtype=torch.bool), zero, zero + 1


def _wide_huber(scores: Tensor, labels: Tensor) -> Tensor:
    return huber(scores, labels, delta=100.0)


def _never_removed(ranked: Ranked) -> Tensor:
    """Every place as a choice among all answers, those already placed included."""
    return (ranked.scores.logsumexp(1, keepdim=True) - ranked.scores).sum(1)


def _gap_with_margin(q: float, margin: float) -> float:
    def slope(x: float) -> float:
        up, down = (float(torch.sigmoid(torch.tensor(margin + s * x, dtype=torch.float64))) for s in (-1, 1))
        return q * up - (1 - q) * down

    return root(slope)


def _logit(p: float) -> float:
    return float(torch.logit(torch.tensor(p, dtype=torch.float64)))


def checks() -> Iterator[Result]:
    yield from comparisons()
    yield from crowd()
    yield from one_pair()
    yield from ratings()
