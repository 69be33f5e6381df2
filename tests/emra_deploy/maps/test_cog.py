"""Copies into a COG by GDAL in a child process, whose errors and crashes are reported."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.maps import cog
from emra_deploy.maps.label_levels import BLOCK
from emra_deploy.pictures.georeference import GeoReference
from tests.emra_deploy.pictures.raster_files import make_labels, write_labels

SIDE = BLOCK + 8


def write(path: Path) -> None:
    write_labels(path, make_labels(SIDE, SIDE), GeoReference(), SIDE)


def test_a_crash_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "_CODE", "import os; os.abort(); {path} {words}")
    with pytest.raises(EmraError, match="GDAL was ended by signal 6") as caught:
        write(tmp_path / "map.tif")
    assert caught.value.code == "output-write"
    assert list(tmp_path.iterdir()) == []


def test_the_message_of_gdal_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"absent\.tif: No such file"):
        cog.copy_to_cog(tmp_path / "absent.tif", tmp_path / "map.tif", BLOCK)
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_odd_characters(tmp_path: Path) -> None:
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


def test_the_other_process_ends_with_this_one(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from emra_deploy.maps import cog\n"
        "cog.copy_here = lambda *_: time.sleep(60)\n"
        "print('ready', flush=True)\n"
        "sys.exit(cog.main('rows.tif', 'map.tif', '512'))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        # What the system does with the descriptors of a process that was killed.
        child.stdin.close()
        assert child.wait(30) == 3


def test_a_copy_that_is_interrupted_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    class Interrupted(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise KeyboardInterrupt

    def start(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        child: subprocess.Popen[bytes] = Popen(*words, **{**options, "stderr": subprocess.DEVNULL})
        child.stderr = Interrupted()
        begun.append(child)
        return child

    Popen = subprocess.Popen
    monkeypatch.setattr(cog, "_CODE", "import time; time.sleep(60); {path} {words}")
    monkeypatch.setattr(cog.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "map.tif")
    assert begun[0].returncode == -9
    assert list(tmp_path.iterdir()) == []
