"""Result files: whole, checked on both ways, and free of the folders of the machine."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reporting.provenance import REPOSITORY, describe_file, describe_run, git_revision, portable, scrub
from benchmarks.reporting.results import make_result, read_result, write_result
from emra_deploy.errors import EmraError
from tests.benchmarks.results import latency_result


def test_what_is_written_is_read(tmp_path: Path) -> None:
    result = latency_result()
    write_result(tmp_path / "a.json", result)
    assert read_result(tmp_path / "a.json") == result
    with pytest.raises(EmraError) as caught:
        write_result(tmp_path / "a.json", result)
    assert caught.value.code == "output-exists"
    write_result(tmp_path / "a.json", result, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def without(result: dict[str, Any], *path: str) -> dict[str, Any]:
    changed = copy.deepcopy(result)
    part: Any = changed
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return changed


@pytest.mark.parametrize(
    "path",
    [
        ("schema",),
        ("run", "command"),
        ("run", "git"),
        ("machine", "device"),
        ("content", "noise"),
        ("content", "noise", "quiet"),
        ("models",),
        ("not_measured",),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path: Path, path: tuple[str, ...]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(without(latency_result(), *path)))
    with pytest.raises(EmraError) as caught:
        read_result(tmp_path / "a.json")
    assert caught.value.code == "result-file"
    assert path[-1] in caught.value.cause


def test_wrong_values_are_refused(tmp_path: Path) -> None:
    for change in (
        lambda r: r["content"]["candidates"][0]["stages"]["compute"].update(p50=-1),
        lambda r: r["content"]["candidates"][0].update(batch=0),
        lambda r: r["models"][0].update(sha256="abc"),
        lambda r: r.update(kind="poetry"),
        lambda r: r.update(version=2),
        lambda r: r["run"].update(command="python benchmarks/latency.py /home/somebody/model.onnx"),
    ):
        result = latency_result()
        change(result)
        (tmp_path / "a.json").write_text(json.dumps(result))
        with pytest.raises(EmraError) as caught:
            read_result(tmp_path / "a.json")
        assert caught.value.code == "result-file"


@pytest.mark.parametrize("content", ["", "{", "[]", "1", '"a"', "\x00", "[" * 5000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(EmraError) as caught:
        read_result(tmp_path / "a.json")
    assert caught.value.code == "result-file"
    with pytest.raises(EmraError):
        read_result(tmp_path / "missing.json")


def test_an_absolute_path_never_gets_into_a_file(tmp_path: Path) -> None:
    result = make_result(
        "memory",
        "memory.py",
        [str(tmp_path / "m.onnx"), f"--json={tmp_path}/out.json", str(REPOSITORY / "README.md")],
        {"candidates": [], "note": f"cannot read {tmp_path}/deep/file.onnx, sorry"},
        models=[],
    )
    assert result["run"]["command"] == "python benchmarks/memory.py m.onnx --json=out.json README.md"
    assert result["content"]["note"] == "cannot read file.onnx, sorry"
    assert str(tmp_path) not in json.dumps(result)
    write_result(tmp_path / "a.json", result)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/models/a.onnx", "a.onnx"),
        ("--json=/tmp/x/y.json", "--json=y.json"),
        ("C:\\Users\\me\\a.onnx", "a.onnx"),
        ("~/runs/last", "last"),
        ("emra_deploy/models/a.onnx", "emra_deploy/models/a.onnx"),
        ("../shared/data", "../shared/data"),
        ("./a/b", "./a/b"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("12 GB/s", "12 GB/s"),
        ("images/s and J/image", "images/s and J/image"),
        ("Linux-5.15/x", "Linux-5.15/x"),
        ("\\\\=\\\\", "folder"),
    ],
)
def test_portable_text(text: str, expected: str) -> None:
    assert portable(text) == expected


@given(st.text(alphabet="/\\ab.:~ ='\"", max_size=40))
def test_portable_text_stays(text: str) -> None:
    assert portable(portable(text)) == portable(text)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner),
    )
)
def test_scrubbing_keeps_what_is_no_path(value: Any) -> None:
    if "/" not in json.dumps(value) and "\\" not in str(value):
        assert scrub(value) == value


def test_a_model_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"abc")
    found = describe_file(tmp_path / "a.onnx")
    assert found == {
        "name": "a.onnx",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "bytes": 3,
    }
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with pytest.raises(EmraError) as caught:
        describe_file(folder)
    assert caught.value.code == "model-unreadable"
    # A checkpoint is its weights: exports and evaluations name it by them.
    (folder / "model.safetensors").write_bytes(b"abc")
    assert describe_file(folder) == {**found, "name": "checkpoint"}
    with pytest.raises(EmraError) as caught:
        describe_file(tmp_path / "none")
    assert caught.value.code == "model-missing"


def test_the_revision_and_whether_files_were_changed(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None

    def git(*words: str) -> None:
        config = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *config, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    found = git_revision(tmp_path)
    assert found is not None
    assert not found["dirty"]
    assert len(found["revision"]) == 40
    (tmp_path / "a").write_text("2")
    assert git_revision(tmp_path) == {**found, "dirty": True}


def test_a_run_names_date_command_and_versions() -> None:
    run = describe_run("latency.py", ["a b.onnx", "--batch", "1,4"])
    assert run["command"] == "python benchmarks/latency.py 'a b.onnx' --batch 1,4"
    assert run["date"].endswith("+00:00")
    assert run["versions"]["numpy"]
