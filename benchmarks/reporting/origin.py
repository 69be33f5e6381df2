"""Origin of a report's figures: models, machines, omissions, and the commands that measured them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.reporting.page import Results, Section
from benchmarks.reporting.tables import Table, in_words


def models_section(results: Results) -> Section | None:
    """Models by their sha256, with the facts of their Manifests."""
    found: dict[str, Mapping[str, Any]] = {}
    for result in results.values():
        for model in result["models"]:
            found.setdefault(model["sha256"], model)
    if not found:
        return None
    section = Section("models", "Models and their evidence")
    for sha256, model in found.items():
        rows = [["sha256", sha256], ["size", f"{model['bytes'] / 1e6:.2f} MB"]]
        manifest = model.get("manifest")
        if manifest:
            rows += [[name, in_words(value)] for name, value in manifest.items() if name != "evidence" and value]
            rows += [[f"evidence: {name}", in_words(value)] for name, value in _flat(manifest.get("evidence") or {})]
        section.tables.append(Table(str(model["name"]), ("field", "value"), rows, words=True))
    return section


def machines_section(results: Results) -> Section | None:
    """Each machine once for each set of versions, with its state after measuring."""
    if not results:
        return None
    section = Section("machine", "Machine, versions and state")
    seen: list[Any] = []
    for name, result in results.items():
        machine, run = result["machine"], result["run"]
        assert run is not None
        key = (machine["device"], machine["system"], run["versions"])
        if key in seen:
            continue
        seen.append(key)
        processor, jetson = machine["processor"], machine.get("jetson") or {}
        rows = [
            ["device", machine["device"]],
            ["system", machine["system"]],
            ["processor", f"{processor.get('name') or '?'}, {processor.get('usable_cores')} cores"],
            ["instructions", ", ".join(processor.get("features") or []) or "-"],
            ["memory", f"{(machine.get('memory_bytes') or 0) / 2**30:.1f} GiB"],
            ["GPUs", ", ".join(gpu["name"] for gpu in machine.get("gpus") or []) or "none"],
            *([[fact, str(value)] for fact, value in jetson.items() if value]),
            *_state_rows(machine.get("state")),
            ["versions", ", ".join(f"{package} {version}" for package, version in run["versions"].items())],
        ]
        section.tables.append(Table(name, ("field", "value"), rows, words=True))
    return section


def _state_rows(state: Mapping[str, Any] | None) -> list[list[str]]:
    if state is None:
        return []
    after = state["after"]
    mode, clocks = after["power_mode"], after["clocks"]
    rows = [["power mode (nvpmodel)", "-" if mode is None else f"{mode['mode']} ({mode['number']})"]]
    if clocks["cpu_hz"]:
        rows.append(["clocks", f"{clocks['cpu_hz']['low'] / 1e6:.0f} to {clocks['cpu_hz']['high'] / 1e6:.0f} MHz"])
    rows += [[f"clock of {name}", f"{gpu['hz'] / 1e6:.0f} MHz"] for name, gpu in clocks["gpus"].items()]
    if after["celsius"]:
        hottest = max(after["celsius"], key=after["celsius"].get)
        rows.append(["hottest sensor", f"{hottest}, {after['celsius'][hottest]:.1f} °C"])
    counts = ", ".join(f"{name} {count}" for name, count in after["throttling"].items())
    rows.append(["throttling counters", counts or "none on this machine"])
    return rows


def not_measured_section(results: Results) -> Section | None:
    """Measurements missing from every file, and failures."""
    rows: list[list[str]] = []
    failed: list[list[str]] = []
    for name, result in results.items():
        for missing in result["not_measured"]:
            row = [missing["what"], missing["why"], missing["command"]]
            if row not in rows:
                rows.append(row)
        failed += [[entry["candidate"], entry["message"], name] for entry in result["failures"]]
    tables = []
    if rows:
        tables.append(Table("", ("measurement", "why not here", "command that measures it"), rows, words=True))
    if failed:
        tables.append(Table("Failed", ("candidate", "error", "file"), failed, words=True))
    return Section("not-measured", "Not measured", tables=tables) if tables else None


def commands_section(results: Results) -> Section:
    """The command of each file, with its date and revision."""
    section = Section("reproduce", "Commands to reproduce")
    for name, result in results.items():
        run = result["run"]
        if run is None:
            section.texts.append(f"{name} was written by an older command, which did not record its command line.")
            continue
        git = run["git"]
        revision = "outside of a repository" if git is None else f"revision {git['revision'][:12]}"
        changed = " with changed files" if git and git["dirty"] else ""
        section.commands.append((f"{name}, {run['date'][:16]} UTC, {revision}{changed}", run["command"]))
    return section


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value
