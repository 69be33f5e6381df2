"""The segmenter: any size, any batch, any thread, the same right answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import Window, plan_tiles
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import CLASSES, build_model, make_manifest, nearest_colour, scene


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path)
    return path


@pytest.fixture(scope="module")
def segmenter(model: Path) -> Segmenter:
    return Segmenter.open(model, threads=1)


class TileNumber:
    """A backend that labels each pixel of a tile with a function of its place in the tile, and keeps its batches."""

    name = "tile-number"

    def __init__(self, size: tuple[int, int] = (32, 32), label: int | None = None) -> None:
        self.input_shape, self.manifest = (None, *size), make_manifest(size)
        self.label = label
        self.batches: list[np.ndarray] = []

    def describe(self) -> dict[str, str]:
        return {}

    def run(self, batch: np.ndarray) -> Outputs:
        check_batch(batch, self.input_shape)
        self.batches.append(batch.copy())
        # The red channel says where the pixel was read from: an answer of the wrong place is a wrong label.
        labels = batch[..., 0] % 5 if self.label is None else np.full(batch.shape[:3], self.label, np.uint8)
        return {"classes": labels}

    def close(self) -> None:
        self.batches = []


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 15), st.integers(1, 5))
def test_any_size_is_labelled_as_a_whole(model: Path, height: int, width: int, halo: int, batch: int) -> None:
    backend = Segmenter.open(model, threads=1, self_test=False).backend
    picture = scene(height, width, seed=height * 97 + width)
    result = Segmenter(backend, halo=halo, batch_size=batch).segment(picture)
    np.testing.assert_array_equal(result.labels, nearest_colour(picture))
    assert result.classes == CLASSES


@pytest.mark.parametrize("fixed", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_fixed_batches_give_the_same(tmp_path: Path, fixed: int, kind: str) -> None:
    build_model(tmp_path / "model.onnx", size=(16, 32), batch=fixed, input_kind=kind)
    segmenter = Segmenter.open(tmp_path / "model.onnx")
    assert segmenter.batch_size == fixed
    picture = scene(75, 101)
    np.testing.assert_array_equal(segmenter.segment(picture).labels, nearest_colour(picture))


def test_each_pixel_is_taken_from_the_tile_of_the_plan() -> None:
    backend = TileNumber()
    picture = np.random.default_rng(0).integers(0, 250, (100, 77, 3), dtype=np.uint8)
    seen = {}
    for window, labels in Segmenter(backend, halo=5, batch_size=3).segment_tiles(ArraySource(picture)):
        np.testing.assert_array_equal(labels, picture[window.slices][..., 0] % 5)
        seen[window] = labels
    plan = plan_tiles(100, 77, 32, 32, 5)
    assert list(seen) == [tile.write for tile in plan]
    read = np.concatenate(backend.batches)
    np.testing.assert_array_equal(read, np.stack([picture[tile.read.slices] for tile in plan]))
    assert {len(batch) for batch in backend.batches[:-1]} == {3}


def test_small_pictures_are_continued_by_their_edge() -> None:
    backend = TileNumber((4, 5))
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    Segmenter(backend).segment(picture)
    np.testing.assert_array_equal(backend.batches[0][0], np.pad(picture, ((0, 2), (0, 3), (0, 0)), mode="edge"))


def test_pixels_without_data_are_255_and_empty_tiles_are_not_run() -> None:
    picture = scene(128, 96)
    valid = np.zeros((128, 96), bool)
    valid[70:, 40:90] = True
    backend = TileNumber()
    segmenter = Segmenter(backend, halo=4, batch_size=2)
    labels = np.empty((128, 96), np.uint8)
    for window, part in segmenter.segment_tiles(ArraySource(picture, valid)):
        labels[window.slices] = part
    np.testing.assert_array_equal(labels, np.where(valid, picture[..., 0] % 5, 255))
    busy = [tile for tile in plan_tiles(128, 96, 32, 32, 4) if valid[tile.write.slices].any()]
    assert sum(map(len, backend.batches)) == len(busy)


def test_a_picture_without_data_is_not_run_at_all() -> None:
    backend = TileNumber()
    source = ArraySource(scene(70, 70), np.zeros((70, 70), bool))
    parts = list(Segmenter(backend).segment_tiles(source))
    assert backend.batches == []
    assert all((part == 255).all() for _, part in parts)
    assert sum(part.size for _, part in parts) == 70 * 70


def test_rows_are_whole_and_in_order(segmenter: Segmenter) -> None:
    picture = scene(130, 95)
    rows = list(segmenter.segment_rows(ArraySource(picture)))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in rows]), nearest_colour(picture))
    assert all(window.left == 0 and window.width == 95 for window, _ in rows)
    assert [window.top for window, _ in rows] == [0, *np.cumsum([window.height for window, _ in rows])[:-1]]


def test_confidence_comes_with_the_labels(tmp_path: Path) -> None:
    build_model(tmp_path / "model.onnx", heads=("classes", "confidence"))
    result = Segmenter.open(tmp_path / "model.onnx").segment(scene(50, 70))
    assert result.confidence is not None
    assert result.confidence.dtype == np.float32
    assert result.confidence.shape == (50, 70)
    assert (result.confidence > 1 / len(CLASSES)).all()
    assert (result.confidence <= 1).all()


def test_threads_that_share_a_segmenter_get_the_same(segmenter: Segmenter) -> None:
    pictures = [scene(60 + 7 * index, 90 - 5 * index, seed=index) for index in range(8)]
    alone = [segmenter.segment(picture).labels for picture in pictures]
    start = threading.Barrier(8)

    def work(index: int) -> list[np.ndarray]:
        start.wait(timeout=10)
        return [segmenter.segment(pictures[(index + turn) % 8]).labels for turn in range(8)]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, range(8)))
    for index, results in enumerate(together):
        for turn, labels in enumerate(results):
            np.testing.assert_array_equal(labels, alone[(index + turn) % 8])


class Striped:
    """A source far larger than memory, made as it is read."""

    height = width = 200_000

    def __init__(self) -> None:
        self.reads: list[Window] = []

    def read(self, window: Window) -> np.ndarray:
        self.reads.append(window)
        return np.zeros((window.height, window.width, 3), np.uint8)

    def valid(self, window: Window) -> None:
        return None


def test_a_huge_source_is_read_as_it_is_needed() -> None:
    source = Striped()
    results = Segmenter(TileNumber(), halo=4, batch_size=2).segment_tiles(source)
    for _ in range(10):
        next(results)
    results.close()
    # Five batches handed out, and at most the next one begun.
    assert len(source.reads) <= 12
    assert threading.active_count() < 10


class Broken(Striped):
    def read(self, window: Window) -> np.ndarray:
        if window.left > 100:
            raise EmraError("image-truncated", "The file ends early", "Copy it again")
        return super().read(window)


def test_an_error_of_the_source_reaches_the_caller() -> None:
    with pytest.raises(EmraError) as caught:
        list(Segmenter(TileNumber()).segment_tiles(Broken()))
    assert caught.value.code == "image-truncated"


class Wrong(Striped):
    def read(self, window: Window) -> np.ndarray:
        return np.zeros((window.height, window.width), np.uint8)


def test_a_source_that_breaks_its_promise_is_noticed() -> None:
    with pytest.raises(ValueError, match="source gave"):
        list(Segmenter(TileNumber()).segment_tiles(Wrong()))


def test_a_label_beyond_the_classes_is_an_error() -> None:
    with pytest.raises(EmraError) as caught:
        Segmenter(TileNumber(label=5)).segment(scene(10, 10))
    assert caught.value.code == "class-count"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        [[0, 0, 0]],
    ],
)
def test_arrays_that_are_no_picture_are_refused(segmenter: Segmenter, image: np.ndarray) -> None:
    with pytest.raises(EmraError) as caught:
        segmenter.segment(image)
    assert caught.value.code == "image-array"


def test_masks_that_do_not_fit_are_refused() -> None:
    for mask in (np.ones((4, 4), np.uint8), np.ones((4, 5), bool)):
        with pytest.raises(EmraError):
            ArraySource(np.zeros((4, 4, 3), np.uint8), mask)


def test_settings_out_of_range_are_refused(model: Path) -> None:
    for setting, code in (({"halo": 16}, "halo"), ({"halo": -1}, "halo"), ({"batch": 0}, "batch-size")):
        with pytest.raises(EmraError) as caught:
            Segmenter.open(model, **setting)
        assert caught.value.code == code


def test_a_closed_segmenter_has_freed_its_model(model: Path) -> None:
    with Segmenter.open(model) as segmenter:
        segmenter.segment(scene(10, 10))
    assert not hasattr(segmenter.backend, "_session")


def test_one_class_is_enough(tmp_path: Path) -> None:
    one = ClassSet(("ground",), ((90, 90, 90),))
    manifest: Manifest = build_model(tmp_path / "model.onnx", classes=one)
    assert manifest.classes == one
    assert (Segmenter.open(tmp_path / "model.onnx").segment(scene(40, 40)).labels == 0).all()
