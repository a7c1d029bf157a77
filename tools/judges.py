"""Train the judges that come with the package, and write them to muni_nb/judges.

  python tools/judges.py           those that are not there
  python tools/judges.py --anew    all of them

Those of MNIST are trained only where the environment variable MUNI_NB_MNIST names its folder.
Their training is that of `judge_for` and `towers_for`; after a change of it every figure changes:
raise RESULTS_VERSION.
"""
import os
import sys

from muni_nb.data.digits import quadrant_digits
from muni_nb.data.five_views import five_views, mnist_five_views
from muni_nb.data.mnist import mnist_quadrant_digits
from muni_nb.data.scenes import scenes
from muni_nb.evaluation.alignment import towers_for
from muni_nb.evaluation.verifier import SHIPPED, judge_for

asked = [
    (quadrant_digits(16), {}),
    (quadrant_digits(32), {}),
    (five_views(16), {}),
    (five_views(16, filled=True), {}),
    (scenes(), {"steps": 1_200, "width": 24}),      # as ablations/scenes.ipynb judges
]
here = os.environ.get("MUNI_NB_MNIST")
if here: asked += [(mnist_quadrant_digits(size=32), {}), (mnist_five_views(), {})]
if "--anew" in sys.argv:
    if not here: raise SystemExit("judges of MNIST would be lost: set MUNI_NB_MNIST to the folder that has it")
    for path in SHIPPED.glob("*.safetensors"):
        path.unlink()
for bench, training in asked:
    print(bench.name, training or "default training", flush=True)
    judge_for(bench, SHIPPED, **training)
towers_for(scenes(), SHIPPED)
for path in sorted(SHIPPED.glob("*.safetensors")):
    print(f"{path.name} {path.stat().st_size / 1e6:.1f} MB")
