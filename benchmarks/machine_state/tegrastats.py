"""Lines of Jetson's ``tegrastats``, from JetPack 4 to 7, and DRIVE OS.

Fields differ between boards and releases, so each is looked for separately and may be missing. Described by NVIDIA in
the Jetson Linux Developer Guide, "tegrastats utility", and completed by recorded lines (in the tests): ``GR3D_FREQ
12%``, ``12%@621``, ``12%@[1300,1300]`` and ``@[1000,1000]`` are all in use; temperatures and powers come with one to
three values each, the current one first; -256 C is a sensor that is switched off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MIB = 2**20
_SIZES = {"k": 2**10, "M": _MIB, "G": 2**30}
_OFF = -255.0

_MEMORY = re.compile(r"\b(RAM|SWAP) (\d+)/(\d+)([kMG])B")
_CORES = re.compile(r"\bCPU \[([^\]]*)\]")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?$")
_ENGINE = re.compile(r"\b(GR3D2?|EMC)_FREQ (?:(\d+)%)?(?:@\[?(\d+(?:,\d+)*)\]?)?")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
# Before JetPack 5 without a unit; a rail's name starts with a capital, which keeps dates and "lfb" out.
_RAIL = re.compile(r"\b([A-Z][A-Za-z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?=\s|$)")


@dataclass(frozen=True)
class Tegrastats:
    """One line.

    Attributes:
        ram_used: Bytes of the memory that processor and GPU share.
        ram_total: All of it, bytes.
        swap_used: Bytes.
        swap_total: Bytes.
        cores: For each processor core its load 0 to 1 and its clock in Hz; None for a core that is off.
        gpu_load: 0 to 1, None if not reported (Thor).
        gpu_hz: Clock of the fastest GPC, None if not reported.
        memory_load: Load of the memory controller, 0 to 1, None if not reported (without root).
        memory_hz: Its clock.
        temperatures: Degrees Celsius by sensor, lower-case names; sensors that are off are left out.
        watts: Power by rail; rails that are not connected are left out.
    """

    ram_used: int | None
    ram_total: int | None
    swap_used: int | None
    swap_total: int | None
    cores: tuple[tuple[float, float | None] | None, ...]
    gpu_load: float | None
    gpu_hz: float | None
    memory_load: float | None
    memory_hz: float | None
    temperatures: dict[str, float]
    watts: dict[str, float]


def parse_tegrastats(line: str) -> Tegrastats | None:
    """One line of output, or None for any other line (warnings, or cut off at its start)."""
    memory = {name: (int(used), int(total), _SIZES[unit]) for name, used, total, unit in _MEMORY.findall(line)}
    if "RAM" not in memory:
        return None
    used, total, unit = memory["RAM"]
    swap_used, swap_total, swap_unit = memory.get("SWAP", (None, None, 1))
    cores = _CORES.search(line)
    engines = {name: (load, clocks) for name, load, clocks in _ENGINE.findall(line)}
    gpu_load, gpu_hz = _engine(engines.get("GR3D"))
    memory_load, memory_hz = _engine(engines.get("EMC"))
    return Tegrastats(
        ram_used=used * unit,
        ram_total=total * unit,
        swap_used=None if swap_used is None else swap_used * swap_unit,
        swap_total=None if swap_total is None else swap_total * swap_unit,
        cores=tuple(_core(text) for text in cores.group(1).split(",")) if cores else (),
        gpu_load=gpu_load,
        gpu_hz=gpu_hz,
        memory_load=memory_load,
        memory_hz=memory_hz,
        temperatures={
            name.lower(): float(degrees) for name, degrees in _TEMPERATURE.findall(line) if float(degrees) > _OFF
        },
        watts={
            name: int(milliwatts) / 1000
            for name, milliwatts in _RAIL.findall(line)
            if name not in ("RAM", "SWAP", "IRAM", "NC")
        },
    )


def _core(text: str) -> tuple[float, float | None] | None:
    found = _CORE.match(text.strip())
    if found is None:
        return None
    return int(found.group(1)) / 100, int(found.group(2)) * 1e6 if found.group(2) else None


def _engine(found: tuple[str, str] | None) -> tuple[float | None, float | None]:
    if found is None:
        return None, None
    load, clocks = found
    hertz = max((int(clock) for clock in clocks.split(",")), default=0) * 1e6 if clocks else 0.0
    # A clock of 0 is a GPU that is powered down, not one that stands still.
    return int(load) / 100 if load else None, hertz or None
