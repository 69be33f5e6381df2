"""The command that says whether two models segment the same way: its verdict, its numbers, its picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.host.command import BAD_INPUT
from export.check import FAIL, PASS, check, main
from export.compare.worst_picture import MARKS, mark, mark_colour
from tests.checkpoints import narrow_backbone
from tests.export.compare.test_comparison import shifted
from tests.onnx_models import CLASSES, build_model, nearest_colour, scene

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """``a.onnx`` and ``b.onnx``, whose labels differ where classes are nearly equal; and labelled pictures."""
    build_model(tmp_path / "a.onnx")
    shifted(tmp_path / "b.onnx")
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / "classes.yaml").write_text("names: [" + ", ".join(CLASSES.names) + "]\n")
    random = np.random.default_rng(0)
    for seed in range(3):
        picture = scene(40, 56, seed)
        if seed == 2:
            picture[:20] = random.integers(0, 256, (20, 56, 3))
        Image.fromarray(picture).save(tmp_path / "data" / "images" / f"p{seed}.png")
        Image.fromarray(nearest_colour(picture)).save(tmp_path / "data" / "masks" / f"p{seed}.png")
    return tmp_path


def relabel(path: Path, precision: str) -> None:
    """Say another precision in a file's Manifest."""
    from dataclasses import replace

    from export.graphs.model_file import read_model, write_model

    model, manifest = read_model(path)
    write_model(model, replace(manifest, precision=precision), path)


def test_the_whole_command(models: Path) -> None:
    words = [sys.executable, "export/check.py", models / "a.onnx", models / "b.onnx", "--data", models / "data"]
    words += ["--split", "all", "--min-agreement", "0.5", "--max-miou-drop", "60"]
    words += ["--worst", models / "w.png", "--json", models / "r.json"]
    # A device has no torch.
    run = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; sys.path[0] = '';"
    run += "runpy.run_path(sys.argv[0], run_name='__main__')"
    words[1:1] = ["-c", run]
    done = subprocess.run([str(word) for word in words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == PASS, done.stderr
    assert "PASS" in done.stdout
    content = json.loads((models / "r.json").read_text())
    assert content["passed"] is True
    assert content["worst"] == "p2"
    assert content["pixels"] == 3 * 40 * 56
    assert f"{content['agreement']:.4%}" in done.stdout
    assert f"{100 * content['miou'][1]:.2f}" in done.stdout
    assert content["miou"][0] == 1.0
    assert content["miou_drop_points"] == pytest.approx(100 * (1 - content["miou"][1]))
    assert content["tolerance"] == {"min_agreement": 0.5, "max_miou_drop_points": 60.0}
    with Image.open(models / "w.png") as picture:
        assert picture.width > 3 * 56


def test_a_difference_fails_by_labels_and_by_miou(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(models / "a.onnx"), str(models / "b.onnx"), "--data", str(models / "data"), "--split", "all"]
    assert main(words) == FAIL
    shown = " ".join(capsys.readouterr().out.split())
    assert "FAIL" in shown
    assert "expected at least 99.99%" in shown
    assert "mIoU points are lost, expected at most 0.05" in shown
    assert main([*words, "--min-agreement", "0", "--max-miou-drop", "100"]) == PASS
    assert main([*words, "--min-agreement", "0"]) == FAIL
    assert main([*words, "--max-miou-drop", "100"]) == FAIL
    # A picture in which both models are right.
    assert main([*words, "--limit", "1"]) in (PASS, FAIL)
    verdict = check(models / "a.onnx", models / "b.onnx", data=models / "data", split="all", limit=2)
    assert [tile.name for tile in verdict.report.pictures] == ["p0", "p1"]


def test_the_tolerance_is_that_of_the_second_models_precision(models: Path) -> None:
    pictures = np.full((64, 64, 3), CLASSES.palette[0], np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    folder = models / "plain"
    folder.mkdir()
    # Noise on so many rows that the share of unlike labels lies between 0.1 % and 1 %.
    pictures[:4] = noise[:4]
    Image.fromarray(pictures).save(folder / "x.png")
    found = check(models / "a.onnx", models / "b.onnx", data=folder)
    assert 0.99 < found.report.agreement < 0.999
    assert not found.passed
    relabel(models / "b.onnx", "fp16")
    assert not check(models / "a.onnx", models / "b.onnx", data=folder).passed
    relabel(models / "b.onnx", "int8")
    assert check(models / "a.onnx", models / "b.onnx", data=folder).passed
    assert not check(models / "a.onnx", models / "b.onnx", data=folder, tolerance="fp16").passed


def test_pictures_without_labels(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = models / "data" / "images"
    assert main([str(models / "a.onnx"), str(models / "a.onnx"), "--data", str(plain)]) == PASS
    shown = capsys.readouterr().out
    assert "mIoU not measured" in shown
    assert "3 images" in shown


def test_no_data_is_the_golden_tile_and_scenes(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(models / "a.onnx"), str(models / "a.onnx")]) == PASS
    assert "golden tile and generated scenes" in capsys.readouterr().out
    verdict = check(models / "a.onnx", models / "a.onnx")
    assert [tile.name for tile in verdict.report.pictures][:2] == ["golden tile", "scene 30"]


def test_a_checkpoint_against_its_export(tiny_checkpoint: Path, small_file: Path) -> None:
    # The export's weights are rounded to FP16 and the checkpoint's are not, so this is no FP32 comparison.
    with narrow_backbone():
        verdict = check(tiny_checkpoint, small_file, tolerance="fp16")
    assert verdict.report.runners[0]["backend"] == "torch"
    assert verdict.report.logits is not None
    assert 0 < verdict.report.logits.max < 0.05
    assert verdict.report.agreement > 0.99


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["a.onnx", "none.onnx"], "input-missing"),
        (["a.onnx", "cut.onnx"], "model-unreadable"),
        (["a.onnx", "bare.onnx"], "manifest-missing"),
        (["a.onnx", "empty"], "checkpoint-missing"),
        (["a.onnx", "notes.txt"], "model-format"),
        (["a.onnx", "b.onnx", "--data", "nowhere"], "input-missing"),
        (["a.onnx", "b.onnx", "--data", "empty"], "dataset-unrecognised"),
        (["a.onnx", "b.onnx", "--data", "data", "--split", "night"], "split-missing"),
        (["a.onnx", "b.onnx", "--min-agreement", "99"], "tolerance"),
        (["a.onnx", "b.onnx", "--max-miou-drop", "-1"], "tolerance"),
        (["a.onnx", "b.onnx", "--limit", "0"], "limit"),
        (["a.onnx", "b.onnx", "--backend-b", "abacus"], "backend-unknown"),
        (["a.onnx", "b.onnx", "--worst", "a.onnx", "--overwrite"], "output-is-input"),
        (["a.onnx", "b.onnx", "--json", "notes.txt"], "output-exists"),
        (["a.onnx", "b.onnx", "--worst", "nowhere/w.png"], "output-folder-missing"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    words: list[str], code: str, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(models)
    Path("cut.onnx").write_bytes(Path("a.onnx").read_bytes()[:2000])
    bare = onnx.load("a.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, "bare.onnx")
    Path("empty").mkdir()
    Path("notes.txt").write_text("notes")
    before = Path("a.onnx").read_bytes()
    assert main(words) == BAD_INPUT
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("error: ")
    assert f"[{code}]" in shown.err
    assert shown.out == ""
    assert Path("a.onnx").read_bytes() == before


def test_data_of_other_classes(models: Path) -> None:
    (models / "data" / "classes.yaml").write_text("names: [a, b, c, d, e]\n")
    with pytest.raises(EmraError) as caught:
        check(models / "a.onnx", models / "b.onnx", data=models / "data", split="all")
    assert caught.value.code == "class-mismatch"


def test_the_picture_marks_what_differs_and_nothing_else(models: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    where = np.zeros((9, 11), bool)
    where[0, 0] = where[5, 6] = True
    colour = mark_colour(CLASSES)
    drawn = mark(image, where, colour)
    marked = (drawn == colour).all(axis=2)
    expected = np.zeros_like(where)
    expected[:2, :2] = expected[4:7, 5:8] = True
    assert (marked == expected).all()
    rest = drawn[~expected]
    assert (rest.min(axis=1) >= 160).all()
    assert (rest.min(axis=1) == rest.max(axis=1)).all()
    assert colour in MARKS
    assert colour not in CLASSES.palette
    check(models / "a.onnx", models / "b.onnx", data=models / "data", split="all", worst=models / "w.png")
    with Image.open(models / "w.png") as picture:
        sheet = np.asarray(picture)
    assert (sheet == colour).all(axis=2).sum() > 20
    check(models / "a.onnx", models / "a.onnx", data=models / "data", split="all", worst=models / "same.png")
    with Image.open(models / "same.png") as picture:
        assert not (np.asarray(picture) == colour).all(axis=2).any()
