"""Small copies of the public layouts, with real files of the right types and known labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from training.data import dubai, isprs

GREY = (0x9B, 0x9B, 0x9B)


def picture(seed: int, height: int, width: int, bands: int = 3) -> np.ndarray:
    """Noise, uint8 H×W×bands: a wrong window or channel order never passes for the right one."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def label_map(seed: int, height: int, width: int, classes: int, ignored: bool = True) -> np.ndarray:
    """Random labels, uint8 H×W, with some 255."""
    rng = np.random.default_rng(seed + 1000)
    labels = rng.integers(0, classes, (height, width), dtype=np.uint8)
    if ignored:
        labels[rng.random((height, width)) < 0.1] = 255
    return labels


def paint(labels: np.ndarray, palette: tuple[tuple[int, int, int], ...], other: tuple[int, int, int]) -> np.ndarray:
    """Colours of a label map, by a loop over the classes."""
    colours = np.empty((*labels.shape, 3), np.uint8)
    colours[:] = other
    for label, colour in enumerate(palette):
        colours[labels == label] = colour
    return colours


def write_tiff(path: Path, pixels: np.ndarray, tiled: bool = False) -> None:
    """A TIFF of H×W or H×W×bands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw"} if tiled else {}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=planes.shape[0],
        height=planes.shape[1],
        width=planes.shape[2],
        dtype=planes.dtype.name,
        transform=rasterio.Affine(0.05, 0, 500000, 0, -0.05, 5800000),
        **options,
    ) as raster:
        raster.write(planes)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG of H×W or H×W×3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_dubai(root: Path, parts: range = range(1, 8), areas: range = range(1, 3)) -> dict[str, np.ndarray]:
    """The flat layout; masks of even parts are palette PNGs. Returns labels by tile."""
    truth = {}
    for area in areas:
        for part in parts:
            name = f"tile{area}_part{part:03d}"
            height, width = 30 + part, 40 + area
            truth[name] = label_map(area * 10 + part, height, width, 5)
            path = root / "images" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(part, height, width)).save(path, quality=90)
            mask = Image.fromarray(paint(truth[name], dubai.CLASSES.palette, GREY))
            mask = mask.convert("P", palette=Image.Palette.ADAPTIVE, colors=8) if part % 2 == 0 else mask
            (root / "masks").mkdir(exist_ok=True)
            mask.save(root / "masks" / f"{name}.png")
    return truth


def make_dubai_published(root: Path) -> None:
    """The layout of the original download, two areas."""
    for area in (1, 2):
        for part in range(1, 10):
            labels = label_map(area * 10 + part, 20, 24, 5)
            folder = root / f"Tile {area}"
            write_png(folder / "masks" / f"image_part_{part:03d}.png", paint(labels, dubai.CLASSES.palette, GREY))
            (folder / "images").mkdir(exist_ok=True)
            Image.fromarray(picture(part, 20, 24)).save(folder / "images" / f"image_part_{part:03d}.jpg")


def make_loveda(root: Path) -> dict[str, np.ndarray]:
    """Two pictures a split and domain. Returns raw masks (0 to 7) by tile name."""
    raw, number = {}, 0
    for split in ("Train", "Val", "Test"):
        for domain in ("Urban", "Rural"):
            for _ in range(2):
                folder = root / split / domain
                write_png(folder / "images_png" / f"{number}.png", picture(number, 32, 32))
                if split != "Test":
                    mask = label_map(number, 32, 32, 8, ignored=False)
                    write_png(folder / "masks_png" / f"{number}.png", mask)
                    raw[f"{split}/{domain}/{number}"] = mask
                number += 1
    return raw


def make_potsdam(root: Path, products: tuple[str, ...] = ("RGB",), size: int = 24) -> dict[str, np.ndarray]:
    """All 38 tiles. Returns labels by tile. The two tiles known to be off colour are so here."""
    folders = {"RGB": "2_Ortho_RGB", "IRRG": "3_Ortho_IRRG", "RGBIR": "4_Ortho_RGBIR"}
    truth = {}
    for seed, tile in enumerate((*isprs.POTSDAM_TRAIN, *isprs.POTSDAM_TEST)):
        rgbir = picture(seed, size, size, 4)
        bands = {"RGB": rgbir[..., :3], "IRRG": rgbir[..., [3, 0, 1]], "RGBIR": rgbir}
        for product in products:
            write_tiff(root / folders[product] / f"top_potsdam_{tile}_{product}.tif", bands[product], tiled=True)
        truth[tile] = label_map(seed, size, size, 6, ignored=False)
        colours = paint(truth[tile], isprs.CLASSES.palette, (0, 0, 0))
        if tile == "4_12":
            loss = np.random.default_rng(1).integers(0, 35, colours.shape, dtype=np.uint8)
            colours = np.where(colours > 127, colours - loss, colours + loss)
        if tile == "6_7":
            colours[truth[tile] == 4] = (252, 255, 0)
        write_tiff(root / "5_Labels_all" / f"top_potsdam_{tile}_label.tif", colours)
        colours = colours.copy()
        colours[0] = 0
        write_tiff(root / "5_Labels_all_noBoundary" / f"top_potsdam_{tile}_label_noBoundary.tif", colours)
    return truth


def make_vaihingen(root: Path) -> dict[str, np.ndarray]:
    """All 33 areas, of unequal sizes. Returns labels by area."""
    truth = {}
    for seed, area in enumerate((*isprs.VAIHINGEN_TRAIN, *isprs.VAIHINGEN_TEST)):
        height, width = 20 + seed % 3, 26 + seed % 5
        name = f"top_mosaic_09cm_area{area}"
        write_tiff(root / "top" / f"{name}.tif", picture(seed, height, width))
        truth[area] = label_map(seed, height, width, 6, ignored=False)
        colours = paint(truth[area], isprs.CLASSES.palette, (0, 0, 0))
        write_tiff(root / "gts_for_participants" / f"{name}.tif", colours)
        colours[:, 0] = 0
        write_tiff(root / "gts_eroded_for_participants" / f"{name}_noBoundary.tif", colours)
    return truth


def make_folder(root: Path, description: str, masks: dict[str, np.ndarray]) -> None:
    """Own data: a picture for each mask, in its split's subfolder if its name has one."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.yaml").write_text(description, encoding="utf-8")
    for seed, (name, mask) in enumerate(masks.items()):
        write_png(root / "images" / f"{name}.png", picture(seed, *mask.shape[:2]))
        write_png(root / "masks" / f"{name}.png", mask)
