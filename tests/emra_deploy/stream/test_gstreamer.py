"""GStreamer pipelines, in a separate process that uses the system's bindings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.stream import Stream
from tests.conftest import REPOSITORY
from tests.emra_deploy.stream.fakes import label_all
from tests.emra_deploy.stream.videos import save_video

SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")

PROGRAM = """
import json, sys
from emra_deploy.errors import EmraError
from emra_deploy.stream import Stream, StreamOptions
from tests.emra_deploy.stream.fakes import label_all
from tests.emra_deploy.stream.videos import number_of
source, options, wanted = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
stream = Stream(label_all, source, StreamOptions(**options))
got, error = [], None
try:
    for result in stream:
        colour = result.image[5, -1].tolist()
        got.append([number_of(result.image), list(result.image.shape), colour, result.frame.connection])
        if len(got) == wanted:
            stream.stop()
except EmraError as caught:
    error = [caught.code, str(caught)]
print(json.dumps({"got": got, "error": error, "reasons": [change.reason for change in stream.changes()]}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With ``gi`` of the system, and nothing else of its packages."""
    folder = tmp_path_factory.mktemp("gi")
    if not (SYSTEM_PACKAGES / "gi").is_dir():
        pytest.skip("no python3-gi here")
    (folder / "gi").symlink_to(SYSTEM_PACKAGES / "gi")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
    probe = "import gi; gi.require_version('GstApp', '1.0'); from gi.repository import Gst, GstApp"
    done = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("python3-gi is for another Python, or gir1.2-gst-plugins-base-1.0 is missing")
    return environment


def run(environment: dict[str, str], pipeline: str, wanted: int = 1000, **options: object) -> dict[str, list[object]]:
    command = [sys.executable, "-c", PROGRAM, f"gst:{pipeline}", json.dumps(options), str(wanted)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    content: dict[str, list[object]] = json.loads(done.stdout)
    return content


def test_a_pipeline_is_read_in_its_own_size_and_colours(environment: dict[str, str]) -> None:
    # 61 pixels of three bytes: rows are padded to 184 bytes.
    pipeline = (
        "videotestsrc num-buffers=5 pattern=solid-color foreground-color=0xffbe3c14 ! "
        "video/x-raw,format=BGRx,width=61,height=33"
    )
    said = run(environment, pipeline, live=False)
    assert said["error"] is None
    assert len(said["got"]) == 5
    assert all(row[1:3] == [[33, 61, 3], [0xBE, 0x3C, 0x14]] for row in said["got"])  # type: ignore[index]


def test_a_live_pipeline_that_ends_is_started_again(environment: dict[str, str]) -> None:
    pipeline = "videotestsrc is-live=true num-buffers=3 ! video/x-raw,width=64,height=48,framerate=100/1"
    said = run(environment, pipeline, wanted=6)
    connections = {row[3] for row in said["got"]}  # type: ignore[index]
    assert connections >= {1, 2}
    assert "the sender ended the stream; reconnecting" in said["reasons"]


@pytest.mark.parametrize("pipeline", ["nosuchelement", "videotestsrc ! ! x", "videotestsrc pattern=7000000"])
def test_a_pipeline_that_cannot_be_built_is_refused(environment: dict[str, str], pipeline: str) -> None:
    said = run(environment, pipeline)
    assert said["got"] == []
    assert said["error"] is not None
    assert said["error"][0] == "gstreamer-pipeline"


def test_what_fails_while_it_runs_is_retried_and_reported(environment: dict[str, str]) -> None:
    pipeline = "rtspsrc location=rtsp://u:secret@127.0.0.1:1/x ! rtpjpegdepay ! jpegdec"
    said = run(environment, pipeline, give_up_after=1.0)
    assert said["error"] is not None
    assert said["error"][0] == "stream-lost"
    assert "secret" not in json.dumps(said)


def test_without_its_bindings_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(EmraError, match="python3-gi") as caught:
        Stream(label_all, "gst:videotestsrc")
    assert caught.value.code == "library-missing"


def test_a_recording_by_gstreamer_gives_every_frame(environment: dict[str, str], tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.avi", 20, codec="mjpeg")
    said = run(environment, f"filesrc location={path} ! avidemux ! jpegdec", live=False)
    assert [row[0] for row in said["got"]] == list(range(20))  # type: ignore[index]
