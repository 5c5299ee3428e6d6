"""The keys of dynamics: how a network is trained."""

from dataclasses import dataclass

from nc_sweeps.config.keys import per_run, shape, unsigned

INTEGRATOR_NAMES = ("euler_maruyama", "exponential")
LOSS_NAMES = ("mse", "cross_entropy")
HORIZON_UNITS = ("steps", "time", "epochs")


@dataclass
class StepSizeChange:
    """One entry of ``dynamics.schedule``."""

    after: float = shape("fraction of the horizon, in (0, 1), from which on the step size holds")
    step_size: float = per_run("step size η from there on")


@dataclass
class DynamicsConfig:
    """Keys that all dynamics have."""

    name: str = unsigned("kind of dynamics, which follows from the network")
    batch_size: int | None = shape("number of samples of a step; null: all")
    step_size: float = per_run("step size η, or learning rate; a particle moves by η times its mean-field gradient")
    schedule: list[StepSizeChange] = shape(
        "changes of the step size, [{after, step_size}, …]: step_size holds from the fraction after of the horizon on"
    )
    horizon: float = shape("length of the run, in the unit horizon_unit")
    horizon_unit: str = shape(f"unit of lengths: {', '.join(HORIZON_UNITS)} (time = Σ η)")


@dataclass
class FlowConfig(DynamicsConfig):
    """Keys of the flow (20) of a mean-field network and of its discretisation."""

    beta: float = per_run("inverse temperature β > 0; inf: no noise")
    stage_one: float = shape(
        "length of stage 1 of Algorithm 1, in which W stays W₀, in the unit horizon_unit; 0: W moves from the start"
    )
    stage_one_distance: float | None = per_run(
        "distance ‖F − F*‖_F/√n from the optimum, certified by the Gibbs oracle, at which stage 1 ends early; "
        "null: it has its full length"
    )
    lambda_rho: float = per_run("weight decay λ_ρ ≥ 0 of the particles")
    lambda_w: float = per_run("weight decay λ_W ≥ 0 of the head")
    integrator: str = shape(f"integrator of the flow: {', '.join(INTEGRATOR_NAMES)}")


@dataclass
class MomentumConfig(DynamicsConfig):
    """Keys of ``dynamics=momentum``, stochastic gradient descent of a deep network."""

    loss: str = shape("loss: mse, ‖F − Y‖²/(2n) with one-hot Y, or cross_entropy of the scores F")
    momentum: float = per_run("momentum μ in [0, 1): v ← μv + ∇L + λθ, θ ← θ − ηv")
    weight_decay: float = per_run("weight decay λ ≥ 0 of all parameters θ")


DYNAMICS: dict[str, type[DynamicsConfig]] = {"flow": FlowConfig, "momentum": MomentumConfig}
