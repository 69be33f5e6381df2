"""The parsers of Jetson's tools, on lines as boards print them.

Recorded lines, as published by users of the boards; each names its board and JetPack.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.machine_state.nvpmodel import parse_nvpmodel
from benchmarks.machine_state.rails import choose_scope
from benchmarks.machine_state.tegrastats import parse_tegrastats

MIB = 2**20

TX2_JETPACK_4 = (
    "RAM 3276/7859MB (lfb 5x4MB) SWAP 1626/12122MB (cached 181MB) CPU [44%@1421,49%@2031,67%@2034,17%@1420,25%@1419,"
    "8%@1420] EMC_FREQ 1%@1866 GR3D_FREQ 0%@114 APE 150 MTS fg 1% bg 1% PLL@42.5C MCPU@42.5C PMIC@50C Tboard@38C "
    "GPU@39.5C BCPU@42.5C thermal@41.3C Tdiode@39.25C VDD_SYS_GPU 182/182 VDD_SYS_SOC 730/730 VDD_4V0_WIFI 0/0 "
    "VDD_IN 5297/5297 VDD_SYS_CPU 1917/1917 VDD_SYS_DDR 1241/1241"
)
AGX_ORIN_JETPACK_5 = (
    "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU [0%@729,0%@729,0%@729,0%@729,"
    "0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 "
    "VIC_FREQ 729 APE 174 CV0@-256C CPU@42.593C Tboard@32C SOC2@39.343C Tdiode@33.25C SOC0@39.375C CV1@-256C GPU@-256C "
    "tj@42.593C SOC1@40.468C CV2@-256C VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 4032mW/4032mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
ORIN_NANO_JETPACK_6 = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@729,14%@729,13%@729,"
    "11%@729,8%@729] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 "
    "cpu@53.968C soc2@52.437C soc0@50.75C gpu@53.343C tj@53.968C soc1@51.656C VDD_IN 12479mW/12479mW "
    "VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW"
)
ORIN_NX_CORES_OFF_JETPACK_7 = (
    "10-01-2026 20:36:35 RAM 2432/15598MB (lfb 4x4MB) SWAP 0/6144MB (cached 0MB) CPU [55%@1036,9%@1036,24%@1036,"
    "64%@1036,off,off,0%@729,0%@729] GR3D_FREQ 0% cv0@56.281C/56.281C cpu@57.156C/57.156C gpu@55.343C/55.343C "
    "tj@59.687C/59.687C VDD_IN 7280mW/7280mW/7280mW"
)
AGX_ORIN_JETPACK_7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,4%@2201,14%@2201,30%@2201,18%@2201,"
    "10%@2201,10%@2201,33%@2201,7%@2201,5%@2201,27%@2201] EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] NVENC0 off "
    "NVDEC0 off NVJPG0 off NVJPG1 off VIC off OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 cpu@52.968C/52.968C "
    "soc2@48.406C/48.406C soc0@49.531C/49.531C gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
THOR_JETPACK_7 = (
    "07-31-2026 14:45:55 RAM 86905/125772MB (lfb 368x4MB) CPU [12%@972,10%@972,off,33%@1890] cpu@39.812C tj@39.906C "
    "soc012@38.812C gpu@39.906C soc345@38.625C VDD_GPU 3561mW/3561mW VDD_CPU_SOC_MSS 7910mW/7910mW "
    "VIN_SYS_5V0 7620mW/7620mW VIN 26686mW/26686mW"
)


def test_tx2_of_jetpack_4_has_watts_without_a_unit() -> None:
    found = parse_tegrastats(TX2_JETPACK_4)
    assert found is not None
    assert (found.ram_used, found.ram_total) == (3276 * MIB, 7859 * MIB)
    assert (found.swap_used, found.swap_total) == (1626 * MIB, 12122 * MIB)
    assert found.watts["VDD_IN"] == 5.297
    assert len(found.watts) == 6
    assert found.temperatures["gpu"] == 39.5
    assert (found.gpu_load, found.gpu_hz) == (0.0, 114e6)
    assert (found.memory_load, found.memory_hz) == (0.01, 1866e6)
    assert found.cores[1] == (0.49, 2031e6)


def test_agx_orin_of_jetpack_5_has_sensors_and_rails_that_are_off() -> None:
    found = parse_tegrastats(AGX_ORIN_JETPACK_5)
    assert found is not None
    assert len(found.cores) == 12
    # -256 C is a sensor without power, 0 MHz a GPU without.
    assert set(found.temperatures) == {"cpu", "tboard", "soc2", "tdiode", "soc0", "tj", "soc1"}
    assert found.gpu_hz is None
    assert found.watts == {
        "VDD_GPU_SOC": 2.399,
        "VDD_CPU_CV": 0.4,
        "VIN_SYS_5V0": 4.032,
        "VDDQ_VDD2_1V8AO": 0.301,
    }


def test_orin_nano_of_jetpack_6() -> None:
    found = parse_tegrastats(ORIN_NANO_JETPACK_6)
    assert found is not None
    assert (found.gpu_load, found.gpu_hz) == (0.63, 621e6)
    assert (found.memory_load, found.memory_hz) == (0.43, 2133e6)
    assert found.watts == {"VDD_IN": 12.479, "VDD_CPU_GPU_CV": 4.667, "VDD_SOC": 2.817}
    assert found.temperatures["tj"] == 53.968


def test_orin_nx_with_cores_off() -> None:
    found = parse_tegrastats(ORIN_NX_CORES_OFF_JETPACK_7)
    assert found is not None
    assert found.cores[3:5] == ((0.64, 1036e6), None)
    assert found.watts == {"VDD_IN": 7.28}
    assert (found.gpu_load, found.gpu_hz) == (0.0, None)
    assert found.memory_load is None
    assert found.temperatures == {"cv0": 56.281, "cpu": 57.156, "gpu": 55.343, "tj": 59.687}


def test_agx_orin_of_jetpack_7_has_three_values_and_a_clock_for_each_gpc() -> None:
    found = parse_tegrastats(AGX_ORIN_JETPACK_7)
    assert found is not None
    assert (found.gpu_load, found.gpu_hz) == (0.12, 1300e6)
    assert found.watts == {"VDD_GPU_SOC": 5.139, "VDD_CPU_CV": 3.268, "VIN_SYS_5V0": 5.5}
    assert found.temperatures == {"cpu": 52.968, "soc2": 48.406, "soc0": 49.531, "gpu": 47.625}
    assert found.swap_used is None


def test_thor_of_jetpack_7_tells_no_load_of_its_gpu() -> None:
    found = parse_tegrastats(THOR_JETPACK_7)
    assert found is not None
    assert (found.gpu_load, found.gpu_hz, found.memory_load) == (None, None, None)
    assert found.watts["VIN"] == 26.686
    assert found.cores == ((0.12, 972e6), (0.10, 972e6), None, (0.33, 1890e6))
    clocks = parse_tegrastats("RAM 4722/7844MB (lfb 1x512kB) EMC_FREQ 2%@1866 GR3D_FREQ @[1000,1000,1000] APE 150")
    assert clocks is not None
    assert (clocks.gpu_load, clocks.gpu_hz) == (None, 1000e6)


@pytest.mark.parametrize("line", ["", "tegrastats: not found", "CPU [1%@2]", "\x00\xff"])
def test_what_is_no_line_is_none(line: str) -> None:
    assert parse_tegrastats(line) is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    parse_tegrastats(text)
    parse_tegrastats("RAM 1/2MB " + text)


@pytest.mark.parametrize(
    ("line", "rails", "watts"),
    [
        (TX2_JETPACK_4, ("VDD_IN",), 5.297),
        (ORIN_NANO_JETPACK_6, ("VDD_IN",), 12.479),
        (THOR_JETPACK_7, ("VIN",), 26.686),
        # VDDQ_VDD2_1V8AO is within VIN_SYS_5V0: 2.399 + 0.400 + 4.032.
        (AGX_ORIN_JETPACK_5, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 6.831),
        (AGX_ORIN_JETPACK_7, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 13.907),
    ],
)
def test_the_widest_scope_of_each_board(line: str, rails: tuple[str, ...], watts: float) -> None:
    found = parse_tegrastats(line)
    assert found is not None
    scope = choose_scope(found.watts)
    assert scope is not None
    assert scope.rails == rails
    assert sum(found.watts[name] for name in scope.rails) == pytest.approx(watts)


def test_rails_of_an_unknown_board_are_not_added_up() -> None:
    assert choose_scope(["VDD_SOMETHING", "VDD_SOC"]) is None


@pytest.mark.parametrize(
    ("text", "mode", "number", "fan"),
    [
        ("NV Power Mode: MAXN\n0\n", "MAXN", 0, None),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W\n2\n", "MODE_15W", 2, "quiet"),
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER", 2, None),
        (
            "NVPM VERB: Config file: /etc/nvpmodel.conf\nNVPM VERB: parsing done for /etc/nvpmodel.conf\n"
            "NVPM VERB: Current mode: NV Power Mode: 25W\n1\n"
            "NVPM VERB: PARAM CPU_ONLINE: ARG CORE_0: PATH /sys/devices/system/cpu/cpu0/online: "
            "REAL_VAL: 1 CONF_VAL: 1\n",
            "25W",
            1,
            None,
        ),
        (
            "NV Fan Mode:quiet\nNV Power Mode: MODE_15W_DESKTOP\n7\n"
            "NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\n",
            "MODE_15W_DESKTOP",
            7,
            "quiet",
        ),
        ("NV Power Mode: 15W", "15W", None, None),
    ],
)
def test_power_modes(text: str, mode: str, number: int | None, fan: str | None) -> None:
    assert parse_nvpmodel(text) == {"mode": mode, "number": number, "fan": fan}


def test_an_answer_without_a_mode_is_none() -> None:
    assert parse_nvpmodel("NVPM ERROR: optMask is 1, no request for power mode") is None
