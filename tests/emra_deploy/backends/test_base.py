"""There is one interface for labelling a batch; what wraps a backend is one, and wrappers nest."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emra_deploy.backends.base import Backend, Outputs, Wrapper
from emra_deploy.backends.opening import open_backend
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.segmenting.selftest import self_test
from tests.conftest import REPOSITORY
from tests.onnx_models import build_model, nearest_colour, scene

PACKAGES = ("emra_deploy", "training", "export", "benchmarks")


class Counting(Wrapper):
    """Counts tiles."""

    count = 0

    def run(self, batch: np.ndarray) -> Outputs:
        self.count += len(batch)
        return super().run(batch)


class Recording(Wrapper):
    """Keeps the names of what came out."""

    seen: tuple[str, ...] = ()

    def run(self, batch: np.ndarray) -> Outputs:
        outputs = super().run(batch)
        self.seen = tuple(sorted(outputs))
        return outputs


@pytest.mark.parametrize("isolate", [False, True])
def test_wrappers_nest_around_any_backend(tmp_path: Path, isolate: bool) -> None:
    pytest.importorskip("onnxruntime")
    build_model(tmp_path / "model.onnx", heads=("classes", "logits"))
    inner = open_backend(tmp_path / "model.onnx", backend="onnxruntime", threads=1, isolate=isolate)
    counting = Counting(inner)
    recording = Recording(counting)
    outer: Backend = Wrapper(recording)
    assert self_test(outer) == 0.0
    picture = scene(64, 32)
    with Segmenter(outer, halo=0) as segmenter:
        np.testing.assert_array_equal(segmenter.segment(picture).labels, nearest_colour(picture))
        assert segmenter.manifest == inner.manifest
    assert (counting.count, recording.seen) == (3, ("classes", "logits"))
    assert (outer.name, outer.input_shape) == (inner.name, inner.input_shape)
    # Closed through all of them.
    with pytest.raises(Exception, match=r"closed|_session"):
        inner.run(picture[None, :32])


def _classes() -> dict[str, ast.ClassDef]:
    """Each class of the packages, by file and name."""
    return {
        f"{path.relative_to(REPOSITORY)}: {node.name}": node
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }


def _defines(node: ast.ClassDef) -> dict[str, Any]:
    """Members defined by a class itself: methods, properties, class attributes and assigned attributes."""
    found: dict[str, Any] = {}
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            found[part.name] = part
        elif isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self" and isinstance(part.ctx, ast.Store):
            found[part.attr] = part
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            found[part.id] = part
    return found


def test_whatever_labels_a_batch_is_a_backend() -> None:
    # `GraphBackend` leaves the rest of the interface to the backends that derive from it, which have a `_run`.
    labels, known = {}, {"Backend", "Wrapper", "GraphBackend"}
    for place, node in _classes().items():
        run = _defines(node).get("run") or _defines(node).get("_run")
        if isinstance(run, ast.FunctionDef) and [argument.arg for argument in run.args.args] == ["self", "batch"]:
            labels[place] = node
            known.add(node.name)
    assert len(labels) > 8
    interface = {"name", "manifest", "input_shape", "describe", "run", "close"}
    for place, node in labels.items():
        run = _defines(node).get("run") or _defines(node)["_run"]
        assert ast.unparse(run.returns) == "Outputs", f"{place} gives other outputs than a Backend"
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        if not bases & known and node.name != "GraphBackend":
            assert interface <= _defines(node).keys(), f"{place} lacks {interface - _defines(node).keys()}"
    assert [place for place, node in labels.items() if "Protocol" in map(ast.unparse, node.bases)] == [
        "emra_deploy/backends/base.py: Backend"
    ]
