"""Power rails that add up to a module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# A single rail that measures the input of the module or the board. VDD_IN: TX2, Xavier NX, Orin Nano and NX;
# POM_5V_IN: Nano; VIN: Thor (the ina238 of the developer kit).
_INPUTS = ("VDD_IN", "VIN", "POM_5V_IN", "POM_5V_IN_SYS")
# Rails side by side, where nothing measures the input. On AGX Orin, VDDQ_VDD2_1V8AO is part of VIN_SYS_5V0 (Jetson
# Linux Developer Guide, "Jetson Orin ... Series", table of INA3221 channels), so adding it would count it twice.
_SUMS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)


@dataclass(frozen=True)
class Scope:
    """Rails that together are reported as the power of the machine.

    Attributes:
        rails: The rails to add up.
        words: Description of their coverage.
    """

    rails: tuple[str, ...]
    words: str


def choose_scope(names: Iterable[str]) -> Scope | None:
    """The widest scope that these rails allow, or None for rails of an unknown board."""
    found = set(names)
    for name in _INPUTS:
        if name in found:
            return Scope((name,), f"input of the module ({name})")
    for group in _SUMS:
        if found.issuperset(group):
            return Scope(group, f"sum of {', '.join(group)}; no rail measures the whole board")
    return None
