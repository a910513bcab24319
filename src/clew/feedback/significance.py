"""How sure a share is, and which of many findings to believe."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm


class Share(NamedTuple):
    """A share of `num` cases with its 95 % interval; of none, 0.5 and anything. Example: `wilson(9, 10)`"""

    value: float
    low: float
    high: float
    num: int


def wilson(count: float, num: int) -> Share:
    """Wilson's interval (JASA 22, 1927): inside [0, 1] and of use for few cases. `count` may hold halves (ties)."""
    if num == 0:
        return Share(0.5, 0.0, 1.0, 0)
    z, p = float(norm.ppf(0.975)), count / num
    middle = (p + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * float(np.sqrt(p * (1 - p) / num + z**2 / (4 * num**2)))
    return Share(p, max(middle - half, 0.0), min(middle + half, 1.0), num)


def adjusted(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values as false discovery rates: the smallest q at which each is believed (Benjamini & Hochberg 1995)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    found = np.empty_like(p)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found


def benjamini_hochberg(p_values: ArrayLike, *, q: float) -> NDArray[np.bool_]:
    """Which findings to believe so that at most a share `q` of those believed is expected to be false."""
    return adjusted(p_values) <= q
