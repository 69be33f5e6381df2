"""Every code is in the catalogue, and decides the class of its error."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import emra_deploy
from emra_deploy.backends.tensorrt import cuda_unusable, gpu_errors
from emra_deploy.errors import KINDS, EmraError, InputError, OutputError
from emra_deploy.errors.codes import CODES
from emra_deploy.host.files import check_output
from emra_deploy.stream import video
from tests.conftest import REPOSITORY

PACKAGES = ("emra_deploy", "training", "export", "benchmarks", "examples")

_GPU = {gpu_errors.MEMORY, gpu_errors.LOST}
_CUDA = {row[1] for row in cuda_unusable._REASONS.values()}
_VIDEO = {row[0] for row in video._FINAL.values()}

COMPUTED: dict[tuple[str, str], set[str]] = {
    # Constants of `gpu_errors`, and what `fault_of` gives: one of these or None.
    ("emra_deploy/backends/gpu_guard.py", "MEMORY"): {gpu_errors.MEMORY},
    ("emra_deploy/backends/gpu_guard.py", "LOST"): {gpu_errors.LOST},
    ("emra_deploy/backends/tensorrt/lanes.py", "MEMORY"): {gpu_errors.MEMORY},
    ("emra_deploy/backends/ort_gpu.py", "code"): _GPU,
    ("emra_deploy/backends/tensorrt/backend.py", "code"): _GPU,
    ("emra_deploy/backends/tensorrt/cuda_base.py", "code"): _GPU,
    # Rows of tables.
    ("emra_deploy/backends/tensorrt/cuda_base.py", "known[0]"): _CUDA,
    ("emra_deploy/backends/tensorrt/cuda_unusable.py", "code"): _CUDA,
    ("benchmarks/gpu_suite.py", "known[0]"): _CUDA,
    ("emra_deploy/stream/video.py", "*final"): _VIDEO,
    ("emra_deploy/stream/video.py", "code"): {row[0] for row in video._CAMERA.values()},
    ("emra_deploy/stream/video.py", "*_OPENING"): {video._OPENING[0]},
    ("emra_deploy/stream/video.py", "*_READING"): {video._READING[0]},
    # Parameters: the callers' codes are found where they call.
    ("emra_deploy/backends/options.py", "code"): set(),
    ("emra_deploy/host/files.py", "code"): set(),
    ("training/data/pairing.py", "code"): set(),
    # Codes of errors that were made before, in another process or earlier.
    ("emra_deploy/backends/isolated.py", "**answer['error']"): set(),
    ("benchmarks/memory.py", "found['code']"): set(),
    ("training/data/pairing.py", "codes.pop()"): set(),
}
"""The codes that an expression of a file may give, where it is no constant."""

TAKES_CODE = {"EmraError": 0, "problems.add": 0, "_mode": 1}
"""Calls with a code among their positional arguments, and where."""


def _leaves(node: ast.expr, star: str = "") -> Iterator[ast.expr | str]:
    """The constants and expressions that an expression may give."""
    if isinstance(node, ast.Starred):
        yield from _leaves(node.value, "*")
    elif isinstance(node, ast.IfExp):
        yield from _leaves(node.body, star)
        yield from _leaves(node.orelse, star)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _leaves(value, star)
    elif isinstance(node, ast.Constant):
        yield node
    else:
        yield star + ast.unparse(node)


def _code_arguments(tree: ast.Module) -> Iterator[ast.expr | str]:
    """Each argument of a file that is a code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            place = TAKES_CODE.get(name)
            if place is not None and len(node.args) > place:
                yield node.args[place]
            for keyword in node.keywords:
                if keyword.arg == "code":
                    yield keyword.value
                elif keyword.arg is None and name == "EmraError":
                    yield f"**{ast.unparse(keyword.value)}"
        elif isinstance(node, ast.FunctionDef):
            named = node.args.args[len(node.args.args) - len(node.args.defaults) :]
            for argument, default in zip(named, node.args.defaults, strict=True):
                if argument.arg == "code":
                    yield default


def used() -> dict[str, str]:
    """Each code that can be raised, with a file that does."""
    found: dict[str, str] = {}
    listed = set()
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            name = path.relative_to(REPOSITORY).as_posix()
            for argument in _code_arguments(ast.parse(path.read_text(encoding="utf-8"))):
                for leaf in [argument] if isinstance(argument, str) else _leaves(argument):
                    if isinstance(leaf, ast.Constant):
                        found[leaf.value] = name
                    elif isinstance(leaf, str) and not leaf.endswith(".code"):
                        assert (name, leaf) in COMPUTED, f"{name}: list what codes {leaf} can give in COMPUTED"
                        listed.add((name, leaf))
    assert listed == COMPUTED.keys(), f"not in the code any more: {COMPUTED.keys() - listed}"
    for (name, _), codes in COMPUTED.items():
        found.update(dict.fromkeys(codes, name))
    return found


def test_every_code_is_in_the_catalogue() -> None:
    assert {code: path for code, path in used().items() if code not in CODES} == {}


def test_every_code_of_the_catalogue_is_used() -> None:
    assert sorted(CODES.keys() - used().keys()) == []


def test_a_subclass_comes_from_its_code_and_is_never_made_by_name() -> None:
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in KINDS, f"{path}:{node.lineno}"


def test_meanings_are_sentences_and_kinds_exist() -> None:
    for code, entry in CODES.items():
        assert entry.kind in KINDS, code
        assert entry.meaning[0].isupper(), code
        assert entry.meaning.endswith("."), code
    assert {entry.kind for entry in CODES.values()} == set(KINDS)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_decides_the_class(code: str) -> None:
    error = EmraError(code, "cause", "remedy", "file")
    assert type(error).__name__ == CODES[code].kind
    assert isinstance(error, EmraError)
    assert str(error) == f"file: cause. remedy. [{code}]"


@pytest.mark.parametrize("code", ["image-truncated", "no-such-code"])
def test_errors_survive_copying_pickling_and_json(code: str) -> None:
    error = EmraError(code, "cause", "remedy", path="file")
    again = [copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error)), EmraError(**error.to_dict())]
    for other in again:
        assert type(other) is type(error)
        assert other.args == (code, "cause", "remedy", "file")
        assert other.to_dict() == error.to_dict()


def test_an_unknown_code_gives_the_base_class() -> None:
    assert type(EmraError("no-such-code", "cause", "remedy")) is EmraError


def test_a_class_of_ones_own_stays_what_it_is() -> None:
    class Mine(EmraError):
        pass

    assert type(Mine("image-truncated", "cause", "remedy")) is Mine
    assert type(InputError("output-exists", "cause", "remedy")) is InputError


def test_callers_catch_by_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        emra_deploy.read_image(tmp_path / "absent.png")
    with pytest.raises(OutputError):
        check_output(tmp_path)


def test_the_classes_are_public() -> None:
    for name, kind in KINDS.items():
        assert getattr(emra_deploy, name) is kind
        assert name in emra_deploy.__all__


def test_the_page_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "emra_deploy.errors"]
    done = subprocess.run(command, capture_output=True, cwd=REPOSITORY, timeout=120, check=True)
    page = (REPOSITORY / "docs" / "errors.md").read_bytes()
    assert done.stdout == page, "run: python -m emra_deploy.errors > docs/errors.md"
