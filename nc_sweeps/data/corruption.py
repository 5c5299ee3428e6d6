"""Makes a training set harder: classes of unequal size, and wrong labels."""

import numpy as np

from nc_sweeps.data.split import Split
from nc_sweeps.errors import DataError


def keep_imbalanced_share(split: Split, classes: int, ratio: float, generator: np.random.Generator) -> Split:
    r"""Keep a random share :math:`\rho^{-k/(q-1)}` of the samples of class k.

    Class sizes then fall geometrically, from all of class 0 to 1/ρ of class q − 1: the long tail of K. Cao et al.,
    *Learning imbalanced datasets with label-distribution-aware margin loss*, NeurIPS 2019.

    Args:
        split: samples; their classes may have any sizes.
        classes: number of classes q.
        ratio: ρ ≥ 1; 1 keeps everything.
        generator: source of randomness.

    Returns:
        The samples that are kept, in their order.

    Raises:
        DataError: a class would have no sample left.
    """
    if ratio == 1:
        return split
    kept = []
    for k in range(classes):
        members = np.flatnonzero(split.labels == k)
        count = round(len(members) * ratio ** (-k / (classes - 1)))
        if count == 0:
            raise DataError(
                f"dataset.imbalance={ratio:g}: no sample would be left of the {len(members)} of class {k}; take a "
                "smaller one, or more samples"
            )
        kept.append(generator.choice(members, count, replace=False))
    chosen = np.sort(np.concatenate(kept))
    return Split(split.x[chosen], split.labels[chosen])


def add_label_noise(split: Split, classes: int, probability: float, generator: np.random.Generator) -> Split:
    """Replace some labels by another class, drawn uniformly; each label on its own.

    Args:
        split: samples with their true labels.
        classes: number of classes q.
        probability: probability with which a label is replaced.
        generator: source of randomness.
    """
    if probability == 0:
        return split
    wrong = generator.random(len(split.labels)) < probability
    shift = generator.integers(1, classes, len(split.labels))
    return Split(split.x, np.where(wrong, (split.labels + shift) % classes, split.labels))
