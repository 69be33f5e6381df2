"""Drawing: label maps as colours, blended over the picture, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.segmenting.areas import count_labels

if TYPE_CHECKING:
    from emra_deploy.segmenting.areas import ClassArea

NO_DATA_COLOUR = (0, 0, 0)
_ROWS_AT_ONCE = 256


def colour_table(classes: ClassSet) -> NDArray[np.uint8]:
    """Colours of all 256 label values: 256 x 3 uint8 RGB; values that are no class are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = classes.palette
    table[IGNORE] = NO_DATA_COLOUR
    return table


def colour_map(labels: NDArray[np.uint8], classes: ClassSet) -> NDArray[np.uint8]:
    """A label map in the colours of its classes.

    Args:
        labels: H x W uint8, each below the number of classes, or 255 for no data.
        classes: Names and colours.

    Returns:
        H x W x 3 uint8 RGB; no data is black.

    Raises:
        EmraError: ``label-range`` for other values, ``label-shape`` for other arrays.
    """
    _check_labels(labels, classes)
    return colour_table(classes)[labels]


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: ClassSet, opacity: float = 0.5
) -> NDArray[np.uint8]:
    """The class colours over the picture; pixels without data keep the picture's colour.

    Args:
        image: H x W x 3 uint8 RGB.
        labels: H x W uint8, each below the number of classes, or 255 for no data.
        classes: Names and colours.
        opacity: Weight of the class colour, 0 to 1.

    Returns:
        H x W x 3 uint8 RGB, a new array.

    Raises:
        EmraError: ``opacity-range``, ``label-range``, ``label-shape``.
    """
    if not 0.0 <= opacity <= 1.0:
        raise EmraError("opacity-range", f"opacity {opacity}, expected 0 to 1", "Correct it")
    _check_labels(labels, classes)
    if image.dtype != np.uint8 or image.shape != (*labels.shape, 3):
        raise EmraError(
            "label-shape",
            f"picture {image.shape} {image.dtype} and labels {labels.shape}, expected H x W x 3 uint8 and H x W",
            "Pass the picture that was segmented",
        )
    table = colour_table(classes).astype(np.uint16)
    weight = np.full(256, round(opacity * 256), np.uint16)
    weight[len(classes) :] = 0
    # 255 * 256 fits 16 bits, and the scaled table spares one product per pixel.
    scaled = table * weight[:, None]
    result = np.empty_like(image)
    for top in range(0, labels.shape[0], _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        part = labels[rows]
        mixed = image[rows] * (256 - weight[part])[..., None] + scaled[part]
        result[rows] = (mixed + np.uint16(127)) >> 8 if opacity < 1.0 else mixed >> 8
    return result


def outline(image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: ClassSet) -> None:
    """Draw the rims of all regions in the opaque colours of their classes, in place: tints are pale on bright roofs.

    Args:
        image: H x W x 3 uint8 RGB, such as `overlay` gives.
        labels: H x W uint8, as there.
        classes: Names and colours.
    """
    rim = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    rim[:, 1:] |= across
    rim[:, :-1] |= across
    rim[1:] |= down
    rim[:-1] |= down
    rim &= labels != IGNORE
    image[rim] = colour_table(classes)[labels[rim]]


def shown_colours(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: ClassSet, opacity: float = 0.5
) -> tuple[tuple[int, int, int], ...]:
    """What each class looks like in an overlay: the mean colour of its pixels, for its legend.

    Args:
        image: H x W x 3 uint8 RGB, the overlay.
        labels: H x W uint8, those that it shows.
        classes: Names and colours.
        opacity: That of the overlay: a class that it does not show is mixed with grey.
    """
    shown = opacity * np.asarray(classes.palette, np.float64) + (1 - opacity) * 128
    counts, sums = np.zeros(256, np.int64), np.zeros((256, 3))
    for top in range(0, labels.shape[0], _ROWS_AT_ONCE):
        part = labels[top : top + _ROWS_AT_ONCE].ravel()
        pixels = image[top : top + _ROWS_AT_ONCE].reshape(-1, 3)
        counts += count_labels(part[None])
        for channel in range(3):
            sums[:, channel] += np.bincount(part, pixels[:, channel], minlength=256)
    present = counts[: len(classes)] > 0
    shown[present] = sums[: len(classes)][present] / counts[: len(classes)][present, None]
    return tuple((int(red), int(green), int(blue)) for red, green, blue in np.rint(shown))


def legend(
    classes: ClassSet,
    areas: Sequence[ClassArea] | None = None,
    *,
    text_height: int = 16,
    shown: Sequence[tuple[int, int, int]] | None = None,
) -> NDArray[np.uint8]:
    """A column of colour swatches with the class names, and the share of each when ``areas`` is given.

    Args:
        classes: Names and colours.
        areas: One per class, in label order.
        text_height: Height of the letters in pixels.
        shown: Colours of the swatches where they are not those of the classes; see `shown_colours`.

    Returns:
        h x w x 3 uint8 RGB, black on white; as large as the text needs.
    """
    from PIL import Image, ImageDraw, ImageFont

    shares = [""] * len(classes) if areas is None else [f"{area.fraction:.1%}" for area in areas]
    font = ImageFont.load_default(size=text_height)
    pad, line_height = max(2, text_height // 2), int(text_height * 1.6)
    name_width = max(int(np.ceil(font.getlength(name))) for name in classes.names)
    share_width = max(int(np.ceil(font.getlength(share))) for share in shares)
    left = 2 * pad + line_height
    right = left + name_width + (2 * pad + share_width if areas is not None else 0)
    picture = Image.new("RGB", (right + pad, 2 * pad + line_height * len(classes)), "white")
    draw = ImageDraw.Draw(picture)
    for index, (name, share) in enumerate(zip(classes.names, shares, strict=True)):
        top = pad + index * line_height
        box = (pad, top + 2, pad + line_height - 4, top + line_height - 3)
        draw.rectangle(box, fill=tuple((shown or classes.palette)[index]), outline="black")
        middle = top + line_height // 2
        draw.text((left, middle), name, fill="black", font=font, anchor="lm")
        draw.text((right, middle), share, fill="black", font=font, anchor="rm")
    return np.array(picture)


def with_legend(
    image: NDArray[np.uint8],
    classes: ClassSet,
    areas: Sequence[ClassArea] | None = None,
    shown: Sequence[tuple[int, int, int]] | None = None,
) -> NDArray[np.uint8]:
    """The picture with the legend on white to its right.

    The letters grow with the picture, so that the legend of a large map can still be read when it is shown whole.

    Args:
        image: H x W x 3 uint8 RGB.
        classes: Names and colours.
        areas: One per class, in label order.
        shown: Colours of the classes in the picture; see `shown_colours`.

    Returns:
        max(H, h) x (W + w) x 3 uint8 RGB, where h x w is the legend.
    """
    height, width = image.shape[:2]
    key = legend(classes, areas, text_height=int(np.clip(max(height, width) // 50, 12, 64)), shown=shown)
    result = np.full((max(height, key.shape[0]), width + key.shape[1], 3), 255, np.uint8)
    result[:height, :width] = image
    result[: key.shape[0], width:] = key
    return result


def _check_labels(labels: NDArray[np.uint8], classes: ClassSet) -> None:
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise EmraError(
            "label-shape", f"labels {labels.shape} {labels.dtype}, expected H x W uint8", "Pass a label map"
        )
    present = count_labels(labels).nonzero()[0]
    wrong = present[(present >= len(classes)) & (present != IGNORE)]
    if wrong.size:
        raise EmraError(
            "label-range",
            f"label {int(wrong[0])} with {len(classes)} classes, expected 0 to {len(classes) - 1} or {IGNORE}",
            "Use the classes of the model that made the labels",
        )
