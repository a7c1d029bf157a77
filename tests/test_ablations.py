"What the committed records owe to the ablations that read them."
import json
from pathlib import Path

import matplotlib
import pytest

from muni_nb.data import scenes
from muni_nb.data.spec import Benchmark
from muni_nb.experiments import run
from muni_nb.experiments.store import find
from muni_nb.experiments.study import Study

ROOT = Path(__file__).resolve().parent.parent
RECORDED = {     # the presets that compute nothing
    "routing": "long", "detach": "default", "rate": "default", "reference": "default",
    "peers": "default", "five_views": "default", "one_to_many": "default", "scenes": "default",
    "image_text_audio": "default", "efficiency": "default",
}


class Asked(Exception):
    "A study's first sweep: its runs that are not on record."


@pytest.mark.parametrize("name, preset", RECORDED.items())
def test_records_hold_every_run_that_an_ablation_asks_for(name, preset, monkeypatch):
    def sweep(study, runs, **options):
        raise Asked([run.name for run in runs if not find(run, *study.records)])

    matplotlib.use("agg")
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MUNI_NB_PRESET", raising=False)
    monkeypatch.setattr(Study, "sweep", sweep)
    # what trains before it sweeps
    monkeypatch.setattr("muni_nb.training.fit.fit", lambda *arguments, **options: None)
    monkeypatch.setattr(Benchmark, "show", lambda *arguments: None)
    # what is looked at before it sweeps, in part
    every_row = scenes.scenes
    monkeypatch.setattr(scenes, "scenes", lambda **told: every_row(**told | {"rows": 64, "test_rows": 64}))
    whole = run.bench_of
    few = lambda told: {**told, "rows": 64, "test_rows": 64} if told.get("benchmark") == "scene_features" else told
    monkeypatch.setattr(run, "bench_of", lambda told: whole(few(told)))
    cells = json.loads((ROOT / "ablations" / f"{name}.ipynb").read_text())["cells"]
    namespace = {"__name__": "__main__"}
    with pytest.raises(Asked) as asked:
        for cell in cells:
            if cell["cell_type"] != "code": continue
            exec(compile("".join(cell["source"]), name, "exec"), namespace)
            if "parameters" in cell["metadata"].get("tags", []): namespace["preset"] = preset
    assert asked.value.args == ([],)
