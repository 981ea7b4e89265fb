"""Bootstrap intervals over cases.

By hand, because scipy.stats.bootstrap refuses a single case and gives no interval as soon as the statistic is undefined
for one draw (a recall without any lesion drawn). Classes with one case and rare tumours are our everyday.
"""

from collections.abc import Callable

import numpy as np

# Shapes: N cases, D draws.

NUM_DRAWS = 2000
SEED = 0
Interval = tuple[float, float]


def mean_interval(values: np.ndarray) -> Interval:
    """The 95 % interval of the mean of (N,) values."""
    return interval(lambda drawn: values[drawn].mean(axis=1), len(values))


def interval(statistic: Callable[..., np.ndarray], *num_cases: int) -> Interval:
    """The central 95 % of a statistic of cases drawn with replacement, NaN left out; NaN where nothing is defined.

    Args:
        statistic: (D, N) positions of cases, one such array for each of `num_cases` -> (D,) values.
    """
    if not all(num_cases):
        return float("nan"), float("nan")
    rng = np.random.default_rng(SEED)
    drawn = statistic(*(rng.integers(0, number, (NUM_DRAWS, number)) for number in num_cases))
    known = drawn[~np.isnan(drawn)]
    low, high = np.percentile(known, (2.5, 97.5)) if known.size else (np.nan, np.nan)
    return float(low), float(high)
