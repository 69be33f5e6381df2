"""Meters and state, on folders laid out as sysfs lays them out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine_state.ina3221 import find_rails
from benchmarks.machine_state.kernel import read_clocks
from benchmarks.machine_state.meter import Meter, open_meter
from benchmarks.machine_state.nvml import Nvml
from benchmarks.machine_state.rapl import find_zones
from benchmarks.machine_state.snapshot import events_between, take_snapshot
from emra_deploy.host.throttling import count_throttling, read_alerts, read_temperatures


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.fixture
def agx_orin(tmp_path: Path) -> Path:
    """The hwmon folder of an AGX Orin: a fan, two INA3221, and the shunt sums that are no rails."""
    return write(
        tmp_path / "hwmon",
        {
            "hwmon0/name": "pwmfan",
            "hwmon3/name": "ina3221",
            "hwmon3/in1_label": "VDD_GPU_SOC",
            "hwmon3/in1_input": 19936,
            "hwmon3/curr1_input": 320,
            "hwmon3/in2_label": "VDD_CPU_CV",
            "hwmon3/in2_input": 19936,
            "hwmon3/curr2_input": 40,
            "hwmon3/in3_label": "VIN_SYS_5V0",
            "hwmon3/in3_input": 5000,
            "hwmon3/curr3_input": 1000,
            "hwmon3/in4_input": 12,
            "hwmon3/in7_label": "sum of shunt voltages",
            "hwmon3/in7_input": 40,
            "hwmon3/curr4_input": 1360,
            "hwmon4/name": "ina3221",
            "hwmon4/in1_label": "NC",
            "hwmon4/in1_input": 0,
            "hwmon4/curr1_input": 0,
            "hwmon4/in2_label": "VDDQ_VDD2_1V8AO",
            "hwmon4/in2_input": 4968,
            "hwmon4/curr2_input": 80,
            "hwmon4/in3_label": "VDD_BROKEN",
            "hwmon4/in3_input": 5000,
        },
    )


def test_the_rails_of_an_orin(agx_orin: Path) -> None:
    found = {rail.name: rail.watts() for rail in find_rails(agx_orin)}
    assert found == pytest.approx(
        {"VDD_GPU_SOC": 6.37952, "VDD_CPU_CV": 0.79744, "VIN_SYS_5V0": 5.0, "VDDQ_VDD2_1V8AO": 0.39744}
    )


def test_thor_has_one_more_monitor(tmp_path: Path) -> None:
    root = write(tmp_path, {"hwmon1/name": "ina238", "hwmon1/power1_input": 26686000})
    assert [(rail.name, rail.watts()) for rail in find_rails(root)] == [("VIN", 26.686)]


def test_a_machine_without_monitors_has_no_rails(tmp_path: Path) -> None:
    assert find_rails(tmp_path / "none") == ()
    assert find_rails(write(tmp_path, {"hwmon0/name": "coretemp"})) == ()


def test_the_meter_of_an_orin_integrates_power(agx_orin: Path, tmp_path: Path) -> None:
    meter, words = open_meter(agx_orin, tmp_path / "none")
    assert meter is not None
    try:
        assert words.startswith("sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0")
        begin = time.perf_counter()
        time.sleep(0.25)
        end = time.perf_counter()
        time.sleep(0.06)
    finally:
        meter.close()
    watts = 6.37952 + 0.79744 + 5.0
    assert meter.joules([(begin, end)]) == pytest.approx(watts * (end - begin), rel=1e-6)
    # Two halves sum to the whole; a span without samples, or outside, gives no value.
    middle = (begin + end) / 2
    assert meter.joules([(begin, middle), (middle, end)]) == pytest.approx(watts * (end - begin), rel=1e-6)
    assert meter.joules([(begin, begin + 1e-6)]) is None
    assert meter.joules([(begin - 100, end)]) is None


def test_a_meter_reads_energy_or_power_and_survives_a_sensor_that_fails() -> None:
    with pytest.raises(ValueError, match="either"):
        Meter("nothing")
    values = iter([1.0, OSError("gone"), 3.0])

    def read() -> float:
        value = next(values, 4.0)
        if isinstance(value, OSError):
            raise value
        return value

    meter = Meter("test", joules=read, interval=0.005)
    begin = time.perf_counter()
    time.sleep(0.1)
    end = time.perf_counter()
    meter.close()
    found = meter.joules([(begin, end)])
    assert found is not None
    assert 0 < found <= 3


def rapl(root: Path) -> Path:
    return write(
        root,
        {
            "intel-rapl:0/name": "package-0",
            "intel-rapl:0/energy_uj": 900,
            "intel-rapl:0/max_energy_range_uj": 1000,
            "intel-rapl:0:0/name": "core",
            "intel-rapl:0:0/energy_uj": 5,
            "intel-rapl:1/name": "package-1",
            "intel-rapl:1/energy_uj": 50,
            "intel-rapl:1/max_energy_range_uj": 1000,
            "intel-rapl:2/name": "psys",
            "intel-rapl:2/energy_uj": 5,
            "intel-rapl:2/max_energy_range_uj": 1000,
        },
    )


def test_counters_of_packages_start_again(tmp_path: Path) -> None:
    root = rapl(tmp_path)
    zones, why = find_zones(root)
    assert why is None
    assert [zone.name for zone in zones] == ["package-0", "package-1"]
    assert zones[0].joules() == pytest.approx(900e-6)
    for count, turns in ((100, 1), (950, 1), (0, 2)):
        (root / "intel-rapl:0/energy_uj").write_text(f"{count}\n")
        assert zones[0].joules() == pytest.approx((count + 1000 * turns) / 1e6)


def test_why_a_processor_has_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_meter(tmp_path, tmp_path)[0] is None
    assert "virtual machine" in open_meter(tmp_path, tmp_path)[1]
    root = rapl(tmp_path)
    read = Path.read_text

    def refuse(self: Path, *arguments: Any, **options: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    zones, why = find_zones(root)
    assert zones == []
    assert "root" in str(why)


def test_the_meter_of_a_processor(tmp_path: Path) -> None:
    meter, words = open_meter(tmp_path / "none", rapl(tmp_path / "rapl"))
    assert meter is not None
    meter.close()
    assert "package-0, package-1" in words


class FakeNvml:
    """Readings of pynvml for one GPU, in its units: mJ, mW, MHz, bytes."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    nvmlClocksThrottleReasonHwSlowdown = 0x8
    nvmlClocksEventReasonSwPowerCap = 0x4
    nvmlClocksEventReasonSwThermalSlowdown = 0x20
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80

    def __init__(self, volta: bool = True, reasons: int = 0x4 | 0x40) -> None:
        self.volta, self.reasons = volta, reasons

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, _: int) -> int:
        if not self.volta:
            raise self.NVMLError("not supported")
        return 123_456

    def nvmlDeviceGetPowerUsage(self, _: int) -> int:
        return 250_000

    def nvmlDeviceGetName(self, _: int) -> str:
        return "NVIDIA H100"

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: int) -> int:
        return self.reasons

    def nvmlDeviceGetEnforcedPowerLimit(self, _: int) -> int:
        return 700_000

    def nvmlDeviceGetClockInfo(self, _: int, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return 1980

    def nvmlDeviceGetTemperature(self, _: int, kind: int) -> int:
        raise self.NVMLError("lost")


def test_gpus_in_our_units() -> None:
    gpus = Nvml(FakeNvml())
    assert (gpus.joules(), gpus.watts()) == (123.456, 250.0)
    assert gpus.describe() == [
        {
            "name": "NVIDIA H100",
            "sm_hz": 1_980_000_000,
            "celsius": None,
            "limit_watts": 700.0,
            "throttled_by": ["power cap", "temperature (hardware)"],
            "memory_total": None,
            "memory_used": None,
        }
    ]


def test_the_fake_has_the_names_of_the_real_library() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in vars(FakeNvml):
        if name.startswith("nvml") or name.startswith("NVML"):
            assert hasattr(pynvml, name), name
            if isinstance(getattr(FakeNvml, name), int):
                assert getattr(pynvml, name) == getattr(FakeNvml, name), name


def test_a_gpu_before_volta_is_integrated(tmp_path: Path) -> None:
    meter, words = open_meter(tmp_path, tmp_path, Nvml(FakeNvml(volta=False)))
    assert meter is not None
    begin = time.perf_counter()
    time.sleep(0.2)
    end = time.perf_counter()
    meter.close()
    assert "NVML" in words
    assert meter.joules([(begin, end)]) == pytest.approx(250 * (end - begin))


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """An Orin's sysfs."""
    return write(
        tmp_path / "sys",
        {
            "class/thermal/thermal_zone0/type": "cpu-thermal",
            "class/thermal/thermal_zone0/temp": 63625,
            "class/thermal/thermal_zone1/type": "cv0-thermal",
            "class/thermal/thermal_zone1/temp": -256000,
            "class/thermal/cooling_device0/type": "cpu-throttle-alert",
            "class/thermal/cooling_device0/cur_state": 0,
            "class/thermal/cooling_device1/type": "gpu-throttle-alert",
            "class/thermal/cooling_device1/cur_state": 1,
            "class/thermal/cooling_device2/type": "pwm-fan",
            "class/thermal/cooling_device2/cur_state": 3,
            "class/hwmon/hwmon2/name": "soctherm_oc",
            "class/hwmon/hwmon2/oc1_event_cnt": 0,
            "class/hwmon/hwmon2/oc3_event_cnt": 27,
            "class/devfreq/17000000.gpu/cur_freq": 1300500000,
            "class/devfreq/17000000.gpu/max_freq": 1300500000,
            "class/devfreq/15340000.vic/cur_freq": 115200000,
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 729600,
            "devices/system/cpu/cpu0/cpufreq/scaling_max_freq": 2201600,
            "devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
            "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": 2201600,
            "devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil",
            "devices/system/cpu/cpufreq/unrelated": 1,
        },
    )


def test_the_state_of_an_orin(sysfs: Path) -> None:
    assert read_temperatures(sysfs) == {"cpu-thermal": 63.625}
    assert read_clocks(sysfs) == {
        "cpu_hz": {"low": 729_600_000, "high": 2_201_600_000},
        "cpu_max_hz": 2_201_600_000,
        "governors": ["schedutil"],
        "gpus": {"17000000.gpu": {"hz": 1_300_500_000, "max_hz": 1_300_500_000}},
    }
    assert count_throttling(sysfs) == {"oc1_event_cnt": 0, "oc3_event_cnt": 27}
    assert read_alerts(sysfs) == ["gpu-throttle-alert"]


def test_throttling_between_two_moments(sysfs: Path) -> None:
    (sysfs / "class/thermal/cooling_device1/cur_state").write_text("0\n")
    before = take_snapshot(root=sysfs)
    assert events_between(before, take_snapshot(root=sysfs)) == 0
    (sysfs / "class/hwmon/hwmon2/oc3_event_cnt").write_text("30\n")
    assert events_between(before, take_snapshot(root=sysfs)) == 3
    (sysfs / "class/thermal/cooling_device1/cur_state").write_text("1\n")
    assert events_between(before, take_snapshot(root=sysfs)) == 4


def test_nobody_counts_on_a_bare_machine(tmp_path: Path) -> None:
    state = take_snapshot(root=tmp_path)
    assert events_between(state, state) is None
    hot = take_snapshot(Nvml(FakeNvml()), tmp_path)
    # A power cap is how a GPU works; its temperature is not.
    assert events_between(hot, hot) == 1


def test_the_core_counters_of_a_laptop(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 4,
            "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 5,
        },
    )
    assert count_throttling(root) == {"core_throttle_count": 9}
