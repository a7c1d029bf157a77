"""The classical VAEs of this package beside those of MultiVae, the library people use today.

  make bench                                          all but --best, an hour and more on one core
  .venv-bench/bin/python tools/multivae_bench.py --methods MoPoE --seeds 0 --steps 40 --out runs/bench.json

Both libraries are given the *same* networks (ours, wrapped as MultiVae wants them), the same first weights, rows,
batches, likelihood and optimiser, one thread and float32. What is left is the objective, and how it is computed.
Measured, in seconds of the processor, by turns in one process: training, draws, and the digit in missing views from
all thirty given sets. Each method and seed is added to the file --out, `ablations/records/multivae.json`, as soon as it
is done; what is there already is not done again. nbs/experiments/12_library.ipynb shows it.

With --best, nine VAEs of MultiVae, each for as many operations as --tflop says and at each of --rates: Adam with a
cosine decay, batches of 62 rows, the small networks of the other part (so that there are many steps), and from nothing
by its mixture of Gaussians, too, fitted after training to what train rows are encoded as. `ablations/budget.ipynb` has
what ours reach with as many operations. Options are the library's, but for the Laplace scale (0.225, as above),
latents of a view's own as wide as the shared one, no warm-up, and one draw of the latent instead of ten where a loss
is weighted by importance, as ten would leave a tenth of the steps. A method takes five minutes of a core at 10 TFLOP.

  make bench ARGS="--best --methods MoPoE --rates 0.002"

Equal objectives need these settings (MultiVae 1.0.3):

- a Laplace likelihood of scale 0.225 at beta 1 without warm-up: ours of 0.75 at beta 0.3, up to a constant, as
  MultiVae's MMVAE has no beta;
- batches of 62 rows: its MoPoE cuts a batch into 31 equal runs, one a subset, and what is left over goes to the full
  set, so that only multiples of 31 give each subset the same share, as ours does by drawing;
- MVAE without random subsets: its are drawn once a batch, never single or full; ours once a row, from all;
- MMVAE with normal laws, a fixed prior and one draw an expert; `stratified` in ours, as its experts all draw in each
  step. Ours by default draws from one expert a row, for a fifth of the operations: measured, too, as "one expert";
- MVTCAE at alpha 5/6 in both.

Two more are ours alone, "MMVAE, one expert" and "MoPoE, equal shares", in which subsets have equal numbers of rows in
each batch, as in MultiVae's.

MultiVae imports torchvision. Where its wheel is built for another torch than the one at hand, the import ends with
"operator torchvision::nms does not exist": `declare_operators` declares the two names that it looks up.
"""
import argparse
import copy
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def declare_operators() -> None:
    "Declare what torchvision looks up while it is imported, unless it brings its own."
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    try: import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"): torch.library.define(f"torchvision::{name}", boxes)


declare_operators()
logging.disable(logging.INFO)     # MultiVae tells each figure as it goes

import numpy as np                                                                     # noqa: E402
from multivae import models as theirs                                                  # noqa: E402
from multivae.data.datasets.base import MultimodalBaseDataset                          # noqa: E402
from multivae.metrics import CoherenceEvaluator, CoherenceEvaluatorConfig              # noqa: E402
from multivae.models.base import BaseDecoder, BaseEncoder, ModelOutput                 # noqa: E402
from multivae.models.nn.base_architectures import BaseMultilatentEncoder               # noqa: E402
from multivae.samplers import GaussianMixtureSampler                                   # noqa: E402
from multivae.trainers import BaseTrainer, BaseTrainerConfig                           # noqa: E402

from muni_nb.data.batches import batch_at                                              # noqa: E402
from muni_nb.data.five_views import VIEWS, five_views                                  # noqa: E402
from muni_nb.data.spec import Benchmark                                                # noqa: E402
from muni_nb.evaluation.coherence import coherence, draw, every_subset                 # noqa: E402
from muni_nb.evaluation.verifier import Judge, judge_for                               # noqa: E402
from muni_nb.files import write_whole                                                  # noqa: E402
from muni_nb.models.classical.base import ClassicalVAE                                 # noqa: E402
from muni_nb.models.classical.mmvae import MMVAE                                       # noqa: E402
from muni_nb.models.classical.mopoe import MoPoE                                       # noqa: E402
from muni_nb.models.classical.mvae import MVAE                                         # noqa: E402
from muni_nb.models.classical.mvtcae import MVTCAE                                     # noqa: E402
from muni_nb.nets.build import Sizes                                                   # noqa: E402
from muni_nb.training.fit import Recipe, fit                                           # noqa: E402

OUT = Path(__file__).resolve().parent.parent / "ablations" / "records" / "multivae.json"
BATCH = 62            # two rows for each of the 31 subsets
RATE = 2e-3           # Adam's
STEPS = {"MMVAE": 200, "MMVAE, one expert": 1000}     # of about as many operations; of the others 400
BLOCK = 20            # steps that are timed together, by turns
LATENT = 32
SCALE = 0.225         # of the Laplace law
ALPHA = 5 / 6         # of MVTCAE
SMALL = Sizes(latent=LATENT, image_encoder=(16, 32, 64), image_mean=(48, 32, 16))   # learns in minutes
SIZES = {"small": SMALL, "default": Sizes(latent=LATENT)}
COMMON = {"scale": SCALE, "beta": 1.0, "warmup": 0.0}

SUMMED = (theirs.MMVAE, theirs.MMVAEPlus, theirs.CMVAE, theirs.CRMVAE)     # their losses are sums over rows

# {name: (our model and its options, their model, its configuration and options)}
METHODS = {
    "MVAE": (MVAE, {"subsets": 0}, theirs.MVAE, theirs.MVAEConfig, {"k": 0, "warmup": 0}),
    "MoPoE": (MoPoE, {}, theirs.MoPoE, theirs.MoPoEConfig, {}),
    "MVTCAE": (MVTCAE, {"alpha": ALPHA}, theirs.MVTCAE, theirs.MVTCAEConfig, {"alpha": ALPHA, "beta": 1.0}),
    "MMVAE": (MMVAE, {"stratified": True}, theirs.MMVAE, theirs.MMVAEConfig,
              {"K": 1, "prior_and_posterior_dist": "normal", "learn_prior": False}),
    "MMVAE, one expert": (MMVAE, {}, None, None, {}),
    "MoPoE, equal shares": (MoPoE, {"equal_shares": True}, None, None, {}),
}
OWN = {"modalities_specific_dim": LATENT, "K": 1}

# {name: (their model, its configuration and options, whether views have latents of their own)}
BEST = {
    "MVAE": (theirs.MVAE, theirs.MVAEConfig, {"warmup": 0}, False),
    "MMVAE": (theirs.MMVAE, theirs.MMVAEConfig, {"K": 1}, False),
    "MoPoE": (theirs.MoPoE, theirs.MoPoEConfig, {}, False),
    "MVTCAE": (theirs.MVTCAE, theirs.MVTCAEConfig, {}, False),
    "JMVAE": (theirs.JMVAE, theirs.JMVAEConfig, {"warmup": 0}, False),
    "CRMVAE": (theirs.CRMVAE, theirs.CRMVAEConfig, {}, False),
    "DMVAE": (theirs.DMVAE, theirs.DMVAEConfig, {"modalities_specific_dim": dict.fromkeys(VIEWS, LATENT)}, True),
    "MMVAE+": (theirs.MMVAEPlus, theirs.MMVAEPlusConfig, OWN, True),
    "CMVAE": (theirs.CMVAE, theirs.CMVAEConfig, OWN, True),
}


class Encoder(BaseEncoder):
    "Our encoder as MultiVae wants it."

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.latent_dim = LATENT

    def forward(self, x: Tensor) -> ModelOutput:
        mean, logvar = self.net(x)
        return ModelOutput(embedding=mean, log_covariance=logvar)


class EncoderWithOwn(BaseMultilatentEncoder):
    "An encoder of ours as MultiVae wants it where a view has a latent of its own: half of the columns."

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.latent_dim = self.style_dim = LATENT

    def forward(self, x: Tensor) -> ModelOutput:
        (mean, own_mean), (logvar, own_logvar) = (part.split(LATENT, 1) for part in self.net(x))
        own = {"style_embedding": own_mean, "style_log_covariance": own_logvar}
        return ModelOutput(embedding=mean, log_covariance=logvar, **own)


class Decoder(BaseDecoder):
    "The means of our decoder as MultiVae wants them."

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net.mean(z))


class Classifier(nn.Module):
    "Our verifier as MultiVae wants it: pictures, clamped as ours are, to logits of the digit."

    def __init__(self, verifier: nn.Module):
        super().__init__()
        self.verifier = verifier

    def forward(self, x: Tensor) -> Tensor:
        return self.verifier(x.clamp(-1, 1))["digit"]


def common_of(bench: Benchmark) -> dict:
    "What all configurations of MultiVae are given."
    return {"n_modalities": len(VIEWS),
            "latent_dim": LATENT,
            "input_dims": {k: bench.specs[k].shape for k in VIEWS},
            "decoders_dist": dict.fromkeys(VIEWS, "laplace"),
            "decoder_dist_params": {k: {"scale": SCALE} for k in VIEWS}}


def of_theirs(kind: type, config, nets: nn.Module, wrap: type) -> nn.Module:
    "A model of theirs with the encoders, in `wrap`, and decoders of a model of ours."
    encoders = {k: wrap(nets.encoders[k]) for k in VIEWS}
    decoders = {k: Decoder(nets.decoders[k]) for k in VIEWS}
    model = kind(config, encoders, decoders).to(memory_format=torch.channels_last)
    model.device = "cpu"
    return model


def pair(method: str, bench: Benchmark, sizes: Sizes, seed: int) -> dict[str, nn.Module]:
    'The model of each side, "ours" and "theirs", with the same networks and first weights.'
    our_kind, our_options, their_kind, config, their_options = METHODS[method]
    torch.manual_seed(seed)
    model = our_kind(bench.specs, sizes, **COMMON, **our_options)
    sides = {"ours": model.to(memory_format=torch.channels_last)}
    if their_kind is None: return sides
    how = config(**common_of(bench), **their_options)
    sides["theirs"] = of_theirs(their_kind, how, copy.deepcopy(model), Encoder)
    return sides


def strong(method: str, bench: Benchmark, seed: int) -> nn.Module:
    "A model of theirs with our networks."
    kind, config, options, with_own = BEST[method]
    torch.manual_seed(seed)
    nets = MVAE(bench.specs, SMALL.but(latent=2 * LATENT if with_own else LATENT))
    return of_theirs(kind, config(**common_of(bench), **options), nets, EncoderWithOwn if with_own else Encoder)


def loss_of(model: nn.Module, batch: Mapping[str, Tensor], available: Tensor) -> Tensor:
    "The loss of a batch, by either library."
    if isinstance(model, ClassicalVAE): return model.loss(batch, available)["loss"]
    loss = model(MultimodalBaseDataset(dict(batch))).loss
    return loss / len(available) if isinstance(model, SUMMED) else loss


def seconds(run: Callable[[], object]) -> float:
    "Seconds of the processor that a call takes."
    start = time.process_time()
    run()
    return time.process_time() - start


def by_turns(sides: Mapping[str, Callable], times: int) -> dict[str, list[float]]:
    "Seconds of a call of each side, so many times, one after the other."
    spent = {side: [] for side in sides}
    for _ in range(times):
        for side, run in sides.items(): spent[side].append(seconds(run))
    return spent


def rate_of(count: float, spent: list[float]) -> dict[str, float]:
    "So many things a second: median, and the least and most."
    rates = sorted(count / s for s in spent)
    return {"median": statistics.median(rates), "least": rates[0], "most": rates[-1]}


def learner(
    model: nn.Module, bench: Benchmark, seed: int, rate: float = RATE, decay: int | None = None,
) -> Callable[[int], None]:
    "What makes a training step of `model`, at each call with the step's number; `decay`: to nothing after so many."
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(weights, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, decay) if decay else None

    def step(number: int) -> None:
        batch, available = batch_at(bench.train, bench.specs, number, BATCH, seed)
        optimiser.zero_grad()
        loss_of(model, batch, available).backward()
        optimiser.step()
        if schedule: schedule.step()

    return step


def train(models: Mapping[str, nn.Module], bench: Benchmark, steps: int, seed: int, block: int = BLOCK) -> dict:
    "Train each side, a block of steps by turns; rows a second."
    learners = {side: learner(model, bench, seed) for side, model in models.items()}
    spent = {side: [] for side in models}
    for first in range(0, steps, block):
        for side, step in learners.items():
            numbers = range(first, min(first + block, steps))
            torch.manual_seed(1000 * seed + first)
            spent[side].append(seconds(lambda: [step(n) for n in numbers]) / len(numbers))
    return {side: rate_of(BATCH, times) for side, times in spent.items()}


def losses(models: Mapping[str, nn.Module], bench: Benchmark, draws: int = 20) -> dict[str, dict]:
    """The loss of a batch by each side at *our* weights: mean over draws of the latents, and its standard error.

    Rows are in another order each time: which subset a row has is a matter of its place in their MoPoE."""
    batch, available = batch_at(bench.train, bench.specs, 0, BATCH, 0)
    found = {}
    for side, model in models.items():
        torch.manual_seed(0)
        orders = [torch.randperm(BATCH) for _ in range(draws)]
        values = [loss_of(model, {k: x[o] for k, x in batch.items()}, available).item() for o in orders]
        found[side] = {"mean": statistics.mean(values), "error": statistics.stdev(values) / draws**0.5}
    return found


def operations(models: Mapping[str, nn.Module], bench: Benchmark) -> dict[str, float]:
    "Operations of a training step of each side, in units of 10^9."
    batch, available = batch_at(bench.train, bench.specs, 0, BATCH, 0)
    found = {}
    for side, model in models.items():
        with FlopCounterMode(display=False) as counter: loss_of(model, batch, available).backward()
        model.zero_grad()
        found[side] = counter.get_total_flops() / 1e9
    return found


def same_weights(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    "Our model, and theirs with our weights."
    copied = copy.deepcopy(models["theirs"])
    for k in VIEWS:
        copied.encoders[k].net.load_state_dict(models["ours"].encoders[k].state_dict())
        copied.decoders[k].net.load_state_dict(models["ours"].decoders[k].state_dict())
    return {"ours": models["ours"], "theirs": copied}


def draws(models: Mapping[str, nn.Module], bench: Benchmark, rows: int, times: int) -> dict[str, dict]:
    "Rows a second: five views from nothing, and four views from one."
    values = {k: bench.specs[k].prepare(v[:rows], sure=True) for k, v in bench.test.values.items()}
    others = list(VIEWS[1:])

    def calls(model: nn.Module) -> dict[str, Callable]:
        if isinstance(model, ClassicalVAE):
            return {"nothing": lambda: model.sample({}, list(VIEWS), n=rows),
                    "one view": lambda: model.sample({VIEWS[0]: values[VIEWS[0]]}, others)}
        data = MultimodalBaseDataset(values)        # all of it: its MoPoE encodes every view, whatever is given
        return {"nothing": lambda: model.decode(model.generate_from_prior(rows)),
                "one view": lambda: model.predict(data, VIEWS[0], others)}

    of_side = {side: calls(model.eval()) for side, model in models.items()}
    found = {side: {} for side in models}
    with torch.no_grad():
        for what in ("nothing", "one view"):
            spent = by_turns({side: of_side[side][what] for side in models}, times)
            for side in models: found[side][what] = rate_of(rows, spent[side])
    return found


def our_accuracies(model: nn.Module, bench: Benchmark, judge: Judge) -> dict[str, float]:
    "The digit in missing views by the number given, and all five agreeing with nothing given."
    routes = [(), *every_subset(bench)[:-1]]
    ds = coherence(bench, judge, bench.test, draw(model, bench, bench.test, routes))
    accuracy = ds.accuracy.sel(attribute="digit")
    by_set = {given: float(accuracy.isel(given=i).mean()) for i, given in enumerate(routes) if given}
    found = {"0": float(ds.coherence.sel(attribute="digit"))}
    for n in range(1, len(VIEWS)):
        found[str(n)] = statistics.mean(v for given, v in by_set.items() if len(given) == n)
    return found


def their_accuracies(model: nn.Module, bench: Benchmark, judge: Judge) -> dict[str, float]:
    "The same by MultiVae's own evaluator, without gradients, which it leaves on by itself."
    values = {k: bench.specs[k].prepare(v, sure=True) for k, v in bench.test.values.items()}
    data = MultimodalBaseDataset(values, labels=bench.test.attributes["digit"])
    how = CoherenceEvaluatorConfig(num_classes=10, nb_samples_for_joint=len(bench.test))
    classifiers = {k: Classifier(judge[k]) for k in VIEWS}
    with torch.no_grad(): said = CoherenceEvaluator(model, classifiers, data, eval_config=how).eval()
    found = {"0": float(said["joint_coherence_prior"])}
    return found | {str(n): float(said[f"mean_coherence_{n}"]) for n in range(1, len(VIEWS))}


def by_mixture(model: nn.Module, bench: Benchmark, judge: Judge, rows: int = 5_000) -> dict[str, float]:
    """How often all five views agree, drawn from MultiVae's mixture of Gaussians fitted to the codes of train rows.

    And how far the digits that they show are from uniform (total variation)."""
    values = {k: bench.specs[k].prepare(v[:rows], sure=True) for k, v in bench.train.values.items()}
    sampler = GaussianMixtureSampler(model)
    sampler.fit(MultimodalBaseDataset(values))
    with torch.no_grad(): drawn = model.decode(sampler.sample(len(bench.test)))
    digits = torch.stack([judge[k].read(drawn[k].clamp(-1, 1))["digit"] for k in VIEWS])
    agree = (digits == digits[0]).all(0).float().mean()
    shares = torch.bincount(digits.flatten(), minlength=10) / digits.numel()
    apart = (shares - 0.1).abs().sum() / 2
    return {"from a mixture": float(agree), "from a mixture, total variation": float(apart)}


def judged(models: Mapping[str, nn.Module], bench: Benchmark, judge: Judge, seed: int, times: int) -> dict[str, dict]:
    "Accuracies of each side, means over `times` draws, and seconds for all given sets."
    ask = {"ours": our_accuracies, "theirs": their_accuracies}
    found = {side: [] for side in models}
    torch.manual_seed(seed)
    np.random.seed(seed)         # which expert is picked in their MMVAE
    run = lambda side: lambda: found[side].append(ask[side](models[side].eval(), bench, judge))
    spent = by_turns({side: run(side) for side in models}, times)
    return {side: {"seconds": statistics.median(spent[side]),
                   "accuracy": {n: statistics.mean(f[n] for f in found[side]) for n in found[side][0]}}
            for side in models}


def trainers(method: str, bench: Benchmark, seed: int, times: int) -> dict[str, dict]:
    "Rows a second by what users call: our `fit`, with its averaged weights, and their `BaseTrainer`, one epoch."
    rows = len(bench.train) // BATCH * BATCH
    values = {k: bench.specs[k].prepare(v[:rows], sure=True) for k, v in bench.train.values.items()}
    data = MultimodalBaseDataset(values)
    recipe = Recipe(steps=rows // BATCH, batch_size=BATCH, lr=RATE, precision="float32")

    def ours() -> None:
        fit(pair(method, bench, SIZES["small"], seed)["ours"], bench, recipe=recipe, progress=False)

    def their() -> None:
        model = pair(method, bench, SIZES["small"], seed)["theirs"].to(memory_format=torch.contiguous_format)
        with tempfile.TemporaryDirectory() as folder:
            how = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=BATCH, num_epochs=1,
                                    learning_rate=RATE)
            BaseTrainer(model, data, training_config=how).train()

    spent = by_turns({"ours": ours, "theirs": their}, times)
    return {side: rate_of(rows, times_) for side, times_ in spent.items()}


def measure(method: str, seed: int, steps: int, bench: Benchmark, judge: Judge) -> dict:
    "All figures of a method at a seed."
    models = pair(method, bench, SIZES["small"], seed)
    record = {"method": method, "seed": seed, "steps": steps}
    record["gflop"] = operations(models, bench)
    record["train"] = train(models, bench, steps, seed)
    record["judged"] = judged(models, bench, judge, seed, times=1)
    if "theirs" in models: record["loss"] = losses(same_weights(models), bench)
    if seed > 0: return record
    record["draws"] = draws(models, bench, rows=len(bench.test), times=5)
    large = pair(method, bench, SIZES["default"], seed)
    record["gflop, default"] = operations(large, bench)
    record["train, default"] = train(large, bench, 12, seed, block=2)
    if "theirs" not in models: return record
    few = replace(bench, train=bench.train.select(slice(10 * BATCH)))
    record["trainer"] = trainers(method, few, seed, times=2)
    return record


def measure_best(method: str, seed: int, rate: float, tflop: float, bench: Benchmark, judge: Judge) -> dict:
    "What a VAE of theirs reaches with so many operations, by Adam at this rate."
    model = strong(method, bench, seed)
    gflop = operations({"theirs": model}, bench)["theirs"]
    steps = max(1, round(1000 * tflop / gflop))
    step = learner(model, bench, seed, rate, decay=steps)
    torch.manual_seed(seed)
    spent = seconds(lambda: [step(n) for n in range(steps)])
    torch.manual_seed(seed)
    np.random.seed(seed)
    accuracy = their_accuracies(model.eval(), bench, judge)
    record = {"method": method, "seed": seed, "rate": rate, "tflop": tflop, "steps": steps, "gflop": gflop}
    return record | {"seconds": spent, "accuracy": accuracy} | by_mixture(model, bench, judge)


def machine() -> dict:
    "What it was measured on and with."
    with open("/proc/cpuinfo") as file: said = file.read()
    name = next((line.split(":")[1].strip() for line in said.splitlines() if "model name" in line), "")
    kinds = [k for k in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if f" {k} " in said.replace("\n", " ")]
    return {"processor": name, "cores": os.cpu_count(), "instructions": kinds, "threads": torch.get_num_threads(),
            "python": platform.python_version(), "torch": torch.__version__,
            "multivae": version("multivae"), "load": os.getloadavg()[0]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=sorted({*METHODS, *BEST}))
    parser.add_argument("--best", action="store_true", help="nine of theirs instead, see above")
    parser.add_argument("--tflop", type=float, help="of training, with --best; 10 by default")
    parser.add_argument("--rates", nargs="+", type=float, help="Adam's, with --best; 0.001 and 0.002 by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of training; by default STEPS, or 400")
    parser.add_argument("--rows", type=int, default=20_000, help="of training")
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--out", type=Path, default=OUT)
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench = five_views(size=16, rows=told.rows, test_rows=told.test_rows, filled=True)
    judge = judge_for(bench, progress=False)
    settings = {"rows": told.rows, "test_rows": told.test_rows, "batch": BATCH, "lr": RATE,
                "scale": SCALE, "sizes": {name: sizes.changed() for name, sizes in SIZES.items()}}
    settings = json.loads(json.dumps(settings))
    held = json.loads(told.out.read_text()) if told.out.exists() else {"settings": settings, "runs": []}
    if held["settings"] != settings: parser.error(f"{told.out} is of other settings")
    known = BEST if told.best else METHODS
    methods = told.methods or list(known)
    if odd := set(methods) - set(known): parser.error(f"not of this part: {', '.join(sorted(odd))}")
    strange = ("steps",) if told.best else ("tflop", "rates")
    if given := [name for name in strange if getattr(told, name) is not None]:
        parser.error(f"--{given[0]} is not for this part")
    axes = {"seed": told.seeds, "method": methods}
    if told.best: axes |= {"rate": told.rates or [1e-3, 2e-3], "tflop": [told.tflop or 10.0]}
    part = held.setdefault("best" if told.best else "runs", [])
    for cell in product(*axes.values()):
        asked = dict(zip(axes, cell))
        if not told.best: asked["steps"] = told.steps or STEPS.get(asked["method"], 400)
        if any(asked.items() <= run.items() for run in part): continue
        record = (measure_best if told.best else measure)(**asked, bench=bench, judge=judge)
        part.append({**record, "machine": machine()})
        write_whole(told.out, (json.dumps(held, indent=1) + "\n").encode())
        print(json.dumps(record), flush=True)


if __name__ == "__main__": main()
