"""Plain pictures: right pixels, or an error that says what to do."""

from __future__ import annotations

import io
import os
import signal
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from emra_deploy.errors import EmraError
from emra_deploy.pictures import images
from emra_deploy.pictures.images import MAX_PIXELS, image_format, read_image, read_picture, tiff_header
from emra_deploy.pictures.scaling import Scale


@pytest.fixture
def pixels() -> np.ndarray:
    """Smooth enough for JPEG, different in every row, column and channel."""
    rows, columns = np.mgrid[0:120, 0:160]
    return np.stack([rows * 2, columns, (rows + columns) // 2], axis=-1).astype(np.uint8)


def code_of(path: Path, scale: Scale | None = None) -> str:
    with pytest.raises(EmraError) as caught:
        read_picture(path, scale)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.code


def save(array: np.ndarray, path: Path, mode: str | None = None, **options) -> Path:
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "wrong-suffix.txt"])
def test_lossless_rgb_comes_back(pixels: np.ndarray, tmp_path: Path, name: str) -> None:
    path = save(pixels, tmp_path / name, format="TIFF" if name.endswith("tif") else "PNG")
    image, valid = read_picture(path)
    np.testing.assert_array_equal(image, pixels)
    assert valid is None
    assert image.flags.writeable


def test_jpeg_is_close(pixels: np.ndarray, tmp_path: Path) -> None:
    path = save(pixels, tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(path).astype(int) - pixels).mean() < 2


def test_one_pixel(tmp_path: Path) -> None:
    path = save(np.array([[[1, 2, 3]]], np.uint8), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path), [[[1, 2, 3]]])


def test_grey_is_replicated(pixels: np.ndarray, tmp_path: Path) -> None:
    image = read_image(save(pixels[..., 0], tmp_path / "a.png"))
    np.testing.assert_array_equal(image, np.repeat(pixels[..., :1], 3, axis=2))


def test_black_and_white(tmp_path: Path) -> None:
    bits = np.array([[True, False, True]])
    image = read_image(save(bits, tmp_path / "a.png"))
    np.testing.assert_array_equal(image[..., 0], [[255, 0, 255]])


def test_grey_with_alpha(pixels: np.ndarray, tmp_path: Path) -> None:
    alpha = np.where(np.arange(160) < 40, 0, 200).astype(np.uint8) * np.ones((120, 1), np.uint8)
    image, valid = read_picture(save(np.dstack([pixels[..., 0], alpha]), tmp_path / "a.png"))
    assert valid is not None
    np.testing.assert_array_equal(valid, alpha > 0)
    np.testing.assert_array_equal(image[..., 1], pixels[..., 0])


def test_transparent_is_no_data_and_half_transparent_is_data(pixels: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full((120, 160), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 1
    image, valid = read_picture(save(np.dstack([pixels, alpha]), tmp_path / "a.png"))
    assert valid is not None
    np.testing.assert_array_equal(valid, alpha > 0)
    np.testing.assert_array_equal(image, pixels)


def test_opaque_alpha_is_no_mask(pixels: np.ndarray, tmp_path: Path) -> None:
    path = save(np.dstack([pixels, np.full((120, 160), 255, np.uint8)]), tmp_path / "a.png")
    assert read_picture(path)[1] is None


def test_palette_is_looked_up(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "a.png")
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
    picture.save(tmp_path / "t.png", transparency=1)
    np.testing.assert_array_equal(read_picture(tmp_path / "t.png")[1], [[True, False], [True, False]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied_as_a_viewer_does(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = (250, 20, 20)
    upright[16:, 24:] = (20, 20, 250)
    # How a camera held this way stores the upright scene.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    picture = Image.fromarray(np.ascontiguousarray(stored))
    if suffix == "tif":
        picture.save(path, tiffinfo={274: orientation})
        assert tiff_header(path).orientation == orientation
    else:
        picture.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    image = read_image(path)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 4


def test_cmyk_jpeg_is_converted(pixels: np.ndarray, tmp_path: Path) -> None:
    path = save(pixels, tmp_path / "a.jpg", mode="CMYK", quality=95)
    assert np.abs(read_image(path).astype(int) - pixels).mean() < 4


def test_sixteen_bit_needs_a_scale(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 3000, 60000]], np.uint16)
    for path in (save(values, tmp_path / "a.png"), save(values, tmp_path / "a.tif")):
        assert code_of(path) == "image-depth"
        image, valid = read_picture(path, Scale(1000, 3000))
        np.testing.assert_array_equal(image[0, :, 0], [0, 0, 255, 255])
        assert valid is None


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_png_is_not_cut_to_eight(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 16, 2, b"\0" + bytes(12)))
    assert code_of(path) == "image-depth"
    assert code_of(path, Scale(0, 65535)) == "image-depth"


def test_float_and_nan(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)
    path = save(values, tmp_path / "a.tif")
    assert code_of(path) == "image-depth"
    image, valid = read_picture(path, Scale(0, 1))
    np.testing.assert_array_equal(image[0, :, 2], [0, 128, 255, 0])
    np.testing.assert_array_equal(valid, [[True, True, True, False]])


def test_eight_bits_may_be_stretched_too(tmp_path: Path) -> None:
    path = save(np.array([[[10, 20, 30]]], np.uint8), tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(path, Scale(10, 30))[0], [[[0, 128, 255]]])


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_bad_scale(low: float, high: float) -> None:
    with pytest.raises(EmraError, match="scale-range"):
        Scale(low, high)


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "tiff"])
@pytest.mark.parametrize("part", [0.03, 0.3, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(pixels: np.ndarray, tmp_path: Path, kind: str, part: float) -> None:
    noisy = pixels ^ np.random.default_rng(0).integers(0, 64, pixels.shape, np.uint8)
    stream = io.BytesIO()
    options = {"progressive": True} if kind == "progressive" else {}
    Image.fromarray(noisy).save(stream, format="JPEG" if kind in ("jpeg", "progressive") else kind, **options)
    data = stream.getvalue()
    path = tmp_path / "a.img"
    path.write_bytes(data[: int(len(data) * part)])
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        assert code_of(path) in ("image-truncated", "image-unreadable")
        assert ImageFile.LOAD_TRUNCATED_IMAGES
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def test_truncated_at_half_says_truncated(pixels: np.ndarray, tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        path = save(pixels, tmp_path / f"a.{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert code_of(path) == "image-truncated"


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}, {"exif": True}],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(300, 400), (150, 130), (24, 24)])
def test_jpeg_that_ends_early_with_an_end_marker_is_refused(
    tmp_path: Path, options: dict, mode: str, size: tuple[int, int]
) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    if options.get("exif"):
        # A thumbnail has its own end marker, long before that of the picture.
        thumbnail = save(noisy[:8, :8], tmp_path / "thumbnail.jpg").read_bytes()
        options = {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail}
    path = save(noisy, tmp_path / "a.jpg", mode=mode, **options)
    data = path.read_bytes()
    path.write_bytes(data[: (data.rfind(b"\xff\xda") + len(data)) // 2] + b"\xff\xd9")
    assert code_of(path) == "image-truncated"


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("width", [64, 393, 1024])
def test_jpeg_with_a_grey_bottom_is_read(tmp_path: Path, options: dict, mode: str, width: int) -> None:
    image = np.full((400, width, 3), 128, np.uint8)
    image[:97] = np.random.default_rng(0).integers(0, 255, (97, width, 3), np.uint8)
    assert (read_image(save(image, tmp_path / "a.jpg", mode=mode, **options))[-200:] == 128).all()
    assert (read_image(save(np.full_like(image, 128), tmp_path / "b.jpg", mode=mode, **options)) == 128).all()


def test_end_of_a_jpeg_is_that_of_its_first_picture(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (150, 130, 3), np.uint8)
    data = save(noisy, tmp_path / "a.jpg").read_bytes()
    cut = tmp_path / "b.jpg"
    cut.write_bytes(data[: len(data) // 2] + b"\xff\xd9" + data)
    assert code_of(cut) == "image-truncated"
    (tmp_path / "c.jpg").write_bytes(data + bytes(1000))
    assert (read_image(tmp_path / "c.jpg") == read_image(tmp_path / "a.jpg")).all()


def test_pictures_of_a_drone_with_a_second_frame_are_read(tmp_path: Path) -> None:
    image = np.full((150, 130, 3), 128, np.uint8)
    picture = Image.fromarray(image)
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture])
    assert (read_image(tmp_path / "a.jpg") == 128).all()


def test_threads_decode_side_by_side(pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(pixels, tmp_path / "a.png")
    both = threading.Barrier(2)
    convert = images._convert

    def wait_for_the_other(*arguments: object) -> object:
        both.wait(timeout=20)
        return convert(*arguments)

    monkeypatch.setattr(images, "_convert", wait_for_the_other)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    filters = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(read_image, [path, path]))
    assert all((result == pixels).all() for result in results)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert list(warnings.filters) == filters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_a_program_that_is_decoding_can_decode(pixels: np.ndarray, tmp_path: Path) -> None:
    path = save(pixels, tmp_path / "a.png")
    inside, leave = threading.Event(), threading.Event()

    def decode_slowly() -> None:
        with images._strict_decoding, images._strict_decoding._lock:
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=decode_slowly)
    thread.start()
    assert inside.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        same = (read_image(path) == pixels).all() and not ImageFile.LOAD_TRUNCATED_IMAGES
        os._exit(0 if same and images._strict_decoding._users == 0 else 1)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_damaged_png_is_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    path = save(pixels, tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert code_of(path) == "image-unreadable"


def test_not_an_image(tmp_path: Path) -> None:
    contents = {"a.jpg": b"<html>404</html>", "b.gif": b"GIF89a" + bytes(50), "c.png": b"\0" * 100}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert code_of(tmp_path / name) == "not-an-image"
    (tmp_path / "empty.png").write_bytes(b"")
    assert code_of(tmp_path / "empty.png") == "image-empty"
    assert code_of(tmp_path) == "input-is-folder"
    assert code_of(tmp_path / "none.png") == "input-missing"


def test_zero_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(0, 10, 8, 2, b""))
    assert code_of(path) == "image-unreadable"


def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 2
    path = tmp_path / "a.png"
    path.write_bytes(png(side, side, 8, 2, bytes(10_000)))
    assert code_of(path) == "image-too-large"
    path.write_bytes(png(1_000_000, 1_000_000, 8, 2, b""))
    assert code_of(path) == "image-too-large"


def test_formats_by_content(pixels: np.ndarray, tmp_path: Path) -> None:
    for kind in ("jpeg", "png", "tiff"):
        assert image_format(save(pixels, tmp_path / "a.xyz", format=kind)) == kind


def test_tiff_header_sees_georeference(tmp_path: Path, pixels: np.ndarray) -> None:
    assert not tiff_header(save(pixels, tmp_path / "a.tif")).georeferenced
    path = save(pixels, tmp_path / "b.tif", tiffinfo={33550: (0.5, 0.5, 0.0), 33922: (0.0,) * 6})
    assert tiff_header(path).georeferenced
