"""Calibration: choice of tiles, refused inputs, and ranges that agree with other calibrators."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector
from PIL import Image

from emra_deploy.errors import EmraError
from export.graphs.model_file import read_model
from export.int8.calibration import choose_tiles, find_images, greedy_cover, pixels_sha256
from export.int8.linears import find_linears
from export.int8.ranges import Magnitudes, collect_magnitudes, entropy_threshold, ranges_of
from tests.onnx_models import CLASSES, nearest_colour, scene

SIZE = (32, 32)


def classify(tiles: np.ndarray) -> np.ndarray:
    return np.stack([nearest_colour(tile) for tile in tiles])


def choose(folder: Path, count: int = 4):
    return choose_tiles(folder, classify, len(CLASSES), SIZE, count)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three large pictures of land, and one small one that alone shows water."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    land = np.full((128, 160, 3), CLASSES.palette[1], np.uint8)
    for name in ("a.png", "b.jpg", "more/c.tif"):
        Image.fromarray(land).save(folder / name)
    Image.fromarray(np.full((20, 40, 3), CLASSES.palette[0], np.uint8)).save(folder / "z.png")
    return folder


def test_rare_classes_are_among_the_tiles(images: Path) -> None:
    found = choose(images)
    assert found.tiles.shape == (4, *SIZE, 3)
    assert {origin.split()[0] for origin in found.origins} >= {"z.png"}
    assert found.class_shares[0] >= 0.25
    assert found.class_shares[1] > 0.4
    assert sum(found.class_shares) == pytest.approx(1)
    assert found.images == 4, "every picture is represented while there is room"
    again = choose(images)
    assert again.origins == found.origins
    assert again.sha256 == found.sha256


def test_the_digest_is_of_the_pixels_whatever_their_order(images: Path) -> None:
    tiles = choose(images).tiles
    assert pixels_sha256(tiles[::-1]) == pixels_sha256(tiles)
    other = tiles.copy()
    other[2, 5, 5, 1] ^= 1
    assert pixels_sha256(other) != pixels_sha256(tiles)
    assert pixels_sha256(tiles[:3]) != pixels_sha256(tiles)


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=50)
def test_the_greedy_cover_is_near_the_best(seed: int, rows: int, columns: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, rows))
    features = np.random.default_rng(seed).dirichlet([0.3] * columns, rows)

    def value(chosen: tuple[int, ...]) -> float:
        return float(np.sqrt(features[list(chosen)].sum(axis=0)).sum())

    chosen = greedy_cover(features, count)
    assert len(set(chosen)) == count
    best = max(value(choice) for choice in itertools.combinations(range(rows), count))
    assert value(tuple(chosen)) >= (1 - 1 / np.e) * best - 1e-9


def test_masks_of_a_data_set_are_no_pictures(tmp_path: Path) -> None:
    for folder in ("images/train", "images/val", "masks/train", "masks/val"):
        (tmp_path / folder).mkdir(parents=True)
    for split, seed in (("train", 1), ("val", 2)):
        Image.fromarray(scene(64, 64, seed)).save(tmp_path / "images" / split / "x.png")
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "masks" / split / "x.png")
    names = "\n".join(f"  - {name}" for name in CLASSES.names)
    (tmp_path / "classes.yaml").write_text(f"names:\n{names}\nmasks: index\n")
    assert find_images(tmp_path) == [tmp_path / "images/train/x.png"], "what accuracy is measured on stays unseen"


def test_the_training_pictures_of_dubai(dubai_root: Path) -> None:
    found = find_images(dubai_root)
    assert len(found) == 48
    assert not any("part007" in path.name or "masks" in str(path) for path in found)


def test_what_is_refused(images: Path, tmp_path: Path) -> None:
    def code(folder: Path, count: int = 4) -> EmraError:
        with pytest.raises(EmraError) as caught:
            choose(folder, count)
        return caught.value

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    assert code(tmp_path / "none").code == "input-missing"
    assert code(tmp_path / "empty").code == "dataset-empty"
    assert code(images, 0).code == "calibration-count"
    # Three pictures of 4 x 5 windows, and one smaller than a window.
    few = code(images, 1000)
    assert few.code == "calibration-too-few"
    assert "62" in few.cause
    assert "--count 62" in few.remedy
    (images / "b.jpg").write_bytes((images / "b.jpg").read_bytes()[:300])
    (images / "y.png").write_bytes(b"not a picture")
    broken = code(images)
    assert broken.code == "calibration-unreadable"
    assert "b.jpg" in broken.cause
    assert "y.png" in broken.cause
    assert "a.png" not in broken.cause


def test_windows_without_data_are_no_candidates(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "width": 900, "height": 700, "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(tmp_path / "mostly-empty.tif", "w", compress="deflate", nodata=0, **profile) as raster:
        window = rasterio.windows.Window(512, 256, 256, 256)
        raster.write(scene(256, 256).transpose(2, 0, 1), window=window)
    # All but a quarter of a megapixel has no data.
    found = choose(tmp_path, 3)
    assert found.tiles.any(axis=(1, 2, 3)).all()
    assert all(230 <= int(origin.split()[1]) <= 512 for origin in found.origins)


VALUES = st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=1, max_size=60)


@given(st.lists(VALUES, min_size=1, max_size=6), st.randoms())
@example([[1e-45], [0.0], [3e38, -1e-40]], Random(0))
@settings(deadline=None, max_examples=60)
def test_histograms_do_not_depend_on_the_order(parts: list[list[float]], random) -> None:
    arrays = [np.array(part, np.float32) for part in parts]
    one, other, whole = Magnitudes(), Magnitudes(), Magnitudes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in arrays:
            one.add(array)
    for array in random.sample(arrays, len(arrays)):
        other.add(array)
    whole.add(np.concatenate(arrays))
    assert one.limit == other.limit == whole.limit
    assert one.largest == whole.largest
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.counts, whole.counts)
    assert one.counts.sum() == sum(map(len, parts))


@pytest.mark.parametrize("shape", ["normal", "laplace", "outliers"])
def test_percentiles_of_onnx_runtimes_calibrator(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(5)
    values = (random.laplace if shape == "laplace" else random.normal)(size=40_000).astype(np.float32)
    if shape == "outliers":
        values[:40] *= 12
    found = Magnitudes()
    for part in np.split(values, 8):
        found.add(part)
    theirs = HistogramCollector("percentile", True, 2048, 128, 99.8, "same")
    theirs.collect({"x": values})
    expected = float(theirs.compute_collection_result()["x"][1])
    capsys.readouterr()  # it prints
    assert found.range("percentile", 99.8) == pytest.approx(expected, rel=0.01)
    assert found.range("minmax") == np.abs(values).max()


@pytest.mark.parametrize("shape", ["normal", "laplace", "bump"])
def test_entropy_of_onnx_runtimes_calibrator(shape: str) -> None:
    """On one histogram with a heavy tail. Theirs is two-sided and merges what does not divide evenly on one side only,
    so on light tails the two minima, both flat, lie apart."""
    place = np.linspace(0, 12, 400)
    density = np.exp(-place) if shape == "laplace" else np.exp(-(place**2) / 2)
    if shape == "bump":
        density += 1e-3 * np.exp(-((place - 9) ** 2))
    counts = (1e9 * density).astype(np.int64) + 20_000
    both = np.concatenate([counts[::-1], counts])
    edges = np.linspace(-12, 12, 801)
    theirs = HistogramCollector("entropy", True, 800, 256, 0, "same")
    low, high = theirs.get_entropy_threshold((both, edges, edges[0], edges[-1], edges[-1]), 256)
    assert low == pytest.approx(-high, abs=0.1)
    assert entropy_threshold(counts) * 12 / 400 == pytest.approx(float(high), rel=0.05)


def test_entropy_clips_a_sparse_tail_and_keeps_a_flat_one() -> None:
    random = np.random.default_rng(2)
    values = np.abs(random.standard_normal(200_000)).astype(np.float32)
    values[:20] = np.linspace(8, 40, 20)
    clipped = Magnitudes()
    clipped.add(values)
    assert np.quantile(values, 0.99) < clipped.range("entropy") < 12
    flat = Magnitudes()
    flat.add(random.uniform(-1, 1, 200_000))
    assert flat.range("entropy") > 0.99


@given(st.integers(1531, 3000), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_percentiles_are_numpys_to_one_bin(rank: int, seed: int) -> None:
    # Halfway between two values, where rounding cannot take the next one.
    percentile = 100 * (rank - 0.5) / 3000
    values = np.random.default_rng(seed).standard_normal(3000).astype(np.float32)
    found = Magnitudes()
    found.add(values)
    exact = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    assert exact <= found.range("percentile", percentile) <= exact + found.limit / len(found.counts)


def test_entropy_keeps_few_bins_whole() -> None:
    assert entropy_threshold(np.array([5, 0, 3])) == 3
    assert entropy_threshold(np.ones(128, int)) == 128


def test_dead_and_broken_tensors() -> None:
    dead = Magnitudes()
    dead.add(np.zeros(10, np.float32))
    assert [dead.range(method) for method in ("minmax", "percentile", "entropy")] == [0, 0, 0]
    with pytest.raises(ValueError, match="finite"):
        dead.add(np.array([1, np.nan], np.float32))


@pytest.mark.parametrize("which", ["small_file", "explicit_file"])
def test_activations_of_onnx_runtimes_calibrator(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    from emra_deploy.backends.contract import feed

    path = request.getfixturevalue(which)
    model, manifest = read_model(path)
    linears = find_linears(model)
    tiles = np.stack([scene(64, 64, seed) for seed in range(3)])
    # As if no more than one tensor fitted.
    monkeypatch.setattr("export.int8.ranges.GROUP_BYTES", 1)
    found = ranges_of(collect_magnitudes(model, linears, manifest, tiles), "minmax")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            batch = manifest.input_shape[0] or 1
            self._feeds = iter([{"image": feed(np.stack([tile] * batch), manifest)} for tile in tiles])

        def get_next(self) -> dict | None:
            return next(self._feeds, None)

    options = {"symmetric": True}
    calibrator = create_calibrator(
        path,
        ["MatMul", "Conv"],
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=options,
    )
    calibrator.collect_data(Reader())
    theirs = calibrator.compute_data()
    assert set(found) == {linear.source for linear in linears}
    for source, magnitude in found.items():
        assert magnitude == pytest.approx(float(np.abs(theirs[source].range_value).max()), rel=1e-4), source
    assert onnx.load(path).SerializeToString() == model.SerializeToString()
