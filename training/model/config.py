"""What must be known to build an EMRA-proxy: the values stored beside every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from emra_deploy.errors import EmraError

PATCH = 16
"""Side of a patch in pixels; every backbone here is a `*_patch16_*`."""

CELLS = 4
"""r of the paper: each patch is r x r cells, so maps before the last upsampling are at 1/4 of the image."""


class Backbone(NamedTuple):
    """The timm model behind a short name."""

    timm_name: str
    width: int
    depth: int
    heads: int


BACKBONES = {
    "tiny": Backbone("vit_tiny_patch16_224", 192, 12, 3),
    "small": Backbone("vit_small_patch16_224", 384, 12, 6),
    "base": Backbone("vit_base_patch16_224", 768, 12, 12),
    "large": Backbone("vit_large_patch16_224", 1024, 24, 16),
}
FUSIONS = ("product", "sum", "gated", "log")
AGGREGATIONS = ("streamed", "explicit", "plugin")
ZOOMS = (1, 2, 4)


@dataclass(frozen=True)
class EMRAConfig:
    """Shape of an EMRA-proxy. Symbols are those of the paper.

    Attributes:
        backbone: ``tiny``, ``small``, ``base`` or ``large``.
        num_classes: C, 2 to 32.
        image_size: (H, W) in pixels; times ``zoom``, multiples of 16.
        hra_block: M, the block after which HRA reads the patch tokens; 0 is the patch embedding.
        mca_blocks: P, how many of the last blocks MCA averages over; 0 leaves MCA out, and the logits are HSMF.
        fusion: ``product`` (Eq. 5), ``sum``, ``gated`` or ``log``.
        aggregation: ``streamed`` (O(T) memory), ``explicit`` (the formula as written) or ``plugin`` (one operator, with
            CUDA kernels where they are built; one node in ONNX).
        zoom: How many times a picture is enlarged before patches are cut from it, 1, 2 or 4. A patch covers 16 / zoom
            pixels, so that streets narrower than a patch still have patches of their own; the cost per pixel grows
            with zoom squared.

    Raises:
        EmraError: A value is outside its range.
    """

    backbone: str = "tiny"
    num_classes: int = 5
    image_size: tuple[int, int] = (512, 512)
    hra_block: int = 3
    mca_blocks: int = 4
    fusion: str = "product"
    aggregation: str = "streamed"
    zoom: int = 1

    def __post_init__(self) -> None:
        _one_of("backbone", self.backbone, BACKBONES)
        _one_of("fusion", self.fusion, FUSIONS)
        _one_of("aggregation", self.aggregation, AGGREGATIONS)
        depth = BACKBONES[self.backbone].depth
        _between("num_classes", self.num_classes, 2, 32)
        _between("hra_block", self.hra_block, 0, depth)
        _between("mca_blocks", self.mca_blocks, 0, depth)
        if type(self.zoom) is not int or self.zoom not in ZOOMS:
            raise EmraError("model-config", f"zoom is {self.zoom!r}, expected 1, 2 or 4", "Change zoom")
        sides = self.image_size
        if (
            not isinstance(sides, tuple)
            or len(sides) != 2
            or any(type(side) is not int or side < 1 or side * self.zoom % PATCH for side in sides)
        ):
            raise EmraError(
                "model-config",
                f"image_size is {sides!r}, expected two positive multiples of {PATCH // self.zoom}",
                "Use a size such as (512, 512)",
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), the number of patches down and across."""
        height, width = self.network_size
        return height // PATCH, width // PATCH

    @property
    def network_size(self) -> tuple[int, int]:
        """The size in pixels of what the patches are cut from."""
        return self.image_size[0] * self.zoom, self.image_size[1] * self.zoom

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EMRAConfig:
        """The inverse of `to_dict`.

        Raises:
            EmraError: An unknown or missing key, or a value outside its range.
        """
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise EmraError(
                "model-config",
                f"model configuration has the keys {sorted(values)}, expected {sorted(known)}",
                "Use a config.json written by this version's training/train.py",
            )
        size = values["image_size"]
        return cls(**{**values, "image_size": tuple(size) if isinstance(size, list) else size})


def _one_of(name: str, value: object, allowed: Any) -> None:
    # A list, from a damaged config.json, cannot even be looked up in a dictionary.
    if not isinstance(value, str) or value not in allowed:
        raise EmraError("model-config", f"{name} is {value!r}, expected one of {', '.join(allowed)}", f"Change {name}")


def _between(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise EmraError("model-config", f"{name} is {value!r}, expected {low} to {high}", f"Change {name}")
