from nc_sweeps.data import load
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.training.sizes import Size
from tests.configs import config_of


def test_sizes_are_those_of_the_run():
    config = config_of("dynamics=noisy_sgd", "dynamics.horizon=3", "dataset.train_per_class=50", "width.particles=9")
    data = load(config.dataset)
    size = Size.of(config, data, Schedule.of(config.dynamics, 150), step=3)
    assert (size.samples, size.test_samples, size.batch, size.steps, size.noisy) == (150, 600, 64, 9 - 3, True)
    assert size.measurements < len(Schedule.of(config.dynamics, 150).measurements(config.metrics))
    assert size.compiled
    assert not Size.of(config_of("model.activation=erf"), data, Schedule.of(config.dynamics, 150), 0).compiled
