"""Regressions beyond noise between two results of one benchmark on one device.

python -m benchmarks.compare OLD.json NEW.json

Exit status: 0 no regression; 1 a regression, or a candidate missing from NEW; 2 bad input; 3 too noisy to conclude.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.reporting.command import check_outputs, make_parser, start
from benchmarks.reporting.results import read_result, write_json
from benchmarks.reporting.tables import Table, make_console, print_tables
from emra_deploy.errors import EmraError
from export.measure import Ratio, unpaired_ratio

TOLERANCE = 0.05
"""Two runs differ by more than their own rounds show: memory layout, heat, the kernel's choices."""

ENERGY_TOLERANCE = 0.10
SMALLEST_GROWTH = 4 * 2**20
"""Bytes of a process's peak that may come and go with the allocator."""

STAGES = ("compute", "end_to_end")
WORSE, BETTER, SAME, LOST, NEW, UNCLEAR = "worse", "better", "same", "missing", "new", "too noisy to conclude"
NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Change:
    """Change of one figure of one candidate.

    Attributes:
        key: Key of the candidate.
        what: Name of the figure.
        ratio: New over old; None for candidates of one file only.
        low: Lower end of its interval, where there is one.
        high: Upper end of its interval.
        verdict: One of this module's words.
    """

    key: str
    what: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("compare.py", __doc__)
    made.add_argument("old", metavar="OLD.json", help="the earlier result")
    made.add_argument("new", metavar="NEW.json", help="the later result")
    made.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="SHARE", help="growth that counts as none (0.05)"
    )
    made.add_argument(
        "--absolute", action="store_true", help="compare seconds, not seconds over those of the machine's probe"
    )
    made.add_argument("--any-device", action="store_true", help="compare although the devices differ")
    made.add_argument("--json", metavar="FILE", help="write the changes there")
    made.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Compare, print and write.

    Returns:
        0, 1 or 3, as the module says.

    Raises:
        EmraError: A file that is no result, files that cannot be compared, or an output that cannot be written.
    """
    if not 0 <= arguments.tolerance < 10:
        raise EmraError("tolerance", f"tolerance {arguments.tolerance}", "Give a share, such as 0.05")
    check_outputs(arguments, "json")
    old, new = read_result(arguments.old), read_result(arguments.new)
    check_comparable(old, new, any_device=arguments.any_device)
    changes = compare(old, new, tolerance=arguments.tolerance, absolute=arguments.absolute or arguments.any_device)
    console = make_console()
    colours = {WORSE: "red", LOST: "red", BETTER: "green", UNCLEAR: "yellow", NOT_COMPARABLE: "yellow"}
    rows = []
    for change in changes:
        interval = "-" if change.low is None else f"{change.low:.3f} to {change.high:.3f}"
        ratio = "-" if change.ratio is None else f"{change.ratio:.3f}"
        rows.append([change.key, change.what, ratio, interval, change.verdict])
    table = Table("", ("candidate", "figure", "new / old", "interval", "verdict"), rows, words=True)
    print_tables([table], console, {number: colours.get(change.verdict) for number, change in enumerate(changes)})
    for name, result in (("OLD", old), ("NEW", new)):
        noise = result["content"].get("noise")
        if noise and not noise["quiet"]:
            console.print(f"{name}: machine too noisy to conclude: {'; '.join(noise['reasons'])}", soft_wrap=True)
    if arguments.json:
        write_json(arguments.json, [asdict(change) for change in changes], overwrite=arguments.overwrite)
    return status_of(changes)


def status_of(changes: Sequence[Change]) -> int:
    """The exit status for these changes."""
    verdicts = {change.verdict for change in changes}
    if verdicts & {WORSE, LOST}:
        return 1
    return 3 if verdicts & {UNCLEAR, NOT_COMPARABLE} else 0


def check_comparable(old: Mapping[str, Any], new: Mapping[str, Any], *, any_device: bool = False) -> None:
    """Refuse files whose figures cannot be compared.

    Raises:
        EmraError: ``compare-kind``, ``compare-device``.
    """
    if old["kind"] != new["kind"] or old["kind"] not in ("latency", "memory"):
        raise EmraError(
            "compare-kind",
            f"OLD is a {old['kind']} result and NEW a {new['kind']} result",
            "Give two results of latency.py, or two of memory.py",
        )
    if any_device:
        return
    devices = [
        (result["machine"]["device"], result["machine"]["processor"].get("usable_cores")) for result in (old, new)
    ]
    if devices[0] != devices[1]:
        raise EmraError(
            "compare-device",
            f"OLD is of {devices[0][0]} with {devices[0][1]} cores, NEW of {devices[1][0]} with {devices[1][1]}",
            "Measure both on one device, or give --any-device",
        )


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], *, tolerance: float = TOLERANCE, absolute: bool = False
) -> list[Change]:
    """All changes, in the order of the old file, then new candidates.

    Args:
        old: The earlier result.
        new: The later result, of the same kind.
        tolerance: Growth that counts as none.
        absolute: Whether to compare seconds as they are. Otherwise each round's are divided by those of the machine's
            probe in the same round, so that a machine that is slower today does not count against the model.
    """
    before = {entry["key"]: entry for entry in old["content"]["candidates"]}
    after = {entry["key"]: entry for entry in new["content"]["candidates"]}
    changes: list[Change] = []
    for key, entry in before.items():
        if key not in after:
            changes.append(Change(key, "all", None, None, None, LOST))
        elif any(entry["backend"].get(name) != after[key]["backend"].get(name) for name in ("threads", "device")):
            changes.append(Change(key, "threads or device", None, None, None, NOT_COMPARABLE))
        elif old["kind"] == "memory":
            changes += _memory(key, entry, after[key], tolerance)
        else:
            quiet = old["content"]["noise"]["quiet"] and new["content"]["noise"]["quiet"]
            for stage in STAGES:
                ratio = unpaired_ratio(_rounds(new, after[key], stage, absolute), _rounds(old, entry, stage, absolute))
                changes.append(_timing(key, stage, ratio, tolerance, quiet))
            changes += _energy(key, entry, after[key])
    changes += [Change(key, "all", None, None, None, NEW) for key in after if key not in before]
    return changes


def _rounds(result: Mapping[str, Any], entry: Mapping[str, Any], stage: str, absolute: bool) -> list[float]:
    rounds, probe = entry["rounds"][stage], result["content"]["probe"]["rounds"]
    if absolute or len(rounds) != len(probe):
        return list(rounds)
    return [seconds / reference for seconds, reference in zip(rounds, probe, strict=True)]


def _timing(key: str, stage: str, ratio: Ratio, tolerance: float, quiet: bool) -> Change:
    if not quiet or ratio.rounds < 3:
        verdict = UNCLEAR
    elif ratio.low > 1 + tolerance:
        verdict = WORSE
    elif ratio.high < 1 - tolerance:
        verdict = BETTER
    elif ratio.high / ratio.low > (1 + tolerance) / (1 - tolerance):
        # So wide an interval may hide a change beyond the tolerance.
        verdict = UNCLEAR
    else:
        verdict = SAME
    return Change(key, stage.replace("_", " "), ratio.value, ratio.low, ratio.high, verdict)


def _energy(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    if not old.get("energy") or not new.get("energy"):
        return []
    ratio = new["energy"]["joules_per_picture"] / old["energy"]["joules_per_picture"]
    return [Change(key, "joules per picture", ratio, None, None, _verdict(ratio, ENERGY_TOLERANCE))]


def _memory(key: str, old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[Change]:
    changes = []
    for what, part in (("peak of the host", "host"), ("peak of the device", "device")):
        before, after = ((entry[part] or {}).get("peak_bytes") for entry in (old, new))
        if before and after:
            small = abs(after - before) < SMALLEST_GROWTH
            verdict = SAME if small else _verdict(after / before, tolerance)
            changes.append(Change(key, what, after / before, None, None, verdict))
    return changes


def _verdict(ratio: float, tolerance: float) -> str:
    return WORSE if ratio > 1 + tolerance else BETTER if ratio < 1 - tolerance else SAME


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
