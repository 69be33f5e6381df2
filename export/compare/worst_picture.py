"""Drawing of two label maps of one picture side by side, with their difference."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.overlay import overlay, shown_colours, with_legend
from emra_deploy.segmenting.palettes import drawn_classes
from emra_deploy.segmenting.segmenter import Segmenter

PANEL = 1024
"""Longest side of a panel in pixels; larger pictures are subsampled."""

MARKS = ((213, 94, 0), (0, 114, 178), (204, 121, 167), (0, 158, 115))
"""Colours of Okabe and Ito's palette that mark differences; each contrasts with pale grey for all colour vision."""

Colour = tuple[int, int, int]
_GAP = 12
_Bytes = npt.NDArray[np.uint8]


def draw_difference(a: Backend, b: Backend, source: ImageSource, names: tuple[str, str], title: str) -> _Bytes:
    """Segment a picture with both models and draw A, B and their difference, with a legend.

    Args:
        a: The reference.
        b: The model that is compared with it.
        source: The picture; it is read whole.
        names: Names of both models, for the headings.
        title: Name of the picture.

    Returns:
        uint8 H x W x 3.
    """
    image = source.read(Window(0, 0, source.height, source.width))
    first, second = (Segmenter(one, batch_size=1).segment_source(source).labels for one in (a, b))
    different = first != second
    classes = drawn_classes(a.manifest.classes)
    step = max(1, math.ceil(max(image.shape[:2]) / PANEL))
    thin = (slice(None, None, step), slice(None, None, step))
    small = np.ascontiguousarray(image[thin])
    panels = [
        (names[0], overlay(small, first[thin], classes)),
        (names[1], overlay(small, second[thin], classes)),
        (
            f"{title}: {int(different.sum())} of {different.size} pixels differ ({different.mean():.3%})",
            mark(small, _pool(different, step), mark_colour(classes)),
        ),
    ]
    drawn, labels = np.concatenate([panel for _, panel in panels[:2]]), np.concatenate([first[thin], second[thin]])
    return with_legend(_side_by_side(panels), classes, shown=shown_colours(drawn, labels, classes))


def mark_colour(classes: ClassSet) -> Colour:
    """The colour of `MARKS` that differs most from the colours of all classes."""
    palette = np.asarray(classes.palette, np.int64)
    return max(MARKS, key=lambda colour: int(np.min(((palette - colour) ** 2).sum(axis=1))))


def mark(image: _Bytes, where: npt.NDArray[np.bool_], colour: Colour) -> _Bytes:
    """The picture in pale grey with these pixels in colour, each grown by one so that a single one can be seen.

    Args:
        image: uint8 H x W x 3.
        where: bool H x W.
        colour: Red, green, blue.
    """
    padded = np.pad(where, 1)
    height, width = where.shape
    shifts = [(dy, dx) for dy in range(3) for dx in range(3)]
    grown = np.any([padded[dy : dy + height, dx : dx + width] for dy, dx in shifts], axis=0)
    grey = 160 + image.mean(axis=2, keepdims=True) * (95 / 255)
    drawn = np.repeat(grey, 3, axis=2).astype(np.uint8)
    drawn[grown] = colour
    return drawn


def _pool(where: npt.NDArray[np.bool_], step: int) -> npt.NDArray[np.bool_]:
    """Subsample by ``step``; a pixel is true if any of the pixels it replaces is."""
    height, width = (-(-side // step) for side in where.shape)
    padded = np.zeros((height * step, width * step), bool)
    padded[: where.shape[0], : where.shape[1]] = where
    return np.asarray(padded.reshape(height, step, width, step).any(axis=(1, 3)))


def _side_by_side(panels: list[tuple[str, _Bytes]]) -> _Bytes:
    from PIL import Image, ImageDraw, ImageFont

    height, width = panels[0][1].shape[:2]
    size = int(np.clip(width // 32, 11, 22))
    font = ImageFont.load_default(size=size)
    head = 2 * size
    # Small pictures get room for their headings.
    pitch = max(width, *(int(font.getlength(text)) + 1 for text, _ in panels)) + _GAP
    sheet = Image.new("RGB", (pitch * len(panels), height + head), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (text, panel) in enumerate(panels):
        sheet.paste(Image.fromarray(panel), (index * pitch, head))
        draw.text((index * pitch, head // 2), text, fill="black", font=font, anchor="lm")
    return np.array(sheet)
