"""Which cases the training batches are drawn from: balanced over source datasets and classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from nnunetv2_clip.manifest import Manifest

ENTRIES_PER_CASE = 50  # resolution of the repeated list; a case is never left out


def case_probabilities(case_ids: Sequence[str], manifest: Manifest, balance: float) -> np.ndarray:
    """(n,) probability of each case, sum 1.

    p = (1 - balance) / n + balance * (d + c) / 2, where d shares the probability equally among the datasets and
    within each among its cases, and c shares it equally among the classes and within each among the cases that
    supervise it, also where it is incomplete, pseudo labels by their weight. balance = 0 is nnU-Net's uniform draw;
    balance = 1 draws a dataset of 41 cases as often as one of 1,000.
    """
    cases = [manifest.case(case_id) for case_id in case_ids]
    in_dataset = Counter(case.dataset for case in cases)
    weights = [{**dict.fromkeys(case.supervised, 1), **case.pseudo} for case in cases]
    in_class: Counter[str] = Counter()
    for classes in weights:
        in_class.update(classes)
    by_dataset = np.array([1 / (len(in_dataset) * in_dataset[case.dataset]) for case in cases])
    shares = [sum(weight / in_class[name] for name, weight in classes.items()) for classes in weights]
    by_class = np.array(shares) / max(len(in_class), 1)
    balanced = (by_dataset + by_class) / 2
    return (1 - balance) / len(cases) + balance * balanced / balanced.sum()


def repeat_by_probability(case_ids: Sequence[str], probabilities: np.ndarray) -> np.ndarray:
    """The case identifiers, each repeated in proportion to its probability, at least once.

    nnU-Net's loader draws uniformly from the identifiers of its dataset: repeating them there weights the draw
    without another loader.
    """
    counts = np.maximum(1, np.round(probabilities * len(case_ids) * ENTRIES_PER_CASE).astype(int))
    return np.repeat(np.array(case_ids, dtype=object), counts)
