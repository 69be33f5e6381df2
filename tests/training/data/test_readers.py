"""Windows, the cache, and damaged files."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.pictures.windows import Window
from tests.training.data.layouts import picture, write_png, write_tiff
from training.data.codecs import ColourCodec, IndexCodec
from training.data.readers import ByteCache, picture_size, read_mask, read_picture

WINDOW = Window(5, 7, 11, 13)
INDEX = IndexCodec(((0, 0), (1, 1), (2, 2)))


@pytest.mark.parametrize("name", ["p.tif", "p.png"])
def test_a_window_is_the_part_of_the_whole(tmp_path, name):
    pixels = picture(1, 40, 50)
    (write_tiff if name.endswith("tif") else write_png)(tmp_path / name, pixels)
    read = read_picture(tmp_path / name, WINDOW)
    np.testing.assert_array_equal(read, pixels[5:16, 7:20])
    assert read.flags.c_contiguous
    read[:] = 0
    np.testing.assert_array_equal(read_picture(tmp_path / name, WINDOW), pixels[5:16, 7:20])


def test_bands_are_taken_in_the_order_asked_for(tmp_path):
    pixels = picture(2, 40, 50, 4)
    write_tiff(tmp_path / "p.tif", pixels, tiled=True)
    np.testing.assert_array_equal(
        read_picture(tmp_path / "p.tif", WINDOW, (4, 1, 2)), pixels[5:16, 7:20][..., [3, 0, 1]]
    )


def test_a_tiff_with_too_few_bands_or_bits(tmp_path):
    write_tiff(tmp_path / "three.tif", picture(1, 20, 20))
    with pytest.raises(EmraError, match="3 bands, expected at least 4"):
        read_picture(tmp_path / "three.tif", Window(0, 0, 2, 2), (4, 1, 2))
    write_tiff(tmp_path / "deep.tif", np.zeros((20, 20, 3), np.uint16))
    with pytest.raises(EmraError, match="uint16, expected uint8"):
        read_picture(tmp_path / "deep.tif", Window(0, 0, 2, 2))


def test_a_large_tiff_is_not_read_whole(tmp_path):
    # 20,000 x 20,000 declares 1.2 GB; nothing of it is written, so reading it all would show at once.
    import rasterio

    path = tmp_path / "large.tif"
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": True}
    with rasterio.open(path, "w", driver="GTiff", count=3, height=20000, width=20000, dtype="uint8", **options) as file:
        file.write(np.full((3, 4, 4), 7, np.uint8), window=((19000, 19004), (19500, 19504)))
    start = time.perf_counter()
    assert picture_size(path) == (20000, 20000)
    assert (read_picture(path, Window(19000, 19500, 4, 4)) == 7).all()
    assert time.perf_counter() - start < 2


def test_masks_by_window_from_every_kind_of_file(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (40, 50), dtype=np.uint8)
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    colours = np.array(palette, np.uint8)[labels]
    indexed = Image.fromarray(labels, mode="P")
    indexed.putpalette([channel for colour in palette for channel in colour])
    indexed.save(tmp_path / "palette.png")
    indexed.save(tmp_path / "palette.tif")
    write_png(tmp_path / "index.png", labels)
    write_tiff(tmp_path / "index.tif", labels)
    write_tiff(tmp_path / "deep.tif", labels.astype(np.uint16))
    write_png(tmp_path / "colour.png", colours)
    write_tiff(tmp_path / "colour.tif", colours)
    Image.fromarray(np.dstack([colours, np.full((40, 50), 255, np.uint8)])).save(tmp_path / "alpha.png")
    for name in ("index.png", "index.tif", "deep.tif", "palette.png", "palette.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / name, INDEX, WINDOW), labels[5:16, 7:20], name)
    for name in ("colour.png", "colour.tif", "palette.png", "palette.tif", "alpha.png"):
        read = read_mask(tmp_path / name, ColourCodec(palette), WINDOW)
        np.testing.assert_array_equal(read, labels[5:16, 7:20], name)
    for name, codec in (("colour.png", INDEX), ("colour.tif", INDEX), ("deep.tif", ColourCodec(palette))):
        with pytest.raises(EmraError) as caught:
            read_mask(tmp_path / name, codec, WINDOW)
        assert caught.value.code == "mask-format"


def test_an_unknown_value_of_a_tiff_is_placed_in_the_file_not_in_the_window(tmp_path):
    labels = np.zeros((40, 50), np.uint8)
    labels[10, 9] = 77
    write_tiff(tmp_path / "m.tif", labels)
    with pytest.raises(EmraError, match="value 77 at row 10, column 9"):
        read_mask(tmp_path / "m.tif", INDEX, WINDOW)


@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p.tif"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_damaged_files_are_errors_that_name_them(tmp_path, name, damage):
    path = tmp_path / name
    if damage != "missing":
        Image.fromarray(picture(1, 64, 64)).save(path)
        content = path.read_bytes()
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello" * 99}[damage])
    with pytest.raises(EmraError) as caught:
        read_picture(path, Window(0, 0, 64, 64))
    assert caught.value.path == str(path)
    for codec in (ColourCodec((), strict=False), IndexCodec((), strict=False)):
        with pytest.raises(EmraError) as caught:
            read_mask(path, codec, Window(0, 0, 64, 64))
        assert caught.value.path == str(path)
    if damage != "truncated":
        with pytest.raises(EmraError) as caught:
            picture_size(path)
        assert caught.value.path == str(path)


def test_sizes_follow_the_exif_orientation(tmp_path):
    image = Image.fromarray(picture(1, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "p.jpg", exif=exif)
    assert picture_size(tmp_path / "p.jpg") == (30, 20)
    assert read_picture(tmp_path / "p.jpg", Window(0, 0, 30, 20)).shape == (30, 20, 3)


def test_sizes_come_from_headers_alone(tmp_path):
    write_png(tmp_path / "p.png", picture(1, 200, 300))
    content = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(content[:1000])
    assert picture_size(tmp_path / "p.png") == (200, 300)


def test_a_file_that_shrank_is_noticed(tmp_path):
    write_png(tmp_path / "p.png", picture(1, 20, 30))
    for read in (
        lambda: read_picture(tmp_path / "p.png", Window(0, 0, 21, 30)),
        lambda: read_mask(tmp_path / "p.png", ColourCodec((), strict=False), Window(0, 0, 20, 31)),
    ):
        with pytest.raises(EmraError) as caught:
            read()
        assert caught.value.code == "size-changed"


def test_the_cache_keeps_what_was_used_last_and_its_budget():
    made = []

    def make(key):
        made.append(key)
        return np.zeros(100, np.uint8)

    cache = ByteCache(250)
    for key in "abacab":
        cache.get(key, lambda key=key: make(key))
        assert cache.used <= 250
    # c pushes b out, for a was used after it; then b pushes c out.
    assert "".join(made) == "abcb"
    cache.set_budget(0)
    assert cache.used == 0
    cache.get("a", lambda: make("a"))
    assert cache.used == 0


def test_threads_share_the_cache():
    cache, errors = ByteCache(5000), []

    def work(seed):
        for key in np.random.default_rng(seed).integers(0, 9, 300):
            if cache.get(int(key), lambda key=key: np.full(1000, key, np.uint8))[0] != key:
                errors.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert cache.used <= 5000
    assert cache.used == sum(1000 for key in range(9) if key in cache._arrays)
