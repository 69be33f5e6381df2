"""Damaged model files, engines' sidecars and checkpoints.

A damaged copy, which carries the seal that it was written with, counts as wrong when it is accepted and its labels of
a picture, its classes or anything else of its Manifest are not those of the whole file. A file without a seal could be
any other valid file, so for those only crashes, hangs, memory and errors outside `EmraError` count.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from emra_deploy.backends.tensorrt.about import about_engine
from emra_deploy.backends.tensorrt.admission import read_description
from emra_deploy.backends.tensorrt.plan import read_header
from emra_deploy.backends.tensorrt.sidecar import sidecar_path, to_json
from emra_deploy.errors import EmraError
from emra_deploy.model_file.seal import check_model_seal, seal_json, seal_model
from emra_deploy.models import shipped_model
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import build_model, make_manifest, scene
from tests.reliability.cases import ACCEPTED, SAME, WRONG, Case, Subject
from tests.reliability.forms import JSON, ONNX
from tests.reliability.mutate import mutate
from tests.sidecars import FULL

_HOSTILE = 0.4
"""Share of files without a seal."""

EVIDENCE = {"miou": 0.5, "of": ["a", {"b": 1}]}
"""Nested values, for damage to JSON."""


class ModelSubject(Subject):
    """ONNX files, loaded with their self-test and run on a picture.

    Args:
        name: Shown in the scoreboard.
        share: As in `Subject`.
        backend: That loads them.
        source: The file to copy; None makes a small one.
    """

    def __init__(self, name: str, share: float, backend: str, source: Path | None = None) -> None:
        self.name, self.share = name, share
        self._backend, self._source = backend, source
        self._known = ""

    def prepare(self, folder: Path) -> None:
        """Write the model without and with its seal."""
        bare = folder / "bare.onnx"
        if self._source is None:
            build_model(bare, evidence=EVIDENCE)
        else:
            shutil.copyfile(self._source, bare)
        sealed = folder / "model.onnx"
        shutil.copyfile(bare, sealed)
        with contextlib.suppress(EmraError):
            if not check_model_seal(sealed):
                seal_model(sealed)

    def load(self, folder: Path) -> None:
        """Record the answers of the whole file."""
        side = 48 if self._source is None else 300
        self._picture = scene(side, side + 20, seed=3)
        self._known = self._answer(folder / "model.onnx")

    def make(self, originals: Path, folder: Path, chance: random.Random) -> Case:
        """Damage the file with its seal, or the one without."""
        hostile = chance.random() < _HOSTILE
        original = originals / ("bare.onnx" if hostile else "model.onnx")
        data, damage = mutate(original.read_bytes(), chance, ONNX)
        path = folder / "model.onnx"
        path.write_bytes(data)
        return Case(path, path, original, damage, hostile)

    def read(self, case: Case) -> tuple[str, str]:
        """Load, test and run it."""
        return _compared(case, self._answer(case.path), self._known)

    def _answer(self, path: Path) -> str:
        with Segmenter.open(path, backend=self._backend, threads=1) as segmenter:
            labels = segmenter.segment(self._picture).labels
            return _digest(labels.tobytes(), segmenter.manifest.to_json())


class SidecarSubject(Subject):
    """An engine's sidecar, or the engine itself, read up to the point where TensorRT would load the engine."""

    def __init__(self, share: float) -> None:
        self.name, self.share = "sidecar", share
        self._known = ""

    def prepare(self, folder: Path) -> None:
        """Write a file with an engine's header, and its sidecar."""
        engine = folder / "model.engine"
        engine.write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 30]) + random.Random(0).randbytes(20_000))
        data = engine.read_bytes()
        sidecar = replace(FULL, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        text = to_json(sidecar, replace(make_manifest(), precision="int8", evidence=EVIDENCE))
        (folder / "bare.json").write_text(text, encoding="utf-8")
        sidecar_path(engine).write_text(seal_json(text), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Record the description in the whole files."""
        self._known = _described(folder / "model.engine")

    def make(self, originals: Path, folder: Path, chance: random.Random) -> Case:
        """Damage the sidecar, or in one of ten cases the engine."""
        engine = folder / "model.engine"
        hostile = chance.random() < _HOSTILE
        source = originals / ("bare.json" if hostile else "model.engine.json")
        shutil.copyfile(originals / engine.name, engine)
        shutil.copyfile(source, sidecar_path(engine))
        if chance.random() < 0.1:
            data, damage = mutate(engine.read_bytes(), chance)
            engine.write_bytes(data)
            return Case(engine, engine, originals / engine.name, damage, hostile)
        data, damage = mutate(source.read_bytes(), chance, JSON)
        sidecar_path(engine).write_bytes(data)
        return Case(engine, sidecar_path(engine), source, damage, hostile)

    def read(self, case: Case) -> tuple[str, str]:
        """Read both as the TensorRT backend and `emra info` do."""
        about_engine(case.path)
        return _compared(case, _described(case.path), self._known)


def _described(engine: Path) -> str:
    header = read_header(engine)
    sidecar, manifest = read_description(engine, engine.read_bytes())
    return _digest(repr(header), repr(sidecar), manifest.to_json())


class CheckpointSubject(Subject):
    """A checkpoint's folder, one of its two files damaged. Needs PyTorch."""

    def __init__(self, share: float) -> None:
        self.name, self.share = "checkpoint", share
        self._known = ""

    def prepare(self, folder: Path) -> None:
        """Write a checkpoint of a small model with random weights, and copies without seals."""
        from tests.reliability import checkpoints

        checkpoints.write(folder / "whole")
        checkpoints.write_without_seals(folder / "whole", folder / "bare")

    def load(self, folder: Path) -> None:
        """Record the content of the whole one."""
        self._known = self._content(folder / "whole")

    def make(self, originals: Path, folder: Path, chance: random.Random) -> Case:
        """Damage the weights or the configuration."""
        hostile = chance.random() < _HOSTILE
        source, target = originals / ("bare" if hostile else "whole"), folder / "checkpoint"
        shutil.copytree(source, target)
        name = chance.choice(sorted(path.name for path in source.iterdir()))
        data, damage = mutate((source / name).read_bytes(), chance, JSON if name.endswith(".json") else ())
        (target / name).write_bytes(data)
        return Case(target, target / name, source / name, damage, hostile)

    def read(self, case: Case) -> tuple[str, str]:
        """Load it."""
        return _compared(case, self._content(case.path), self._known)

    def _content(self, folder: Path) -> str:
        from tests.reliability import checkpoints

        return checkpoints.content(folder)


def subjects() -> list[Subject]:
    """The kinds that this machine can read."""
    found: list[Subject] = [ModelSubject("onnx", 5.0, "onnxruntime"), SidecarSubject(2.5)]
    if importlib.util.find_spec("openvino") is not None:
        found.append(ModelSubject("onnx-openvino", 1.0, "openvino"))
    found.append(ModelSubject("shipped", 0.25, "onnxruntime", shipped_model()))
    if importlib.util.find_spec("torch") is not None:
        found.append(CheckpointSubject(1.5))
    return found


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part).encode())
    return digest.hexdigest()


def _compared(case: Case, found: str, known: str) -> tuple[str, str]:
    if found == known:
        return SAME, case.damage
    if case.hostile:
        return ACCEPTED, case.damage
    return WRONG, f"accepted ({case.damage}), unlike the whole file"
