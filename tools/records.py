"""Keep results, one file a run, as records of a study.

  tools/records.py routing results/runs/MUNI-0-*.nc     add them to ablations/records/routing.nc, or replace those there
  tools/records.py quick results/runs/*.nc --anew       the study then holds nothing else
  tools/records.py --thin                               of what was drawn, all studies keep what their notebooks show

Results that were written when there was less to state, under identities of another form, are kept under today's.
Each is proved: all that its config tells, today's run of it tells alike, and what is read out of the study is what
was put in, to the last bit.
"""
import argparse
import json
from dataclasses import replace
from pathlib import Path

import xarray as xr

from muni_nb.experiments.records import same
from muni_nb.experiments.run import RENAMED, Run, run_of
from muni_nb.experiments.store import keep, kept_in, read, read_result, studies

RECORDS = Path(__file__).resolve().parent.parent / "ablations" / "records"
ALONE, TOLD = ["nothing"], ["nothing", "digit", "digit+quadrant"]
# Of what was drawn: by study and cell (or run, or * for all others) the given sets that its notebook shows.
PICTURED = ("MoPoE", "HELVAE", "MLD", "classical MoPoE", "classical MMVAE+")
FIVE = ("MUNI", "MLD", "MLD, flow", "MVAE", "MMVAE", "MMVAE+", "MoPoE", "MVTCAE")
SHOWN = {
    "routing": {"*": TOLD},
    "peers": dict.fromkeys(PICTURED, ["nothing", "digit+quadrant"]),
    "reference": {"MUNI 16": TOLD, "Oracle 16": TOLD, "MUNI 32": ALONE, "Oracle 32": ALONE},
    "one_to_many": {"*": ["digit", "quadrant"]},
    "five_views": dict.fromkeys(FIVE, ALONE),
    "efficiency": {},
    "budget": {"*": ALONE},
    "handwriting": {"*": ["nothing", "digit+quadrant"]},
    "scenes": {"d245179e": ALONE},
    "image_text_audio": {"MUNI": ALONE}}


def agrees(told, now):
    "Whether all that `told` tells, `now` tells alike; what is not told is at its default."
    if not isinstance(told, dict) or not isinstance(now, dict): return told == now
    return all(key == "bf16" or key in now and agrees(value, now[key]) for key, value in told.items())


def run_of_file(path: Path, ds: xr.Dataset) -> Run:
    "Today's run of a result, called as it says or its file is. SystemExit if it tells less than its config."
    config = json.loads(ds.attrs["config"])
    run = run_of(config, ds.attrs.get("run_cell", path.stem.rsplit("-", 2)[0]))
    now = run.config()
    config = config | {"sizes": {RENAMED.get(name, name): value for name, value in config["sizes"].items()}}
    if not agrees(config, now):
        differ = [key for key in config if not agrees({key: config[key]}, now)]
        raise SystemExit(f"{path}: today's run of it differs from its config in {', '.join(differ)}")
    return run


def keep_files(study: Path, files: list[Path], anew: bool = False) -> list[Run]:
    "Keep the results of `files` in `study`, and prove each."
    results = [read_result(path) for path in files]
    runs = [run_of_file(path, ds) for path, ds in zip(files, results)]
    keep(study, runs, results, anew)
    for run, ds in zip(runs, results): same(read(run, study), ds)
    return runs


def thinned(ds: xr.Dataset, given: list[str]) -> xr.Dataset:
    "A result that keeps what it drew from the sets `given`, at its largest guidance; nothing if there are none."
    drawn = [name for name, v in ds.data_vars.items() if "draw" in v.dims]
    if not given: return ds.drop_vars(drawn)
    kept = {}
    for name in drawn:
        v = ds[name].where(ds[name].given.isin(given)) if "given" in ds[name].dims else ds[name]
        kept[name] = v.where(v.guidance == v.guidance.max()) if "guidance" in v.dims else v
    return ds.assign({name: v.assign_attrs(ds[name].attrs) for name, v in kept.items()})


def alike(run: Run) -> str:
    "What runs have in common that differ in their seed alone."
    return json.dumps(replace(run, seed=0).identity())


def thin(records: Path) -> None:
    "Let every study keep what its notebook shows of what was drawn: SHOWN, and of several seeds the first."
    for study in studies(records):
        kept = list(kept_in(study).values())
        runs = [run_of(json.loads(ds.attrs["config"]), cell) for cell, _, ds in kept]
        drawn: dict[str, int] = {}                         # the first seed that drew, of runs alike but for it
        for run, (_, seed, ds) in zip(runs, kept):
            drew = any("draw" in v.dims for v in ds.data_vars.values())
            if drew: drawn[alike(run)] = min(seed, drawn.get(alike(run), seed))
        shown, results = SHOWN.get(study.stem, {}), []
        for run, (cell, seed, ds) in zip(runs, kept):
            given = shown.get(run.digest, shown.get(cell, shown.get("*", [])))
            results.append(thinned(ds, given if seed == drawn.get(alike(run)) else []))
        if all(now.identical(ds) for now, (_, _, ds) in zip(results, kept)): continue
        keep(study, runs, results, anew=True)
        for run, before in zip(runs, kept):
            figures = [name for name, v in before[2].data_vars.items() if "draw" not in v.dims]
            same(read(run, study)[figures], before[2][figures])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", help="the name of a file in ablations/records, without its ending")
    parser.add_argument("files", nargs="*", type=Path, help="results, one file a run")
    parser.add_argument("--anew", action="store_true", help="keep these alone")
    parser.add_argument("--thin", action="store_true", help="keep of what was drawn what notebooks show")
    told = parser.parse_args()
    if told.thin: thin(RECORDS)
    elif not told.files: parser.error("name a study and the results to keep")
    else:
        kept = keep_files(RECORDS / f"{told.study}.nc", told.files, told.anew)
        print(f"{told.study}: {len(kept)} kept, each read back to the last bit")

