"""Which pairs to ask people about next: those whose answer would teach the reward most. Pure functions on numbers.

Pairs are rows of `gaps` [N, D], features of the first answer minus those of the second, or columns of `margins`
[M, N], what each member of an ensemble says: score of the first minus score of the second.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import entr, expit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EXPLORED = 0.1
"""Share of a batch that is drawn at random, whatever is thought of the pairs: what the model does not know it does not
know is asked about as well, and held-out comparisons come of it for nothing.
"""


MEMBERS = 32
"""Of an ensemble that is drawn from a posterior."""


class Posterior(NamedTuple):
    """What is known of the weights of a linear reward: Normal(mean, covariance).

    Example: `fitted(gaps_ND, probability_N)`
    """

    mean_D: Floats
    covariance_DD: Floats

    def drawn(self, num: int, rng: np.random.Generator) -> Floats:
        """Weights as they may be: [num, D]."""
        root = np.linalg.cholesky(self.covariance_DD)
        return self.mean_D + rng.normal(size=(num, len(self.mean_D))) @ root.T


def fitted(gaps_ND: Floats, probability_N: Floats, *, weight_N: Floats | None = None, prior: float = 1.0) -> Posterior:
    """Bradley-Terry on features, as a Laplace approximation: weights ~ Normal(0, 1 / prior) before anything is known.

    `probability_N` is that the first is better, 1 or 0 for a hard vote. Without rows it is the prior.
    """
    weight_N = np.ones(len(gaps_ND)) if weight_N is None else weight_N

    def loss(w: Floats) -> tuple[float, Floats]:
        margins = gaps_ND @ w
        value = weight_N @ (np.logaddexp(0, margins) - probability_N * margins)
        return float(value + prior * (w @ w) / 2), gaps_ND.T @ (weight_N * (expit(margins) - probability_N)) + prior * w

    mean = minimize(loss, np.zeros(gaps_ND.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return around(mean, gaps_ND, weight_N=weight_N, prior=prior)


def around(mean_D: Floats, gaps_ND: Floats, *, weight_N: Floats | None = None, prior: float = 1.0) -> Posterior:
    """Laplace approximation at weights that were learnt from answers on these pairs, by whatever learner."""
    known = prior * np.eye(len(mean_D)) + information(gaps_ND, gaps_ND @ mean_D, weight_N=weight_N)
    return Posterior(mean_D, np.asarray(np.linalg.inv(known), dtype=np.float64))


def information(gaps_ND: Floats, margin_N: Floats, *, weight_N: Floats | None = None) -> Floats:
    """Fisher information of answers on these pairs: sum of p (1 - p) v v', [D, D]."""
    chance = expit(margin_N)
    scale = chance * (1 - chance) * (1.0 if weight_N is None else weight_N)
    return (gaps_ND * scale[:, None]).T @ gaps_ND


def disagreement(margins_MN: Floats) -> Floats:
    """Variance over an ensemble of the probability that the first is better (Christiano et al., 1706.03741, 2.2.4)."""
    return np.asarray(expit(margins_MN).var(0), dtype=np.float64)


def bald(margins_MN: Floats) -> Floats:
    """Nats that an answer is expected to tell about the ensemble (Houlsby et al., 1112.5745): H(mean p) - mean H(p)."""
    chance = expit(margins_MN)
    return np.maximum(_entropy(chance.mean(0)) - _entropy(chance).mean(0), 0.0)


def d_optimal(gaps_ND: Floats, posterior: Posterior) -> Floats:
    """Gain in log det of the information: log(1 + p (1 - p) v' C v), by the matrix determinant lemma."""
    chance = expit(gaps_ND @ posterior.mean_D)
    return np.log1p(chance * (1 - chance) * _spread(gaps_ND, posterior.covariance_DD))


def d_optimal_batch(gaps_ND: Floats, posterior: Posterior, num: int) -> Ints:
    """The best pair, then the best given that the first was asked, and so on: no two of them say the same."""
    chance = expit(gaps_ND @ posterior.mean_D)
    certain_N, covariance = chance * (1 - chance), posterior.covariance_DD.copy()
    spread_N, chosen = _spread(gaps_ND, covariance), list[int]()
    open_N = np.ones(len(gaps_ND), dtype=bool)
    for _ in range(min(num, len(gaps_ND))):
        best = int(np.argmax(np.where(open_N, certain_N * spread_N, -np.inf)))
        chosen.append(best)
        open_N[best] = False
        told = covariance @ gaps_ND[best]  # rank-one update of the inverse (Sherman and Morrison)
        shrink = certain_N[best] / (1 + certain_N[best] * float(gaps_ND[best] @ told))
        covariance -= shrink * np.outer(told, told)
        spread_N -= shrink * (gaps_ND @ told) ** 2
    return np.array(chosen, dtype=np.int64)


def thompson(values_MK: Floats, rng: np.random.Generator) -> tuple[int, int]:
    """Two of K answers to one prompt, each the best in a random member's eyes (double Thompson sampling, 1604.07101).

    A second draw that names the same answer is taken again; where all members agree it is the runner-up of one.
    """
    first, *others = rng.permutation(len(values_MK))
    best = int(np.argmax(values_MK[first]))
    for member in others:
        if (found := int(np.argmax(values_MK[member]))) != best:
            return best, found
    return best, int(np.argsort(-values_MK[first])[1])


def at_random(pool_ND: Floats, known: Posterior, num: int, rng: np.random.Generator) -> Ints:
    """The baseline."""
    return mixed(np.empty(0, dtype=np.int64), len(pool_ND), num, rng)


def by_information(
    pool_ND: Floats, known: Posterior, num: int, rng: np.random.Generator, *, explored: float = EXPLORED
) -> Ints:
    """D-optimal as a batch: the answers that together narrow the posterior most."""
    return mixed(d_optimal_batch(pool_ND, known, num), len(pool_ND), num, rng, explored=explored)


def by_disagreement(
    pool_ND: Floats, known: Posterior, num: int, rng: np.random.Generator, *, explored: float = EXPLORED
) -> Ints:
    """Where members drawn from the posterior differ most in what they expect."""
    scores = disagreement(known.drawn(MEMBERS, rng) @ pool_ND.T)
    return mixed(highest(scores, num, rng), len(pool_ND), num, rng, explored=explored)


def by_bald(
    pool_ND: Floats, known: Posterior, num: int, rng: np.random.Generator, *, explored: float = EXPLORED
) -> Ints:
    """Where members drawn from the posterior are each sure, and not of the same."""
    scores = bald(known.drawn(MEMBERS, rng) @ pool_ND.T)
    return mixed(highest(scores, num, rng), len(pool_ND), num, rng, explored=explored)


def highest(scores_N: Floats, num: int, rng: np.random.Generator) -> Ints:
    """Places of the highest scores, best first; equal ones in random order."""
    shuffled = rng.permutation(len(scores_N))
    return shuffled[np.argsort(-scores_N[shuffled], kind="stable")][:num]


def mixed(best: Ints, size: int, num: int, rng: np.random.Generator, *, explored: float = EXPLORED) -> Ints:
    """`num` places of 0 .. size - 1, none twice: the first of `best`, and a share drawn at random from the others.

    Raises ValueError when there are not so many.
    """
    if num > size:
        raise ValueError(f"{num} pairs wanted of {size}; sample more, or ask for fewer")
    first = best[: num - round(explored * num)]
    others = np.setdiff1d(np.arange(size), first)
    return np.concatenate([first, rng.permutation(others)[: num - len(first)]])


def _spread(gaps_ND: Floats, covariance_DD: Floats) -> Floats:
    return np.einsum("nd,nd->n", gaps_ND @ covariance_DD, gaps_ND)


def _entropy(chance: Floats) -> Floats:
    return entr(chance) + entr(1 - chance)


SELECTIONS = {
    "random": at_random, "d_optimal": by_information, "disagreement": by_disagreement, "bald": by_bald,
}  # fmt: skip
