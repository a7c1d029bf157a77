"""Every notebook runs, the ablations at their smoke preset, each in a process of its own.

As `nbdev_test` runs them, without the cells that are marked slow, but in one queue with the tests."""
import os
from functools import partial
from multiprocessing import get_context

import nbdev.test
import pytest
import torch
import torch._dynamo  # noqa: F401, what an optimiser takes two seconds to import: here once for all
from execnb.shell import CaptureShell
from nbdev.config import get_config

from muni_nb.experiments import figures, sweep  # noqa: F401, likewise
from test_repo import ABLATIONS, LIBRARY, ROOT, every

SLOW = get_config(path=ROOT).tst_flags.split()


def run(path, results, shell=partial(CaptureShell, mpl_format="png")):     # nobody looks: no doubled pixels
    "Run a notebook in this process, which ends: with status 0 if nothing went wrong, else its traceback is told."
    os.environ |= {"MUNI_NB_PRESET": "smoke", "MUNI_NB_RESULTS": str(results)}
    torch.set_num_threads(1)     # makes anew what torch's threads are of, before several ask for it at once
    nbdev.test.CaptureShell = shell
    passed, _ = nbdev.test.test_nb(path, skip_flags=SLOW, basepath=ROOT)
    raise SystemExit(0 if passed else 1)


def runs(*arguments):
    "Whether a notebook runs, see `run`, in a process that has all that was imported here."
    child = get_context("fork").Process(target=run, args=arguments)
    child.start()
    child.join()
    return child.exitcode == 0


@pytest.fixture
def results(tmp_path_factory):
    "Where runs that several notebooks have in common are made once, for all workers."
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "results"


@every(ABLATIONS)
def test_an_ablation_runs(path, results):
    assert runs(path, results)


@every([path for path in LIBRARY if ".ipynb_checkpoints" not in path.parts])
def test_a_notebook_runs(path, results):
    assert runs(path, results)
