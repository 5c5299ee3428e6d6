"""One-step methods for the flow, each in a module of its own."""

from nc_sweeps.dynamics.integrators.base import Coefficients, Integrator
from nc_sweeps.dynamics.integrators.euler_maruyama import EulerMaruyama
from nc_sweeps.dynamics.integrators.exponential import Exponential

__all__ = ["INTEGRATORS", "Coefficients", "EulerMaruyama", "Exponential", "Integrator"]

#: Every integrator by its name in the configuration.
INTEGRATORS: dict[str, Integrator] = {
    "euler_maruyama": EulerMaruyama(),
    "exponential": Exponential(),
}
