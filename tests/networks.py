"""Small mean-field networks, their data and their hyper-parameters, for tests of the mathematics."""

import torch

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.flow import Hyperparameters
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models.mean_field import initialise_networks

#: The activations as PyTorch defines them.
REFERENCE = {
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
}


def networks_of(runs, N, d, p, q, activation="tanh", gamma=1.0, dtype=torch.float64):
    return initialise_networks(
        range(runs),
        particles=N,
        dimension=d,
        features=p,
        classes=q,
        scale_u=[1.0] * runs,
        scale_a=[1.0] * runs,
        scale_w=[1.0] * runs,
        gamma=[gamma] * runs,
        activation=ACTIVATIONS[activation],
        dtype=dtype,
    )


def hyperparameters(*, beta, lambda_rho, lambda_w, step_size=0.1, steps=10, per_epoch=1):
    def column(value):
        return torch.tensor([value], dtype=torch.float64)

    schedule = Schedule((Piece(0, steps, step_size),), per_epoch)
    return Hyperparameters(torch.tensor([4]), column(beta), column(lambda_rho), column(lambda_w), (schedule,))


def data(runs, n, d, q, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(runs, n, d, generator=generator, dtype=dtype)
    return X, one_hot(torch.randint(q, (runs, n), generator=generator), q, dtype)
