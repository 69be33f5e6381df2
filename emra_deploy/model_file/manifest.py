"""The Manifest: a model file's description of itself.

The Manifest is stored as JSON in the ``metadata_props`` of an ONNX file and in the sidecar of an engine. The files are
untrusted, so every field is checked before it is used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet, holds_controls
from emra_deploy.model_file.golden import GoldenTile
from emra_deploy.model_file.precisions import PRECISIONS
from emra_deploy.pictures.windows import HALO_DIVISOR

SCHEMA = 1
"""Version of the JSON schema, raised for any new, renamed or reinterpreted field."""

METADATA_KEY = "emra_manifest"
"""Key of ``metadata_props`` that holds the JSON."""

FUSIONS = ("product", "sum", "gated", "log")
AGGREGATIONS = ("streamed", "explicit", "plugin")
INPUT_KINDS = ("uint8", "float")
HEADS = ("classes", "logits", "confidence")

_MAX_TEXT = 256 * 2**20
_MAX_NAME = 1024
_MAX_SIDE = 8192
_MAX_BATCH = 4096
_MAX_DEPTH = 32
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "Export the model again with python -m export.to_onnx"


@dataclass(frozen=True)
class Manifest:
    """The self-description of one model file, validated on construction.

    Attributes:
        name: Name of the model, such as ``"emra-ti-dubai"``.
        classes: Names and colours of the C classes.
        mean: Mean of red, green and blue, of values scaled to 0..1.
        std: Standard deviation of the same, above 0.
        backbone: Name of the backbone, such as ``"tiny"``.
        hra_block: M, the block after which the region affinities are read; 0 is the patch embedding.
        mca_blocks: P, the number of last blocks whose class attention is averaged; 0 for a model without MCA.
        fusion: ``"product"``, ``"sum"``, ``"gated"`` or ``"log"``.
        zoom: How many times the network enlarges its input before it cuts patches.
        aggregation: ``"streamed"``, ``"explicit"`` or ``"plugin"``.
        input_shape: Batch (None when dynamic), height, width; heights and widths in pixels.
        input_kind: ``"uint8"``, B×H×W×3 RGB, or ``"float"``, float32 B×3×H×W normalised by the caller.
        heads: The outputs, of ``"classes"``, ``"logits"``, ``"confidence"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        bands: The three input bands, in order.
        gsd: Ground sample distance of the training data in metres per pixel, or its least and its most, or None.
        parent_sha256: Hex sha256 of the file this one was made of, or None.
        tools: Name to version of what made the file.
        evidence: What was measured, as JSON values.
        golden: An input and its labels, or None.
        schema: Version of the JSON schema.

    Raises:
        EmraError: ``manifest-field`` for an invalid value, ``manifest-schema`` for a schema that this version does not
            support.
    """

    name: str
    classes: ClassSet
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    backbone: str
    hra_block: int
    mca_blocks: int
    fusion: str
    aggregation: str
    input_shape: tuple[int | None, int, int]
    zoom: int = 1
    input_kind: str = "uint8"
    heads: tuple[str, ...] = ("classes",)
    precision: str = "fp32"
    bands: tuple[str, str, str] = ("red", "green", "blue")
    gsd: float | tuple[float, float] | None = None
    parent_sha256: str | None = None
    tools: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    golden: GoldenTile | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check_schema(self.schema)
        _check_text("name", self.name)
        _check_text("backbone", self.backbone)
        if not isinstance(self.classes, ClassSet):
            raise _wrong("classes", self.classes, "a ClassSet")
        _check_triple("mean", self.mean, 0.0, 1.0)
        _check_triple("std", self.std, 1e-6, 1e3)
        _check_integer("hra_block", self.hra_block, 0, 1000)
        _check_integer("mca_blocks", self.mca_blocks, 0, 1000)
        _check_integer("zoom", self.zoom, 1, 16)
        for key, allowed in (
            ("fusion", FUSIONS),
            ("aggregation", AGGREGATIONS),
            ("input_kind", INPUT_KINDS),
            ("precision", PRECISIONS),
        ):
            value = getattr(self, key)
            if not isinstance(value, str) or value not in allowed:
                raise _wrong(key, value, "one of " + ", ".join(allowed))
        self._check_input_shape()
        if (
            not isinstance(self.heads, tuple)
            or not all(isinstance(head, str) and head in HEADS for head in self.heads)
            or len(set(self.heads)) != len(self.heads)
            or not {"classes", "logits"} & set(self.heads)
        ):
            raise _wrong("heads", self.heads, "distinct, of " + ", ".join(HEADS) + ", with classes or logits")
        if not isinstance(self.bands, tuple) or len(self.bands) != 3:
            raise _wrong("bands", self.bands, "three names")
        for band in self.bands:
            _check_text("bands", band)
        if isinstance(self.gsd, tuple):
            if len(self.gsd) != 2:
                raise _wrong("gsd", self.gsd, "a number or two, the smaller first")
            _check_number("gsd", self.gsd[0], 1e-4, 1e5)
            _check_number("gsd", self.gsd[1], self.gsd[0], 1e5)
        elif self.gsd is not None:
            _check_number("gsd", self.gsd, 1e-4, 1e5)
        if self.parent_sha256 is not None and (
            not isinstance(self.parent_sha256, str) or not _SHA256.fullmatch(self.parent_sha256)
        ):
            raise _wrong("parent_sha256", self.parent_sha256, "64 lower-case hexadecimal digits")
        if not isinstance(self.tools, dict):
            raise _wrong("tools", self.tools, "an object of names and versions")
        for tool, version in self.tools.items():
            _check_text("tools", tool)
            _check_text("tools", version)
        if not isinstance(self.evidence, dict):
            raise _wrong("evidence", self.evidence, "an object")
        _check_json("evidence", self.evidence, 0)
        self._check_golden()

    def _check_input_shape(self) -> None:
        shape = self.input_shape
        if not isinstance(shape, tuple) or len(shape) != 3:
            raise _wrong("input_shape", shape, "batch or null, height, width")
        if shape[0] is not None:
            _check_integer("input_shape", shape[0], 1, _MAX_BATCH)
        _check_integer("input_shape", shape[1], 1, _MAX_SIDE)
        _check_integer("input_shape", shape[2], 1, _MAX_SIDE)

    def _check_golden(self) -> None:
        if self.golden is None:
            return
        if not isinstance(self.golden, GoldenTile):
            raise _wrong("golden", self.golden, "a GoldenTile")
        if self.golden.size != self.input_shape[1:]:
            raise _wrong("golden", self.golden.size, f"of the input's size {self.input_shape[1:]}")

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.input_shape[1:]

    def to_json(self, indent: int | None = None) -> str:
        """The Manifest as JSON text; `from_json` gives an equal one back."""
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        content["classes"] = {
            "names": list(self.classes.names),
            "palette": [list(c) for c in self.classes.palette],
        }
        content["golden"] = None if self.golden is None else self.golden.to_dict()
        return json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the output of `to_json`, checking everything.

        Raises:
            EmraError: ``manifest-json`` for other text, and those of the constructor.
        """
        content = _parse(text)
        # Check the schema first: the fields of a newer one would look invalid here.
        _check_schema(content.get("schema"))
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(content) - known)
        missing = sorted(known - set(content))
        if unknown or missing:
            raise EmraError(
                "manifest-json",
                f"The Manifest lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}"[:400],
                _REMEDY,
            )
        for key in ("mean", "std", "bands", "input_shape", "heads"):
            if not isinstance(content[key], list):
                raise _wrong(key, content[key], "a list")
            content[key] = tuple(content[key])
        if isinstance(content["gsd"], list):
            content["gsd"] = tuple(content["gsd"])
        content["classes"] = _parse_classes(content["classes"])
        content["golden"] = None if content["golden"] is None else GoldenTile.from_dict(content["golden"])
        return cls(**content)

    def to_metadata(self) -> dict[str, str]:
        """The ``metadata_props`` of an ONNX file: the JSON, and the JSON-encoded keys of QGIS Deepness."""
        deepness: dict[str, Any] = {
            "model_type": "Segmentor",
            "class_names": {str(index): name for index, name in enumerate(self.classes.names)},
            "tiles_size": self.tile[0],
            "tiles_overlap": round(200 / HALO_DIVISOR),
        }
        if self.input_kind == "float":
            # Deepness normalises by these; a uint8 model normalises its input itself.
            deepness["standardization_mean"] = list(self.mean)
            deepness["standardization_std"] = list(self.std)
        if self.gsd is not None:
            # One number is all that it takes: the middle of a range, as scales are counted.
            middle = math.sqrt(self.gsd[0] * self.gsd[1]) if isinstance(self.gsd, tuple) else self.gsd
            deepness["resolution"] = round(middle * 100, 6)
        metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in deepness.items()}
        metadata[METADATA_KEY] = self.to_json()
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Manifest:
        """Read the Manifest from the ``metadata_props`` of an ONNX file.

        Raises:
            EmraError: ``manifest-missing`` when there is none, and those of `from_json`.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise EmraError(
                "manifest-missing",
                f"The model file has no Manifest (metadata key {METADATA_KEY!r}), so its classes are unknown",
                "Use a model exported with python -m export.to_onnx",
            )
        return cls.from_json(text)


def _wrong(key: str, value: object, expected: str) -> EmraError:
    shown = repr(value)
    shown = shown if len(shown) <= 100 else shown[:100] + "…"
    return EmraError("manifest-field", f"Field {key!r} of the Manifest is {shown}, expected {expected}", _REMEDY)


def _check_schema(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong("schema", value, "a positive whole number")
    if value > SCHEMA:
        raise EmraError(
            "manifest-schema",
            f"The Manifest has schema {value}, and this version of emra-deploy reads up to {SCHEMA}",
            "Upgrade emra-deploy, or export the model with this version",
        )


def _check_text(key: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_NAME or holds_controls(value):
        raise _wrong(key, value, f"text of 1 to {_MAX_NAME} characters, none of them control characters")


def _check_integer(key: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(key, value, f"a whole number of {low} to {high}")


def _check_number(key: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _wrong(key, value, f"a number of {low:g} to {high:g}")


def _check_triple(key: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, tuple) or len(value) != 3:
        raise _wrong(key, value, "three numbers")
    for number in value:
        _check_number(key, number, low, high)


def _check_json(key: str, value: object, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise EmraError("manifest-field", f"Field {key!r} of the Manifest is nested deeper than {_MAX_DEPTH}", _REMEDY)
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str) or holds_controls(name):
                raise _wrong(key, name, "text without control characters as keys")
            _check_json(key, item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(key, item, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _wrong(key, value, "finite numbers")
    elif isinstance(value, str):
        if holds_controls(value):
            raise _wrong(key, value, "text without control characters")
    elif value is not None and not isinstance(value, int):
        raise _wrong(key, value, "JSON values")


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _parse(text: object) -> dict[str, Any]:
    if not isinstance(text, str):
        raise EmraError("manifest-json", "The Manifest is not text", _REMEDY)
    if len(text) > _MAX_TEXT:
        raise EmraError("manifest-json", f"The Manifest has {len(text)} characters, more than {_MAX_TEXT}", _REMEDY)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EmraError("manifest-json", f"The Manifest is not JSON ({str(error)[:100]})", _REMEDY) from error
    if not isinstance(content, dict):
        raise EmraError("manifest-json", "The Manifest is JSON, but not an object", _REMEDY)
    return content


def _parse_classes(value: object) -> ClassSet:
    if not isinstance(value, dict) or set(value) != {"names", "palette"}:
        raise _wrong("classes", value, "an object of names and palette")
    names, palette = value["names"], value["palette"]
    if not isinstance(names, list) or not all(isinstance(name, str) and len(name) <= _MAX_NAME for name in names):
        raise _wrong("classes", names, "a list of names")
    if not isinstance(palette, list) or not all(
        isinstance(colour, list) and all(type(channel) is int for channel in colour) for colour in palette
    ):
        raise _wrong("classes", palette, "a list of colours, each three whole numbers")
    return ClassSet(tuple(names), tuple(tuple(colour) for colour in palette))
