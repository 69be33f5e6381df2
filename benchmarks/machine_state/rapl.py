"""Energy of Intel and AMD processors: the kernel's powercap counters.

Documentation/power/powercap/powercap.rst: ``energy_uj`` counts µJ and starts again from 0 after
``max_energy_range_uj``. Since Linux 5.10 only root may read it (CVE-2020-8694).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Zone:
    """One package of processors.

    Attributes:
        name: Such as ``"package-0"``.
        path: Its ``energy_uj``.
        span: µJ after which the counter starts again.
    """

    name: str
    path: Path
    span: int
    _last: int = field(default=0, repr=False)
    _turns: int = field(default=0, repr=False)

    def joules(self) -> float:
        """Energy since an arbitrary start; never falls, if asked at least once a turn (a minute at 1 kW).

        Raises:
            OSError: It cannot be read.
        """
        count = int(self.path.read_text(encoding="ascii"))
        if count < self._last:
            self._turns += 1
        self._last = count
        return (count + self._turns * self.span) / 1e6


def find_zones(root: Path = POWERCAP) -> tuple[list[Zone], str | None]:
    """The packages whose energy can be read, or the reason why none can.

    ``psys`` is left out, which contains the packages, and so are the zones inside packages.

    Args:
        root: Folder of powercap zones.
    """
    zones: list[Zone] = []
    denied = False
    for folder in sorted(root.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:
            continue
        try:
            name = (folder / "name").read_text(encoding="ascii").strip()
            if not name.startswith("package"):
                continue
            zone = Zone(name, folder / "energy_uj", int((folder / "max_energy_range_uj").read_text(encoding="ascii")))
            zone.joules()
        except PermissionError:
            denied = True
        except (OSError, ValueError):
            continue
        else:
            zones.append(zone)
    if zones:
        return zones, None
    if denied:
        return [], "the processor's energy counters may be read by root only: sudo chmod a+r on their energy_uj"
    return [], "the kernel gives no energy counters of the processor (none, or a virtual machine)"
