"""Output of commands: help, errors for wrong words, and the files they wrote.

Help printed ``(type: <function <locals>.<lambda> at 0x...>``, ``required: segment.output`` and ``default: null``;
``train.py --help`` had no meanings; ``--polygon-classes`` without ``--polygons`` was ignored; ``latency.py`` never
said what it wrote.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from PIL import Image

from emra_deploy.backends.options import LoadOptions
from emra_deploy.cli.flags import help_texts
from emra_deploy.cli.main import main
from emra_deploy.errors import EmraError
from emra_deploy.host.command import command, tell
from emra_deploy.host.files import atomic_output
from emra_deploy.maps.job import MapJob
from emra_deploy.maps.polygons import class_labels
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.stream.options import StreamOptions
from tests.onnx_models import build_model
from tests.parts import REPOSITORY
from training.recipe import Recipe

COMMANDS = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__main__")
    for package in ("emra_deploy", "export", "benchmarks", "training")
    for path in (REPOSITORY / package).rglob("*.py")
    if '__name__ == "__main__"' in (text := path.read_text(encoding="utf-8")) and "argparse" in text
)
VERBS = ["emra_deploy", *(f"emra_deploy {verb}" for verb in ("segment", "stream", "info", "doctor"))]
NOT_FOR_PEOPLE = re.compile(r"<func|<class|lambda|\bnull\b|\bNone\b|\b0x[0-9a-f]{6}|type: |Literal\[|\{[A-Z]\w+\}")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=300
    )


@pytest.mark.parametrize("words", [*VERBS, *COMMANDS, "training.train", "training.peer_unet"])
def test_help_speaks_of_words_and_not_of_python(words: str) -> None:
    pytest.importorskip("segmentation_models_pytorch" if "peer" in words else "jsonargparse")
    done = run(*words.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert not NOT_FOR_PEOPLE.findall(done.stdout)
    assert "default: )" not in done.stdout


def test_every_field_of_a_recipe_has_a_meaning() -> None:
    text = " ".join(run("training.train", "--help").stdout.split())

    def check(options: type, prefix: str = "") -> None:
        meanings, kinds = help_texts(options), get_type_hints(options)
        for field in fields(options):
            if is_dataclass(kinds[field.name]):
                check(kinds[field.name], f"{prefix}{field.name}.")
            else:
                assert f"{meanings[field.name]} (default: " in text, f"{prefix}{field.name}"

    check(Recipe)
    for options in (MapJob, StreamOptions, LoadOptions):
        shown = [field.name for field in fields(options) if field.metadata.get("flag", True)]
        assert [name for name in shown if name not in help_texts(options) and name != "live"] == []


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ("segment in.png", "the following arguments are required: --output"),
        ("segment", "the following arguments are required: input, --output"),
        ("stream", "the following arguments are required: source"),
        ("segment a.png -o b.png --batch two", "--batch: expected a whole number, got 'two'"),
        ("segment a.png -o b.png --scale a 1", "--scale: expected a number, got 'a'"),
        ("stream a.mp4 --max-age long", "--max-age: expected a number, got 'long'"),
    ],
)
def test_wrong_words_are_named_as_they_are_typed(words: str, reported: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"error: {reported}\n" in error
    assert "Parser key" not in error


@pytest.mark.parametrize("given", ["--polygon-classes water", "--min-area 5", "--min-pixels 5", "--outlines"])
def test_settings_of_outputs_that_nobody_asked_for_are_refused(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", "in.tif", "-o", str(tmp_path / "map.tif"), *given.split()]) == 2
    assert f"{given.split()[0]} is about the" in capsys.readouterr().err
    assert main(["stream", "a.mp4", "--palette", "safe"]) == 2
    assert "--palette is about the overlay" in capsys.readouterr().err


def test_names_of_classes_in_any_case() -> None:
    classes = ClassSet(("Building", "low vegetation", "tree", "TREE"), ((0, 0, 0),) * 4)
    assert class_labels(classes, ["building", "LOW Vegetation"]) == (0, 1)
    assert class_labels(classes, ["tree"]) == (2,)
    for wrong in ("Tree", "roof"):
        with pytest.raises(EmraError, match=f"no class {wrong}; the model has Building, low vegetation, tree, TREE"):
            class_labels(classes, [wrong])


def test_outputs_are_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @command()
    def make(fail: bool = False) -> int:
        for name in ("a", "b"):
            with atomic_output(tmp_path / name, overwrite=True):
                pass
        tell(f"wrote {tmp_path / 'a'}: 0 bytes", tmp_path / "a")
        if fail:
            raise EmraError("limit", "too few", "Give more")
        return 0

    assert make() == 0
    assert capsys.readouterr() == (f"wrote {tmp_path / 'a'}: 0 bytes\n", f"wrote {tmp_path / 'b'}\n")
    assert make(fail=True) == 2
    assert capsys.readouterr().err == f"error: too few. Give more. [limit]\nwrote {tmp_path / 'b'}\n"


def test_commands_say_what_they_wrote(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = tmp_path / "model.onnx"
    build_model(model, size=(64, 64), batch=1, heads=("classes", "logits"))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    for words, outputs in {
        f"export.check {model} {model} --data {tmp_path} --json J": ("J",),
        f"benchmarks.latency {model} --iterations 2 --rounds 1 --json J --plot P.svg": ("J", "P.svg"),
    }.items():
        done = run(*words.replace("J", str(tmp_path / "out.json")).replace("P.svg", str(tmp_path / "plot.svg")).split())
        assert done.returncode in (0, 3), done.stderr
        for output in outputs:
            name = {"J": "out.json", "P.svg": "plot.svg"}[output]
            assert f"wrote {tmp_path / name}\n" in done.stderr, words
        assert json.loads((tmp_path / "out.json").read_text())
        (tmp_path / "out.json").unlink()
