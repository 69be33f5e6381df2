"""Command lines that the project prints for other programs, in code and documents, are what these programs take."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from emra_deploy.backends.tensorrt.flavour import RTX, TENSORRT, Flavour
from emra_deploy.backends.tensorrt.sidecar import Flags, Plugin, Profile
from export.engine.input_model import InputModel
from export.engine.trtexec import equivalent_command
from tests.conftest import REPOSITORY
from tests.emra_deploy.backends.tensorrt.small_models import save_model

onnx = pytest.importorskip("onnx")

RELEASES = ((10, 3, 0), (10, 7, 0), (10, 10, 0), (10, 13, 3), (10, 16, 0), (11, 0, 0), (11, 1, 0))
"""TensorRT whose trtexec was looked at: its own option parser was built of NVIDIA/TensorRT at these tags, and given the
commands below. Releases to come are not known here."""

SHAPES = r"image:\d+x\d+x\d+x\d+"
OPTIONS = {
    # trtexec's option -> its value, None for none. All of RELEASES take all of these: samples/common/sampleOptions.cpp.
    "--onnx": r".+\.onnx",
    "--saveEngine": r".+\.engine",
    "--loadEngine": r".+\.engine",
    "--skipInference": None,
    "--stronglyTyped": None,  # from 11.0 on always so: taken, deprecated, and without effect
    "--minShapes": SHAPES,
    "--optShapes": SHAPES,
    "--maxShapes": SHAPES,
    "--profilingVerbosity": "layer_names_only|detailed|none",
    "--noTF32": None,
    "--memPoolSize": r"workspace:\d+[BKMG]",
    "--timingCacheFile": r".+",
    "--hardwareCompatibilityLevel": r"none|ampere\+",
    "--versionCompatible": None,
    "--useDLACore": r"\d",
    "--allowGPUFallback": None,
    # Opened and asked for getCreators: the plugin itself. It does not register itself, so --staticPlugins would open it
    # and find nothing.
    "--dynamicPlugins": r"(/.*|.*\$PWD/.*|build/plugin/lib)/libemra_plugins\.so",
    "--setPluginsToSerialize": r"(/.*|.*\$PWD/.*|build/plugin/lib)/libemra_plugins\.so",
    # Opened, and nothing else: the library that registers the plugin when it is loaded.
    "--staticPlugins": r".*/libemra_plugins_register\.so",
}


def check_trtexec(words: list[str]) -> None:
    assert words[0].rsplit("/", 1)[-1] == "trtexec"
    for word in words[1:]:
        name, equals, value = word.partition("=")
        assert name in OPTIONS, word
        pattern = OPTIONS[name]
        assert bool(equals) == (pattern is not None), word
        assert pattern is None or re.fullmatch(pattern, value), word


def source_of(folder: Path, *, batch: int | None = None, body: bool = False) -> InputModel:
    manifest = save_model(folder / "m.onnx", batch=batch)
    return InputModel(folder / "m.onnx", onnx.ModelProto(), manifest, "", {}, (), body)


PROFILE = Profile((1, 32, 32, 3), (2, 32, 32, 3), (4, 32, 32, 3))
PLUGIN = Plugin("/opt/emra/lib/libemra_plugins.so", "0" * 64)


@pytest.mark.parametrize("version", RELEASES)
def test_every_release_takes_the_trtexec_command(version: tuple[int, ...], tmp_path: Path) -> None:
    flavour = Flavour(TENSORRT, None, version)
    source = source_of(tmp_path)
    switches = itertools.product((False, True), repeat=4)
    for (hardware, compatible, dla, tf32), workspace in itertools.product(switches, (None, 512 * 2**20, 3 * 2**19)):
        flags = Flags(hardware, compatible, dla, tf32, workspace)
        for plugins, cache in ((), None), ((PLUGIN,), tmp_path / "t.cache"):
            line = equivalent_command(
                source, Path("m.engine"), flavour, PROFILE, flags, plugins=plugins, timing_cache=cache
            )
            words = shlex.split(line)
            check_trtexec(words)
            assert ("--stronglyTyped" in words) == (version < (11,))
            assert [word for word in words if "lugins" in word] == [f"--dynamicPlugins={p.path}" for p in plugins]
            assert ("--memPoolSize=workspace:512M" in words) == (workspace == 512 * 2**20)
            assert ("--memPoolSize=workspace:1572864B" in words) == (workspace == 3 * 2**19)


@pytest.mark.parametrize("version", RELEASES)
def test_a_body_that_would_win_is_taken_out_first(version: tuple[int, ...], tmp_path: Path) -> None:
    flavour = Flavour(TENSORRT, None, version)
    for body, plugins in itertools.product((False, True), ((), (PLUGIN,))):
        source = source_of(tmp_path, body=body)
        line = equivalent_command(source, Path("m.engine"), flavour, PROFILE, Flags(), plugins=plugins)
        first, _, second = line.rpartition(" && ")
        check_trtexec(shlex.split(second))
        assert bool(first) == (body and bool(plugins) and version < (10, 7))
        if first:
            *_, bare = shlex.split(first)
            assert first.startswith("python -m export.rewrite_aggregation ")
            assert "--to plugin --no-function-body" in first
            assert f"--onnx={bare}" in second


def test_names_with_blanks_and_graphs_of_one_batch(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    source = source_of(folder, batch=2)
    line = equivalent_command(source, Path("an engine.engine"), Flavour(TENSORRT, None, (10, 3)), PROFILE, Flags())
    check_trtexec(shlex.split(line))
    assert f"--onnx={folder / 'm.onnx'}" in shlex.split(line)
    assert "Shapes" not in line


def test_tensorrt_rtx_is_built_by_our_own_command(tmp_path: Path) -> None:
    """Its packages hold no command-line tool."""
    source, flavour = source_of(tmp_path), Flavour(RTX, None, (1, 7, 1, 116))
    flags = Flags(tf32=False, workspace=3 * 2**19)
    words = shlex.split(equivalent_command(source, Path("m.engine"), flavour, PROFILE, flags))
    from export.build_engine import _take_flags, parser

    assert words[:3] == ["python", "-m", "export.build_engine"]
    read = parser().parse_args(words[3:])
    assert (read.model, read.output, read.flavour) == (str(source.path), "m.engine", RTX)
    assert (read.min_batch, read.opt_batch, read.max_batch) == (1, 2, 4)
    assert _take_flags(vars(read)) == flags


DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def commands_of(document: Path, program: str) -> list[list[str]]:
    """The lines of code blocks that call a program, with what a backslash continues."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(rf"^    (?:\$ )?((?:\S*/)?{program} .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_documents_trtexec_commands() -> None:
    found = [words for document in DOCUMENTS for words in commands_of(document, "trtexec")]
    assert len(found) >= 4
    for words in found:
        check_trtexec(words)
        # Taken by every release, and without it TensorRT 10 chooses precisions by itself.
        assert "--stronglyTyped" in words or any(word.startswith("--loadEngine") for word in words), words


def test_no_document_names_a_tool_that_no_package_holds() -> None:
    for document in DOCUMENTS:
        assert not commands_of(document, "tensorrt_rtx"), document


CMAKE_OPTIONS = {"CMAKE_CUDA_ARCHITECTURES", "CMAKE_CUDA_COMPILER", "Python3_EXECUTABLE"}


def test_cmake_variables_in_documents_and_messages_exist() -> None:
    sources = [REPOSITORY / "CMakeLists.txt", *sorted((REPOSITORY / "cmake").glob("*.cmake"))]
    read = "\n".join(path.read_text() for path in sources)
    texts = [*sources, *DOCUMENTS, REPOSITORY / "Makefile", *sorted((REPOSITORY / "emra_deploy").rglob("*.py"))]
    used = {name for path in texts for name in re.findall(r"-D(\w+)=", path.read_text(encoding="utf-8"))}
    assert "EMRA_TENSORRT" in used
    for name in used - CMAKE_OPTIONS:
        assert re.search(rf"(option|set|find_path)\({name}\b|\$\{{{name}\}}", read), name
