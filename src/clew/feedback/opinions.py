"""Differences of opinion: raters who depart from the consensus together, not at random. Subjective is not spam."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2, combine_pvalues

from clew.feedback.aggregate import Outcome, bradley_terry
from clew.feedback.records import ItemId
from clew.feedback.significance import benjamini_hochberg
from clew.feedback.tastes import Ballots, Bools, Floats, Ints, Unseen, consensus, regression, residuals, unseen

AGAINST = -0.8
"""Below this correlation with the consensus, votes are the consensus turned round (more than 140 degrees)."""

SAME = 0.9
"""Above it, a rater is of one mind with the consensus, whatever it cares for besides."""


class Kinship(NamedTuple):
    """Whether a taste beside the consensus, which others share, explains a rater's votes.

    Example: `Kinship("anna", lean=0.1, p_value=1e-4, taste=0.8)` means something, and not what most do.
    """

    rater: str
    lean: float
    """Correlation of what the rater values with the consensus: 1 the same, 0 something else, -1 the opposite."""
    p_value: float
    """That the taste adds nothing to the consensus."""
    taste: float
    """How much the rater cares for it, in logits of a typical contrast, and in which direction."""

    def is_shared(self, level: float = 0.1) -> bool:
        """The rater means something that others mean too, and not just the consensus turned round."""
        return self.p_value <= level and self.lean > AGAINST


def kinships(ballots: Ballots, seen: Unseen) -> list[Kinship]:
    """One for every rater, by likelihood ratio of logistic regressions on values that the rater had no part in."""
    return [_kinship(name, ballots, seen, ballots.rater == u) for u, name in enumerate(ballots.raters)]


def _kinship(name: str, ballots: Ballots, seen: Unseen, mine: Bools) -> Kinship:
    says, consensus_alone = ballots.says[mine], seen.consensus[mine, None]
    if not len(says):
        return Kinship(name, 0.0, 1.0, 0.0)
    columns = np.column_stack([consensus_alone, seen.taste[mine]])
    alone, both = regression(consensus_alone, says), regression(columns, says)
    gain = max(both.log_likelihood - alone.log_likelihood, 0.0)
    return Kinship(
        name,
        _correlation(columns @ both.slopes, columns[:, 0]),
        float(chi2.sf(2 * gain, 1)),
        float(both.slopes[1] * columns[:, 1].std()),
    )


def _correlation(x: Floats, y: Floats) -> float:
    """0 where either does not vary."""
    spread = float(x.std() * y.std())
    return float((x - x.mean()) @ (y - y.mean())) / len(x) / spread if spread > 1e-12 else 0.0


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
        by_group = list(self.strengths.values())
        shared = [i for i in by_group[0] if all(i in s for s in by_group)]
        spread = {i: max(s[i] for s in by_group) - min(s[i] for s in by_group) for i in shared}
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
    discovery rate of `q` (Benjamini-Hochberg), and makes a difference (`SAME`). The groups are "consensus", "taste +"
    and "taste -". The p-value is that nobody shares any taste beside the consensus (all raters' tests, by Fisher's
    method); the groups being found in the same votes, to permute them would prove nothing.
    """
    ballots = Ballots.of(judged)
    kin = kinships(ballots, seen if seen is not None else unseen(ballots))
    beside = np.array([k.p_value for k in kin])
    apart = benjamini_hochberg(beside, q=q)
    groups = {
        k.rater: ("taste +" if k.taste > 0 else "taste -")
        if differs and k.is_shared() and k.lean < SAME
        else "consensus"
        for k, differs in zip(kin, apart.tolist(), strict=True)
    }
    p_value = float(combine_pvalues(beside.clip(1e-300), method="fisher").pvalue)
    return _difference(judged, groups, p_value)


def _in_common(on_items: Floats, group: Ints, num: int) -> float:
    """Squared residuals of groups on items, without what each rater contributes alone."""
    sums = np.stack([on_items[group == g].sum(0) for g in range(num)])
    return float((sums**2).sum() - (on_items**2).sum())


def _difference(judged: Sequence[Outcome], groups: dict[str, str], p_value: float) -> Difference:
    named = sorted(set(groups.values()))
    strengths = {g: bradley_terry([o for o in judged if groups.get(o.rater) == g]) for g in named}
    return Difference(groups, p_value, strengths)
