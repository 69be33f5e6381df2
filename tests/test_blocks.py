"""Every Python block of the README and the guides runs, as a user would paste it, and imports public names alone."""

from __future__ import annotations

import ast
import builtins
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import emra_deploy
from emra_deploy.models import shipped_model
from tests.conftest import REPOSITORY
from training.data.scenes import generate

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
MARK = "# Not run by the tests: "
"""First line of a block that only some machines can run, with the reason."""


@dataclass(frozen=True)
class Block:
    """A fenced Python block, and where it is."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(?:python|py)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page.name, text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in BLOCKS if not block.text.startswith(MARK)]
MARKED = [block for block in BLOCKS if block.text.startswith(MARK)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name: pictures, a recording, a model."""
    made = tmp_path_factory.mktemp("user")
    picture = generate(7, 240, 320).image
    for name in ("photo.jpg", "first.jpg", "second.jpg"):
        Image.fromarray(picture).save(made / name)
    Image.fromarray(picture).save(made / "ortho.tif")
    shutil.copy(shipped_model(), made / "model.onnx")
    return made


@pytest.fixture
def recording(folder: Path) -> None:
    """`flight.mp4`, four frames."""
    av = pytest.importorskip("av")
    picture = generate(8, 240, 320).image
    with av.open(str(folder / "flight.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for shift in range(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(picture, shift, 1)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def imports(block: Block) -> list[tuple[str, str]]:
    """Module and name of everything that a block imports."""
    found = []
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def test_no_block_hides_in_an_indented_one() -> None:
    for page in PAGES:
        hidden = re.search(r"^(?: {4}|\t)(?:from \S+ )?import \w", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert hidden is None, f"{page.name}: fence {hidden[0]!r}"


def test_there_are_blocks() -> None:
    assert {"README.md", "embedding.md", "errors.md", "backends.md"} <= {block.page for block in RUN}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_imports_public_names(block: Block) -> None:
    for module, name in imports(block):
        if module.split(".")[0] == "emra_deploy":
            assert module == "emra_deploy", f"{block}: import it from emra_deploy"
            assert name in emra_deploy.__all__, f"{block}: {name} is not public"
            continue
        if module.split(".")[0] in ("torch", "training"):
            pytest.importorskip("torch")
        assert not name or hasattr(import_module(module), name), block
        import_module(module)


@pytest.mark.parametrize("block", MARKED, ids=str)
def test_a_block_that_is_not_run_says_why(block: Block) -> None:
    tree = ast.parse(block.text)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {alias.asname or alias.name for node in ast.walk(tree) for alias in getattr(node, "names", [])}
    assert used <= bound | set(dir(builtins)), f"{block}: undefined names"
    assert re.match(rf"{MARK}.*\bneeds? ", block.text)
    assert len(MARKED) < len(RUN)


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("onnxruntime")
    for library, sign in (("openvino", '"openvino"'), ("torch", "import torch")):
        if sign in block.text:
            pytest.importorskip(library)
    if "flight.mp4" in block.text:
        request.getfixturevalue("recording")
    script = folder / "block.py"
    script.write_text(block.text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", script.name]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{block}: {done.stderr}"
    assert "Traceback" not in done.stderr, f"{block}: {done.stderr}"
    assert "skipped:" not in done.stdout


def test_the_example_imports_public_names() -> None:
    path = REPOSITORY / "examples" / "drone_pipeline.py"
    for module, name in imports(Block(path.name, 1, path.read_text(encoding="utf-8"))):
        if module.split(".")[0] == "emra_deploy":
            assert (module, name in emra_deploy.__all__) == ("emra_deploy", True), name


def test_names_in_the_text_of_guides_exist() -> None:
    """``emra_deploy.stream.source.Opener`` in backticks is a module, or a name of one."""
    count = 0
    for page in PAGES:
        for dotted in re.findall(r"`((?:emra_deploy|export|benchmarks|training)(?:\.\w+)+)`", page.read_text("utf-8")):
            words = dotted.split(".")
            path = REPOSITORY.joinpath(*words)
            if path.with_suffix(".py").is_file() or path.is_dir():
                continue
            module, name = REPOSITORY.joinpath(*words[:-1]), words[-1]
            file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            assert re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")), f"{page.name}: {dotted}"
            count += 1
    assert count
