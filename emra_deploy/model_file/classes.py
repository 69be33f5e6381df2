"""The classes of a model or data set: names, colours and the value that means "no label"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from emra_deploy.errors import EmraError

IGNORE = 255
"""Label of pixels without ground truth or outside the data; also the nodata value of label rasters."""

MAX_CLASSES = 254
"""Labels are uint8; 255 is "no label", and 254 is kept free for tools that reserve it."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def holds_controls(text: str) -> bool:
    """Whether text contains control characters, which could control a terminal, or lone surrogates.

    Names come from untrusted files, and are shown on terminals, in tags and in pictures.
    """
    return _CONTROLS.search(text) is not None


@dataclass(frozen=True)
class ClassSet:
    """Names and colours of C classes, in label order.

    Attributes:
        names: C distinct, non-empty names without control characters; label i is ``names[i]``.
        palette: C colours (red, green, blue), each 0 to 255.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise EmraError(
                "class-count",
                f"{len(self.names)} classes, expected 1 to {MAX_CLASSES}",
                "Correct the list of classes",
            )
        if len(self.names) != len(self.palette):
            raise EmraError(
                "class-count",
                f"{len(self.names)} class names but {len(self.palette)} colours",
                "Give each class one name and one colour",
            )
        if any(not name.strip() for name in self.names) or len(set(self.names)) != len(self.names):
            raise EmraError(
                "class-names", f"class names {list(self.names)} are empty or repeated", "Make them distinct"
            )
        controls = [name for name in self.names if holds_controls(name)]
        if controls:
            raise EmraError("class-names", f"class names {controls} hold control characters", "Remove these")
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or any(not 0 <= channel <= 255 for channel in colour):
                raise EmraError(
                    "class-colour",
                    f"colour {colour} of class {name!r} is not three values of 0 to 255",
                    "Correct it",
                )

    def __len__(self) -> int:
        return len(self.names)
