"""How cost and memory grow: with rows, latent width, picture size, modalities and given sets.

  python tools/scale.py                 all of it, some minutes on one core: ablations/records/scale.json
  python tools/scale.py --only modalities --out runs/scale.json

Each point is a process of its own, as the peak of memory is one number a process: seconds of the processor (median of
three calls), operations (torch's counter), and by how much the process grew. nbs/experiments/12_library.ipynb shows it.
"""
import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from muni_nb.data.batches import batch_at
from muni_nb.data.digits import uniforms
from muni_nb.data.five_views import five_views
from muni_nb.data.spec import Benchmark, Rows, Spec, Truth
from muni_nb.evaluation.coherence import draw, every_subset
from muni_nb.evaluation.minimality import minimality
from muni_nb.evaluation.predictivity import predictivity
from muni_nb.experiments.run import MODELS
from muni_nb.nets.build import Sizes

OUT = Path(__file__).resolve().parent.parent / "ablations" / "records" / "scale.json"
VAES = ("MVAE", "MMVAE", "MoPoE", "MVTCAE", "HELVAE", "MMVAE+", "JMVAE")

CLASSES = 4
FEATURES = 3
SPREAD = 0.3      # of a vector about its class's place


def places(modality: int) -> Tensor:
    "Where the classes of a modality lie, [CLASSES, FEATURES]."
    return torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(modality))


def drawn(index, split: str, modalities: int) -> Rows:
    "Rows by number: a class, and a vector about its place for each modality."
    number = torch.as_tensor(list(index))
    kind = number % CLASSES
    uniform = uniforms(number, split, 0, FEATURES * modalities).clamp(1e-9, 1 - 1e-9)
    noise = SPREAD * torch.special.ndtri(uniform).float().view(len(number), modalities, FEATURES)
    values = {f"part{m}": places(m)[kind] + noise[:, m] for m in range(modalities)}
    return Rows(values, {"kind": kind}, {}, torch.ones(len(number), modalities, dtype=torch.bool))


def reader(modality: int):
    "What reads the class off a modality's vectors: the nearest place."
    return lambda x: {"kind": torch.cdist(x.float(), places(modality)).argmin(1)}


def vectors(modalities: int, rows: int = 512, test_rows: int = 200) -> Benchmark:
    "So many small vectors that share a class."
    names = [f"part{m}" for m in range(modalities)]
    return Benchmark(
        "vectors",
        {name: Spec(name, "vector", (FEATURES,)) for name in names},
        drawn(range(rows), "train", modalities),
        drawn(range(test_rows), "test", modalities),
        attributes={"kind": CLASSES},
        carries=dict.fromkeys(names, ("kind",)),
        config={"builder": "vectors", "modalities": modalities, "rows": rows, "test_rows": test_rows},
        truth=Truth(lambda index, split="test": drawn(index, split, modalities)),
        reads={name: reader(m) for m, name in enumerate(names)})


def step(model: str, bench: Benchmark, sizes: Sizes, rows: int) -> Callable[[], object]:
    "A training step: loss and gradient."
    torch.manual_seed(0)
    learner = MODELS[model](bench.specs, sizes=sizes)
    batch, available = batch_at(bench.train, bench.specs, 0, rows, 0)
    return lambda: learner.loss(batch, available)["loss"].backward()


def evaluation(part: str, model: str, bench: Benchmark, sets: int | None = None) -> Callable[[], object]:
    "A part of the evaluation: draws of so many given sets, probes, or rates."
    torch.manual_seed(0)
    judged = MODELS[model](bench.specs, sizes=Sizes()).eval()
    if part == "draws": return lambda: draw(judged, bench, bench.test, every_subset(bench)[:sets], steps=4)
    if part == "probes": return lambda: predictivity(judged, bench, rows=500, draws=100, steps=20)
    held = judged.encoded(bench.test.values)
    return lambda: minimality(judged, bench, held, bench.test, sets=[])


def points() -> Iterator[tuple[dict, Callable[[], Callable]]]:
    "What is measured, and what makes the call that is."
    about = lambda what, model, against, size: {"what": what, "model": model, "against": against, "size": size}
    for model in ("MUNI", *VAES):
        for number in (2, 4, 8, 10, 12):
            yield about("step", model, "modalities", number), lambda: step(model, vectors(number), Sizes(), 64)
    for number in (2, 4, 8, 12):
        for part in ("probes", "rates"):
            yield about(part, "MUNI", "modalities", number), lambda: evaluation(part, "MUNI", vectors(number))
    for sets in (4, 16, 64):
        yield about("draws", "MUNI", "given sets", sets), lambda: evaluation("draws", "MUNI", vectors(8), sets)
    for model in ("MUNI", "MoPoE"):
        for latent in (16, 64, 256):
            yield about("step", model, "latent", latent), lambda: step(model, vectors(5), Sizes(latent=latent), 64)
        pictures = partial(five_views, rows=64, test_rows=20, filled=True)
        for rows in (8, 16, 32, 64):
            yield about("step", model, "rows", rows), lambda: step(model, pictures(16), Sizes(), rows)
        for size in (16, 32, 64):
            yield about("step", model, "picture size", size), lambda: step(model, pictures(size), Sizes(), 8)


def measured(make: Callable[[], Callable], times: int = 3) -> dict:
    "Seconds, operations and memory of a call."
    torch.set_num_threads(1)
    run = make()
    before = psutil.Process().memory_info().rss
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    spent = []
    for _ in range(times):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
        if spent[0] > 5: break                   # once is enough
    with FlopCounterMode(display=False) as counter: run()
    return {"seconds": statistics.median(spent), "gflop": counter.get_total_flops() / 1e9,
            "megabytes": (peak - before) / 2**20}


def alone(make: Callable[[], Callable]) -> dict:
    "`measured` in a process of its own."
    context = get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(measured(make)))
    child.start()
    while not ours.poll(1):
        if not child.is_alive() and not ours.poll(): raise RuntimeError("the process ended without an answer")
    found = ours.recv()
    child.join()
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="what costs are measured against, such as modalities")
    parser.add_argument("--out", type=Path, default=OUT)
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)     # before a process forks
    found = []
    for about, make in points():
        if told.only not in (None, about["against"]): continue
        found.append(about | alone(make))
        print(json.dumps(found[-1]), flush=True)
    lines = ",\n".join(json.dumps(point) for point in found)
    told.out.parent.mkdir(parents=True, exist_ok=True)
    told.out.write_text(f'{{"points": [\n{lines}\n]}}\n')


if __name__ == "__main__": main()
