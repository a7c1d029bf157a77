"Every notebook, all its cells run twice in one kernel that works in a folder of its own: a part of `make nightly`."
import os
from functools import partial

from execnb.shell import CaptureShell

from test_notebooks import results, runs  # noqa: F401, a fixture
from test_repo import NOTEBOOKS, every


class Twice(CaptureShell):
    "Runs a notebook in a folder that knows nothing of it, and once more on what that left behind."

    def __init__(self, path, elsewhere):
        super().__init__(path, mpl_format="png")
        self.elsewhere = elsewhere

    def run_all(self, notebook, **options):
        os.chdir(self.elsewhere)
        for _ in range(2): super().run_all(notebook, **options)


@every(NOTEBOOKS)
def test_a_notebook_runs_twice_from_anywhere(path, tmp_path, results):  # noqa: F811
    assert runs(path, results, partial(Twice, elsewhere=tmp_path))
