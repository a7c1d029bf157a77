"""Train the judges that come with the package, and write them to muni_nb/judges.

  python tools/judges.py           those that are not there
  python tools/judges.py --anew    all of them

Their training is that of `judge_for` and `towers_for`; after a change of it every figure changes:
raise RESULTS_VERSION.
"""
import sys

from muni_nb.data.digits import quadrant_digits
from muni_nb.data.five_views import five_views
from muni_nb.data.scenes import scenes
from muni_nb.evaluation.alignment import towers_for
from muni_nb.evaluation.verifier import SHIPPED, judge_for

if "--anew" in sys.argv:
    for path in SHIPPED.glob("*.safetensors"):
        path.unlink()
for bench, training in (
    (quadrant_digits(16), {}),
    (quadrant_digits(32), {}),
    (five_views(16), {}),
    (five_views(16, filled=True), {}),
    (scenes(), {"steps": 1_200, "width": 24}),      # as ablations/scenes.ipynb judges
):
    print(bench.name, training or "default training", flush=True)
    judge_for(bench, SHIPPED, **training)
towers_for(scenes(), SHIPPED)
for path in sorted(SHIPPED.glob("*.safetensors")):
    print(f"{path.name} {path.stat().st_size / 1e6:.1f} MB")
