"""What is said of a key that nobody knows, and of what Hydra, OmegaConf and YAML cannot read."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nc_sweeps.composition import compose_config
from nc_sweeps.config import explain_config_error, list_all_keys
from nc_sweeps.config.synonyms import _KEYS, find_keys


def explain(*arguments: str) -> str:
    """Return the line about arguments that cannot be composed."""
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as info:
        compose_config(arguments)
    line = explain_config_error(info.value, arguments=arguments)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("dynamics.lr=0.1", "say dynamics.step_size="),
        ("learning_rate=0.1", "say dynamics.step_size="),
        ("bs=8", "say dynamics.batch_size="),
        ("epochs=8", "say dynamics.horizon with dynamics.horizon_unit=epochs"),
        ("dynamics.max_steps=8", "say dynamics.horizon="),
        ("wd=1", "say dynamics.lambda_rho=… (weight decay λ_ρ ≥ 0 of the particles) or dynamics.lambda_w="),
        ("temperature=1", "say dynamics.beta=… (inverse temperature β > 0)"),
        ("noise=1", "say dynamics.beta="),
        ("n=1", "say dataset.train_per_class="),
        ("N=1", "say width.particles="),
        ("num_classes=3", "say dataset.classes="),
        ("optimizer=adam", "say dynamics=… (gradient_flow, momentum"),
        ("gpu=1", "say compute.accelerator="),
        ("n_gpus=1", "say compute.devices="),
        ("launcher=packed", "say hydra/launcher="),
        ("margin=0.1", "the nearest key is 'separation.margin'"),
        ("loss=mse", "dynamics.loss belongs to deep networks, such as model=mlp"),
        ("dynamics.momentum=0.9", "it belongs to deep networks, such as model=mlp"),
        ("hidden=3", "model.hidden belongs to model=mlp; for model=mean_field say width.particles="),
        ("depth=3", "model.hidden belongs to model=mlp"),
        ("dataset.distance=3", "it belongs to dataset=gaussian"),
        ("dataset.modulus=3", "it belongs to dataset=mnist"),
        ("hydra.launchr=3", "the nearest key is hydra.launcher"),
        ("hydra.launcher.partition=gpu", "choose the launcher that has it, as with hydra/launcher=packed"),
    ],
)
def test_an_unknown_key_is_explained_by_its_meaning(argument, said):
    assert said in explain(argument)


def test_a_key_of_another_network_is_said_to_be_so():
    assert "say dynamics.weight_decay=" in explain("model=mlp", "wd=1")
    assert "it belongs to the flow of model=mean_field" in explain("model=mlp", "dynamics.beta=1")
    assert "say model.hidden=… (widths of the hidden layers)" in explain("model=mlp", "depth=3")


def test_synonyms_lead_to_keys_and_mean_one_thing():
    keys = {key.name for key in list_all_keys()}
    groups = {"dataset", "dynamics", "model", "tracking", "figure", "hydra/launcher", "hydra/sweeper"}
    words = [word for words in _KEYS.values() for word in words.split()]
    assert len(words) == len(set(words))
    for word in words:
        for meant in find_keys(word):
            assert meant.partition(" ")[0] in keys | groups | {"hydra.sweeper.n_trials"}
        assert word not in keys | groups


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("width=12", "width=12: say width.particles=12, or width= and one of medium, narrow, wide"),
        ("separation=0.2", "separation=0.2: say separation.margin=0.2"),
        ("model=null", "model=null: must be one of mean_field, mlp, resnet18, vgg11"),
        ("=3", "=3: there is no key before ="),
        ("dataset=MNIST", "dataset=MNIST: must be one of cifar10"),
        ("dataset=MNIST", "(did you mean mnist?)"),
        ("+experiment=first_lght", "(did you mean first_light?)"),
        ("+dataset=mnist", "+dataset=mnist: write dataset=mnist"),
        ("seed", "seed: has no value; write seed=VALUE"),
        ("metrics.include=[nc1/*", "metrics.include=[nc1/*: a bracket [ is not closed"),
        ("metrics.include=[nc1/*]]", "a bracket ] closes none that is open"),
        ("name='question", "a quote ' is not closed"),
        ("name=${seed", "a bracket { is not closed"),
        (
            "name=größe",
            "name=größe: put the value into quotes, and the quotes into others for the shell: 'name=\"größe\"'",
        ),
        ("name=a=b=Δ", "'name=\"a=b=Δ\"'"),
        ("seed=choice()", "seed=choice(): empty choice is not legal"),
        ("seed=1,2", "seed=1,2: several values are a sweep, which needs -m; a list has brackets, seed=[1,2]"),
    ],
)
def test_what_hydra_cannot_read_is_explained(argument, said):
    assert said in explain(argument)


def test_what_is_suggested_can_be_typed():
    assert compose_config(['name="größe"']).name == "größe"
    assert compose_config(["width.particles=12"]).width.particles == 12


def test_a_reference_to_itself_is_explained():
    with pytest.raises(OmegaConfBaseException) as info:
        OmegaConf.resolve(compose_config(["name=${name}"]))
    assert explain_config_error(info.value, arguments=["name=${name}"]).startswith("name=${name}: Recursive")
