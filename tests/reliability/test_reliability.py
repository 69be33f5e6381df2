"""The reliability scoreboard, in its short form: nothing fails, and planted failures are recognised."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import build_model
from tests.reliability.__main__ import main
from tests.reliability.board import counted
from tests.reliability.cases import CRASH, ERROR, FAILURES, HANG, MEMORY, WRONG
from tests.reliability.forms import JPEG, JSON, ONNX, PNG, TIFF
from tests.reliability.mutate import mutate
from tests.reliability.pictures import subjects
from tests.reliability.streams import rows_of
from tests.reliability.workers import run_cases

pytest.importorskip("onnxruntime")
pytest.importorskip("rasterio")
pytest.importorskip("tifffile")


def test_planted_failures_are_recognised(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    (tmp_path / "cases").mkdir()
    tally = run_cases("planted", 6, 0, tmp_path / "cases", keep, limit=10, memory=200 * 2**20)
    assert tally.outcomes == {(name, name): 1 for name in (*FAILURES, "same")}
    assert {failure["outcome"] for failure in tally.failures} == {CRASH, HANG, ERROR, MEMORY, WRONG}
    assert len(list(keep.iterdir())) == len(FAILURES)
    crash = next(failure for failure in tally.failures if failure["outcome"] == CRASH)
    assert crash["detail"] == "exit status -11"
    kept = keep / f"{CRASH}-{crash['case']}-{CRASH}"
    assert (kept / "files/a.txt").read_text() == "a"
    assert json.loads((kept / "result.json").read_text()) == crash


@pytest.mark.slow
def test_damaged_files_do_no_harm(tmp_path: Path) -> None:
    words = ["--only", "files", "images", "--files", "40", "--images", "40", "--seed", "5", "--limit", "60"]
    assert main([*words, "--keep", str(tmp_path / "kept"), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["part"] for row in found["board"]] == [
        "damaged models, sidecars, checkpoints",
        "damaged images, rasters",
    ]
    assert all(row["met"] and row["cases"] == 40 for row in found["board"])
    refused = sum(counts.get("refused", 0) for counts in found["parts"]["files"]["by_subject"].values())
    assert refused == sum(found["parts"]["files"]["refused_with"].values()) > 20
    assert not (tmp_path / "kept").exists()


def test_threads_and_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "threads", "kills", "--threads", "4", "--thread-images", "12", "--kills", "1"]
    words += ["--raster", "700", "--backend", "onnxruntime", "--json", str(tmp_path / "out.json")]
    assert main(words) == 0
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert parts["threads"]["different"] == 0
    assert parts["threads"]["distinct_answers"] > 8
    assert parts["kills"]["signals"] + parts["kills"]["ended_before_the_signal"] >= 1
    assert "Reliability" in capsys.readouterr().out


def test_a_label_map_that_differs_is_counted(tmp_path: Path) -> None:
    from tests.reliability.threads import share_segmenter

    class Careless:
        """Changes a label from the 15th call on."""

        def __init__(self, segmenter: Segmenter) -> None:
            self.manifest, self.backend, self._inner, self._calls = segmenter.manifest, segmenter.backend, segmenter, 0

        def segment(self, image: Any) -> Any:
            found = self._inner.segment(image)
            self._calls += 1
            if self._calls >= 15:
                found.labels[0, 0] ^= 1
            return found

    build_model(tmp_path / "model.onnx")
    with Segmenter.open(tmp_path / "model.onnx", backend="onnxruntime") as segmenter:
        small: Any = Careless(segmenter)
        content, rows = share_segmenter(small, 2, 5, 0)
    assert content["different"] == 1
    assert not rows[0].met


def test_disk_that_fails_at_some_operations(tmp_path: Path) -> None:
    from tests.reliability.faults import fail_everywhere

    content, rows = fail_everywhere(tmp_path, 1, 0, only=("picture",))
    found = content["picture"]
    assert found["operations"] >= 3
    assert found["refused"] >= 4
    assert found["failures"] == []
    assert rows[0].met


def test_what_a_failing_disk_must_not_leave(tmp_path: Path) -> None:
    from tests.reliability.faults import _wrong
    from tests.reliability.jobs import Job

    job = Job("a", tmp_path, tmp_path, ("a.tif",), ())
    expected = {"a.tif": "0"}
    refusal = "emra: a.tif: writing failed. Make room. [output-write]\n"
    assert _wrong(job, tmp_path, expected, 2, refusal, old=False) == ""
    assert "no error of one line" in _wrong(job, tmp_path, expected, 2, "Traceback", old=False)
    assert "no error of one line" in _wrong(job, tmp_path, expected, -11, "", old=False)
    assert "lost" in _wrong(job, tmp_path, expected, 2, refusal, old=True)
    assert "differ" in _wrong(job, tmp_path, expected, 0, "", old=False)
    (tmp_path / "a.tif").write_bytes(b"half")
    assert "neither old nor whole" in _wrong(job, tmp_path, expected, 2, refusal, old=False)
    (tmp_path / "a.tif").unlink()
    (tmp_path / ".a.123.part.tif").touch()
    assert "left over" in _wrong(job, tmp_path, expected, 2, refusal, old=False)


@pytest.mark.parametrize("extra", [(), JSON], ids=["bytes", "json"])
def test_damage_is_the_same_again_and_always_damage(extra: Any) -> None:
    data = json.dumps({"a": [1, 2.5, "x"], "b": {"c": None}}).encode() * (1 if extra else 20)
    kinds = set()
    for seed in range(300):
        changed, kind = mutate(data, random.Random(seed), extra)
        assert (changed, kind) == mutate(data, random.Random(seed), extra)
        assert changed != data
        kinds.add(kind)
    assert len(kinds) == 11 + len(extra)


def test_damage_to_forms_often_still_parses(tmp_path: Path) -> None:
    import onnx

    build_model(tmp_path / "model.onnx")
    model = (tmp_path / "model.onnx").read_bytes()
    parsed = 0
    for seed in range(50):
        changed = ONNX[0][1](model, random.Random(seed))
        parsed += len(onnx.ModelProto.FromString(changed).graph.node) > 0
    assert parsed > 25
    for subject in subjects():
        folder = tmp_path / subject.name
        folder.mkdir()
        subject.prepare(folder)
        subject.load(folder)
        form = {"png": PNG, "jpeg": JPEG}.get(subject.name, TIFF)
        for path in folder.iterdir():
            data = path.read_bytes()
            assert any(form[0][1](data, random.Random(seed)) != data for seed in range(10))


def test_a_board_without_cases_meets_nothing() -> None:
    assert not counted("a", 0, 0, "", "").met
    assert counted("a", 1, 0, "", "").met
    assert not counted("a", 5, 1, "", "").met


def test_rows_of_streams() -> None:
    good = {
        "soak": {"received": 10, "leaks": False, "descriptors_lost": 0, "reconciles": True, "growth": 0.001},
        "leak": {"received": 10, "leaks": True, "growth": 0.5},
        "outages": {"cuts": 2, "cuts_resumed": 2, "cut_resume_p95": 0.9, "stalls": 1, "stalls_noticed": 1}
        | {"stall_noticed_max": 1.4},
        "slow": {"received": 9, "age_p99": 0.4, "max_age": 0.5, "reconciles": True},
        "stops": {"signals": 3, "within_limit": 3, "overlays_whole": 3, "left_over": 0, "exit_max": 1.0},
    }
    assert all(row.met for row in rows_of(good))
    for part, change, name in (
        ("soak", {"leaks": True}, "soak"),
        ("soak", {"descriptors_lost": 1}, "soak"),
        ("leak", {"leaks": False}, "planted leak"),
        ("outages", {"cut_resume_p95": 1.1}, "RTSP server cut"),
        ("outages", {"stall_noticed_max": 2.1}, "RTSP server stalled"),
        ("slow", {"reconciles": False}, "consumer 10 x too slow"),
        ("stops", {"within_limit": 2}, "SIGTERM"),
    ):
        bad = {**good, part: {**good[part], **change}}
        assert [row.part for row in rows_of(bad) if not row.met] == [name]
