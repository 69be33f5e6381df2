"""Copying into a COG: GDAL in another process, whose errors and crashes are told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from emra_deploy import cog
from emra_deploy.errors import EmraError
from emra_deploy.label_files import LabelWriter
from emra_deploy.label_levels import BLOCK
from tests.onnx_models import CLASSES

rasterio = pytest.importorskip("rasterio")

SIDE = BLOCK + 8


def write(path: Path) -> None:
    writer = LabelWriter(path, SIDE, SIDE, CLASSES)
    try:
        writer.write(np.random.default_rng(0).integers(0, 5, (SIDE, SIDE), np.uint8))
        writer.finish()
    finally:
        writer.close()


def test_a_crash_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "_CODE", "import os; os.abort(); {path} {words}")
    with pytest.raises(EmraError, match="GDAL was ended by signal 6") as caught:
        write(tmp_path / "map.tif")
    assert caught.value.code == "output-write"
    assert list(tmp_path.iterdir()) == []


def test_what_gdal_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"absent\.tif: No such file"):
        cog.copy_levels([tmp_path / "absent.tif"], tmp_path / "map.tif", BLOCK)
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_characters_of_xml(tmp_path: Path) -> None:
    folder = tmp_path / "a & b <c>"
    folder.mkdir()
    write(folder / "map 'ü' \".tif")
    assert [path.name for path in folder.iterdir()] == ["map 'ü' \".tif"]


@pytest.mark.parametrize("executable", ["", "/usr/bin/qgis-bin"])
def test_within_another_program_no_process_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    write(tmp_path / "a.tif")
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(cog.subprocess, "Popen", None)
    write(tmp_path / "b.tif")
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
