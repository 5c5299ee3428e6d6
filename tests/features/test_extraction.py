"""From images to a file of features, and from there to a report."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from torchvision.models import ResNet18_Weights, resnet18

import nc_sweeps
from nc_sweeps.command import show_errors_in_one_line
from nc_sweeps.data import load
from nc_sweeps.errors import UserError
from nc_sweeps.features.backbone import Backbone
from nc_sweeps.features.command import features
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.configs import config_of
from tests.data import formats
from tests.doubles import MaliciousPickle

#: Forty grey images; a small network sees them.
DIGITS = ["dataset=digits", "dataset.train_per_class=3", "dataset.test_per_class=1"]
SMALL = "mobilenet_v3_small"
CPU = torch.device("cpu")


def start_command(*arguments):
    script = "from nc_sweeps.features.command import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def extract(folder, *dataset, **options):
    """Run the command in this process and return the file that it writes."""
    features([*dataset], **({"model": SMALL, "weights": "none", "device": "cpu", "output": folder} | options))
    (path,) = folder.glob("*.safetensors")
    return path


def test_features_are_what_enters_the_head(tmp_path):
    """Against the network taken apart by hand, on images as the preset of the published weights wants them."""
    torch.manual_seed(3)
    model = resnet18().eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    backbone = Backbone("resnet18", str(tmp_path / "weights.pt"), 0, CPU)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    found = backbone(images)
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = model(ResNet18_Weights.DEFAULT.transforms()(images))
    assert torch.equal(found, expected)
    assert (
        Backbone("resnet18", "none", 3, CPU).compute_digest()
        == backbone.compute_digest()
        != Backbone("resnet18", "none", 0, CPU).compute_digest()
    )


@pytest.mark.processes
def test_killed_and_run_again_it_writes_the_same_file(tmp_path, capsys):
    whole = extract(tmp_path / "whole", *DIGITS, batch_size=2)
    assert capsys.readouterr().out == f"{whole}\n"
    stopped = tmp_path / "stopped"
    process = start_command(
        *DIGITS, "--model", SMALL, "--weights", "none", "--device", "cpu", "--batch-size", "2", "--output", str(stopped)
    )
    parts = (stopped / whole.name).with_suffix(".parts")
    while process.poll() is None and len(list(parts.glob("*.safetensors"))) < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = {part: part.stat().st_mtime_ns for part in parts.glob("*.safetensors")}
    assert 3 <= len(left) < 20
    assert not (stopped / whole.name).exists()

    with pytest.MonkeyPatch.context() as patch:
        computed = []
        original = Backbone.__call__
        patch.setattr(Backbone, "__call__", lambda self, images: computed.append(len(images)) or original(self, images))
        again = extract(stopped, *DIGITS, batch_size=2)
    assert sum(computed) == 40 - 2 * len(left)
    assert again.read_bytes() == whole.read_bytes()
    assert list(stopped.iterdir()) == [again]

    # The file is there: nothing is done, whatever the batch size; another seed of the weights is another file.
    written = again.stat().st_mtime_ns
    assert extract(stopped, *DIGITS, batch_size=5).stat().st_mtime_ns == written
    assert extract(tmp_path / "other", *DIGITS, batch_size=20, seed=1).name != whole.name


def test_the_file_holds_the_data_set_and_says_where_it_is_from(tmp_path):
    path = extract(tmp_path, *DIGITS, batch_size=20)
    data = load(config_of(*DIGITS).dataset)
    content = load_file(path)
    assert content["train_features"].shape == (30, 1024)
    assert np.array_equal(content["train_labels"], data.train.labels)
    assert np.array_equal(content["test_labels"], data.test.labels)
    with safe_open(path, framework="numpy") as file:
        origin = json.loads(file.metadata()["origin"])
    assert origin["dataset"] == " ".join(DIGITS)
    assert (origin["model"], origin["weights"]) == (SMALL, "random, seed 0")
    assert "crop_size=[224]" in origin["transform"]


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (["dataset=separable"], {}, "dataset=separable: has no images"),
        (["dataset=cifar10", "data_dir=nowhere"], {}, "no CIFAR10 in nowhere/cifar-10-batches-py; get it with"),
        (["dataset=cifra10"], {}, "(did you mean cifar10?)"),
        (["dataset=digits", "dataset.train_per_clas=1"], {}, "unknown key 'dataset.train_per_clas'; the nearest key"),
        (["width.particles=3"], {}, "width.particles=3: expected a key of the data set: dataset=…"),
        (["digits"], {}, "digits: expected a key of the data set"),
        (DIGITS, {"model": "resnet51"}, "--model=resnet51: no classifier of torchvision; did you mean resnet"),
        (DIGITS, {"model": "squeezenet1_0"}, "--model=squeezenet1_0: has no linear layer"),
        (DIGITS, {"weights": "nowhere.pt"}, "--weights=nowhere.pt: no such file; give one, or published, or none"),
        ([*DIGITS, "seed=-1"], {}, "dataset.seed=-1: must be at least 0"),
        (DIGITS, {"seed": -1}, "--seed=-1: must be at least 0"),
        (DIGITS, {"batch_size": 0}, "--batch-size=0: must be at least 1"),
        (DIGITS, {"device": "abacus"}, "--device=abacus: "),
        (DIGITS, {"device": "cuda:9"}, "--device=cuda:9: "),
    ],
)
def test_bad_input_is_one_line(tmp_path, dataset, options, message):
    with pytest.raises(SystemExit) as info, show_errors_in_one_line("nc-features"):
        extract(tmp_path, *dataset, **options)
    assert message in info.value.code
    assert "\n" not in info.value.code
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_and_weights_that_execute_are_refused(tmp_path):
    other, malicious, trace = (tmp_path / name for name in ("other.pt", "malicious.pt", "trace"))
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    torch.save({"weight": MaliciousPickle(trace)}, malicious)
    for path in (other, malicious):
        with pytest.raises(UserError, match=f"--weights={path}: no weights of {SMALL}") as info:
            Backbone(SMALL, str(path), 0, CPU)
        assert "\n" not in str(info.value)
    assert not trace.exists()


def test_published_weights_that_cannot_be_downloaded_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the port at which nobody listens
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as info:
        Backbone(SMALL, "published", 0, CPU)
    assert "--weights=published: MobileNet_V3_Small_Weights.IMAGENET1K_V1 cannot be had from https://" in str(
        info.value
    )
    assert f"download it to {tmp_path}/hub/checkpoints" in str(info.value)
    assert "\n" not in str(info.value)


def test_figure_1b_from_images_to_report(run_command, tmp_path):
    """The pipeline of Fig. 1(b) in small: CIFAR-100's files, super-classes, ResNet-50, training, report."""
    formats.cifar100(tmp_path)
    classes = "dataset.superclasses=[aquatic_mammals,large_carnivores,people]"
    dataset = ["dataset=cifar100_superclasses", classes, f"data_dir={tmp_path}"]
    dataset += ["dataset.train_per_class=3", "dataset.test_per_class=1"]
    path = extract(tmp_path / "features", *dataset, model="resnet50", batch_size=7)
    assert load_file(path)["train_features"].shape == (9, 2048)

    done = run_command(
        "+experiment=fig1b", f"dataset.path={path}", "dataset.train_per_class=2", "width.particles=96", "seed=0,1",
        "dynamics.batch_size=3", "dynamics.horizon=8", "metrics.points=4", "compute.threads=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "fig1b" / "report.html").exists()
    table = nc_sweeps.load_sweep(tmp_path / "results" / "fig1b")
    assert set(table["seed"]) == {0, 1}
    assert (table["nc1/train"] <= table["certificate/nc1_bound"] * (1 + 1e-3)).all()
    assert table["nc1/train"].is_between(0, 1).all()
    assert table["loss/train"].is_finite().all()
    last = table.group_by("seed").last()
    assert last["step"].to_list() == [16, 16]
    assert last["time"].to_list() == pytest.approx([8e-4 + 8e-3] * 2)
    for row in table.select("dynamics.beta", "dynamics.lambda_w", "dynamics.lambda_rho", "model.features").rows():
        assert row == (1e4, 1e-4, 1e-4, 64)
    run, _ = SweepFolder(tmp_path / "results" / "fig1b").run_folders()
    assert run.read_summary().status == "completed"
