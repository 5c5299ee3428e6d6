"""Samples isotropic Gaussian classes whose means form a regular simplex, scaled into the unit ball."""

import math

import numpy as np

from nc_sweeps.data.split import Split


def sample_gaussian(
    *, classes: int, dimension: int, distance: float, per_class: int, generator: np.random.Generator
) -> Split:
    r"""Sample :math:`x = (\mu_k + z)/R`, :math:`z \sim \mathcal N(0, I_d)`, :math:`\|\mu_k - \mu_l\|` = distance.

    The scale :math:`R = \|\mu_k\| + \sqrt d + 4` depends on the law alone, so training and test sets share it; a
    rare sample outside the unit ball is drawn again.

    Args:
        classes: number of classes q.
        dimension: input dimension d ≥ q.
        distance: distance between any two class means, in standard deviations.
        per_class: number of samples of each class.
        generator: source of randomness.

    Returns:
        Samples (q·per_class, d) in class order, float64 numbers rounded to float32, with ‖x‖ ≤ 1.
    """
    means = distance / math.sqrt(2) * np.eye(classes, dimension)
    radius = distance / math.sqrt(2) + math.sqrt(dimension) + 4.0
    labels = np.repeat(np.arange(classes), per_class)
    x = np.empty((len(labels), dimension))
    missing = np.arange(len(labels))
    while len(missing):
        draw = (means[labels[missing]] + generator.standard_normal((len(missing), dimension))) / radius
        x[missing] = draw.astype(np.float32)
        missing = missing[np.square(x[missing]).sum(axis=1) > 1.0]
    return Split(x, labels)
