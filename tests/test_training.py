"Training is killed at any step, and goes on as if it had not been."
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muni_nb.data.digits import quadrant_digits
from muni_nb.gate import InputError
from muni_nb.models.conditional import ConditionalMUNI
from muni_nb.models.muni import MUNI, PEERS, Routes
from muni_nb.nets.build import Sizes
from muni_nb.training.checkpoint import read_state
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for, train_verifier
from muni_nb.training.fit import Recipe, fit

ARGUMENTS = {"steps": 30, "batch_size": 32, "log_every": 7, "save_every": 3, "progress": False}
SCRIPT = f"""
import sys, torch
torch.set_num_threads(1)
from muni_nb.data.digits import quadrant_digits
from muni_nb.models.muni import MUNI
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import fit
torch.manual_seed(0)
bench = quadrant_digits(16, rows=200, test_rows=20)
fit(MUNI(bench.specs, sizes=Sizes.tiny()), bench, folder=sys.argv[1], **{ARGUMENTS!r})
"""


@pytest.fixture(scope="module")
def bench():
    return quadrant_digits(16, rows=200, test_rows=20)


def model(bench, seed=0):
    torch.manual_seed(seed)
    return MUNI(bench.specs, sizes=Sizes.tiny())


def test_a_killed_process_resumes_bit_for_bit(bench, tmp_path):
    whole = model(bench)
    log = fit(whole, bench, **ARGUMENTS)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
    file = tmp_path / "checkpoint.safetensors"
    while not file.exists():
        assert process.poll() is None, "the process ended before its first checkpoint"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < read_state(file)[1]["step"] < 30, "it ended before it was killed"
    resumed = model(bench, seed=7)
    again = fit(resumed, bench, folder=tmp_path, **ARGUMENTS)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))
    assert log.term_value.equals(again.term_value)


def test_a_seed_decides_everything(bench):
    one, two, three = (model(bench) for _ in range(3))
    short = {**ARGUMENTS, "steps": 3}
    for m, seed in ((one, 0), (two, 0), (three, 1)): fit(m, bench, seed=seed, **short)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert not all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), three.state_dict().values()))


def test_a_damaged_or_foreign_checkpoint_is_named_before_any_work(bench, tmp_path):
    fit(model(bench), bench, folder=tmp_path, **{**ARGUMENTS, "steps": 3})
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(ValueError, match="belongs to another run.*detach"):
        other = MUNI(bench.specs, Routes(detach=False), Sizes.tiny())
        fit(other, bench, folder=tmp_path, **{**ARGUMENTS, "steps": 3})
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="checkpoint.safetensors is not a readable checkpoint"):
        fit(model(bench), bench, folder=tmp_path, **{**ARGUMENTS, "steps": 3})


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 5000), warmup=st.integers(0, 200))
def test_the_learning_rate_stays_in_bounds(steps, warmup):
    recipe = Recipe(steps=steps, warmup=warmup)
    rates = [recipe.lr_at(s) for s in {0, warmup, steps // 2, steps - 1} if s < steps]
    assert all(0 <= r <= recipe.lr for r in rates)


def test_every_entry_refuses_a_precision_that_is_none(bench):
    entries = (
        lambda: Recipe(precision="half"),
        lambda: fit(model(bench), bench, steps=1, precision="half", progress=False),
        lambda: evaluate(model(bench), bench, judge_for(bench, None), rows=4, steps=1, precision="half"),
        lambda: train_verifier(bench, bench.views, steps=1, rows=40, precision="half", progress=False),
    )
    message = "unknown precision 'half': choose one of auto, float32, bfloat16"
    for entry in entries:
        with pytest.raises(ValueError, match=message): entry()


def test_what_was_computed_in_is_said_and_the_machine_decides_it(bench, monkeypatch):
    import muni_nb.nets.precision as precision
    for native, auto in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(precision, "bfloat16_pays", lambda kind="cpu": native)
        assert fit(model(bench), bench, **ARGUMENTS | {"steps": 2}).attrs["training_precision"] == auto
    monkeypatch.setattr(precision, "bfloat16_pays", lambda kind="cpu": False)
    precision._warn_of_slowness.cache_clear()
    with pytest.warns(UserWarning, match="slower in it.*times as long"):
        curves = fit(model(bench), bench, precision="bfloat16", **ARGUMENTS | {"steps": 2})
    assert curves.attrs["training_precision"] == "bfloat16"


@pytest.mark.parametrize("changes", [{}, {"optimiser": "muon"}, {"precision": "float32", "lr_scales": False}])
@pytest.mark.parametrize("routes", [Routes(), PEERS["MoPoE"]], ids=["MUNI", "MoPoE"])
def test_captured_training_is_plain_training_bit_for_bit(bench, routes, changes, tmp_path):
    def trained(**how):
        torch.manual_seed(0)
        network = MUNI(bench.specs, routes=routes, sizes=Sizes.tiny())
        log = fit(network, bench, **{**ARGUMENTS, "steps": 12, **changes, **how})
        return network, log.term_value

    plain, said = trained()
    captured, same = trained(captured=True)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), captured.state_dict().values()))
    assert said.equals(same)

    class Killed(Exception): pass

    def kill(step, values):
        if step == 7: raise Killed

    tracker = type("Stops", (), {"started": lambda *_: None, "finished": lambda *_, **__: None,
                                 "terms": staticmethod(kill)})()
    with pytest.raises(Killed): trained(captured=True, folder=tmp_path, tracker=tracker)
    resumed, _ = trained(folder=tmp_path, captured=True)      # records anew
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), resumed.state_dict().values()))


def test_training_that_cannot_be_captured_is_refused_before_its_first_step(bench):
    lacking = quadrant_digits(16, rows=200, test_rows=20, availability="published")
    conditional = ConditionalMUNI(bench.specs, sizes=Sizes.tiny())
    staged = MUNI(bench.specs, sizes=Sizes.tiny(), stage=0.5)
    shown = MUNI(bench.specs, routes=PEERS["MVAE"], sizes=Sizes.tiny())
    for network, rows, said in (
        (model(lacking), lacking, "captured training takes complete rows"),
        (conditional, bench, "cannot be recorded, it waits for the device in aten::_local_scalar_dense"),
        (staged, bench, "cannot be recorded, it waits for the device in aten::_local_scalar_dense"),
        (shown, bench, "cannot be recorded, it waits for the device in aten::nonzero"),
    ):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(InputError, match=said): fit(network, rows, captured=True, **ARGUMENTS)
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(InputError, match="as one part, not as 2"):
        fit(model(bench), bench, captured=True, parts=2, **ARGUMENTS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no graphics card: a recorded step was not replayed")
def test_a_recorded_step_is_a_plain_one_on_a_card(bench):
    logs = []
    for captured in (False, True):
        network = model(bench)
        logs.append(fit(network, bench, device="cuda", captured=captured, precision="float32", **ARGUMENTS).term_value)
    assert abs(logs[0] / logs[1] - 1).max() < 1e-3
