from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from training.data.archive import Archive
from training.data.dataset import SPLITS, Dataset, DatasetError, Pixels
from training.data.frey_faces import FREY_FACES

AtHome = Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]


@pytest.fixture
def frames() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (1965, 28, 20), dtype=np.uint8)


def images(dataset: Dataset) -> list[bytes]:
    return [image.tobytes() for split in SPLITS for image in getattr(dataset, split)]


def test_one_download_gives_three_splits(frames: Pixels, at_home: AtHome, tmp_path: Path) -> None:
    content = pickle.dumps([frames.reshape(1965, 560)], protocol=2)
    repeats = [at_home(repeat, {"frames": content}, {"all": frames}) for repeat in FREY_FACES]
    repeats[0].fetch(tmp_path)
    assert all(repeat.is_available(tmp_path) for repeat in repeats)
    datasets = [repeat.load(tmp_path) for repeat in repeats]
    assert [dataset.name for dataset in datasets] == ["frey_faces_1", "frey_faces_2", "frey_faces_3"]
    for dataset in datasets:
        assert (dataset.levels, dataset.dynamic, dataset.image_shape) == (255, False, (1, 28, 20))
        assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [1565, 200, 200]
        assert sorted(images(dataset)) == sorted(image.tobytes() for image in frames)
    assert len({dataset.test.tobytes() for dataset in datasets}) == 3
    assert images(repeats[1].load(tmp_path)) == images(datasets[1])


@pytest.mark.parametrize("wrong", [[], {"frames": 1}, [[1, 2]], [np.zeros((3, 561), np.uint8)], [np.zeros(560)]])
def test_other_content_is_refused(wrong: object, at_home: AtHome, frames: Pixels, tmp_path: Path) -> None:
    other = at_home(FREY_FACES[0], {"frames": pickle.dumps(wrong)}, {"all": frames})
    with pytest.raises(DatasetError, match=r"freyfaces\.pkl is not a list of one array of rows of 560 pixels"):
        other.fetch(tmp_path)
