"""A sweep in bad weather, against the same sweep in calm, a part of `make nightly`; both go to runs/soak.

Two hundred small runs over four workers. In bad weather a worker is killed now and then, the sweep itself is killed
twice, and the disk (a file system of its own, of a fixed size, where this process may mount one) is full for a while;
after each the sweep is begun again, as a user would. In the end both hold the same dataset, bit for bit.

`--memory`: two thousand of the smallest runs there are, in calm, and whether memory grows with them.
"""
import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from muni_nb.experiments.run import Run, settings
from muni_nb.experiments.sweep import sweep
from muni_nb.models.muni import Routes
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import Recipe

ROOT = Path(__file__).resolve().parent.parent
CLOCKS = ["train_seconds", "evaluation_seconds"]
DISK = 400_000_000      # bytes of the file system that is filled
GROWTH = 20_000_000     # bytes that a process may have more in the last quarter of many runs than in the first


def runs_of(number: int) -> list[Run]:
    "So many runs of seconds, two cells of a hundred seeds each if there are two hundred."
    shared = settings(small=True, routes=[[]], latents=False)
    shared["evaluation"] |= {"rows": 16, "steps": 1}
    cells = {"MUNI": Routes(), "not detached": Routes(detach=False)}
    return [Run(cell, seed, routes=routes, **shared) for cell, routes in cells.items() for seed in range(number // 2)]


def smallest_runs(number: int) -> list[Run]:
    "So many runs of a third of a second: a model of points in a plane, its judges, its result, all as of any run."
    sizes = Sizes(latent=2, prior=16, prior_depth=1, vector_encoder=16, vector_decoder=16, vector_depth=1)
    shared = {"sizes": sizes, "recipe": Recipe(steps=2, batch_size=16, precision="float32"),
              "bench": {"benchmark": "muni_nb.data.plane:plane", "rows": 100, "test_rows": 40},
              "evaluation": {"rows": 8, "steps": 1, "per_class": 10, "probe_steps": 1, "latents": False}}
    return [Run("plane", seed, **shared) for seed in range(number)]


def child(told: argparse.Namespace) -> None:
    "One sitting of the sweep, in a process that can be killed; its dataset is written where it ends whole."
    runs = smallest_runs(told.runs) if told.memory else runs_of(told.runs)
    ds = sweep(runs, told.folder, workers=told.workers, scheduler=told.scheduler, drawn=not told.memory)
    ds.drop_vars(CLOCKS).to_netcdf(f"{told.folder}.nc", engine="netcdf4")


class Sitting:
    "A child process that sweeps, and its workers."

    def __init__(self, told: argparse.Namespace, folder: Path, log):
        command = [sys.executable, __file__, "--child", "--runs", str(told.runs), "--workers", str(told.workers),
                   *(["--scheduler", told.scheduler] if told.scheduler else []),
                   *(["--memory"] if told.memory else []), str(folder)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    def workers(self) -> list[psutil.Process]:
        "Processes that make its runs; that which python keeps for itself is none."
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [each for each in children if "spawn_main" in " ".join(each.cmdline())]
        return []

    def memory(self) -> int:
        "Bytes that the sweep's own process has."
        with contextlib.suppress(psutil.NoSuchProcess): return psutil.Process(self.process.pid).memory_info().rss
        return 0

    def running(self) -> bool: return self.process.poll() is None

    def kill(self) -> None:
        everyone = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for each in everyone:
            with contextlib.suppress(psutil.NoSuchProcess): each.kill()
        self.process.wait()


def finished(folder: Path) -> int:
    "How many runs' results are in a folder."
    return len(list(folder.glob("*.nc")))


def calm(told: argparse.Namespace, folder: Path, log) -> dict:
    "The sweep as it should be: seconds, the greatest memory of its own process, and seconds of another call."
    began, sitting, most = time.perf_counter(), Sitting(told, folder, log), []
    while sitting.running():
        most.append(sitting.memory())
        time.sleep(0.5)
    assert sitting.process.returncode == 0, "the calm sweep failed, see its log"
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    again = Sitting(told, folder, log).process.wait()
    assert again == 0
    half = len(most) // 2
    return {"seconds": seconds, "again": time.perf_counter() - began,
            "memory, middle": most[half] / 1e6, "memory, end": max(most[-10:]) / 1e6}


def remembered(told: argparse.Namespace, folder: Path, log) -> bool:
    "Whether memory stays as it is over many runs, of the sweep's process and of its workers; by quarters of the runs."
    sitting, seen = Sitting(told, folder, log), []
    began = time.perf_counter()
    while sitting.running():
        there = finished(folder)
        of_workers = []
        for each in sitting.workers():
            with contextlib.suppress(psutil.NoSuchProcess): of_workers.append(each.memory_info().rss)
        if 0 < there < told.runs and of_workers: seen.append((there, sitting.memory(), max(of_workers)))
        time.sleep(1)
    seconds = time.perf_counter() - began
    assert sitting.process.returncode == 0 and finished(folder) == told.runs, "the sweep failed, see its log"
    quarters = [[each for each in seen if i * told.runs <= 4 * each[0] < (i + 1) * told.runs] for i in range(4)]
    within = True
    for who, place in {"the sweep's process": 1, "its largest worker": 2}.items():
        figures = [statistics.median(each[place] for each in quarter) for quarter in quarters]
        print(f"{who}, MB by quarters of {told.runs} runs: {', '.join(f'{each / 1e6:.1f}' for each in figures)}")
        within &= figures[-1] - figures[0] < GROWTH
    print(f"{told.runs} runs, {told.workers} workers, {seconds:.0f} s; memory stays: {within}")
    return within


def stormy(told: argparse.Namespace, folder: Path, log, mounted: bool) -> dict:
    "The sweep with killed workers, a full disk and two deaths of its own; what happened."
    chance = random.Random(0)
    found = {"sittings": 0, "workers killed": 0, "sweep killed": 0, "disk full, seconds": 0.0, "results lost": 0}
    ballast, seen = folder / "ballast", 0
    deaths = [told.runs // 3, told.runs * 2 // 3]            # results there are when the sweep is killed
    fill_at, filled = told.runs // 2, None
    began = time.perf_counter()
    while True:
        found["sittings"] += 1
        assert found["sittings"] < 50, "the sweep does not come to an end"
        sitting = Sitting(told, folder, log)
        last, at_first = None, finished(folder)               # a cluster whose workers die at its birth is none
        while sitting.running():
            time.sleep(0.2)
            now, there = time.perf_counter(), finished(folder)
            found["results lost"] += max(0, seen - there)
            seen = max(seen, there)
            if deaths and there >= deaths[0]:
                deaths.pop(0)
                found["sweep killed"] += 1
                sitting.kill()
                break
            if last is None and there > at_first: last = now
            if last and now - last > told.every and (some := sitting.workers()):
                with contextlib.suppress(psutil.NoSuchProcess): chance.choice(some).send_signal(signal.SIGKILL)
                found["workers killed"] += 1
                last = now
            if mounted and filled is None and there >= fill_at:
                with contextlib.suppress(OSError), open(ballast, "wb") as file:
                    while file.write(bytes(1 << 20)): file.flush()
                filled = now
            if filled and ballast.exists() and now - filled > told.full:
                ballast.unlink()
                found["disk full, seconds"] = now - filled
        if filled and ballast.exists():                       # the sweep has said that there is no room, and ended
            time.sleep(max(0.0, told.full - (time.perf_counter() - filled)))
            ballast.unlink()
            found["disk full, seconds"] = time.perf_counter() - filled
        elif sitting.process.returncode == 0: break
    return found | {"seconds": time.perf_counter() - began}


@contextlib.contextmanager
def small_disk(place: Path):
    "A file system of `DISK` bytes at a place, if one may be mounted; says whether it is."
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    try: yield bool(mounted)
    finally:
        if mounted: subprocess.run(["umount", "--lazy", str(place)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=str(ROOT / "runs" / "soak"))
    parser.add_argument("--memory", action="store_true", help="whether it grows, over 2,000 runs if not told how many")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--scheduler", help="of dask, such as local; by default processes of the sweep's own")
    parser.add_argument("--every", type=float, default=30, help="seconds from one killed worker to the next")
    parser.add_argument("--full", type=float, default=60, help="seconds that the disk is full")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    told.runs = told.runs or (2000 if told.memory else 200)
    if told.child: return child(told)

    import xarray as xr
    place = Path(told.folder)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if told.memory:
        with open(place / "log", "w") as log: sys.exit(not remembered(told, place / "many", log))
    with open(place / "log", "w") as log, small_disk(place / "disk") as mounted:
        first = calm(told, place / "calm", log)
        second = stormy(told, place / "disk" / "stormy", log, mounted)
        both = place / "calm.nc", place / "disk" / "stormy.nc"
        one, other = (xr.load_dataset(path, engine="netcdf4") for path in both)
    if not mounted: print("no file system could be mounted here: the disk was not filled")
    for name, figures in {"calm": first, "stormy": second}.items():
        print(name, {key: round(value, 1) for key, value in figures.items()})
    same = one.equals(other)
    print(f"{told.runs} runs, {told.workers} workers, {os.cpu_count()} processors; the same dataset: {same}")
    sys.exit(not (same and second["results lost"] == 0))


if __name__ == "__main__": main()
