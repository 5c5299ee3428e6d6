"""The command as a user meets it, in an empty directory."""

import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from safetensors import safe_open

import nc_sweeps
from nc_sweeps.pack import Pack
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.sweep_folder import SweepFolder
from nc_sweeps.train import main
from tests.configs import TINY, config_of
from tests.doubles import SilentListener
from tests.processes import PATIENCE


def test_help_teaches_without_torch(run_command):
    help_page = run_command("--help")
    assert help_page.returncode == 0
    for word in ("nc-train -m", "+experiment=first_light", "separation: overlapping, separated, touching", "horizon"):
        assert word in help_page.stdout


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--cfg", "job"], ["width.particles=0"], ["-sc", "query=bash"], ["dataset=mnist", "data_dir=x"]],
)
def test_torch_is_not_loaded_where_it_is_not_needed(tmp_path, arguments):
    script = (
        "import sys\n"
        f"sys.argv = ['nc-train', *{arguments!r}]\n"
        "from nc_sweeps.train import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "slow = {'pytorch_lightning', 'altair'} | ({'torch', 'polars'} if 'mnist' not in str(sys.argv) else set())\n"
        "raise SystemExit(f'loaded: {slow & set(sys.modules)}' if slow & set(sys.modules) else 0)\n"
    )
    environment = os.environ | {"COMP_LINE": "nc-train width.", "COMP_POINT": "15"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nc-train width.", {"width.particles="}),
        (
            "nc-train dataset=",
            {f"dataset={name}" for name in ("separable", "gaussian", "digits", "mnist", "mnist_mod3")},
        ),
        ("nc-train +experiment=", {"+experiment=first_light"}),
        ("nc-train dynamics=noisy_", {"dynamics=noisy_sgd", "dynamics=noisy_gradient_flow"}),
    ],
)
def test_tab_completion(run_command, line, expected):
    done = run_command("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert expected <= set(done.stdout.split())


@pytest.fixture
def refuse(tmp_path, monkeypatch, capfd):
    """Run ``nc-train`` in this process, in an empty directory but for a file, and return the line of its refusal."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["nc-train", *arguments])
        with pytest.raises(SystemExit) as info:
            main()
        line = info.value.code  # text here is what Python prints on stderr before it exits with 1
        assert isinstance(line, str)
        assert capfd.readouterr().err == ""
        return line

    (tmp_path / "file").write_text("in the way")
    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["width.particle=64"], "unknown key 'width.particle'; the nearest key is 'width.particles'"),
        (["-m", "width.particle=64,128"], "unknown key 'width.particle'; the nearest key is 'width.particles'"),
        (["+widht=3"], "unknown key 'widht'; the nearest key is 'width'"),
        (["-m", "hydra/launcher=packed", "width.particles=64,0"], "width.particles=0: must be at least 1"),
        (["model.features=2"], "model.features=2: must be at least the number of classes, 3"),
        (["separation.margin=0.6"], "1/√q = 0.5774"),
        (["dynamics.step_size=-1"], "dynamics.step_size=-1.0: must be positive"),
        (["dynamics.beta=0"], "dynamics.beta=0.0: must be positive"),
        (["model.activation=tanj"], "(did you mean tanh?)"),
        (["dynamics.horizon=0"], "dynamics.horizon=0.0: must be positive"),
        (["dynamics.horizon_unit=time", "dynamics.horizon=0.01"], "must be long enough for one step"),
        (["dataset=mnist", "data_dir=nowhere"], "data_dir=nowhere: no MNIST in nowhere/MNIST/raw"),
        (["dataset=digits", "dataset.train_per_class=500"], "class 0 has only 178 samples"),
        (["dataset=digit"], "dataset=digit: must be one of cifar10"),
        (["width=5"], "width=5: say width.particles=5"),
        (["particles=5"], "unknown key 'particles'; the nearest key is 'width.particles'"),
        (["output_dir=file"], "Not a directory; set output_dir to a folder that can be written"),
        (["compute.accelerator=abacus"], "compute.accelerator=abacus"),
        (["compute.memory=0"], "compute.memory=0.0: must be positive, or null"),
        (["compute.memory=0.1"], "compute.memory=0.1: a run of 256 particles needs"),
        (["compute.accelerator=tpu"], "compute.accelerator=tpu"),
        (["-m", "hydra/launcher=packed", "hydra.launcher.runs_per_gpu=0"], "must be at least 1"),
        (["hydra/launcher=packed"], "hydra/launcher=packed: has no effect on a single run; sweep with -m"),
        (["hydra/sweeper=paired"], "hydra/sweeper=paired: has no effect on a single run"),
        (["hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: has no effect on a single run"),
        (["-m", "hydra.sweep.subdir=x", "seed=1,2"], "choose output_dir and name instead"),
        (["-m", "hydra.run.dir=x", "seed=1,2"], "choose output_dir and name instead"),
        (["hydra.sweeper=3"], "hydra.sweeper=3: is a group of keys"),
        (["-m", "hydra.sweeper.max_batch_size=0", "seed=1,2"], "hydra.sweeper.max_batch_size=0: must be at least 1"),
        (["-m", "seed=range(0)"], "seed=range(0): there is no value to take"),
        (["-m", "hydra/launcher=packed", "seed=range(0)"], "seed=range(0): there is no value to take"),
        (["-m", "hydra/launcher=packed", "width=glob(zz*)"], "width=glob(zz*): there is no value to take"),
        (["-m", "dynamics.beta=1,1e400"], "1e400 is beyond all numbers"),
        (["-m", "hydra/launcher=packed", "dynamics.batch_size=32,301"], "there are 300 training samples"),
        (
            ["-m", "hydra/sweeper=optuna", "dynamics.step_size=interval(0.1,1)", "metrics.include=[loss/train]"],
            "optimized_metric=nc1/test: the sweeper goes by it, but it is not measured",
        ),
        (["-m", "dynamics.step_size=interval(0.5,2)"], "such as hydra/sweeper=optuna"),
        (["-m", "hydra/launcher=packed", "compute.accelerator=gpu", "seed=1,2"], "compute.accelerator=gpu: "),
        (["-m", "hydra/launcher=packed", "dataset=mnist", "data_dir=nowhere"], "no MNIST in nowhere/MNIST/raw"),
        (["--config-dir", "nowhere"], "nowhere' not found"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(refuse, tmp_path, arguments, message):
    line = refuse(*arguments)
    assert line.startswith("nc-train: ")
    assert message in line
    assert "\n" not in line
    assert not list(tmp_path.glob("**/config.yaml"))
    if "-m" not in arguments:
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("arguments", "ours", "hydras"),
    [
        (
            ["-m", "+experiment=first_light,inverse_temperature"],
            "nc-train +experiment=first_light",
            "'hydra/launcher' must be selected before the sweep starts",
        ),
        (
            ["-m", "hydra/launcher=packed", "+experiment=glob(f*)"],
            "fig1a has a sweep of its own, over seed",
            "'hydra.sweeper' must be configured before the sweep starts",
        ),
    ],
)
def test_experiments_with_sweeps_of_their_own_are_not_swept(refuse, tmp_path, arguments, ours, hydras):
    """Hydra 1.3 would drop their sweeps in silence; Hydra 1.4 refuses them itself, before we can."""
    line = refuse(*arguments)
    assert (ours if metadata.version("hydra-core").startswith("1.3.") else hydras) in line
    assert not list(tmp_path.glob("**/config.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["width.particles=0"], "width.particles=0: must be at least 1"),
        (
            [
                "width.particles=20000000",
                "dataset.dimension=2000000",
                "dataset.train_per_class=1",
                "dataset.test_per_class=1",
            ],
            "out of memory; take fewer particles",
        ),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(run_command, tmp_path, arguments, message):
    done = run_command(*arguments)
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line)
    assert line.startswith("nc-train: ")
    assert message in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\nname:\tx\n\tseed: 3\n", "; this is no YAML"),
        ("# @package _global_\nname: [a\nseed: 3\n", "mine.yaml, line 3: "),
        ("name: x\n", "the first line of that file must be '# @package _global_'"),
        ("# @package _global_\nname: gr\xf6sse\n", "not in UTF-8"),
        ("# @package _global_\n- a\n", "Cannot merge"),
        ("# @package _global_\ndefaults: 3\n", "defaults must be a list"),
        ("# @package _global_\ndefaults: [mine]\n", "refer to one another without end"),
        ("# @package _global_\nname: ${name}\n", "Recursive interpolation"),
        ("# @package _global_\ndynamics: {lr: 3}\n", "unknown key 'dynamics.lr'; say dynamics.step_size="),
        ("# @package _global_\nhydra: {mode: SWEEP}\n", "expected one of [RUN, MULTIRUN]"),
    ],
)
def test_a_file_that_is_no_experiment_is_one_line(refuse, tmp_path, text, message):
    path = tmp_path / "mine" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    assert message in refuse("--config-dir", "mine", "+experiment=mine")


def test_a_searching_sweeper_refuses_in_one_line(run_command):
    done = run_command("-m", "hydra/sweeper=optuna", "dynamics.step_size=interval(2,0.5)")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("nc-train: The `low` value must be smaller")


def test_a_fault_of_ours_is_one_line_with_a_log(refuse, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("nc_sweeps.train._train", lambda spec, leads: {}["no such key"])
    line = refuse("width.particles=3")
    assert line.startswith("nc-train: a fault of nc-sweeps, not yours (KeyError: 'no such key'); the log is ")
    (log,) = (tmp_path / "cache" / "nc-sweeps").iterdir()
    assert str(log) in line
    assert "KeyError: 'no such key'" in log.read_text()
    assert "width.particles=3" in log.read_text()


def test_a_fault_is_told_where_no_log_can_be_written(refuse, monkeypatch):
    def refuse_to_write(**_):
        raise OSError("full")

    monkeypatch.setattr("nc_sweeps.train._train", lambda spec, leads: {}["no such key"])
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", refuse_to_write)
        assert "test_cli.py, line " in refuse()


def test_ctrl_c_is_one_line_at_any_time(refuse, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    def fail_for_it(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("a library puts its own error in the place") from error

    for target, how in (
        ("hydra.main", interrupt),
        ("nc_sweeps.train._train", interrupt),
        ("nc_sweeps.train._train", fail_for_it),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, how)
            assert refuse() == "nc-train: interrupted"


def test_the_version_is_ours(capsys, monkeypatch):
    from nc_launch.command import main as sweep

    from nc_sweeps.features.command import main as features

    for name, command in (("nc-train", main), ("nc-sweep", sweep), ("nc-features", features)):
        monkeypatch.setattr(sys, "argv", [name, "--version"])
        with pytest.raises(SystemExit) as info:
            command()
        assert info.value.code in {0, None}
        assert capsys.readouterr().out == f"nc-sweeps {metadata.version('nc-sweeps')}\n"


def test_help_says_what_the_keys_of_the_choice_mean(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nc-train", "model=mlp", "--help"])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main()
    page = capsys.readouterr().out
    for line in ("dynamics.momentum=0.9", "model.hidden=[", "seed=0 ", "figure.x=time "):
        assert f"\n{line}" in page
    words = " ".join(page.split())
    assert "compute.threads=0 number of CPU threads of a process; 0: all cores given to it" in words
    assert "docs/" not in page
    assert not [line for line in page.partition("Keys with")[2].splitlines() if len(line) > 80]


def test_a_full_error_is_a_traceback(run_command):
    done = run_command("width.particles=0", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "width.particles=0: must be at least 1" in done.stderr


@pytest.mark.parametrize("previous", [None, "0"])
def test_the_environment_is_left_as_it_was(refuse, monkeypatch, previous):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if previous is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", previous)
    refuse("width.particles=0")
    assert os.environ.get("HYDRA_FULL_ERROR") == previous


def test_a_sweep_ends_with_a_table_and_its_files(run_command, tmp_path):
    arguments = ["-m", *TINY, "name=small", "width.particles=8,16", "separation.margin=-0.1,0.3", "seed=0,1"]
    done = run_command(*arguments, "hydra/launcher=packed")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "8 runs, means over seeds" in done.stdout
    for heading in ("particles", "margin", "loss", "NC1", "bound", "NB", "error"):
        assert heading in done.stdout
    assert "results: results/small" in done.stdout
    sweep = tmp_path / "results" / "small"
    assert (sweep / "figure.svg").read_text().startswith("<svg")
    assert "report: results/small/report.html" in done.stdout
    assert "margin" in (sweep / "report.html").read_text()
    assert len(SweepFolder(sweep).read_specs()) == 8
    table = nc_sweeps.load_sweep(sweep)
    assert set(table["width.particles"]) == {8, 16}
    assert (table["nc1/train"] <= table["certificate/nc1_bound"] * (1 + 1e-3)).all()

    # Hydra's own launcher, one run after another: the same runs, so nothing is left to do and the numbers stay.
    again = run_command(*arguments)
    assert again.returncode == 0, again.stderr
    assert "Warning" not in again.stderr
    assert again.stderr.count("1 of 1 run done already") == 8
    assert_frame_equal(nc_sweeps.load_sweep(sweep), table)
    assert len(SweepFolder(sweep).read_specs()) == 8


@pytest.mark.processes
def test_a_run_stopped_in_every_way_ends_as_if_nothing_had_happened(run_command, tmp_path):
    arguments = [
        *TINY,
        "width.particles=300",
        "dynamics.horizon=4000",
        "compute.checkpoint_seconds=0",
        "compute.threads=1",
    ]
    whole = run_command(*arguments, "name=whole")
    assert whole.returncode == 0, whole.stderr

    reached = -1
    for how, message in (
        (signal.SIGINT, "interrupted; the same command goes on"),
        (signal.SIGTERM, "interrupted; the same command goes on"),
        (signal.SIGKILL, ""),
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "nc_sweeps", *arguments, "name=stopped"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + PATIENCE
        while (step := _step(tmp_path / "results" / "stopped")) <= reached:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(how)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode in {1, -how}
        assert message in errors
        assert "Traceback" not in errors
        if how is not signal.SIGKILL:
            assert not list(tmp_path.glob("results/stopped/.leases"))
        reached = max(step, _step(tmp_path / "results" / "stopped"))
    assert 0 < reached < 4000

    resumed = run_command(*arguments, "name=stopped")
    assert resumed.returncode == 0, resumed.stderr
    numbers = [
        nc_sweeps.load_sweep(tmp_path / "results" / name).drop("name", "seconds") for name in ("whole", "stopped")
    ]
    assert_frame_equal(*numbers, check_exact=True)


def _step(sweep: Path) -> int:
    """Step of the checkpoint of the only run of a sweep, -1 before there is one."""
    checkpoints = list(sweep.glob("*/checkpoint.safetensors"))
    if not checkpoints:
        return -1
    with safe_open(checkpoints[0], framework="pt") as file:
        return int(file.metadata()["step"])


def test_output_dir_is_spoken_of_only_where_it_is_meant(refuse, tmp_path):
    (tmp_path / "digits.safetensors").mkdir()
    line = refuse("dataset=features", "dataset.path=digits.safetensors")
    assert line.startswith("nc-train: ")
    assert "digits.safetensors" in line
    assert "output_dir" not in line


def test_a_diverged_run_is_reported_and_the_exit_code_says_so(run_command):
    done = run_command(*TINY, "dynamics.step_size=1e6", "model.activation=relu")
    assert done.returncode == 1
    assert "diverged" in done.stdout
    assert "smaller dynamics.step_size" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_the_return_value_is_the_optimized_metric(tmp_path):
    config = config_of(*TINY, "optimized_metric=loss/test")
    (value,) = Pack([RunSpec(config, [], tmp_path / "run")]).train(SilentListener())
    assert value == pl.read_parquet(tmp_path / "run" / "metrics.parquet")["loss/test"][-1]


def test_one_epoch_of_figure_1a_on_mnist(run_command, tmp_path, mnist_dir):
    """Measured elsewhere after one epoch: L = 0.249, NC1 = 0.578, NB = 0.987. Seeds differ by a percent or so."""
    done = run_command(
        "dataset=mnist_mod3", f"data_dir={mnist_dir.absolute()}", "width.particles=6272", "model.features=16",
        "model.initial_scale_u=0.0357142857", "model.train_head=false", "dynamics=sgd", "dynamics.step_size=0.001",
        "dynamics.lambda_rho=1e-4", "dynamics.lambda_w=1e-4", "dynamics.horizon=1", "metrics=every_epoch",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = nc_sweeps.load_sweep(tmp_path / "results" / "sweep").filter(pl.col("epoch") == 1)
    assert last["loss/train"][0] == pytest.approx(0.249, rel=0.05)
    assert last["nc1/train"][0] == pytest.approx(0.578, rel=0.05)
    assert last["balancedness"][0] == pytest.approx(0.987, abs=0.01)
    assert last["nc1/train"][0] <= last["certificate/nc1_bound"][0]
    assert Path(last["data_dir"][0]) == mnist_dir.absolute()
