"""Throttling by heat and current is detected and reported, on a folder laid out like Orin's sysfs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from emra_deploy.host.throttling import ThrottleWatch, gpu_reasons
from emra_deploy.stream.run import Stream
from tests.emra_deploy.stream.fakes import Script, label_all

ALERT = "class/thermal/cooling_device0/cur_state"
EVENTS = "class/hwmon/hwmon2/oc1_event_cnt"


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    root = tmp_path / "sys"
    for name, content in {
        "class/thermal/cooling_device0/type": "cpu-throttle-alert",
        ALERT: 0,
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone0/temp": 99500,
        "class/hwmon/hwmon2/name": "soctherm_oc",
        EVENTS: 7,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


class Watched:
    """A watch whose time and GPU are the test's."""

    def __init__(self, root: Path) -> None:
        self.root, self.time = root, 0.0
        self.gpu: list[str] = []
        self.watch = ThrottleWatch(root, every=5.0, gpus=lambda: self.gpu, clock=lambda: self.time)

    def after(self, seconds: float, **files: int) -> tuple[str, ...]:
        for name, value in files.items():
            (self.root / {"alert": ALERT, "events": EVENTS}[name]).write_text(f"{value}\n")
        self.time += seconds
        return self.watch.look()


def test_alerts_events_and_gpus_are_reported_as_they_begin(orin: Path, caplog: pytest.LogCaptureFixture) -> None:
    it = Watched(orin)
    assert it.after(0) == ()
    assert it.after(4, alert=1) == (), "looked too soon"
    assert it.after(1) == ("cpu-throttle-alert",)
    assert "slowed down: cpu-throttle-alert (cpu-thermal 100 °C)" in caplog.text
    assert it.after(5, events=9) == ("cpu-throttle-alert", "oc1_event_cnt")
    it.gpu = ["power cap"]
    assert it.after(5) == ("cpu-throttle-alert",), "events are over, and a power cap is no fault"
    assert "no longer" not in caplog.text
    it.gpu = ["temperature (hardware)"]
    assert it.after(5, alert=0) == ("GPU: temperature (hardware)",)
    it.gpu = []
    assert it.after(5) == ()
    assert "no longer slowed down" in caplog.text
    assert it.after(5, alert=1) == ("cpu-throttle-alert",)
    assert it.watch.seen == ("cpu-throttle-alert", "oc1_event_cnt", "GPU: temperature (hardware)")
    assert it.watch.began == 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 5


def test_a_machine_that_tells_nothing_is_never_slow(tmp_path: Path) -> None:
    it = Watched(tmp_path)
    assert (it.after(9), it.watch.seen, it.watch.began) == ((), (), 0)


def test_this_machine_can_be_watched() -> None:
    watch = ThrottleWatch()
    assert watch.look() == watch.now


def test_a_driver_that_fails_gives_no_reasons() -> None:
    class Library:
        class NVMLError(Exception):
            pass

        def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
            raise self.NVMLError("lost")

    assert gpu_reasons(Library(), 0) == []


def test_a_stream_tells_of_it(orin: Path) -> None:
    it = Watched(orin)
    script = Script(live=False)
    script.push(0)
    script.push(1)
    script.end()
    with Stream(label_all, script.source, watch=it.watch) as stream:
        next(stream)
        assert (stream.status().throttled, stream.status().counters.throttles) == ((), 0)
        it.after(0, alert=1)
        it.time += 6
        next(stream)
        status = json.loads(json.dumps(stream.status().to_dict()))
    assert (status["throttled"], status["throttles"]) == (["cpu-throttle-alert"], 1)


def test_a_map_tells_of_it(orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from tests.emra_deploy.cli.cli_helpers import save_png
    from tests.emra_deploy.maps.map_jobs import run_job
    from tests.onnx_models import build_model, scene

    build_model(tmp_path / "model.onnx")
    (orin / ALERT).write_text("1\n")
    monkeypatch.setattr("emra_deploy.maps.run.ThrottleWatch", lambda: ThrottleWatch(orin))
    picture = save_png(tmp_path / "a.png", scene(40, 40))
    report = run_job(picture, tmp_path / "b.png", tmp_path / "model.onnx")
    assert report.to_dict()["throttled"] == ["cpu-throttle-alert"]
