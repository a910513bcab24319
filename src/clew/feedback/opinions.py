"""Differences of opinion: raters who depart from the consensus together, not at random. Subjective is not spam."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from clew.feedback.aggregate import Outcome, bradley_terry
from clew.feedback.records import ItemId
from clew.feedback.significance import benjamini_hochberg
from clew.feedback.tastes import Ballots, Floats, Unseen, consensus, regression, residuals, unseen

AGAINST = -0.5
"""Below this correlation with the consensus, votes are the consensus turned round (more than 120 degrees)."""


class Kinship(NamedTuple):
    """Whether what others value, the consensus or a taste beside it, explains a rater's votes."""

    rater: str
    lean: float
    """Correlation of what the rater values with the consensus: 1 the same, 0 something else, -1 the opposite."""
    p_value: float
    """That others' values explain nothing of the votes."""
    p_beside: float
    """That the taste beside the consensus adds nothing to it."""
    taste: float
    """How much the rater cares for that taste, and in which direction, in logits of a typical contrast."""

    def is_shared(self, level: float = 0.1) -> bool:
        """The rater means something that others mean too, and not the consensus turned round: no spammer, no troll."""
        return self.p_value <= level and self.lean > AGAINST


def kinships(ballots: Ballots, seen: Unseen) -> list[Kinship]:
    """One for every rater, by likelihood ratio of logistic regressions on values that the rater had no part in."""
    return [_kinship(name, ballots, seen, ballots.rater == u) for u, name in enumerate(ballots.raters)]


def _kinship(name: str, ballots: Ballots, seen: Unseen, mine: np.ndarray) -> Kinship:
    says, common, tastes = ballots.says[mine], seen.consensus[mine], seen.tastes[mine]
    if not len(says):
        return Kinship(name, 0.0, 1.0, 1.0, 0.0)
    both = regression(tastes, says)
    nothing, alone = regression(tastes[:, :0], says), regression(common[:, None], says)
    beside = regression(np.column_stack([common, tastes[:, 1]]), says)
    values = tastes @ both.slopes
    spread = values.std() * common.std()
    lean = float(np.mean((values - values.mean()) * (common - common.mean())) / spread) if spread > 0 else 0.0
    return Kinship(
        name,
        lean,
        float(chi2.sf(2 * (both.log_likelihood - nothing.log_likelihood), 2)),
        float(chi2.sf(2 * max(beside.log_likelihood - alone.log_likelihood, 0.0), 1)),
        float(beside.slopes[1] * tastes[:, 1].std()),
    )


class Difference(NamedTuple):
    """Groups of raters that differ consistently, with the strengths of items in the eyes of each.

    Example: `Difference({"anna": "0", "ben": "1"}, 0.003, {"0": {"a": 1.0, "b": -1.0}, "1": {"a": -1.0, "b": 1.0}})`
    """

    groups: dict[str, str]
    """The group of every rater."""
    p_value: float
    """That the groups value the same."""
    strengths: dict[str, dict[ItemId, float]]
    """Bradley-Terry on the votes of each group alone."""

    def contested(self, num: int = 10) -> list[tuple[ItemId, float]]:
        """Items on which two groups are furthest apart, and by how many logits."""
        shared = set.intersection(*(set(s) for s in self.strengths.values())) if len(self.strengths) > 1 else set()
        spread = {i: np.ptp([s[i] for s in self.strengths.values()]).item() for i in shared}
        return sorted(spread.items(), key=lambda pair: (-pair[1], pair[0]))[:num]


def declared_difference(
    judged: Sequence[Outcome], groups: Mapping[str, str], *, permutations: int = 999, seed: int = 0
) -> Difference:
    """Do declared groups of raters value different things? By permuting who belongs to which group.

    Statistic: what the members of a group have in common against the consensus (the score test of a random effect of
    groups on items). A rater's own slope and left bias are taken out before, so that a group of less careful raters
    does not pass for one of another opinion. ValueError where a rater has no group, or all have the same.
    """
    ballots = Ballots.of(judged)
    if missing := [name for name in ballots.raters if name not in groups]:
        raise ValueError(f"every rater needs a group; got none for {missing[:3]}")
    names = sorted({groups[name] for name in ballots.raters})
    if len(names) < 2:
        raise ValueError(f"a difference needs two groups or more; all raters belong to {names}")
    on_items = residuals(ballots, consensus(ballots))
    own = np.array([names.index(groups[name]) for name in ballots.raters])
    rng = np.random.default_rng(seed)
    observed = _in_common(on_items, own, len(names))
    drawn = [_in_common(on_items, rng.permutation(own), len(names)) for _ in range(permutations)]
    p_value = (1 + sum(value >= observed - 1e-9 for value in drawn)) / (1 + permutations)
    return _difference(judged, {name: groups[name] for name in ballots.raters}, p_value)


def found_difference(judged: Sequence[Outcome], *, q: float = 0.1, seen: Unseen | None = None) -> Difference:
    """Groups found in the votes alone: those who share a taste beside the consensus, by its direction, and the rest.

    A rater belongs to a group where the taste of the *others* adds to the consensus in explaining its votes, at a false
    discovery rate of `q` (Benjamini-Hochberg), the one group being "consensus", the others "taste +" and "taste -".
    The p-value is that nobody shares any taste beside the consensus (all raters' tests, Fisher's method); the groups
    being found from the same votes, a permutation of them would prove nothing.
    """
    ballots = Ballots.of(judged)
    kin = kinships(ballots, seen if seen is not None else unseen(ballots))
    beside = np.array([k.p_beside for k in kin])
    apart = benjamini_hochberg(beside, q=q)
    groups = {
        k.rater: ("taste +" if k.taste > 0 else "taste -") if differs and k.is_shared() else "consensus"
        for k, differs in zip(kin, apart.tolist(), strict=True)
    }
    p_value = float(chi2.sf(-2 * np.log(np.maximum(beside, 1e-300)).sum(), 2 * len(beside)))
    return _difference(judged, groups, p_value)


def _in_common(on_items: Floats, group: np.ndarray, num: int) -> float:
    """Squared residuals of groups on items, without what each rater contributes alone."""
    sums = np.stack([on_items[group == g].sum(0) for g in range(num)])
    return float((sums**2).sum() - (on_items**2).sum())


def _difference(judged: Sequence[Outcome], groups: dict[str, str], p_value: float) -> Difference:
    named = sorted(set(groups.values()))
    strengths = {g: bradley_terry([o for o in judged if groups.get(o.rater) == g]) for g in named}
    return Difference(groups, p_value, strengths)
