"Several processes train one model: they learn what one would, and any number goes on from a checkpoint."
import multiprocessing
import os
import socket

import accelerate       # noqa: F401, once, and not in every fork
import pytest
import torch

from muni_nb.data.digits import quadrant_digits
from muni_nb.models.mld import MLD
from muni_nb.models.muni import MUNI
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import fit

torch.set_num_threads(1)       # a fork takes no pool of threads along
BENCH = quadrant_digits(16, rows=200, test_rows=20)


class Killed(Exception): pass


class Mortal(MUNI):
    "Dies when so much of its training is done."
    until = 2.0

    def loss(self, batch, available, progress=1.0):
        if progress >= self.until: raise Killed
        return super().loss(batch, available, progress)


Mortal.__name__ = "MUNI"       # to the checkpoint it is the same run


def trained_by(rank, processes, port, folder, until, seed, kind, answers):
    "One of `processes` that train a tiny model in six steps of two parts; its weights and curve."
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {k: str(v) for k, v in place.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.manual_seed(seed + rank)            # weights are the first one's, or the checkpoint's
    model = kind(BENCH.specs, sizes=Sizes.tiny())
    model.until = until
    how = {"steps": 6, "batch_size": 32, "parts": 2, "warmup": 2, "precision": "float32", "progress": False}
    try: curve = fit(model, BENCH, folder=folder, save_every=1, log_every=1, **how).term_value.sel(term="loss").values
    except Killed: curve = None
    except Exception as error: return answers.put((repr(error), None))
    answers.put((curve, {k: v.numpy() for k, v in model.state_dict().items()}))


def train_by(processes, folder, until=2.0, seed=0, kind=Mortal):
    "The curves and weights that so many processes, forked, end with."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    told = (processes, port, folder, until, seed, kind, answers)
    team = [fork.Process(target=trained_by, args=(rank, *told), daemon=True) for rank in range(processes)]
    for each in team: each.start()
    found = [answers.get(timeout=120) for _ in team]
    for said, weights in found: assert weights is not None, said
    for each in team: each.join()
    return found


def test_two_processes_learn_what_one_does_and_go_on_as_one_and_back(tmp_path):
    (curve, alone), = train_by(1, tmp_path / "alone")
    (_, one), (_, other) = both = train_by(2, tmp_path / "two")
    assert all((one[k] == other[k]).all() for k in one)
    for theirs, weights in both:
        assert theirs == pytest.approx(curve, rel=1e-4)
        assert all(weights[k] == pytest.approx(alone[k], abs=1e-4) for k in alone)
    train_by(2, tmp_path / "moved", until=2 / 6)
    train_by(1, tmp_path / "moved", until=4 / 6, seed=5)
    for theirs, weights in train_by(2, tmp_path / "moved", seed=9):
        assert theirs == pytest.approx(curve, rel=1e-4) and len(theirs) == 6
        assert all(weights[k] == pytest.approx(alone[k], abs=1e-4) for k in alone)


def test_running_averages_are_of_the_rows_of_all_processes(tmp_path):
    (curve, alone), = train_by(1, tmp_path / "alone", kind=MLD)
    (theirs, one), (_, other) = train_by(2, tmp_path / "two", kind=MLD)
    assert all((one[k] == other[k]).all() for k in one)
    assert theirs == pytest.approx(curve, rel=1e-3)
    for k in ("mean", "square"): assert one[k] == pytest.approx(alone[k], abs=1e-3)
