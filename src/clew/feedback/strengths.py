"""The strengths that make judgements most likely, and how sure they are: what every model of choice shares."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv
from scipy.optimize import minimize
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg
from scipy.special import ndtri

from clew.feedback.records import ItemId

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Likelihood(Protocol):
    """Judgements under a model of choice. Parameters [P]: a strength for each item, then the `extras`.

    Only differences of strengths matter: the same added to all items that are connected changes nothing.
    """

    @property
    def items(self) -> tuple[ItemId, ...]: ...
    @property
    def extras(self) -> tuple[str, ...]: ...
    @property
    def counts(self) -> Floats:
        """How often each of the R distinct judgements was made. [R]"""
        ...

    @property
    def clusters(self) -> Ints | None:
        """Which judgements belong together, a rater's or a prompt's; None: each stands for itself. [R]"""
        ...

    @property
    def wins(self) -> tuple[Ints, Ints]:
        """Who was preferred, and to whom; a tie is both ways."""
        ...

    def has_maximum(self) -> bool:
        """Whether the likelihood has a maximum at finite strengths."""
        ...

    def gradient(self, theta: Floats, counts: Floats) -> tuple[float, Floats]:
        """Log-likelihood and its gradient. [P]"""
        ...

    def information(self, theta: Floats, counts: Floats) -> csr_array:
        """Second derivatives of minus the log-likelihood. [P, P]"""
        ...

    def scores(self, theta: Floats) -> csr_array:
        """Gradients of one judgement each. [R, P]"""
        ...


@dataclass(frozen=True, slots=True)
class Fit:
    """Most probable strengths, in logits. Example: `fit_games(games(judged)).difference("a", "b")`"""

    likelihood: Likelihood
    prior: float
    theta: Floats  # [P]
    component: Ints  # [N]

    @property
    def strengths(self) -> dict[ItemId, float]:
        """Of each item, mean zero among those that judgements connect."""
        return dict(zip(self.likelihood.items, self.theta.tolist(), strict=False))

    @property
    def components(self) -> dict[ItemId, int]:
        """Which items can be compared: those of one number."""
        return dict(zip(self.likelihood.items, self.component.tolist(), strict=True))

    @property
    def extras(self) -> dict[str, float]:
        """What was fitted besides strengths."""
        return dict(zip(self.likelihood.extras, self.theta[len(self.likelihood.items) :].tolist(), strict=True))

    def difference(self, first: ItemId, second: ItemId) -> float:
        """How much stronger the first is. ValueError where no chain of judgements leads from one to the other."""
        return float(self.contrast(first, second) @ self.theta)

    def contrast(self, first: ItemId, second: ItemId) -> Floats:
        """The difference as a direction among the parameters. [P]"""
        components = self.components
        if components[first] != components[second]:
            raise ValueError(
                f"{first!r} and {second!r} cannot be compared: no chain of judgements connects them. "
                "Judge items of both parts against each other"
            )
        direction = np.zeros_like(self.theta)
        direction[self.likelihood.items.index(first)] += 1
        direction[self.likelihood.items.index(second)] -= 1
        return direction


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How sure a fit is: normal intervals at `level` from a covariance of its parameters. [P, P]"""

    fit: Fit
    covariance: Floats
    level: float = 0.95

    def strength(self, item: ItemId) -> Estimate:
        """Of an item against the mean of those that it can be compared with."""
        return self._along(self._axis(self.fit.likelihood.items.index(item)))

    def extra(self, name: str) -> Estimate:
        return self._along(self._axis(len(self.fit.likelihood.items) + self.fit.likelihood.extras.index(name)))

    def difference(self, first: ItemId, second: ItemId) -> Estimate:
        """ValueError where no chain of judgements leads from one to the other."""
        return self._along(self.fit.contrast(first, second))

    def _axis(self, place: int) -> Floats:
        direction = np.zeros_like(self.fit.theta)
        direction[place] = 1
        return direction

    def _along(self, direction: Floats) -> Estimate:
        value = float(direction @ self.fit.theta)
        reach = float(ndtri((1 + self.level) / 2) * np.sqrt(direction @ self.covariance @ direction))
        return Estimate(value, value - reach, value + reach)


def most_probable(likelihood: Likelihood, *, prior: float) -> Fit:
    """Maximum of the likelihood times Normal(0, 1 / prior) on every parameter; prior 0: maximum likelihood.

    ValueError where the maximum likelihood is infinite, as for an item that always wins; ArithmeticError where numbers
    are so extreme that no maximum is found.
    """
    if prior < 0:
        raise ValueError(f"the prior is a precision, 0 or more; got {prior}")
    if prior == 0 and not likelihood.has_maximum():
        raise ValueError("some items only win or only lose, so their maximum likelihood is infinite; use a prior > 0")
    n = len(likelihood.items)
    start = np.zeros(n + len(likelihood.extras))
    theta = _exactly(likelihood, prior, _nearly(likelihood, likelihood.counts, prior, start))
    winners, losers = likelihood.wins
    component = connected_components(_graph(winners, losers, n), directed=False)[1].astype(np.int64)
    theta[:n] -= (np.bincount(component, theta[:n]) / np.bincount(component))[component]
    return Fit(likelihood, prior, theta, component)


def sandwich(fit: Fit, *, level: float = 0.95) -> Spread:
    """Intervals that hold though the model is wrong: H^-1 S H^-1 (Huber 1967; White 1982), S summed by cluster.

    S is the outer product of what each judgement, or each cluster of them, pulls at the parameters. Needs memory for a
    square matrix of the items. ValueError for a single judgement or cluster.
    """
    likelihood, n = fit.likelihood, len(fit.likelihood.items)
    curvature = likelihood.information(fit.theta, likelihood.counts).toarray() + fit.prior * np.eye(len(fit.theta))
    if fit.prior == 0:  # a shift of a component changes nothing: any curvature will do there
        curvature[:n, :n] += fit.component[:, None] == fit.component
    scores, clusters = likelihood.scores(fit.theta), likelihood.clusters
    if clusters is None:
        groups, meat = float(likelihood.counts.sum()), scores.T @ diags_array(likelihood.counts) @ scores
    else:
        sums = coo_array((likelihood.counts, (clusters, np.arange(len(clusters))))).tocsr() @ scores
        groups, meat = float(len(np.unique(clusters))), sums.T @ sums
    if groups < 2:
        raise ValueError(f"an interval needs two judgements, or two clusters of them; got {groups:.0f}")
    bread = inv(curvature)
    return Spread(fit, bread @ meat.toarray() @ bread * (groups / (groups - 1)), level)


def bootstrap(fit: Fit, rng: np.random.Generator, *, rounds: int = 200, level: float = 0.95) -> Spread:
    """Intervals from fits to judgements drawn anew: multinomial counts of the distinct ones, or of whole clusters.

    ValueError without a prior: what is drawn anew may have no maximum likelihood.
    """
    if fit.prior == 0:
        raise ValueError("a bootstrap draws samples in which some item always wins; use a prior > 0, or the sandwich")
    likelihood = fit.likelihood
    total = likelihood.counts.sum()
    draws: list[Floats] = []
    for _ in range(rounds):
        if likelihood.clusters is None:
            counts = rng.multinomial(round(total), likelihood.counts / total).astype(float)
        else:
            groups = int(likelihood.clusters.max()) + 1
            times = rng.multinomial(groups, np.full(groups, 1 / groups))
            counts = likelihood.counts * times[likelihood.clusters]
        draws.append(_nearly(likelihood, counts, fit.prior, fit.theta))
    return Spread(fit, np.cov(np.array(draws).T), level)


def is_strongly_connected(winners: Ints, losers: Ints, n: int) -> bool:
    """Ford's condition (1957), in each part where anyone met: everyone can be reached from everyone along wins."""
    graph = _graph(winners, losers, n)
    strong, weak = (connected_components(graph, directed=True, connection=c)[0] for c in ("strong", "weak"))
    return bool(strong == weak)


def _graph(winners: Ints, losers: Ints, n: int) -> csr_array:
    return coo_array((np.ones(len(winners)), (winners, losers)), shape=(n, n)).tocsr()


def _nearly(likelihood: Likelihood, counts: Floats, prior: float, start: Floats) -> Floats:
    """The maximum by L-BFGS, to where rounding of the loss stops it: five digits or so."""

    def loss(theta: Floats) -> tuple[float, Floats]:
        value, gradient = likelihood.gradient(theta, counts)
        return float(prior * (theta @ theta) / 2 - value), prior * theta - gradient

    return minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "maxfun": 100_000, "gtol": _EXACT * max(float(counts.sum()), 1.0), "ftol": 1e-13},
    ).x


def _exactly(likelihood: Likelihood, prior: float, theta: Floats) -> Floats:
    """From near the maximum to it by Newton's steps, which need no loss: its gradient at most _EXACT a judgement."""
    counts = likelihood.counts
    slope = likelihood.gradient(theta, counts)[1] - prior * theta
    for _ in range(10):
        if np.abs(slope).max(initial=0) <= _EXACT * counts.sum():
            break
        curvature = likelihood.information(theta, counts) + prior * eye_array(len(theta))
        scale = diags_array(1 / np.maximum(curvature.diagonal(), 1e-12))
        closer: Floats = theta + cg(curvature, slope, rtol=1e-6, maxiter=10 * len(theta), M=scale)[0]
        new_slope = likelihood.gradient(closer, counts)[1] - prior * closer
        if not np.abs(new_slope).max() < np.abs(slope).max():
            break
        theta, slope = closer, new_slope
    at_first = likelihood.gradient(np.zeros_like(theta), counts)[1]
    if np.abs(slope).max(initial=0) > 1e-6 * max(1.0, np.abs(at_first).max(initial=0)):
        raise ArithmeticError(
            f"strengths did not converge: a slope of {np.abs(slope).max():g} is left; raise the prior"
        )
    return theta


_EXACT = 1e-11
