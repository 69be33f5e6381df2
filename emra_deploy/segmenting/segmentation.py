"""The result for one picture: a label for each pixel, with areas and drawings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.segmenting.areas import ClassArea, class_areas, count_labels

__all__ = ["ClassArea", "Segmentation"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The label map of a picture.

    Attributes:
        labels: uint8 H×W; a value is an index into ``classes``, or 255 where there is no data.
        classes: The C classes.
        confidence: The model's probability of each label, H×W of 0 to 1, if the model outputs it; 0 where there is no
            data.

    Raises:
        EmraError: ``label-array`` for other types and shapes, ``class-count`` for labels beyond the classes.
    """

    labels: npt.NDArray[np.uint8]
    classes: ClassSet
    confidence: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        labels = self.labels
        if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
            raise EmraError("label-array", "labels are not a uint8 array H×W with pixels in it", "Convert them first")
        if self.confidence is not None and self.confidence.shape != labels.shape:
            raise EmraError(
                "label-array",
                f"confidence has shape {self.confidence.shape} and labels {labels.shape}",
                "Give both for the same picture",
            )
        beyond = labels[(labels >= len(self.classes)) & (labels != IGNORE)]
        if beyond.size:
            raise EmraError(
                "class-count",
                f"Label {int(beyond[0])} occurs, and there are {len(self.classes)} classes",
                "Use the classes that the labels were made with",
            )

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.labels.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.labels.shape[1])

    def areas(self, pixel_area_m2: float | None = None) -> tuple[ClassArea, ...]:
        """The area that each class covers, in label order.

        Args:
            pixel_area_m2: Ground area of a pixel in square metres, or None if unknown.
        """
        return class_areas(count_labels(self.labels), self.classes, pixel_area_m2)

    def colour_map(self, palette: str = "auto") -> npt.NDArray[np.uint8]:
        """The labels in the classes' colours: uint8 H×W×3.

        Args:
            palette: One of `emra_deploy.segmenting.palettes.PALETTES`.
        """
        from emra_deploy.segmenting.overlay import colour_map
        from emra_deploy.segmenting.palettes import drawn_classes

        return colour_map(self.labels, drawn_classes(self.classes, palette))

    def overlay(
        self, image: npt.NDArray[np.uint8], opacity: float = 0.5, palette: str = "auto"
    ) -> npt.NDArray[np.uint8]:
        """The labels' colours over the picture: uint8 H×W×3.

        Args:
            image: The picture that was segmented, uint8 H×W×3.
            opacity: Of the colours, 0 to 1.
            palette: As of `colour_map`.
        """
        from emra_deploy.segmenting.overlay import overlay
        from emra_deploy.segmenting.palettes import drawn_classes

        return overlay(image, self.labels, drawn_classes(self.classes, palette), opacity)
