"""Every field of `LoadOptions` reaches the backend: from every verb and call, here and in the isolated process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import pytest

from benchmarks import accuracy
from emra_deploy import LoadOptions, Segmenter
from emra_deploy.backends import opening
from emra_deploy.backends.options import DEFAULTS
from emra_deploy.cli.flags import help_texts
from emra_deploy.cli.main import build_parser, main
from emra_deploy.errors import EmraError
from tests.emra_deploy.cli.cli_helpers import save_png

RECORD = """
import json, os
from dataclasses import asdict
from emra_deploy.backends import opening
from emra_deploy.errors import EmraError

def record(path, options):
    with open(os.environ["EMRA_TEST_OPTIONS"], "w") as stream:
        json.dump({**asdict(options), "process": os.getpid()}, stream)
    raise EmraError("model-run", "recorded", "none")

if "EMRA_TEST_OPTIONS" in os.environ:
    opening._load = record
"""
"""A fake backend, in every process that opens one."""

MODEL = "model.engine"
"""Nothing is known of such a file before it is opened, and the last of the backends runs it."""


def other_value(entry: Field[Any]) -> Any:
    """A valid value that is not the default."""
    if "one_of" in entry.metadata:
        return entry.metadata["one_of"][-1]
    hint = get_type_hints(LoadOptions)[entry.name]
    return True if hint is bool else 3 if hint in (int, int | None) else "folder"


OTHER = {entry.name: other_value(entry) for entry in fields(LoadOptions)}
WITH_FLAG = [entry.name for entry in fields(LoadOptions) if entry.metadata.get("flag", True)]


def flags(values: dict[str, Any]) -> list[str]:
    """The flags of a command line that say this."""
    words: list[str] = []
    for name in WITH_FLAG:
        if values[name] is not False:
            words += [f"--{name.replace('_', '-')}", *([] if values[name] is True else [str(values[name])])]
    return words


def _score(values: dict[str, Any], folder: Path) -> None:
    accuracy.run(accuracy.parser().parse_args([MODEL, "--data", str(folder), *flags(values)]))


VERBS: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "segment": lambda values, _: main(["segment", "a.png", "-o", "b.png", "-m", MODEL, *flags(values)]),
    "dry run": lambda values, _: main(["segment", "a.png", "-o", "b.png", "-m", MODEL, "--dry-run", *flags(values)]),
    "stream": lambda values, _: main(["stream", "a.png", "-m", MODEL, *flags(values)]),
    "accuracy": _score,
}
CALLS: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "open_backend": lambda values, _: opening.open_backend(MODEL, **values),
    "open_backend with options": lambda values, _: opening.open_backend(MODEL, LoadOptions(**values)),
    "Segmenter.open": lambda values, _: Segmenter.open(MODEL, **values),
    "Segmenter.open with options": lambda values, _: Segmenter.open(MODEL, LoadOptions(**values)),
}
COUNTS_TILES = ("segment", "dry run")
"""These know better than the caller how many tiles will be run, or that nobody knows."""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Options received by the backend; here and in child processes every backend is the recorder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RECORD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    monkeypatch.setenv("EMRA_TEST_OPTIONS", str(tmp_path / "options.json"))
    monkeypatch.setattr(opening, "_load", opening._load)
    exec(RECORD, {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / MODEL).write_bytes(b"")
    save_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(accuracy, "open_dataset", lambda *_: None)
    return lambda: dict(json.loads((tmp_path / "options.json").read_text()))


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("name", [*VERBS, *CALLS])
def test_every_field_reaches_the_backend(
    name: str, isolate: bool, recorded: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    if isolate and os.name != "posix":
        pytest.skip("processes are isolated on POSIX systems only")
    if name == "stream":
        pytest.importorskip("av")
    values = {**OTHER, "isolate": isolate}
    # A verb of `emra` reports it in one line.
    with contextlib.suppress(EmraError):
        (VERBS | CALLS)[name](values, tmp_path)
    found = recorded()
    assert (found.pop("process") != os.getpid()) == isolate
    expected = {**values, "isolate": False}
    if name in VERBS:
        expected |= {key: getattr(DEFAULTS, key) for key in OTHER if key not in WITH_FLAG}
    if name in COUNTS_TILES:
        expected["tiles"] = None
    assert found == expected


@pytest.mark.parametrize(
    ("backend", "module", "kind"),
    [
        ("onnxruntime", "emra_deploy.backends.ort", "OnnxRuntimeBackend"),
        ("onnxruntime-tensorrt", "emra_deploy.backends.ort_gpu", "OnnxRuntimeGpuBackend"),
        ("openvino", "emra_deploy.backends.openvino", "OpenVinoBackend"),
        ("tensorrt", "emra_deploy.backends.tensorrt.backend", "TensorRTBackend"),
    ],
)
def test_backends_are_given_the_whole_object(
    backend: str, module: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[LoadOptions] = []
    made = SimpleNamespace(manifest=None)
    monkeypatch.setattr(f"{module}.{kind}", lambda _, options: (given.append(options), made)[1])
    options = LoadOptions(backend)
    opening._load(MODEL, options)
    assert given == [options]
    assert given[0] is options


def test_defaults_are_one_object_everywhere() -> None:
    parser = build_parser()
    for words in (["segment", "a.png", "-o", "b.tif"], ["stream", "camera:0"]):
        options = parser.parse_args(words)[words[0]]
        assert {name: options[name] for name in WITH_FLAG} == {name: getattr(DEFAULTS, name) for name in WITH_FLAG}


def test_every_field_is_described_and_the_help_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    texts = help_texts(LoadOptions)
    assert list(texts) == [entry.name for entry in fields(LoadOptions)]
    for verb in ("segment", "stream"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        shown = "".join(capsys.readouterr().out.split())
        for name in WITH_FLAG:
            assert f"--{name.replace('_', '-')}" in shown
            assert "".join(texts[name].split()) in shown
    assert "(one of auto, onnxruntime, onnxruntime-cuda".replace(" ", "") in shown


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"backend": "caffe"}, "backend-unknown"),
        ({"precision": "fp8"}, "backend-precision"),
        ({"device": -1}, "backend-option"),
        ({"device": True}, "backend-option"),
        ({"threads": 0}, "threads"),
        ({"threads": "2"}, "threads"),
        ({"batch": 4097}, "batch-size"),
        ({"tiles": -1}, "backend-option"),
    ],
)
def test_values_out_of_range_are_refused_at_construction(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(EmraError) as caught:
        replace(DEFAULTS, **changes)
    assert caught.value.code == code


def test_the_command_line_refuses_them_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words: Sequence[str]
    for words in (["--backend", "caffe"], ["--precision", "fp8"], ["--threads", "0"], ["--batch", "0"]):
        for verb in (["segment", "a.png", "-o", "b.tif"], ["stream", "camera:0"]):
            assert main([*verb, *words]) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1


def test_options_survive_json_whatever_their_folder_is(tmp_path: Path) -> None:
    options = LoadOptions(engine_cache=tmp_path / "\udcff")
    assert LoadOptions(**json.loads(json.dumps(asdict(options)))) == options
