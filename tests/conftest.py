"Tests run on one thread, without a network and without a display."
import os
import signal

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)     # background jobs of a shell ignore it

# the same few examples each time; 5,000 new ones by MUNI_NB_EXAMPLES=nightly
common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", max_examples=50, derandomize=True, **common)
settings.register_profile("nightly", max_examples=5_000, **common)
settings.load_profile(os.environ.get("MUNI_NB_EXAMPLES", "quick"))

LONG = ("papermill_sweep", "test_an_ablation_runs", "test_a_notebook_runs", "kills_its_process")


def pytest_collection_modifyitems(items):
    "The longest first, so that no worker waits for them alone at the end."
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))
