"""The corpus against every door of the runtime: nothing runs, nothing is read that should not be, nothing is left."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from emra_deploy.cli.main import main
from tests.attacks.corpus import HARMLESS, MODELS, PICTURES, REMOTE, Canary, Payload, secret_bytes
from tests.onnx_models import build_model, scene

pytest.importorskip("rasterio")


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    for name in ("attack", "outside", "out"):
        (tmp_path / name).mkdir()
    secret = tmp_path / "outside/secret.bin"
    secret.write_bytes(secret_bytes())
    return Canary(tmp_path / "attack", tmp_path / "trap", secret)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path)
    return path


def refused(capsys: pytest.CaptureFixture[str], canary: Canary, *words: object) -> str:
    """The code of the one-line error that the command ends with, having done nothing."""
    assert main([str(word) for word in words]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert not canary.trap.exists()
    assert list((canary.folder.parent / "out").iterdir()) == []
    found = re.search(r"\[([a-z-]+)\]$", shown.err.strip())
    assert found is not None, shown.err
    return found[1]


def test_the_payload_works(canary: Canary) -> None:
    import pickle

    pickle.loads(pickle.dumps(Payload(canary.trap)))
    assert canary.trap.exists()


@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "openvino"])
@pytest.mark.parametrize("name", MODELS)
def test_models(canary: Canary, capsys: pytest.CaptureFixture[str], name: str, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    attack = MODELS[name](canary)
    picture, out = canary.folder / "a.png", canary.folder.parent / "out/a.png"
    Image.fromarray(scene(40, 40)).save(picture)
    code = refused(capsys, canary, "segment", picture, "-m", attack, "-o", out, "--backend", backend)
    if name.startswith("external"):
        assert code in ("model-external-data", "model-unreadable")


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_only_asked_about(canary: Canary, capsys: pytest.CaptureFixture[str], name: str) -> None:
    attack = MODELS[name](canary)
    status = main(["info", str(attack)])
    shown = capsys.readouterr()
    assert status in (0, 2)
    assert not canary.trap.exists()
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("out", ["a.png", "a.tif"])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(canary: Canary, model: Path, capsys: pytest.CaptureFixture[str], name: str, out: str) -> None:
    attack = PICTURES[name](canary)
    refused(capsys, canary, "segment", attack, "-m", model, "-o", canary.folder.parent / "out" / out)


@pytest.mark.parametrize("name", HARMLESS)
def test_sound_pictures_with_a_bad_rest_cost_little(canary: Canary, model: Path, name: str) -> None:
    attack, out = HARMLESS[name](canary), canary.folder.parent / "out/a.png"
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "from emra_deploy.cli.main import main\n"
        "import numpy, onnxruntime, rasterio\n"
        "from pathlib import Path\n"
        "import re\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "status = main(sys.argv[1:])\n"
        "print('STATUS', status, peak() - before)\n"
    )
    words = ["segment", str(attack), "-m", str(model), "-o", str(out)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"STATUS (\d) (\d+)", done.stdout)
    assert found is not None
    assert found[1] in "02"
    assert int(found[2]) < 150_000, "kB more than before"


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """A loopback server, and the requests that it received."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made.server_address[1], asked
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("name", REMOTE)
def test_no_name_is_fetched(
    canary: Canary, model: Path, capsys: pytest.CaptureFixture[str], server: tuple[int, list[str]], name: str
) -> None:
    port, asked = server
    code = refused(
        capsys, canary, "segment", name.format(port=port), "-m", model, "-o", canary.folder.parent / "out/a.tif"
    )
    assert code == "input-missing"
    assert asked == []


def test_recipes_and_class_files_name_no_objects(canary: Canary, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from training.data.__main__ import main as look
    from training.train import main as train

    text = f"!!python/object/apply:pathlib.Path.touch\n- !!python/object/apply:pathlib.Path [{canary.trap}]\n"
    recipe, data = canary.folder / "recipe.yaml", canary.folder / "data"
    recipe.write_text(f"output: {text}")
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(train(["--config", str(recipe)]))
    assert caught.value.code not in (0, None)
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
        Image.fromarray(scene(8, 8)).save(data / name / "a.png")
    (data / "classes.yaml").write_text(f"names: {text}")
    assert look(["folder", str(data)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not canary.trap.exists()
