"""Bradley-Terry from counts of comparisons, with ties and with what else sways a judgement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, diags_array, hstack, vstack
from scipy.special import expit, log_expit

from clew.feedback.records import ItemId
from clew.feedback.strengths import Fit, Floats, Ints, is_strongly_connected, most_probable

Ties = Literal["half", "davidson", "rao_kupper"]


class Games(NamedTuple):
    """R distinct comparisons and how often each was made; `clew.feedback.aggregate.games` counts them."""

    items: tuple[ItemId, ...]
    first: Ints  # [R] places among the items
    second: Ints  # [R]
    probability: Floats  # [R] that the first is better
    weight: Floats  # [R] how much one of these comparisons counts
    counts: Floats  # [R] how often it was made
    features: Floats  # [R, F] what else speaks for the first, less what speaks for the second
    feature_names: tuple[str, ...] = ()
    clusters: Ints | None = None  # [R]


def fit_games(games: Games, *, ties: Ties = "half", prior: float = 0.1) -> Fit:
    """Strengths s and coefficients b: the first is better with logit s_i - s_j + b . features (Bradley & Terry 1952).

    Strengths are so those of items alike in every feature: controlled for length where length is one. Gaussian prior
    Normal(0, 1 / prior) on every parameter; 0 is maximum likelihood. Ties: half a win each; or a third outcome whose
    extra `tie` is log nu, by Davidson (1970) with tie : win = nu sqrt(p_i p_j) : p_i, or by Rao & Kupper (1967) with
    their theta = 1 + nu. In both, equals tie with probability nu / (2 + nu).
    ValueError: an infinite maximum likelihood; for the tie models, a probability other than 0, 0.5 and 1.
    """
    if ties != "half" and not np.isin(games.probability, (0, 0.5, 1)).all():
        odd = games.probability[~np.isin(games.probability, (0, 0.5, 1))][0]
        raise ValueError(f"ties={ties!r} needs judgements that are won, lost or tied; got {odd}; use ties='half'")
    return most_probable(_Compared(games, ties), prior=prior)


@dataclass(frozen=True)
class _Compared:
    """Each row's log-likelihood is a function of its gap and of the tie parameter, both linear in the parameters."""

    games: Games
    ties: Ties

    @property
    def items(self) -> tuple[ItemId, ...]:
        return self.games.items

    @property
    def extras(self) -> tuple[str, ...]:
        return self.games.feature_names + (() if self.ties == "half" else ("tie",))

    @property
    def counts(self) -> Floats:
        return self.games.counts

    @property
    def clusters(self) -> Ints | None:
        return self.games.clusters

    @property
    def wins(self) -> tuple[Ints, Ints]:
        g = self.games
        won, lost = g.probability > 0, g.probability < 1
        return np.concatenate([g.first[won], g.second[lost]]), np.concatenate([g.second[won], g.first[lost]])

    def has_maximum(self) -> bool:
        return self._is_bounded() if self.extras else is_strongly_connected(*self.wins, len(self.items))

    def gradient(self, theta: Floats, counts: Floats) -> tuple[float, Floats]:
        row, weight = self._rows(theta), counts * self.games.weight
        return float(weight @ row.value), self._gap.T @ (weight * row.gap) + self._tie.T @ (weight * row.tie)

    def information(self, theta: Floats, counts: Floats) -> csr_array:
        row, weight = self._rows(theta), -counts * self.games.weight
        both = self._gap.T @ diags_array(weight * row.gap_tie) @ self._tie
        gaps = self._gap.T @ diags_array(weight * row.gap_gap) @ self._gap
        return csr_array(gaps + both + both.T + self._tie.T @ diags_array(weight * row.tie_tie) @ self._tie)

    def scores(self, theta: Floats) -> csr_array:
        row, weight = self._rows(theta), self.games.weight
        return csr_array(diags_array(weight * row.gap) @ self._gap + diags_array(weight * row.tie) @ self._tie)

    @cached_property
    def _gap(self) -> csr_array:
        """Gap of each row from the parameters. [R, P]"""
        g, (rows, n) = self.games, (len(self.games.first), len(self.items))
        places = np.stack([g.first, g.second], axis=1).ravel()
        pairs = csr_array((np.tile([1.0, -1.0], rows), places, np.arange(0, 2 * rows + 1, 2)), shape=(rows, n))
        return hstack([pairs, csr_array(g.features), csr_array((rows, self.ties != "half"))], format="csr")

    @cached_property
    def _tie(self) -> csr_array:
        """Tie parameter of each row from the parameters. [R, P]"""
        rows, size = self._gap.shape
        if self.ties == "half":
            return csr_array((rows, size))
        return csr_array((np.ones(rows), np.full(rows, size - 1), np.arange(rows + 1)), shape=(rows, size))

    def _rows(self, theta: Floats) -> "_Row":
        return _TIES[self.ties](self._gap @ theta, self._tie @ theta, self.games.probability)

    def _is_bounded(self) -> bool:
        """No direction makes some judgement more likely and none less, for ever (Albert & Anderson 1984), by an LP."""
        p, gap, tie = self.games.probability, self._gap, self._tie
        won, lost = p > 0, p < 1
        if self.ties != "half":
            tied, won, lost = p == 0.5, p == 1, p == 0
            against = [gap[won] / 2 - tie[won], -gap[lost] / 2 - tie[lost], tie[tied] - gap[tied] / 2]
            toward = [tie[tied] + gap[tied] / 2, *against]
        else:
            toward = []
        favours = vstack([gap[won], -gap[lost], *toward], format="csr")
        ways = LinearConstraint(favours, 0, 1)
        best = milp(-favours.sum(axis=0), constraints=ways, bounds=Bounds(-np.inf, np.inf))
        return best.fun is not None and bool(best.fun > -1e-6)


class _Row(NamedTuple):
    """Log-likelihood of one comparison of each row, and its first and second derivatives. All [R]"""

    value: Floats
    gap: Floats
    tie: Floats
    gap_gap: Floats
    gap_tie: Floats
    tie_tie: Floats


def _half(gap: Floats, tie: Floats, probability: Floats) -> _Row:
    small, none = np.exp(-np.abs(gap)), np.zeros_like(gap)
    chance = np.where(gap > 0, 1, small) / (1 + small)
    value = probability * gap - np.maximum(gap, 0) - np.log(1 + small)
    return _Row(value, probability - chance, none, -chance * (1 - chance), none, none)


def _davidson(gap: Floats, tie: Floats, probability: Floats) -> _Row:
    tied, side = probability == 0.5, probability - 0.5
    scale = np.logaddexp(np.logaddexp(gap / 2, -gap / 2), tie)
    win, lose, draw = np.exp(gap / 2 - scale), np.exp(-gap / 2 - scale), np.exp(tie - scale)
    lead = win - lose
    return _Row(
        value=side * gap + tied * tie - scale,
        gap=side - lead / 2,
        tie=tied - draw,
        gap_gap=(lead**2 - win - lose) / 4,
        gap_tie=draw * lead / 2,
        tie_tie=-draw * (1 - draw),
    )


def _rao_kupper(gap: Floats, tie: Floats, probability: Floats) -> _Row:
    """With log theta = t = log(1 + nu): P(win) = sigma(gap - t), P(loss) = sigma(-gap - t).

    P(tie) = (theta^2 - 1) P(win) P(loss), so that a tie is a win, a loss and a factor.
    """
    tied, won, lost = probability == 0.5, probability >= 0.5, probability <= 0.5
    threshold, slope = np.logaddexp(0, tie), expit(tie)
    win, lose = expit(gap - threshold), expit(-gap - threshold)
    bend: Floats = expit(np.subtract(tie, np.log(2)))
    miss = won * (1 - win) + lost * (1 - lose)
    won_bend, lost_bend = won * win * (1 - win), lost * lose * (1 - lose)
    factor = tied * (tie + np.logaddexp(np.log(2), tie))
    return _Row(
        value=won * log_expit(gap - threshold) + lost * log_expit(-gap - threshold) + factor,
        gap=won * (1 - win) - lost * (1 - lose),
        tie=tied * (1 + bend) - slope * miss,
        gap_gap=-won_bend - lost_bend,
        gap_tie=slope * (won_bend - lost_bend),
        tie_tie=tied * bend * (1 - bend) - slope * (1 - slope) * miss - slope**2 * (won_bend + lost_bend),
    )


_TIES: Mapping[Ties, Callable[[Floats, Floats, Floats], _Row]] = {
    "half": _half,
    "davidson": _davidson,
    "rao_kupper": _rao_kupper,
}
