"""Models and streams that are used after they were closed: they say so, and closing them again does nothing.

A closed Segmenter answered "Give a smaller --batch or free memory".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emra_deploy import MapJob, Segmenter, Stream, make_map
from emra_deploy.errors import EmraError
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.segmenting.selftest import self_test
from tests.onnx_models import build_model, scene

PICTURE = scene(40, 50)
BATCH = PICTURE[np.newaxis, :32, :32]


def refused(use: Callable[[], Any]) -> str:
    with pytest.raises(EmraError) as caught:
        use()
    assert caught.value.code == "closed"
    assert "is closed" in caught.value.cause
    assert "batch" not in caught.value.remedy
    return caught.value.cause


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("closed") / "model.onnx"
    build_model(path, heads=("classes", "logits"))
    return path


@pytest.mark.parametrize("options", [{"backend": "onnxruntime"}, {"backend": "openvino"}, {"isolate": True}], ids=str)
@pytest.mark.parametrize("blend", [False, True])
def test_every_use_of_a_closed_segmenter(model: Path, tmp_path: Path, options: dict[str, Any], blend: bool) -> None:
    pytest.importorskip(options.get("backend", "onnxruntime"))
    segmenter = Segmenter.open(model, blend=blend, **options)
    segmenter.close()
    segmenter.close()
    source = ArraySource(PICTURE)
    assert "the Segmenter" in refused(lambda: segmenter.segment(PICTURE))
    refused(lambda: segmenter.segment_source(source))
    refused(lambda: list(segmenter.segment_tiles(source)))
    refused(lambda: list(segmenter.segment_rows(source)))
    refused(segmenter.__enter__)
    refused(lambda: segmenter.backend.run(BATCH))
    refused(lambda: self_test(segmenter.backend))
    refused(lambda: list(Stream(segmenter, [PICTURE])))
    assert segmenter.backend.describe()["backend"] in ("onnxruntime", "openvino")
    assert segmenter.classes.names[0] == "water"


def test_a_map_by_a_closed_segmenter_leaves_nothing(model: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(PICTURE).save(tmp_path / "in.png")
    segmenter = Segmenter.open(model, backend="onnxruntime")
    segmenter.close()
    refused(lambda: make_map(MapJob(tmp_path / "in.png", tmp_path / "out.png"), segmenter))
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_that_is_closed_under_a_segmenter(model: Path, backend: str) -> None:
    pytest.importorskip(backend)
    segmenter = Segmenter.open(model, backend=backend)
    tiles = segmenter.segment_tiles(ArraySource(scene(200, 200)))
    next(tiles)
    segmenter.backend.close()
    refused(lambda: list(tiles))
    refused(lambda: segmenter.segment(PICTURE))
    segmenter.close()


def test_a_stream_that_was_closed(model: Path) -> None:
    with Segmenter.open(model, backend="onnxruntime") as segmenter:
        never, ended, left = (Stream(segmenter, [PICTURE] * 3) for _ in range(3))
        never.close()
        never.close()
        refused(lambda: next(never))
        refused(lambda: list(never))
        refused(never.__enter__)
        # Within a loop, closing is a way to leave it.
        assert len([left.close() for _ in left]) == 1
        refused(lambda: list(left))
        # The end of a source is none of the user's doing: as with any iterator, there is nothing more.
        assert len(list(ended)) == 3
        assert list(ended) == []
        ended.close()
        refused(lambda: list(ended))
        assert ended.status().to_dict()["delivered"] == 3
    refused(lambda: segmenter.segment(PICTURE))
