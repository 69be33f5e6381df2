"""Jetson's power monitors through Linux's hwmon: INA3221 (three rails) and INA238 (one).

Attributes by the kernel's documentation, Documentation/hwmon/ina3221.rst and ina238.rst: ``inN_input`` in mV,
``currN_input`` in mA, ``power1_input`` in µW. Channels 4 to 7 of the INA3221 are shunt voltages and
their sum, not rails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HWMON = Path("/sys/class/hwmon")
_CHANNELS = (1, 2, 3)


@dataclass(frozen=True)
class Rail:
    """One rail.

    Attributes:
        name: As the device tree labels it, such as ``"VDD_IN"``.
        files: Voltage in mV and current in mA, or power in µW alone.
    """

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float:
        """Power now.

        Raises:
            OSError: The kernel cannot read it.
            ValueError: The value is no number.
        """
        values = [int(path.read_text(encoding="ascii")) for path in self.files]
        return values[0] * values[1] / 1e6 if len(values) == 2 else values[0] / 1e6


def find_rails(root: Path = HWMON) -> tuple[Rail, ...]:
    """The rails that can be read here; empty on other machines than Jetsons.

    Args:
        root: Folder of hwmon devices.
    """
    return tuple(rail for rail in _rails(root) if _readable(rail))


def _rails(root: Path) -> Iterator[Rail]:
    for device in sorted(root.glob("hwmon*")):
        kind = _text(device / "name")
        if kind == "ina3221":
            for channel in _CHANNELS:
                label = _text(device / f"in{channel}_label")
                # "NC" is not connected.
                if label not in ("", "NC"):
                    yield Rail(label, (device / f"in{channel}_input", device / f"curr{channel}_input"))
        elif kind == "ina238":
            # Thor's developer kit: the input of the board, which tegrastats calls VIN.
            yield Rail("VIN", (device / "power1_input",))


def _readable(rail: Rail) -> bool:
    try:
        rail.watts()
    except (OSError, ValueError):
        # A rail whose supply is switched off fails with "no data available".
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
