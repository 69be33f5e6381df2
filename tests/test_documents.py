"""Each page's commands run with the extras that it installs, on files of a clone or files the page explains."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

NEEDS = {
    r"emra segment .*\.tif\b": "rasterio",
    r"--polygons \S+\.gpkg": "pyogrio shapely",
    r"emra stream|drone_pipeline": "av",
    r"(accuracy|evaluate)\.py .*--page|report\.py .*--html": "jinja2",
    r"(latency|roofline|optimize|report)\.py .*--plot": "matplotlib",
    r"benchmarks/(latency|memory|roofline)\.py": "psutil",
    r"benchmarks/(memory|roofline)\.py": "onnx",
    r"benchmarks/runtime\.py": "psutil",
    r"benchmarks/raster\.py": "psutil rasterio",
    r"benchmarks/best_cpu\.py": "torch onnx onnxscript onnxruntime psutil",
    r"training/(train|evaluate)\.py|training\.model\b": "torch timm safetensors",
    r"training/peer_unet\.py": "torch segmentation-models-pytorch",
    r"export/to_onnx\.py": "torch onnx onnxscript onnxruntime",
    r"export/(to_fp16|to_int8|optimize|check)\.py": "onnx onnxruntime",
    r"benchmarks/precision/table\.py": "onnx onnxruntime psutil",
    r"export/build_engine\.py": "onnx",
}
"""What commands need, as setup.cfg names it."""

# These show one command as a record or of another page's guide, which installs what it needs.
RECORDS = {"precision-table.md", "plugin.md"}


def commands(page: Path) -> list[str]:
    """Lines of indented blocks that are commands, continued lines joined."""
    text = re.sub(r"\\\n\s+", "", page.read_text(encoding="utf-8"))
    found = [line.strip().removeprefix("$ ").split("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    return [line for line in found if re.match(r"(emra|python3?|torchrun) ", line)]


def installed(page: Path) -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    extras = re.findall(r"pip install (?:-c \S+ )?-e '\.\[([a-z0-9,]+)\]'", page.read_text(encoding="utf-8"))
    lines = [setup["options.extras_require"][extra] for group in extras for extra in group.split(",")]
    return {re.split(r"[><=;\[]", line)[0] for line in "\n".join(lines).split("\n") if line}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_installs_what_its_commands_need(page: Path) -> None:
    if page.name in RECORDS:
        pytest.skip("its commands are a record, or another page's")
    here = installed(page)
    for command in commands(page):
        for pattern, wanted in NEEDS.items():
            if re.search(pattern, command):
                assert set(wanted.split()) <= here, f"{command}: {set(wanted.split()) - here}"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_data_is_what_a_clone_can_have(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name not in RECORDS:
        assert "../shared" not in text
    if page.name not in RECORDS | {"data.md"} and re.search(r"\bdata/(dubai|folder)", text):
        assert "data.md" in text, "a page that names a data set links to its source"
