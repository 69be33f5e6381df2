"""The recipes of CONTRIBUTING.md, followed in a copy of the sources: they are complete and short."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.onnx_models import build_model, nearest_colour, scene

PACKAGES = ("emra_deploy", "training", "export")

BACKEND = '''
"""The reference evaluator of onnx."""

import onnx
from onnx.reference import ReferenceEvaluator

from emra_deploy.backends import contract
from emra_deploy.model_file.manifest import Manifest


class ReferenceBackend(contract.GraphBackend):
    name = "reference"

    def __init__(self, path):
        self.path, model = path, onnx.load(path)
        self.model = ReferenceEvaluator(model)
        self.manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})

    def describe(self):
        return {"backend": self.name, "version": onnx.__version__, "device": "cpu", "threads": "1"}

    def _run(self, batch):
        values = self.model.run(list(self.manifest.heads), {"image": contract.feed(batch, self.manifest)})
        outputs = dict(zip(self.manifest.heads, values, strict=True))
        return contract.finish(outputs, len(batch), self.manifest, self.path)

    def close(self):
        del self.model
'''

DATA = '''
"""Pictures `NAME.jpg` and masks `NAME_gray.png` in one folder per split."""

from emra_deploy.model_file.classes import ClassSet
from training.data.base import AerialDataset
from training.data.codecs import ColourCodec
from training.data.pairing import Problems, files_of, make_tiles, pair_up

CLASSES = ClassSet(("field", "house"), ((0, 255, 0), (255, 0, 0)))


def recognises(root):
    return any(root.glob("*/*_mask.png"))


def open_split(root, split):
    problems = Problems()
    masks = {stem.removesuffix("_mask"): path for stem, path in files_of(root / split, {".png"}).items()}
    pairs = pair_up(files_of(root / split, {".jpg"}), masks, problems)
    return AerialDataset("village", CLASSES, split, make_tiles(pairs, ColourCodec(CLASSES.palette), problems, root))
'''

PUBLISHED = """    PublicData(
        "village",
        "Village: fields and houses",
        "https://example.org/village",
        "Unpack it into data/village",
        "CC0 1.0",
        ("data/village/train/a.jpg", "data/village/train/a_mask.png"),
        "train, val",
    ),
"""

VERB = '''
"""``emra classes``: the classes of a model."""

HELP = "Print the classes of a model."


def add_arguments(parser):
    parser.add_argument("model", type=str, help="an ONNX file")


def run(options):
    from pathlib import Path

    from emra_deploy.backends.metadata import peek_manifest
    from emra_deploy.errors import EmraError

    manifest = peek_manifest(Path(options.model))
    if manifest is None:
        raise EmraError("manifest-missing", "The file has no Manifest", "Give a model file", options.model)
    print(*manifest.classes.names)
    return 0
'''

CONVERTER = '''
"""Weights rounded to BF16."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from export.graphs.model_file import read_model, write_model

source, output = map(Path, sys.argv[1:])
model, manifest = read_model(source)
for tensor in model.graph.initializer:
    values = numpy_helper.to_array(tensor)
    if values.dtype == np.float32:
        rounded = (values.view(np.uint32) + 0x8000 & 0xFFFF0000).astype(np.uint32).view(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
write_model(model, replace(manifest, precision="bf16", parent_sha256="0" * 64), output)
'''


class Copy:
    """A copy of the sources, in which a recipe is followed."""

    def __init__(self, folder: Path, *packages: str) -> None:
        self.folder, self.touched = folder, set[str]()
        for package in packages:
            ignored = shutil.ignore_patterns("__pycache__", "*.onnx")
            shutil.copytree(REPOSITORY / package, folder / package, ignore=ignored)

    def write(self, name: str, text: str) -> None:
        assert not (self.folder / name).exists()
        (self.folder / name).write_text(text.lstrip(), encoding="utf-8")

    def change(self, name: str, pattern: str, replacement: str) -> None:
        path = self.folder / name
        text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
        assert count, f"{name} has nothing like {pattern}"
        path.write_text(text, encoding="utf-8")
        self.touched.add(name)

    def run(self, *words: object, status: int = 0) -> str:
        command = [sys.executable, *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr


def recipe(title: str) -> str:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [found] = re.findall(rf"^### {title}\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found).strip()


@pytest.mark.parametrize("title", ["A backend", "A data set", "A precision", "A command"])
def test_a_recipe_is_short_and_names_files_that_exist(title: str) -> None:
    steps = recipe(title)
    assert len(steps.splitlines()) <= 10
    for name in re.findall(r"`((?:emra_deploy|training|export|benchmarks|docs)/[\w./]+)`", steps):
        assert "NAME" in name or (REPOSITORY / name).exists(), name


@pytest.mark.slow
def test_a_backend(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    copy = Copy(tmp_path / "copy", "emra_deploy")
    copy.write("emra_deploy/backends/reference.py", BACKEND)
    copy.change("emra_deploy/backends/names.py", r'"tensorrt"\)$', '"tensorrt", "reference")')
    copy.change("emra_deploy/backends/opening.py", r'^_SUITS = \{"\.onnx": \(', r'\g<0>"reference", ')
    branch = r"""    if name == "reference":
        from emra_deploy.backends.reference import ReferenceBackend

        return ReferenceBackend(path)
\g<0>"""
    copy.change("emra_deploy/backends/opening.py", r'^    if name == "openvino":', branch)
    build_model(tmp_path / "model.onnx")
    image = scene(50, 70)
    Image.fromarray(image).save(tmp_path / "in.png")
    words = ("segment", tmp_path / "in.png", "--output", tmp_path / "out.png", "--model", tmp_path / "model.onnx")
    printed = copy.run("-m", "emra_deploy", *words, "--backend", "reference", "--json")
    assert json.loads(printed)["backend"]["backend"] == "reference"
    with Image.open(tmp_path / "out.png") as made:
        np.testing.assert_array_equal(np.asarray(made), nearest_colour(image))
    assert all(name in recipe("A backend") for name in copy.touched)


@pytest.mark.slow
def test_a_data_set(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "emra_deploy", "training")
    copy.write("training/data/village.py", DATA)
    copy.change("training/data/catalogue.py", r"^from training\.data import .*$", r"\g<0>, village")
    line = '\\g<0>\n    "village": _Layout(village.open_split, village.recognises),'
    copy.change("training/data/catalogue.py", r"^_LAYOUTS = \{$", line)
    copy.change("training/data/public.py", r"^PUBLIC = \($", "\\g<0>\n" + PUBLISHED.rstrip())
    (tmp_path / "data" / "train").mkdir(parents=True)
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:2], mask[2:] = (0, 255, 0), (255, 0, 0)
    Image.fromarray(scene(8, 8)).save(tmp_path / "data" / "train" / "a.jpg")
    Image.fromarray(mask).save(tmp_path / "data" / "train" / "a_mask.png")
    for kind in ("village", "auto"):
        printed = copy.run("-m", "training.data", kind, tmp_path / "data", "--split", "train")
        assert re.search(r"field +#00FF00 +25\.00%", printed), printed
    assert "https://example.org/village" in copy.run("-m", "training.data", "fetch-help", "village")
    assert all(name in recipe("A data set") for name in copy.touched)


@pytest.mark.slow
def test_a_precision(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    copy = Copy(tmp_path / "copy", *PACKAGES)
    line = '\\g<0>\n    "bf16": Precision(0.02, 0.9765, 0.5),'
    copy.change("emra_deploy/model_file/precisions.py", r"^PRECISIONS = \{$", line)
    copy.write("export/to_bf16.py", CONVERTER)
    build_model(tmp_path / "model.onnx", heads=("classes", "logits"))
    copy.run("-m", "export.to_bf16", tmp_path / "model.onnx", tmp_path / "model.bf16.onnx")
    printed = copy.run("-m", "export.check", tmp_path / "model.onnx", tmp_path / "model.bf16.onnx")
    assert "at least 97.65% agree" in printed
    assert '"precision": "bf16"' in copy.run("-m", "emra_deploy", "info", "--json", tmp_path / "model.bf16.onnx")
    assert all(name in recipe("A precision") for name in copy.touched)


@pytest.mark.slow
def test_a_command(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    copy = Copy(tmp_path / "copy", "emra_deploy")
    copy.write("emra_deploy/cli/classes.py", VERB)
    copy.change("emra_deploy/cli/main.py", r"^from emra_deploy\.cli import ", r"\g<0>classes, ")
    copy.change("emra_deploy/cli/main.py", r"^VERBS = \{", r'\g<0>"classes": classes, ')
    build_model(tmp_path / "model.onnx")
    assert copy.run("-m", "emra_deploy", "classes", tmp_path / "model.onnx") == "water land road building vegetation\n"
    assert "Print the classes of a model." in copy.run("-m", "emra_deploy", "--help")
    failed = copy.run("-m", "emra_deploy", "classes", tmp_path / "none.onnx", status=2)
    assert failed.count("\n") == 1
    assert failed.rstrip().endswith("[manifest-missing]")
    assert all(name in recipe("A command") for name in copy.touched)
