import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import conf
from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.composition import compose_config
from nc_sweeps.config import (
    DATASETS,
    DYNAMICS,
    MODELS,
    RunConfig,
    compute_ensemble_key,
    compute_signature,
    list_all_keys,
    list_keys,
    list_values,
    parse,
    select_metrics,
)
from nc_sweeps.config.checks import suggest_choice
from nc_sweeps.config.dynamics import INTEGRATOR_NAMES
from nc_sweeps.config.models import ACTIVATION_NAMES, DeepConfig
from nc_sweeps.data import LOADERS
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.errors import ConfigError
from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.models.deep import _IMAGE_BACKBONES
from tests.configs import config_of, refusal, tiny
from tests.networks import REFERENCE

CONF = Path(conf.__file__).parent
GROUPS = ("dataset", "width", "separation", "model", "dynamics", "metrics", "tracking")


def test_names_in_the_configuration_are_the_names_in_the_tables():
    assert set(ACTIVATIONS) == set(ACTIVATION_NAMES) == set(REFERENCE)
    assert set(INTEGRATORS) == set(INTEGRATOR_NAMES)
    assert set(LOADERS) == set(DATASETS)
    assert set(_IMAGE_BACKBONES) == {name for name, schema in MODELS.items() if issubclass(schema, DeepConfig)} - {
        "mlp"
    }


@pytest.mark.parametrize(("group", "table"), [("dataset", DATASETS), ("model", MODELS)])
def test_every_choice_of_a_table_has_a_file_of_its_name(group, table):
    files = {path.stem for path in CONF.glob(f"{group}/*.yaml")}
    assert set(table) <= files
    # Any other file is a variant of one of them.
    for name in files - set(table):
        base, *_ = OmegaConf.load(CONF / group / f"{name}.yaml").defaults
        assert base in table


OPTIONS = [path for group in GROUPS for path in sorted(CONF.glob(f"{group}/*.yaml"))]


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_every_option_composes_and_gives_every_key(path):
    needed = {
        "cifar100": ["model.features=100"],
        "cifar100_superclasses": ["model.features=20"],
        "features": ["dataset.classes=3", "dataset.digest=none"],
        "momentum": ["model=mlp"],
    }
    overrides = [f"{path.parent.name}={path.stem}", *needed.get(path.stem, [])]
    config = config_of(*overrides)
    values = OmegaConf.to_container(compose_config(overrides)[path.parent.name])
    assert set(values) == {field.name for field in dataclasses.fields(getattr(config, path.parent.name))}
    # A base that comes after the file's own keys must not repeat one of them.
    own = OmegaConf.to_container(OmegaConf.load(path))
    changed = {override.partition("=")[0].rpartition(".")[2] for override in overrides}
    for key in own.keys() - changed - {"defaults"}:
        assert values[key] == own[key], key


def test_bases_are_no_options():
    """They stand beside the groups, where neither --help nor completion lists them."""
    assert not [path for path in CONF.glob("*/**/*.yaml") if path.stem.startswith("_")]


def test_every_key_has_one_role_and_an_explanation():
    for key in list_all_keys():
        assert key.role in {"shape", "per_run", "unsigned"}, key
        assert len(key.text) > 3, key


def test_signature_is_stable_and_sees_only_what_decides_the_numbers():
    base = compute_signature(tiny())
    assert compute_signature(tiny("output_dir=elsewhere", "name=other", "compute.threads=1", "data_dir=x")) == base
    assert compute_signature(tiny("tracking=wandb", "tracking.mode=offline", "tracking.tags=[a]")) == base
    assert compute_signature(tiny("separation.distance=1.5")) == base  # not read by dataset=separable
    assert compute_signature(tiny("seed=1", "separation.margin=0.2")) == compute_signature(
        tiny("separation.margin=0.2", "seed=1")
    )
    changes = ["seed=1", "separation.margin=0.2", "width.particles=13", "dynamics.beta=5", "compute.precision=64-true"]
    assert len({compute_signature(tiny(change)) for change in changes} | {base}) == len(changes) + 1
    assert compute_signature(tiny("dynamics.beta=5")) == compute_signature(tiny("dynamics.beta=5.0"))


def test_ensemble_key_splits_by_shape_alone():
    base = compute_ensemble_key(tiny())
    for change in ("seed=7", "separation.margin=0.1", "dynamics.step_size=0.1", "dynamics.beta=3", "model.gamma=2",
                   "dataset.label_noise=0.1"):  # fmt: skip
        assert compute_ensemble_key(tiny(change)) == base, change
    for change in (
        "width.particles=5",
        "model.features=5",
        "dynamics.horizon=31",
        "model.activation=relu",
        "dataset.imbalance=2",
    ):
        assert compute_ensemble_key(tiny(change)) != base, change
    # With a horizon in time the number of steps depends on the step size.
    timed = ("dynamics.horizon_unit=time", "dynamics.horizon=3")
    assert compute_ensemble_key(tiny(*timed)) != compute_ensemble_key(tiny(*timed, "dynamics.step_size=0.1"))


def test_every_key_is_a_leaf():
    names = {name for name, _, _ in list_values(config_of())}
    chosen = {"dataset": DATASETS["separable"], "model": MODELS["mean_field"], "dynamics": DYNAMICS["flow"]}
    assert names == {key.name for key in list_keys(RunConfig)} | {
        f"{group}.{field.name}" for group, schema in chosen.items() for field in dataclasses.fields(schema)
    }


def test_weight_decay_follows_beta_where_the_paper_couples_them():
    dynamics = config_of("dynamics=noisy_gradient_flow", "dynamics.beta=250").dynamics
    assert (dynamics.lambda_rho, dynamics.lambda_w) == (1 / 250, 1 / 250)


def test_metrics_are_chosen_by_pattern():
    config = config_of("metrics.include=[nc1/*,loss/train]", "optimized_metric=loss/train")
    nc1 = tuple(name for name in METRICS if name.startswith("nc1/"))
    assert select_metrics(config) == ("loss/train", *nc1)
    some = config_of(
        "metrics.include=[nc1/*,loss/train]", "metrics.exclude=[nc1/*/*,loss/*]", "optimized_metric=nc1/test"
    )
    assert select_metrics(some) == ("nc1/train", "nc1/test")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["width.particles=0"], "width.particles=0: must be at least 1"),
        (["compute.devices=0"], "compute.devices=0: must be at least 1"),
        (["compute.nodes=0"], "compute.nodes=0: must be at least 1"),
        (
            ["width.particles=7", "compute.devices=2", "compute.nodes=4"],
            "compute.devices=2: 8 processes for 7 particles",
        ),
        (["width.particles=7", "compute.nodes=8"], "compute.nodes=8: 8 processes for 7 particles"),
        (["model.features=2"], "model.features=2: must be at least the number of classes, 3"),
        (["separation.margin=0.6"], "dataset.margin=0.6: must lie between -1 and 1/√q = 0.5774 for q = 3"),
        (["separation.margin=-1"], "dataset.margin=-1.0: must lie between"),
        (["dynamics.step_size=-1"], "dynamics.step_size=-1.0: must be positive"),
        (["dynamics.step_size=nan"], "dynamics.step_size=nan: must be positive"),
        (["dynamics=two_stage", "dynamics.stage_one=4000"], "dynamics.stage_one=4000.0: must be at least 0 and below"),
        (["dynamics=two_stage", "dynamics.stage_one=1.5"], "dynamics.stage_one=1.5: must be a whole number of steps"),
        (["dynamics=two_stage", "model.train_head=false"], "has no effect with model.train_head=false"),
        (["dynamics.stage_one_distance=0.1"], "dynamics.stage_one_distance=0.1: needs a stage 1"),
        (
            ["dynamics=two_stage", "dynamics.stage_one_distance=0.1", "model.truncation=5"],
            "dynamics.stage_one_distance=0.1: the optimum is known for finite beta, lambda_rho > 0 and",
        ),
        (["model.truncation=1"], "model.truncation=1.0: must be at least 2, or inf for none"),
        (["model.truncation=3", "model.truncation_c0=2"], "model.truncation_c0=2.0: must lie between 1 and half of"),
        (["metrics.exclude=[nc9/*]"], "metrics.exclude=nc9/*: no such metric"),
        (["metrics.exclude=['*']"], "must name at least one metric that the network has and"),
        (["figure.x=width"], "figure.x=width: did you mean"),
        (["figure.y=[nc1/tain]"], "figure.y=nc1/tain: no such metric; did you mean nc1/train?"),
        (["dynamics.beta=0"], "dynamics.beta=0.0: must be positive"),
        (["dynamics.lambda_rho=-0.1"], "dynamics.lambda_rho=-0.1: must be at least 0"),
        (["dynamics.lambda_w=-0.1"], "dynamics.lambda_w=-0.1: must be at least 0"),
        (["dynamics.horizon=0"], "dynamics.horizon=0.0: must be positive"),
        (["dynamics.horizon=2.5"], "dynamics.horizon=2.5: must be a whole number of steps"),
        (["dynamics.horizon_unit=weeks"], "dynamics.horizon_unit=weeks: must be one of steps, time, epochs"),
        (["dynamics.batch_size=0"], "dynamics.batch_size=0: must be at least 1"),
        (["dynamics.integrator=exponentail"], "(did you mean exponential?)"),
        (["dynamics.schedule=[{after:1.5,step_size:0.1}]"], "dynamics.schedule.0.after=1.5: must lie between 0 and 1"),
        (["dynamics.schedule=[{after:0.5,step_size:0}]"], "dynamics.schedule.0.step_size=0.0: must be positive"),
        (["dynamics.schedule=[{after:0.5,step_siz:1}]"], "step_siz"),
        (
            ["model.activation=tan"],
            f"model.activation=tan: {suggest_choice('tan', ACTIVATION_NAMES)}",
        ),
        (["width.particles=99999999999"], "width.particles=99999999999: must be at most 2147483647"),
        (["metrics.points=100000000"], "metrics.points=100000000: must lie between 2 and 100000"),
        (["compute.threads=5000"], "compute.threads=5000: must lie between 0"),
        (["model.initial_scale_u=1e300"], "model.initial_scale_u=1e+300: must be at least 0 and at most 1e+12"),
        (["model.gamma=1e300"], "model.gamma=1e+300: must be positive and at most 1e+12"),
        (["model.gamma=0"], "model.gamma=0.0: must be positive"),
        (["dataset.dimension=2"], "dataset.dimension=2: must be at least the number of classes, 3"),
        (["dataset.classes=1"], "dataset.classes=1: must be at least 2"),
        (["dataset.train_per_class=0"], "dataset.train_per_class=0: must be at least 1"),
        (["dataset.imbalance=0.5"], "dataset.imbalance=0.5: must lie between 1 and 1e+12"),
        (["dataset.label_noise=1"], "dataset.label_noise=1.0: must be at least 0 and below 1"),
        (["dataset.name=imagenet"], f"dataset.name=imagenet: {suggest_choice('imagenet', tuple(DATASETS))}"),
        (["dataset=mnist_mod3", "dataset.modulus=1"], "dataset.modulus=1: must lie in 2 … 10"),
        (["dataset=digits", "separation.margin=0.1"], "separation.margin has no effect on dataset=digits"),
        (["dataset=digits", "separation=overlapping"], "separation has no effect on dataset=digits"),
        (["metrics.include=[nc2]"], "metrics.include=nc2: no such metric"),
        (["metrics.points=1"], "metrics.points=1: must lie between 2 and"),
        (["optimized_metric=nc1/tst"], "optimized_metric=nc1/tst: did you mean nc1/test?"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["compute.precision=16-true"], "compute.precision=16-true: must be one of 32-true, 64-true, bf16-mixed"),
        (["name=a/b"], "name=a/b: must be a plain folder name"),
        (["optimized_metric=accuracy"], "optimized_metric=accuracy: did you mean error/test?"),
        (["figure.y=[accuracy]"], "figure.y=accuracy: no such metric; did you mean error/test?"),
        (["figure.x=lr"], "figure.x=lr: did you mean dynamics.step_size?"),
        (["metrics.include=[nc1]"], "metrics.include=nc1: no such metric; did you mean nc1/*?"),
        (["metrics.include=[certificate/]"], "did you mean certificate/*?"),
        (["metrics.include=nc1/train"], "must be a list, in brackets, as in 'metrics.include=[nc1/train]'"),
        (["tracking.tags=first"], "must be a list, in brackets, as in 'tracking.tags=[first]'"),
        (["compute.precision=64"], "(did you mean 64-true?)"),
        (["compute.precision=float32"], "(did you mean 32-true?)"),
        (["compute.precision=bf16"], "(did you mean bf16-mixed?)"),
        (["compute.accelerator=cuda:0"], "must be one of auto, cpu, gpu, cuda, mps (did you mean gpu?)"),
        (["compute=3"], "compute=3: is a group of keys; set one of compute.accelerator"),
        (["dynamics.schedule=[1]"], "dynamics.schedule[0]: must have two keys, as in {after: 0.5"),
        (["~tracking"], "tracking: cannot be left out; choose one of tracking=none, tracking=wandb"),
        (["~seed"], "seed: cannot be left out; give it a value"),
        (["dataset.margin=0.1", "separation.margin=0.2"], "separation.margin has no effect beside dataset.margin"),
        (
            ["metrics.include=[loss/train]", "optimized_metric=nc1/test"],
            "optimized_metric=nc1/test: is not measured; must be one of loss/train",
        ),
        (["dynamics.batch_size=301"], "dynamics.batch_size=301: there are 300 training samples; null takes all"),
        (["dataset=mnist", "dataset.train_per_class=2", "dynamics.batch_size=21"], "there are 20 training samples"),
        (["dynamics.beta=1e400"], "1e400 is beyond all numbers of a computer; infinity is written inf"),
        (["model.truncation=-1E+999"], "-1E+999 is beyond all numbers of a computer"),
        (["dynamics.lambda_w=1e-400"], "1e-400 is below all numbers of a computer; write 0 if it is meant"),
        (["dynamics.schedule=[{after:0.5,step_size:1e-400}]"], "1e-400 is below all numbers"),
        (["dynamics.beta=1e300"], "dynamics.beta=1e+300: must be at most 1e+12, or inf for no noise"),
        (["dynamics.beta=1e-50"], "dynamics.beta=1e-50: must be at least 1e-30: float32 ends there"),
        (["dynamics.step_size=1e-50"], "dynamics.step_size=1e-50: must be at least 1e-30"),
        (["dynamics.lambda_rho=1e-50"], "dynamics.lambda_rho=1e-50: must be at least 1e-30"),
        (["model.initial_scale_a=1e-50"], "model.initial_scale_a=1e-50: must be at least 1e-30"),
        (["model.truncation=1e300"], "model.truncation=1e+300: must be at most 1e+12, or inf for none"),
        (["dynamics.beta=nan"], "dynamics.beta=nan: must be positive"),
        (["separation.margin=nan"], "dataset.margin=nan: must lie between"),
        (["width.particles=many"], "width.particles: Value 'many' of type 'str' could not be converted to Integer"),
    ],
)
def test_a_bad_value_is_one_line(overrides, message):
    assert message in refusal(*overrides)


def test_a_message_lists_few_choices_and_names_the_nearest_of_many():
    assert suggest_choice("tan", ("tanh", "relu")) == "must be one of tanh, relu (did you mean tanh?)"
    many = [f"choice{number}" for number in range(20)]
    assert suggest_choice("choise7", many) == "did you mean choice7?"


def test_an_unknown_key_in_a_file_is_found_too():
    composed = compose_config()
    OmegaConf.set_struct(composed, False)
    composed.model.activaton = "tanh"
    with pytest.raises(ConfigError, match=r"unknown key 'model.activaton'; the nearest key is 'model.activation'"):
        parse(composed)


def test_what_is_measured_need_not_hold_the_metric_that_a_sweeper_would_go_by():
    assert select_metrics(config_of("metrics.include=[loss/train]")) == ("loss/train",)
    assert "nc1/test" not in select_metrics(config_of("metrics.exclude=[nc1/*]"))


def test_all_samples_may_be_a_batch_and_infinity_may_be_meant():
    assert config_of("dynamics.batch_size=300").dynamics.batch_size == 300
    assert config_of("dynamics.beta=inf", "model.truncation=inf", "dynamics.lambda_w=0.0e5").dynamics.lambda_w == 0
