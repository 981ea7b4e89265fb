"""Bootstrap intervals over cases.

By hand, because scipy.stats.bootstrap refuses a single case and gives no interval as soon as the statistic is undefined
for one draw (a recall without any lesion drawn). Classes with one case and rare tumours are our everyday.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Shapes: N cases, D draws.

NUM_DRAWS = 2000
SEED = 0
Interval = tuple[float, float]


def draws(num_cases: int, rng: np.random.Generator, num_draws: int = NUM_DRAWS) -> np.ndarray:
    """(D, N) positions of cases, drawn with replacement."""
    return rng.integers(0, num_cases, (num_draws, num_cases))


def percentile_interval(statistics: np.ndarray) -> Interval:
    """The central 95 % of (D,) statistics, NaN left out; NaN where nothing is defined."""
    known = statistics[~np.isnan(statistics)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def mean_interval(values: np.ndarray, seed: int = SEED) -> Interval:
    """The 95 % interval of the mean of (N,) values."""
    return interval(lambda drawn: values[drawn].mean(axis=1), len(values), seed)


def interval(statistic: Callable[[np.ndarray], np.ndarray], num_cases: int, seed: int = SEED) -> Interval:
    """The 95 % interval of a statistic of cases.

    Args:
        statistic: (D, N) positions of cases -> (D,) values.
    """
    if num_cases == 0:
        return float("nan"), float("nan")
    return percentile_interval(statistic(draws(num_cases, np.random.default_rng(seed))))
