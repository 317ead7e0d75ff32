"""How sure a measured mean, share or difference is: intervals for results of cross-validation. No libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean or a share of `n` values and where it lies with the confidence asked for; `low` and `high` are None below two values."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with its interval; `shown` says whether chance is ruled out."""

    interval: Interval
    shown: bool

    @property
    def sign(self) -> int:
        """-1 or 1 for a difference that is shown, else 0."""
        return (1 if self.interval.mean > 0 else -1) if self.shown else 0


@lru_cache(maxsize=256)
def t_quantile(df: int, confidence: float = CONFIDENCE) -> float:
    """The t that a Student variable of `df` degrees of freedom stays within (both sides) with probability `confidence`.

    P(|T| > t) = I_x(df/2, 1/2) with x = df / (df + t²) (DLMF 8.17; Abramowitz and Stegun 26.7.1), solved by bisection.
    """
    if df < 1 or not 0 < confidence < 1:
        raise ValueError("a t quantile wants at least one degree of freedom and a confidence between 0 and 1")
    low, high = 0.0, 1.0  # x: 1 is t = 0
    for _ in range(200):
        x = (low + high) / 2
        low, high = (x, high) if _beta(x, df / 2, 0.5) < 1 - confidence else (low, x)
    return math.sqrt(df * (1 - high) / high)


def mean_interval(values: Sequence[float], *, overlap: float = 0.0, confidence: float = CONFIDENCE) -> Interval:
    """The mean of `values` with its t interval: mean ± t(n - 1) · s · √(1/n + overlap).

    `overlap` is 0 for values of independent samples. The results of cross-validation are not: their training sets share
    rows, so s/√n is too small. `overlap` = held back / learned = 1 / (folds - 1) is the correction of Nadeau and Bengio
    ("Inference for the generalization error", Machine Learning 52, 2003), for repeated folds by Bouckaert and Frank
    ("Evaluating the replicability of significance tests", PAKDD 2004). Raises `ValueError` for no values.
    """
    n, mean = len(values), fmean(values)
    if n < 2:
        return Interval(mean, None, None, n)
    half = t_quantile(n - 1, confidence) * stdev(values) * math.sqrt(1 / n + overlap)
    return Interval(mean, mean - half, mean + half, n)


def wilson(k: int, n: int, *, repeats: int = 1, confidence: float = CONFIDENCE) -> Interval | None:
    """The share k/n with Wilson's score interval (Wilson, JASA 22, 1927; Brown, Cai and DasGupta, 2001); None where n is 0.

    Where the same cases were counted `repeats` times (once a seed), the interval is that of n / repeats cases: asking a
    case again tells nothing of other cases.
    """
    if not n:
        return None
    z, cases, share = NormalDist().inv_cdf((1 + confidence) / 2), n / max(1, repeats), k / n
    middle = (share + z * z / (2 * cases)) / (1 + z * z / cases)
    half = z / (1 + z * z / cases) * math.sqrt(share * (1 - share) / cases + z * z / (4 * cases * cases))
    # At 0 and at n one end is exact; rounding must not carry it past the share.
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), n)


def paired(first: Sequence[float], second: Sequence[float], *, overlap: float = 0.0, confidence: float = CONFIDENCE) -> Difference:
    """`second` minus `first`, value by value (same fold, same seed), by the t interval of `mean_interval`.

    Equal differences leave no scatter to judge by: then the signs decide (sign test: n of one sign come by chance with
    probability 2 · 0.5ⁿ, so 6 are enough at 95 %). Raises `ValueError` for unequal lengths or no values.
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    interval = mean_interval(differences, overlap=overlap, confidence=confidence)
    if interval.low is None or interval.high is None:
        return Difference(interval, False)
    if interval.low == interval.high:
        return Difference(interval, interval.mean != 0 and interval.n >= 1 - math.log2(1 - confidence))
    return Difference(interval, interval.low > 0 or interval.high < 0)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) by its continued fraction (DLMF 8.17.22, Lentz's method)."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    value = d
    for m in range(1, 500):
        for factor in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / ((1 + factor * d) or tiny)
            c = (1 + factor / c) or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * value
