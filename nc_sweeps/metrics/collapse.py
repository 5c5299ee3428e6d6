r"""Neural collapse, NC1 to NC4, from class statistics.

Every function states its formula, because the literature has several formulas under one name. Leading axes (runs)
are batched. Nothing is added to a denominator: a value that is not defined is NaN, and the docstring says when.

Notation: :math:`n_k`, :math:`\mu_k` and :math:`v_k` are size, mean and mean square distance to the mean of class k,
:math:`\mu = \sum_k n_k\mu_k/n` is the mean of all samples, and

.. math::
    \Sigma_W = \tfrac1n \sum_k \sum_{i \in k} (h_i - \mu_k)(h_i - \mu_k)^\top, \qquad
    \Sigma_B = \sum_k \tfrac{n_k}{n} (\mu_k - \mu)(\mu_k - \mu)^\top

weigh samples; for balanced classes they are the matrices of Papyan, Han and Donoho. NC1 weighs samples, so that class k
has the weight :math:`n_k/n`: classes without any are left out, and q counts the others. It compares the variance within
classes with that between them, so all its forms are NaN unless two classes have samples and one of them more than one.
NC2 and NC3 weigh classes: each mean counts once, whatever the size of its
class; M has the rows :math:`\mu_k`, :math:`\tilde M` the rows :math:`\tilde\mu_k = \mu_k - \tfrac1q\sum_l \mu_l`,
and all values are NaN when a class has no sample.

Sources: V. Papyan, X. Y. Han, D. Donoho, *Prevalence of neural collapse*, PNAS 2020; T. Galanti, A. György, M. Hutter,
*On the role of neural collapse in transfer learning*, arXiv 2112.15121, 2021; Z. Zhu et al., *A geometric analysis of
neural collapse with unconstrained features*, NeurIPS 2021.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nc_sweeps.metrics.statistics import ClassStatistics


def nc1(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|H_w\|_F^2 / \|\tilde H\|_F^2 \in [0, 1]`, the share of variance within classes.

    It is NaN when all features are equal.
    """
    within, between = _within_and_between(statistics)
    return (within / (within + between)).where(_is_comparable(statistics), torch.nan)


def nc1_trace_ratio(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return :math:`\operatorname{tr}\Sigma_W / \operatorname{tr}\Sigma_B = \mathrm{NC1}/(1 - \mathrm{NC1})`.

    It is NaN when all class means are equal.
    """
    within, between = _within_and_between(statistics)
    return (within / between).where((between != 0.0) & _is_comparable(statistics), torch.nan)


def nc1_pseudo_inverse(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return :math:`\operatorname{tr}(\Sigma_W \Sigma_B^+) / q` (Papyan, Han, Donoho 2020).

    :math:`\Sigma_B` has rank :math:`\min(q - 1, p)` at most, and its pseudo-inverse is truncated there: a threshold
    would keep rounding errors and divide by them. The value is NaN when the weighted centred class means have less
    numerical rank (singular values above eps · max(q, p) · the largest), because it then depends on what counts as 0.
    """
    counts = statistics.counts
    samples = counts.sum(dim=-1)
    C = (counts / samples.unsqueeze(-1)).sqrt().unsqueeze(-1) * statistics.deviations  # Σ_B = CᵀC
    # LAPACK refuses a whole batch for one infinity or NaN; such runs get rank 0.
    C = C.where(C.isfinite().flatten(-2).all(dim=-1)[..., None, None], 0.0)
    _, singular, directions = torch.linalg.svd(C, full_matrices=False)
    present = (counts > 0).sum(dim=-1)
    rank = (present - 1).clamp(max=C.shape[-1])
    smallest = singular.take_along_dim((rank - 1).clamp(min=0).unsqueeze(-1), dim=-1).squeeze(-1)
    defined = (rank > 0) & (smallest > torch.finfo(C.dtype).eps * max(C.shape[-2:]) * singular[..., 0])
    kept = torch.arange(singular.shape[-1], device=C.device) < rank.unsqueeze(-1)
    variances = (directions @ statistics.scatter * directions).sum(dim=-1) / samples.unsqueeze(-1)
    value: Tensor = (variances / singular.square()).where(kept, 0.0).sum(dim=-1) / present
    return value.where(defined & _is_comparable(statistics), torch.nan)


def nc1_cdnv(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return the mean class-distance normalised variance (Galanti et al. 2021),
    :math:`\operatorname{mean}_{k \ne l} (v_k + v_l) / (2\|\mu_k - \mu_l\|^2)`.

    It is NaN when two class means are equal.
    """
    ratios, pairs = _pairwise_variance(statistics)
    return (ratios.sum(dim=(-2, -1)) / pairs.sum(dim=(-2, -1))).where(_is_comparable(statistics), torch.nan)


def nc1_cdnv_worst(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return the largest class-distance normalised variance, that of the two classes that are hardest to tell apart:
    :math:`\max_{k \ne l} (v_k + v_l) / (2\|\mu_k - \mu_l\|^2)`.

    It is NaN where :func:`nc1_cdnv` is NaN.
    """
    ratios, _ = _pairwise_variance(statistics)
    return ratios.amax(dim=(-2, -1)).where(_is_comparable(statistics), torch.nan)


def nc2_norm_variation(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return :math:`\operatorname{std}_k \|\tilde\mu_k\| / \operatorname{mean}_k \|\tilde\mu_k\|`, 0 for a simplex.

    The standard deviation is that of a population. It is NaN when all class means are equal or a class has no sample.
    """
    return _norm_variation(statistics.centred_M)


def nc2_simplex_angle(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return :math:`\operatorname{mean}_{k \ne l} |\cos(\tilde\mu_k, \tilde\mu_l) + 1/(q - 1)|`, 0 for a simplex.

    It is NaN when a centred class mean vanishes or a class has no sample.
    """
    means = statistics.centred_M
    return _mean_off_diagonal((_cosines(means) + 1.0 / means.new_tensor(means.shape[-2] - 1)).abs())


def nc2_simplex_distance(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return the distance from a simplex in norms and angles,
    :math:`\|\tilde M\tilde M^\top / \|\tilde M\tilde M^\top\|_F - (I - 11^\top/q)/\sqrt{q - 1}\|_F`.

    It is NaN when all class means are equal or a class has no sample.
    """
    means = _unit(statistics.centred_M)
    return _norm(_unit(means @ means.mT) - _simplex(means))


def nc2_frame_norm_variation(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return :math:`\operatorname{std}_k \|\mu_k\| / \operatorname{mean}_k \|\mu_k\|`, 0 for an orthogonal frame,
    to which the square loss leads without bias.

    The standard deviation is that of a population. It is NaN when all class means are zero or a class has no sample.
    """
    return _norm_variation(statistics.M)


def nc2_frame_angle(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return :math:`\operatorname{mean}_{k \ne l} |\cos(\mu_k, \mu_l)|`, 0 for an orthogonal frame.

    It is NaN when a class mean is zero or a class has no sample.
    """
    return _mean_off_diagonal(_cosines(statistics.M).abs())


def nc2_frame_distance(statistics: ClassStatistics) -> Float[Tensor, "*run"]:
    r"""Return the distance from an orthogonal frame in norms and angles,
    :math:`\|M M^\top / \|M M^\top\|_F - I/\sqrt q\|_F`.

    It is NaN when all class means are zero or a class has no sample.
    """
    means = _unit(statistics.M)
    identity = torch.eye(means.shape[-2], dtype=means.dtype, device=means.device)
    return _norm(_unit(means @ means.mT) - _unit(identity))


def nc3_duality(statistics: ClassStatistics, W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|W^\top/\|W\|_F - \tilde M/\|\tilde M\|_F\|_F` (Papyan, Han, Donoho 2020).

    It is NaN when W = 0, all class means are equal or a class has no sample.
    """
    return _norm(_unit(W.double().mT) - _unit(statistics.centred_M))


def nc3_frame_duality(statistics: ClassStatistics, W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run"]:
    r"""Return the distance of a head without bias from the means as they are, :math:`\|W^\top/\|W\|_F - M/\|M\|_F\|_F`.

    It is NaN when W = 0, all class means are zero or a class has no sample.
    """
    return _norm(_unit(W.double().mT) - _unit(statistics.M))


def nc3_misalignment(statistics: ClassStatistics, W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`1 - \operatorname{mean}_k \cos(w_k, \tilde\mu_k)`, which does not depend on norms.

    It is NaN when a column of W or a centred class mean vanishes or a class has no sample.
    """
    # 1 − cos(u, v) = ‖u/‖u‖ − v/‖v‖‖²/2, without the cancellation.
    difference = _unit_rows(W.double().mT) - _unit_rows(statistics.centred_M)
    return difference.square().sum(dim=-1).mean(dim=-1) / 2


def nc3_product_distance(statistics: ClassStatistics, W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|\tilde M W/\|\tilde M W\|_F - (I - 11^\top/q)/\sqrt{q - 1}\|_F` (Zhu et al. 2021).

    It is NaN when :math:`\tilde M W = 0` or a class has no sample.
    """
    means = _unit(statistics.centred_M)
    return _norm(_unit(means @ _unit(W.double())) - _simplex(means))


def nc4(
    H: Float[Tensor, "*run n p"], F: Float[Tensor, "*run n q"], statistics: ClassStatistics
) -> Float[Tensor, "*run"]:
    r"""Return the share of samples with :math:`\arg\max_k F_{ik} \ne \arg\min_k \|h_i - \mu_k\|`, for which the
    classifier and the nearest class centre disagree.

    It is NaN when a feature is not finite, a score is NaN or no class has a sample. A class without samples is never
    nearest.

    Args:
        H: features of the samples to classify.
        F: scores of the same samples.
        statistics: give the class centres; usually those of the training set, whatever samples H has.
    """
    return disagreements(H, F, centres(statistics)).mean(dim=-1)


def centres(statistics: ClassStatistics) -> Float[Tensor, "*run q p"]:
    """Return the class means; that of a class without samples is infinitely far away."""
    return statistics.means.where((statistics.counts > 0).unsqueeze(-1), torch.inf)


def disagreements(
    H: Float[Tensor, "*run n p"], F: Float[Tensor, "*run n q"], centres: Float[Tensor, "*run q p"]
) -> Float[Tensor, "*run n"]:
    r"""Return 1 where :math:`\arg\max_k F_{ik} \ne \arg\min_k \|h_i - c_k\|`, else 0; NaN where :func:`nc4` is."""
    # ‖h‖² − 2⟨h, c⟩ + ‖c‖² would be faster, but wrong for centres that are close to each other and far from zero.
    distances = torch.cdist(H.double(), centres, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, highest = distances.min(dim=-1), F.max(dim=-1)
    defined = nearest.values.isfinite() & ~highest.values.isnan()
    return (highest.indices != nearest.indices).double().where(defined, torch.nan)


def _is_comparable(statistics: ClassStatistics) -> Bool[Tensor, "*run"]:
    """Return whether there is something between classes, and something within one that NC1 could compare it with."""
    return ((statistics.counts > 0).sum(dim=-1) > 1) & (statistics.counts > 1).any(dim=-1)


def _within_and_between(statistics: ClassStatistics) -> tuple[Float[Tensor, "*run"], Float[Tensor, "*run"]]:
    r"""Return :math:`\|H_w\|_F^2 = n\operatorname{tr}\Sigma_W` and :math:`\|H_b\|_F^2 = n\operatorname{tr}\Sigma_B`."""
    distances = statistics.deviations.square().sum(dim=-1)
    return statistics.sums_of_squares.sum(dim=-1), (statistics.counts * distances).sum(dim=-1)


def _pairwise_variance(
    statistics: ClassStatistics,
) -> tuple[Float[Tensor, "*run q q"], Bool[Tensor, "*run q q"]]:
    r"""Return :math:`(v_k + v_l) / (2\|\mu_k - \mu_l\|^2)`, NaN for equal means, and which pairs have samples.

    The value of any other pair is 0.
    """
    counts, means = statistics.counts, statistics.means
    present = counts > 0
    pairs = present.unsqueeze(-1) & present.unsqueeze(-2)
    pairs = pairs & ~torch.eye(counts.shape[-1], dtype=torch.bool, device=counts.device)
    variances = statistics.sums_of_squares / counts
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    ratios = (variances.unsqueeze(-1) + variances.unsqueeze(-2)) / (2.0 * distances)
    return ratios.where(distances != 0.0, torch.nan).where(pairs, 0.0), pairs


def _norm(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run"]:
    norm: Tensor = torch.linalg.matrix_norm(Z)
    return norm


def _unit(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run k l"]:
    r"""Return :math:`Z/\|Z\|_F`."""
    return Z / _norm(Z)[..., None, None]


def _row_norms(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run k"]:
    norms: Tensor = torch.linalg.vector_norm(Z, dim=-1)
    return norms


def _unit_rows(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run k l"]:
    return Z / _row_norms(Z).unsqueeze(-1)


def _cosines(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run k k"]:
    """Return the cosines between all pairs of rows."""
    Z = _unit_rows(Z)
    return Z @ Z.mT


def _norm_variation(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run"]:
    norms = _row_norms(Z)
    mean = norms.mean(dim=-1, keepdim=True)
    # Tensor.std rounds the value of a run differently in batches of different sizes.
    return (norms - mean).square().mean(dim=-1).sqrt() / mean.squeeze(-1)


def _mean_off_diagonal(Z: Float[Tensor, "*run k k"]) -> Float[Tensor, "*run"]:
    off_diagonal = ~torch.eye(Z.shape[-1], dtype=torch.bool, device=Z.device)
    return Z.where(off_diagonal, 0.0).sum(dim=(-2, -1)) / off_diagonal.sum()


def _simplex(means: Float[Tensor, "*run q p"]) -> Float[Tensor, "q q"]:
    r"""Return :math:`(I - 11^\top/q)/\sqrt{q - 1}`, in the precision of the means."""
    q = means.shape[-2]
    return _unit(torch.eye(q, dtype=means.dtype, device=means.device) - 1.0 / q)
