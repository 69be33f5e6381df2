"""Segmentation of pictures of any size: tiles, batches, a backend, and the assembly of the label map."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend, Outputs
from emra_deploy.backends.options import DEFAULTS, LoadOptions, check_batch_size
from emra_deploy.errors import EmraError, about
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.pictures.sources import ArraySource, ImageSource
from emra_deploy.pictures.windows import Tile, Window, default_halo, iter_tiles
from emra_deploy.segmenting.blending import BLEND_DIVISOR, Blender
from emra_deploy.segmenting.segmentation import Segmentation

DEFAULT_BATCH = 1
"""Batch size for models with a dynamic batch: on a CPU, larger batches take as long per tile (EMRA-Ti at 512 pixels:
the same CPU time per tile in batches of 1, 2 and 4) and need more memory."""

_Result = tuple[Window, npt.NDArray[np.uint8], npt.NDArray[Any] | None]
_Answer = tuple[Tile, int | None, npt.NDArray[np.bool_] | None, Outputs | None]
"""A tile, its index in the batch, the mask of its pixels with data, and the model's outputs for the batch."""
_Wait = Callable[[], Outputs]
"""Waits for a backend's outputs and returns them."""
Watch = Callable[[Window, "npt.NDArray[np.bool_] | None", Outputs], None]
"""Called with the window that a tile writes, the mask of its pixels with data (None for all), and the model's outputs
there, without the batch dimension: ``classes`` h×w, ``logits`` C×h×w if available. Not called for empty tiles."""

_T = TypeVar("_T")


@dataclass
class _Job:
    """Consecutive tiles, and the batch of those that must be run.

    Attributes:
        tiles: The tiles in row-major order.
        slots: Index in the batch of each tile, or None for a tile without data.
        valid: For each tile the mask of pixels with data in its write window (blended: read window), or None for all.
        batch: uint8 B×H×W×3, or None when no tile has data.
    """

    tiles: list[Tile] = field(default_factory=list)
    slots: list[int | None] = field(default_factory=list)
    valid: list[npt.NDArray[np.bool_] | None] = field(default_factory=list)
    batch: npt.NDArray[np.uint8] | None = None


class Segmenter:
    """Segments pictures with one loaded model. Thread-safe: it keeps no state between calls.

    Args:
        backend: The loaded model.
        halo: Neighbouring tiles overlap by at least twice this many pixels; None for 1/8 of a tile, blended 1/4.
        batch_size: Tiles run at once; None for the model's own fixed batch, or 1.
        blend: Average the predictions of overlapping tiles instead of taking each pixel from its most central tile.
            Slower and more accurate; needs a model with the output ``logits``.

    Attributes:
        path: The file that `open` loaded the model from, or None.

    Raises:
        EmraError: ``halo`` or ``batch-size`` for values out of range, ``blend`` for a model without logits; when it is
            used, ``forked`` in another process than the one that made it, and ``closed`` after `close`.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        halo: int | None = None,
        batch_size: int | None = None,
        blend: bool = False,
    ) -> None:
        fixed, height, width = backend.input_shape
        self._owner = Owner()
        self.backend = backend
        self.path: str | None = None
        self.blend = blend
        usual = min(height, width) // BLEND_DIVISOR if blend else default_halo(height, width)
        self.halo = usual if halo is None else halo
        if blend and "logits" not in self.manifest.heads:
            raise EmraError(
                "blend",
                f"the model gives only {', '.join(self.manifest.heads)}; blending needs its logits",
                "Leave blending out, or export the model with --heads classes,logits",
            )
        self.batch_size = (fixed or DEFAULT_BATCH) if batch_size is None else batch_size
        if not 0 <= 2 * self.halo < min(height, width):
            raise EmraError(
                "halo",
                f"halo {self.halo} does not fit tiles of {height}×{width} pixels",
                f"Give a halo of 0 to {(min(height, width) - 1) // 2}",
            )
        check_batch_size(self.batch_size)

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str] | None = None,
        options: LoadOptions = DEFAULTS,
        *,
        halo: int | None = None,
        blend: bool = False,
        self_test: bool = True,
        **changes: Any,
    ) -> Segmenter:
        """Load a model file and check it on this machine.

        Args:
            model: The model file; None for the one shipped with the package.
            options: How to open it.
            halo: Overlap of tiles; see the class.
            blend: Average overlapping tiles; see the class.
            self_test: Whether to run the golden tile and refuse a model that fails it.
            **changes: Attributes of `LoadOptions` that differ from ``options``, such as ``backend="openvino"``.

        Raises:
            EmraError: Any fault of the file, the machine or the arguments.
        """
        from emra_deploy.backends.opening import open_backend
        from emra_deploy.segmenting.selftest import self_test as run_self_test

        if model is None:
            from emra_deploy.models import shipped_model

            model = shipped_model()
        options = replace(options, **changes)
        backend = open_backend(model, options)
        segmenter = cls(backend, halo=halo, batch_size=options.batch, blend=blend)
        segmenter.path = os.fspath(model)
        if self_test:
            with about(model):
                run_self_test(backend)
        return segmenter

    @property
    def manifest(self) -> Manifest:
        """The model's Manifest."""
        return self.backend.manifest

    @property
    def classes(self) -> ClassSet:
        """The classes of the labels."""
        return self.manifest.classes

    def segment(self, image: npt.NDArray[np.uint8]) -> Segmentation:
        """Segment a picture in memory.

        Args:
            image: uint8 H×W×3, the bands of the Manifest in its order (RGB for most models), any size from 1×1 up.

        Raises:
            EmraError: ``image-array`` for another type or shape.
        """
        return self.segment_source(ArraySource(image))

    def segment_source(self, source: ImageSource) -> Segmentation:
        """Segment any source that can be read by windows and whose label map fits into memory."""
        labels = np.empty((source.height, source.width), np.uint8)
        confidence: npt.NDArray[Any] | None = None
        for window, part, certain in self._results(source):
            labels[window.slices] = part
            if certain is not None:
                if confidence is None:
                    confidence = np.zeros(labels.shape, certain.dtype)
                confidence[window.slices] = certain
        return Segmentation(labels, self.classes, confidence)

    def segment_tiles(self, source: ImageSource) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """Segment a source of any size, a tile at a time; memory does not grow with the source.

        The windows partition the picture and are yielded row by row. A thread reads the next batch while the current
        one runs. Tiles without any data are not run.

        Args:
            source: Source of the pixels.

        Yields:
            A window, and its labels: uint8 h×w, 255 where the source has no data.
        """
        for window, labels, _ in self._results(source):
            yield window, labels

    def segment_rows(
        self, source: ImageSource, start: int = 0, watch: Watch | None = None
    ) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """Segment a source of any size, in windows of its full width, from top to bottom.

        Args:
            source: Source of the pixels.
            start: First row to yield; the labels equal those of a run from the top bit for bit.
            watch: Receives the model's outputs for each tile before blending.
        """
        row: npt.NDArray[np.uint8] | None = None
        for window, labels, _ in self._results(source, start, watch):
            if row is None:
                row = np.empty((window.height, source.width), np.uint8)
            row[:, window.left : window.right] = labels
            if window.right == source.width:
                top = max(window.top, start)
                if top < window.bottom:
                    yield Window(top, 0, window.bottom - top, source.width), row[top - window.top :]
                row = None

    @property
    def restarts(self) -> int:
        """Number of model processes lost and replaced so far; 0 if the model runs in this process."""
        return int(getattr(self.backend, "restarts", 0))

    def close(self) -> None:
        """Free the model. In a fork this does nothing: the model is the other process's."""
        if self._owner.release():
            self.backend.close()

    def __enter__(self) -> Segmenter:
        self._owner.check("the Segmenter", self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _results(self, source: ImageSource, start: int = 0, watch: Watch | None = None) -> Iterator[_Result]:
        self._owner.check("the Segmenter", self.path)
        answers = self._answers(source, start)
        if watch is not None:
            answers = self._watched(answers, watch)
        if self.blend:
            return self._blended(answers, source)
        return (_cut(*answer) for answer in answers)

    def _watched(self, answers: Iterator[_Answer], watch: Watch) -> Iterator[_Answer]:
        for tile, slot, valid, outputs in answers:
            if slot is not None and outputs is not None:
                rows, columns = tile.write.within(tile.read)
                held = valid[rows, columns] if valid is not None and self.blend else valid
                watch(tile.write, held, {name: value[slot][..., rows, columns] for name, value in outputs.items()})
            yield tile, slot, valid, outputs

    def _answers(self, source: ImageSource, start: int) -> Iterator[_Answer]:
        begin: Callable[[npt.NDArray[np.uint8]], _Wait] | None = getattr(self.backend, "begin", None)
        before: tuple[_Job, _Wait | None] | None = None
        for job in _ahead(self._jobs(source, start)):
            if begin is None:
                yield from self._ended(job, None if job.batch is None else partial(self.backend.run, job.batch))
                continue
            # On a GPU this batch is copied while the previous one is computed.
            now = job, None if job.batch is None else begin(job.batch)
            if before is not None:
                yield from self._ended(*before)
            before = now
        if before is not None:
            yield from self._ended(*before)

    def _ended(self, job: _Job, wait: _Wait | None) -> Iterator[_Answer]:
        outputs = None if wait is None else self._checked(wait())
        for tile, slot, valid in zip(job.tiles, job.slots, job.valid, strict=True):
            yield tile, slot, valid, outputs

    def _blended(self, answers: Iterator[_Answer], source: ImageSource) -> Iterator[_Result]:
        _, height, width = self.backend.input_shape
        blender: Blender | None = None
        for tile, slot, valid, outputs in answers:
            read = tile.read
            if blender is None:
                blender = Blender(source.width, len(self.classes), (height, width), read.top)
            if read.top > blender.top:
                yield blender.rows(read.top)
            logits = None
            if slot is not None and outputs is not None:
                logits = outputs["logits"][slot, :, : read.height, : read.width]
            blender.add(read, logits, valid)
        if blender is not None:
            yield blender.rows(source.height)

    def _checked(self, outputs: Outputs) -> Outputs:
        largest = int(outputs["classes"].max())
        if largest >= len(self.classes):
            raise EmraError(
                "class-count",
                f"The model gave label {largest}, and its Manifest names {len(self.classes)} classes",
                "Export the model again with python -m export.to_onnx",
            )
        return outputs

    def _jobs(self, source: ImageSource, start: int) -> Iterator[_Job]:
        _, height, width = self.backend.input_shape
        job, used = _Job(), 0
        for tile in iter_tiles(source.height, source.width, height, width, self.halo):
            # Run all tiles that contribute to the first requested row, in the same order as from the top.
            if (tile.read if self.blend else tile.write).bottom <= start:
                continue
            valid = source.valid(tile.read if self.blend else tile.write)
            empty = valid is not None and not valid.any()
            if not empty:
                if job.batch is None:
                    job.batch = np.empty((self.batch_size, height, width, 3), np.uint8)
                _fill(job.batch[used], source.read(tile.read), tile.read)
            job.tiles.append(tile)
            job.slots.append(None if empty else used)
            job.valid.append(None if valid is None or valid.all() else valid)
            used += not empty
            if used == self.batch_size or used == 0:
                yield job
                job, used = _Job(), 0
        if job.tiles:
            assert job.batch is not None
            job.batch = job.batch[:used]
            yield job


def _fill(slot: npt.NDArray[np.uint8], picture: npt.NDArray[np.uint8], window: Window) -> None:
    """Copy a picture into a batch; if it is smaller than its slot, repeat its last row and column."""
    height, width = window.height, window.width
    if picture.dtype != np.uint8 or picture.shape != (height, width, 3):
        raise ValueError(f"source gave {picture.dtype} {picture.shape} for a window of {height}×{width}×3 uint8")
    slot[:height, :width] = picture
    slot[:height, width:] = slot[:height, width - 1 : width]
    slot[height:] = slot[height - 1 : height]


def _cut(tile: Tile, slot: int | None, valid: npt.NDArray[np.bool_] | None, outputs: Outputs | None) -> _Result:
    """The part of the batch's outputs that this tile writes."""
    if slot is None or outputs is None:
        return tile.write, np.full((tile.write.height, tile.write.width), IGNORE, np.uint8), None
    kept = (slot, *tile.write.within(tile.read))
    # A copy, so that keeping a small window does not keep the whole batch in memory.
    labels: npt.NDArray[np.uint8] = outputs["classes"][kept].copy()
    confidence = outputs["confidence"][kept].copy() if "confidence" in outputs else None
    if valid is not None:
        labels[~valid] = IGNORE
        if confidence is not None:
            confidence[~valid] = 0
    return tile.write, labels, confidence


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, each produced in another thread while the caller processes the previous one."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="emra-read") as reader:
        coming = reader.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item  # type: ignore[misc]
