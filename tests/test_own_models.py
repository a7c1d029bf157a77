"Models and benchmarks of one's own: what they lack is told before the work."
import itertools
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch

from muni_nb.data.own import from_arrays
from muni_nb.experiments.run import Run, bench_of
from muni_nb.gate import InputError, InputTypeError
from muni_nb.models.base import LatentModel
from muni_nb.models.experts import ExpertModel
from muni_nb.models.muni import MUNI, Routes
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import fit

TINY = Sizes.tiny().but(latent=4)
numbers = itertools.count()


def bench():
    random = np.random.default_rng(0)
    label = random.integers(0, 3, 60)
    return from_arrays({"a": random.normal(size=(60, 3)), "label": label}, held_out=0.2)


class Twisted(MUNI):
    def __init__(self, specs, routes: Routes = Routes(), sizes: Sizes = Sizes()): super().__init__(specs, routes, sizes)

    def arguments(self): return super().arguments() | {"twist": 1.0}


class Widened(MUNI):
    def __init__(self, specs, sizes: Sizes = Sizes(), **more):
        super().__init__(specs, sizes=sizes, **more)
        self.more = torch.nn.Parameter(torch.zeros(len(Widened.__subclasses__()) or next(numbers) + 1))


class Forgets(MUNI):
    def infer(self, given, n=1, present=None): return super().infer(given, 1, present)


class Priorless(ExpertModel):
    pass


class Broken(MUNI):
    def rate(self, given, **options): raise ZeroDivisionError("no rows")


@pytest.mark.parametrize(("kind", "said"), (
    (Twisted, "arguments.. of Twisted says"), (Widened, "its 'more' is not of the same"),
    (Forgets, "infer of Forgets must return"), (Priorless, "Priorless has no prior"),
    (Broken, "Broken: rate fails.*ZeroDivisionError: no rows")))
def test_what_would_fail_after_the_training_is_told_before_it(kind, said):
    model = kind(bench().specs, sizes=TINY)
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=said): fit(model, bench(), steps=1, batch_size=8, progress=False)
    assert torch.equal(before, torch.get_rng_state())


class Built(MUNI):
    times, odd = 0, False

    def __init__(self, specs, sizes: Sizes = Sizes(), **more):
        super().__init__(specs, sizes=sizes, **more)
        if Built.odd: self.more = torch.nn.Parameter(torch.zeros(Built.times))      # of which config() is silent
        Built.times += 1


def test_what_a_model_owes_is_asked_once_of_a_class_and_its_arguments():
    def built_again(**arguments):
        model = Built(bench().specs, sizes=TINY, **arguments)
        before = Built.times
        fit(model, bench(), steps=2, batch_size=8, progress=False)
        return Built.times - before

    assert [built_again(), built_again(), built_again(stage=0.5)] == [1, 0, 1]
    Built.odd = True
    with pytest.raises(InputError, match="'more' is not of the same"): built_again()


@dataclass(frozen=True)
class Option:
    gain: float = 2.0


class WithOption(MUNI):
    def __init__(self, specs, sizes: Sizes = Sizes(), option: Option = Option(), **more):
        super().__init__(specs, sizes=sizes, **more)
        self.option = option

    def arguments(self): return super().arguments() | {"option": asdict(self.option)}


class Sizeless(LatentModel):
    def __init__(self, specs): super().__init__(specs)


def no_benchmark(): return MUNI


def no_class(specs, sizes=Sizes()): return MUNI(specs)


@pytest.mark.parametrize(("name", "said"), (
    ("WithOption", "add it to settings"), ("Sizeless", "takes no 'sizes'"), ("no_class", "inherits from LatentModel"),
    ("np", "inherits from LatentModel"), ("Routes", "inherits from LatentModel")))
def test_a_model_that_no_run_can_build_is_told_at_once(name, said):
    with pytest.raises(InputError, match=said): Run("own", model=f"{__name__}:{name}")


def test_a_benchmark_that_is_none_is_told():
    for name in (f"{__name__}:np", "math:sqrt", "builtins:dict"):
        with pytest.raises(InputError, match="name a function"): Run("own", bench={"benchmark": name})
    with pytest.raises(InputTypeError, match="must return a Benchmark"):
        bench_of(Run("own", bench={"benchmark": f"{__name__}:no_benchmark"}).bench)
