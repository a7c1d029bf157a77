"tools/frozen.py from its first step to its last, in little: what it writes is what the package reads."
from pathlib import Path

import pytest
import torch

from muni_nb.data.scenes import draw_rows
from muni_nb.features.cache import MODALITIES
from muni_nb.features.render import read_renderer
from muni_nb.features.scenes import WIDTH, Encoders, heard
from muni_nb.nets.sentence import FROZEN

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def frozen(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import frozen
    return frozen


def test_frozen_models_are_trained_and_written_as_the_package_reads_them(frozen, tmp_path, capsys):
    frozen.main(["--folder", str(tmp_path), "--rows", "256", "--steps", "1"])
    files = lambda folder: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files(tmp_path) == files(FROZEN) and "scenes-image/model.safetensors" in capsys.readouterr().out
    features = Encoders(tmp_path)(draw_rows(range(3), "test", heard=heard).values)
    for name in MODALITIES:
        ours, theirs = (read_renderer(folder / f"scenes-render-{name}.safetensors") for folder in (tmp_path, FROZEN))
        made = ours(features[name])
        assert features[name].shape == (3, WIDTH) and made.shape == theirs(features[name]).shape, name
        assert ours.config() == theirs.config() and made.float().isfinite().all(), name


def test_what_is_there_stays(frozen, tmp_path):
    kept = [tmp_path / made for made, _ in frozen.TRAINING.values()]
    for path in kept: path.mkdir(parents=True)
    frozen.main(["--folder", str(tmp_path)])
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    with pytest.raises(SystemExit): frozen.main(["pictures"])
