"""Sweeps on Weights & Biases, as wandb itself reads them back."""

import json
import socket
import time

import psutil
import pytest
from omegaconf import OmegaConf

from nc_sweeps.config import compute_signature
from nc_sweeps.publish import published
from nc_sweeps.publish.content import make_end_key
from nc_sweeps.store.runs import RunStore
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.configs import TINY, tiny
from tests.processes import PATIENCE
from tests.publish.commands import KEY, run, start
from tests.publish.wandb_server import Server

pytestmark = pytest.mark.processes

#: A run long enough to be killed while it trains.
LONG = (*TINY, "dynamics.horizon=60000", "width.particles=60", "compute.checkpoint_seconds=0")
TRACKED = ("tracking=wandb", "tracking.tags=[a,b]", "tracking.job_type=test", "tracking.model=true")


def read_back(folder):
    """Return the records of an offline W&B run by their kinds, in order."""
    done = run(folder.parent, "wandb", "leet", "inspect", "--json", str(folder))
    assert done.returncode == 0, done.stderr
    records = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        records.setdefault(record["type"], []).append(record[record["type"]])
    return records


def format_number(value):
    """Return a number as wandb's reader writes it."""
    if value != value:
        return "NaN"
    return {float("inf"): "Infinity", -float("inf"): "-Infinity"}.get(value, value)


def check_offline_run(stored):
    """Check that the one W&B run of a run is all of it, and nothing else."""
    (folder,) = published.find_offline_folders(stored)
    records = read_back(folder)
    (header,) = records["run"]
    assert header["run_id"] == stored.name
    assert header["run_group"] == stored.sweep.name

    rows = [{name: format_number(value) for name, value in row.items()} for row in stored.read_metrics().to_dicts()]
    history = [entry["item"] for entry in records["history"]]
    own = {"_runtime", "_step", "_timestamp"}
    assert [{name: value for name, value in row.items() if name not in own} for row in history] == rows
    assert [row["_step"] for row in history] == [row["step"] for row in rows]

    config = OmegaConf.to_container(OmegaConf.load(stored.config_path))
    assert config["dynamics"]["beta"] == float("inf")
    sent = header["config"]["update"]
    assert sent["dynamics"] == config["dynamics"] | {"beta": "inf"}
    same_groups = config.keys() - {"dynamics", "model"}
    assert {name: sent[name] for name in same_groups} == {name: config[name] for name in same_groups}

    final = {}
    for entry in records["summary"]:
        final |= entry["update"]
    summary = stored.read_summary()
    for name, entry in summary.as_dict()["metrics"].items():
        best = "max" if "max" in final[name] else "min"
        assert final[name] == {best if key == "best" else key: value for key, value in entry.items()}
        assert final[make_end_key(name)] == entry["last"]
    plain = {name: final[name] for name in map(make_end_key, ("width.particles", "seed", "dynamics.beta"))}
    assert plain == {"end/width/particles": config["width"]["particles"], "end/seed": 0, "end/dynamics/beta": "inf"}
    figures = [entry for record in records["config"] for entry in record["update"].items()]
    assert [name for name, _ in figures] == ["_wandb.visualize.nc1_and_bound", "_wandb.visualize.tightness"]
    assert all('{"name": "tableKey", "value": "certificate"}' in json.dumps(figure) for _, figure in figures)
    assert (final["status"], final["reason"]) == (summary.status, summary.reason)
    assert final["certificate"]["nrows"] == len(rows)
    assert records["exit"][0].get("exit_code", 0) == (0 if summary.status == "completed" else 1)
    definitions = {record.get("name") or record["glob_name"]: record for record in records["metric"]}
    assert all(definitions[name]["step_metric"] == "time" for name in ("*", "certificate/tightness"))
    assert definitions["*"]["summary"] == {"last": True, "min": True}
    return header, records


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of two packs that was trained offline."""
    folder = tmp_path_factory.mktemp("offline")
    launcher = ("hydra/launcher=packed", "hydra.launcher.max_runs_per_pack=2")
    runs = ("width.particles=10,12", "dynamics.step_size=0.5,1e6", "model.activation=relu")
    done = run(folder, "nc-train", "-m", *launcher, *TRACKED, "tracking.mode=offline", *TINY, *runs)
    assert done.returncode == 1  # the runs of the large step diverge
    assert "W&B: 4 offline runs in results/sweep/wandb; nc-sweep sync results/sweep sends them" in done.stdout
    return folder / "results" / "sweep"


def test_each_run_of_a_packed_sweep_is_one_complete_wandb_run(sweep):
    runs = SweepFolder(sweep).run_folders()
    assert {stored.read_summary().status for stored in runs} == {"completed", "diverged"}
    assert len(list((sweep / "wandb").iterdir())) == len(runs) == 4
    for stored in runs:
        header, records = check_offline_run(stored)
        assert (header["job_type"], header["tags"]) == ("test", ["a", "b"])
        has_model = any(artifact["type"] == "model" for artifact in records["artifact"])
        assert has_model == stored.checkpoint_path.exists()


def test_sync_writes_what_is_new_and_nothing_else(sweep):
    def read_stamps():
        return {path: path.stat().st_mtime_ns for path in sorted(sweep.rglob("*")) if path.is_file()}

    before = read_stamps()
    done = run(sweep.parent.parent, "nc-sweep", "sync", "results/sweep")
    assert done.returncode == 0, done.stderr
    assert "wandb sync results/sweep/wandb/offline-run-*" in done.stdout
    assert read_stamps() == before

    lost, *others = SweepFolder(sweep).run_folders()
    for path in sorted((sweep / "wandb").glob(f"*{lost.name}/**/*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    published.find_offline_folders(lost)[0].rmdir()
    assert run(sweep.parent.parent, "nc-sweep", "sync", "results/sweep").returncode == 0
    check_offline_run(lost)
    after = read_stamps()
    for other in others:
        assert all(after[path] == before[path] for path in before if path.is_relative_to(other.path))


def wait_for(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def find_companions(process):
    return [
        child for child in psutil.Process(process.pid).children() if "nc_sweeps.publish.companion" in child.cmdline()
    ]


def test_a_killed_and_resumed_run_is_one_run_even_if_the_companion_is_killed(tmp_path):
    command = ("nc-train", *LONG, *TRACKED, "tracking.mode=offline", "tracking.model=false")
    first = start(tmp_path, *command)
    wait_for(lambda: list(tmp_path.glob("results/sweep/*/checkpoint.safetensors")))
    (companion,) = find_companions(first)
    first.kill()
    first.communicate()
    companion.wait(PATIENCE)  # it ends by itself
    (stored,) = SweepFolder(tmp_path / "results" / "sweep").run_folders()
    assert stored.read_summary().status == "running"
    assert not published.find_offline_folders(stored)

    second = start(tmp_path, *command)
    wait_for(lambda: find_companions(second))
    for companion in find_companions(second):
        companion.kill()
    stdout, stderr = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, stderr
    assert "W&B: 1 run could not be published in time; nc-sweep sync results/sweep publishes them" in stdout
    assert stored.read_summary().status == "completed"
    assert not published.find_offline_folders(stored)

    assert run(tmp_path, "nc-sweep", "sync", "results/sweep").returncode == 0
    check_offline_run(stored)


def test_a_server_that_never_answers_costs_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = {"WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "WANDB_API_KEY": KEY}
        done = run(tmp_path, "nc-train", *TINY, *TRACKED, "tracking.mode=online", **server)
        assert done.returncode == 0, done.stderr
        (stored,) = SweepFolder(tmp_path / "results" / "sweep").run_folders()
        check_offline_run(stored)

        synced = run(tmp_path, "nc-sweep", "sync", "results/sweep", **server)
        assert synced.returncode == 1
        assert synced.stderr.startswith("nc-sweep: no answer from http://127.0.0.1:")
        assert len(synced.stderr.splitlines()) == 1
    output = done.stdout + done.stderr
    assert output.count("no answer from http://127.0.0.1:") == output.count("W&B") == 1
    assert KEY not in output + synced.stdout + synced.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_what_cannot_be_published_is_one_line(tmp_path):
    done = run(tmp_path, "nc-sweep", "sync", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("nc-sweep: nowhere: there is no such folder")
    assert len(done.stderr.splitlines()) == 1
    refused = run(tmp_path, "nc-train", "tracking=wandb", "tracking.project=a/b")
    assert refused.stderr.startswith("nc-train: tracking.project=a/b: must have 1 to 128 characters")


def test_online_a_run_goes_on_where_it_was_and_is_published_once(tmp_path):
    sweep = tmp_path / "results" / "sweep"
    store = RunStore(sweep / compute_signature(tiny()), tiny(), [])

    def measure(*steps):
        for step in steps:
            clocks = {"step": step, "time": 0.5 * step, "epoch": float(step), "seconds": 0.1 * step}
            store.append(clocks | {"nc1/train": 1 / (1 + step)})
        store.flush()

    with Server() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        measure(0, 1, 4)
        assert run(tmp_path, "nc-sweep", "sync", "results/sweep").returncode == 0
        (offline,) = published.find_offline_folders(store.folder)
        first = run(tmp_path, "nc-sweep", "sync", "results/sweep", **online)
        assert first.returncode == 0, first.stderr
        assert not offline.exists()  # the server has it
        (sent,) = server.runs.values()
        assert (sent["name"], sent["groupName"], sent["exit_code"]) == (store.directory.name, "sweep", 1)
        assert [row["_step"] for row in sent["history"]] == [0, 1, 4]

        measure(9, 11)
        store.finish("completed")
        again = run(tmp_path, "nc-sweep", "sync", "results/sweep", **online)
        assert again.stdout == f"W&B: 1 run at {server.url}/me/nc-sweeps\n"
        history = [{name: row[name] for name in ("step", "time", "nc1/train")} for row in sent["history"]]
        assert history == store.folder.read_metrics().select("step", "time", "nc1/train").to_dicts()
        assert sent["exit_code"] == 0
        assert sent["summary"]["nc1/train"]["last"] == sent["summary"]["nc1/train"]["min"] == 1 / 12

        requests = server.requests
        assert run(tmp_path, "nc-sweep", "sync", "results/sweep", **online).stdout == again.stdout
        assert server.requests == requests
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
