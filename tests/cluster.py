"""Sweeps on a scheduler of dask, with real processes that are really killed: `python -m pytest tests/cluster.py`.

Two minutes of one core, so that no everyday check waits for it."""
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from dask import config
from distributed import Client, LocalCluster

from muni_nb.experiments.cluster import SchedulerLost, TRIES
from muni_nb.experiments.run import Run
from muni_nb.experiments.store import find, read_result
from muni_nb.experiments.sweep import FAILED, sweep
from muni_nb.files import read_tensors
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import Recipe

CLOCKS = ["train_seconds", "evaluation_seconds"]
DEADLY = """import os
from muni_nb.models.muni import MUNI

class Deadly(MUNI):
    "Kills its process when it is trained in earnest, as a system without memory would."
    def loss(self, batch, available, progress=1.0):
        if progress > 0.7: os.kill(os.getpid(), 9)
        return super().loss(batch, available, progress)
"""


def plane_runs(number: int, steps: int = 4, **told) -> list[Run]:
    "So many runs, each of a second if its steps are few."
    sizes = Sizes(latent=2, prior=16, prior_depth=1, vector_encoder=16, vector_decoder=16, vector_depth=1)
    shared = {"sizes": sizes, "recipe": Recipe(steps=steps, batch_size=32, precision="float32"),
              "bench": {"benchmark": "muni_nb.data.plane:plane", "rows": 200, "test_rows": 60},
              "evaluation": {"rows": 30, "steps": 2, "per_class": 30, "probe_steps": 4}}
    return [Run("plane", seed, **shared | told) for seed in range(number)]


def digit_runs(number: int) -> list[Run]:
    "So many runs whose judge no package has."
    shared = {"sizes": Sizes.tiny(), "recipe": Recipe(steps=4, batch_size=16), "verifier": {"steps": 3, "width": 4},
              "bench": {"size": 16, "rows": 100, "test_rows": 60},
              "evaluation": {"rows": 8, "steps": 1, "per_class": 20, "probe_steps": 2, "latents": False}}
    return [Run("digits", seed, **shared) for seed in range(number)]


def same(runs, one, other) -> bool:
    "Whether two folders hold the same results, bit for bit, up to what clocks say."
    def result(run, folder):
        ds = read_result(find(run, folder)).drop_vars(CLOCKS)
        return ds.assign_attrs(date="")

    return all(result(run, one).identical(result(run, other)) for run in runs)


class Told(list):
    "Lines of a sweep; `seconds` after one that starts with `at`, by default when runs begin, `act` is called."

    def __init__(self, act=None, seconds=2.0, at="about"):
        self.act, self.seconds, self.at = act, seconds, at

    def __call__(self, line):
        self.append(line)
        if self.act and line.startswith(self.at): threading.Timer(self.seconds, self.act).start()


def kill_a_worker():
    "Kill -9 one of the processes that this one's cluster has for workers."
    children = psutil.Process().children(recursive=True)
    [each for each in children if "spawn_main" in " ".join(each.cmdline())][0].kill()


@pytest.fixture
def machines(tmp_path):
    "The address and the process of a scheduler that has two workers."
    def dask(*words):
        return subprocess.Popen([sys.executable, "-m", "dask", *map(str, words), "--no-dashboard"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    place = tmp_path / "scheduler.json"
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", place)
    worker = ["--scheduler-file", place, "--nthreads", 1, "--local-directory"]
    workers = [dask("worker", *worker, tmp_path / name) for name in "ab"]
    with Client(scheduler_file=str(place), timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)
        yield client.scheduler.address, scheduler
    for each in (*workers, scheduler): each.kill()
    for each in (*workers, scheduler): each.wait()


def test_results_and_models_are_those_of_our_own_processes(tmp_path):
    runs = digit_runs(2)
    sweep(runs, tmp_path / "far", scheduler="local", report=Told())
    sweep(runs, tmp_path / "near", workers=2, report=Told())
    assert same(runs, tmp_path / "far", tmp_path / "near")
    for path in (tmp_path / "near" / "models").glob("*/model.safetensors"):
        other = tmp_path / "far" / path.relative_to(tmp_path / "near")
        (near, said), (far, told) = (read_tensors(place, "model", "") for place in (path, other))
        assert said == told and near.keys() == far.keys()        # a header has its parts in any order
        assert all(near[name].equal(far[name]) for name in near)
    said = Told()
    again = sweep(runs, tmp_path / "far", scheduler="tcp://nobody:1", report=said)     # finished: nobody is asked
    assert said == ["2 runs: 2 finished before, 0 to do"] and again.sizes["seed"] == 2


def test_a_kept_model_is_sent_and_not_trained_again(tmp_path, machines):
    (run,) = plane_runs(1)
    sweep([run], tmp_path / "runs", workers=0, report=Told())
    (other,) = plane_runs(1, evaluation=run.evaluation | {"rows": 20})
    ds = sweep([other], tmp_path / "runs", scheduler=machines[0], report=Told())
    assert ds.train_seconds.item() == read_result(find(run, tmp_path / "runs")).train_seconds.item()


def test_runs_of_a_killed_worker_are_made_elsewhere(tmp_path):
    runs, said = plane_runs(3, steps=400), Told(kill_a_worker)
    sweep(runs, tmp_path / "far", scheduler="local", report=said)
    assert any("begun again, its worker is lost" in line for line in said)
    sweep(runs, tmp_path / "near", workers=0, report=Told())
    assert same(runs, tmp_path / "far", tmp_path / "near")


def test_workers_that_dask_gives_up_are_replaced(tmp_path):
    runs, said = plane_runs(3, steps=400), Told(kill_a_worker)
    with config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):        # before any is back
        sweep(runs, tmp_path, workers=1, scheduler="local", report=said)
    assert any("begun again, its worker is lost" in line for line in said)


def test_a_run_that_kills_its_workers_is_given_up_and_one_that_fails_is_told(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    good = plane_runs(4)
    (deadly,) = plane_runs(1, model="deadly:Deadly")
    (bad,) = plane_runs(1, evaluation=good[0].evaluation | {"routes": [["smell"]]})
    runs = [Run("bad", 0, **told_of(bad)), Run("deadly", 0, **told_of(deadly)), *good]
    said, folder = Told(), tmp_path / "runs"
    with pytest.raises(RuntimeError, match="2 of 6 runs failed.*WorkerDied"):
        sweep(runs, folder, scheduler="local", report=said)
    assert all(find(run, folder) for run in good)
    assert sum("deadly" in line and "begun again" in line for line in said) == TRIES - 1
    traces = {path.name.split("-")[0]: path.read_text() for path in (folder / FAILED).iterdir()}
    assert "_execute" in traces["bad"] and "smell" in traces["bad"] and "its worker died" in traces["deadly"]


def told_of(run: Run) -> dict:
    "The arguments of a run but for its name and seed."
    names = ("model", "sizes", "recipe", "bench", "evaluation")
    return {name: getattr(run, name) for name in names}


def test_an_interrupted_sweep_leaves_no_worker_busy(tmp_path, machines):
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        sweep(plane_runs(3, steps=20_000), tmp_path / "runs", scheduler=machines[0], report=Told(interrupt))
    with Client(machines[0], set_as_default=False) as client:
        busy = lambda: sum(client.run(lambda dask_worker: len(dask_worker.active_threads)).values())
        until = time.monotonic() + 10
        while busy() and time.monotonic() < until: time.sleep(0.2)
        assert not busy()
        ds = sweep(plane_runs(1), tmp_path / "runs", scheduler=client, report=Told())      # who is asked again, works
        assert ds.sizes["seed"] == 1 and client.status == "running"


def test_a_scheduler_that_is_lost_ends_the_sweep_and_takes_nothing_finished_along(tmp_path, machines):
    address, scheduler = machines
    quick, slow = plane_runs(2), [Run("slow", 0, **told_of(*plane_runs(1, steps=20_000)))]
    with pytest.raises(SchedulerLost, match="what is finished is kept"):
        sweep([*quick, *slow], tmp_path / "runs", scheduler=address, report=Told(scheduler.kill, at="[2/3]"))
    assert all(find(run, tmp_path / "runs") for run in quick)


def test_cards_are_declared(tmp_path, machines):
    said = Told()
    with pytest.raises(ValueError, match="declares a card: start workers by dask worker --resources GPU=1"):
        sweep(plane_runs(1), tmp_path / "runs", scheduler=machines[0], device="cuda", report=said)
    with LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None, resources={"GPU": 1}) as one:
        with pytest.raises(ValueError, match="device 'cuda' cannot be used here"):
            sweep(plane_runs(1), tmp_path / "runs", scheduler=one, device="cuda", report=said)
    assert not list((tmp_path / "runs").glob("*.nc"))
