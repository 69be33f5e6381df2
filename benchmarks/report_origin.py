"""Where a report's figures come from: models, machines, what was not measured, and the commands to repeat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report_page import Command, Part, Source, Table, in_words


def models_part(sources: Sequence[Source]) -> Part | None:
    """Models by their bytes, with what their Manifests say."""
    found: dict[str, Mapping[str, Any]] = {}
    for source in sources:
        for model in source.content["models"]:
            found.setdefault(model["sha256"], model)
    if not found:
        return None
    part = Part("models", "Models and their evidence")
    for sha256, model in found.items():
        rows = [["sha256", sha256], ["size", f"{model['bytes'] / 1e6:.2f} MB"]]
        manifest = model.get("manifest")
        if manifest:
            rows += [[name, in_words(value)] for name, value in manifest.items() if name != "evidence" and value]
            rows += [[f"evidence: {name}", in_words(value)] for name, value in _flat(manifest.get("evidence") or {})]
        part.tables.append(Table(str(model["name"]), ("field", "value"), rows, words=True))
    return part


def machines_part(sources: Sequence[Source]) -> Part | None:
    """Each machine once for each set of versions, with its state after measuring."""
    if not sources:
        return None
    part = Part("machine", "Machine, versions and state")
    seen: list[Any] = []
    for source in sources:
        machine, run = source.content["machine"], source.content["run"]
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
            *([[name, str(value)] for name, value in jetson.items() if value]),
            *_state_rows(machine.get("state")),
            ["versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())],
        ]
        part.tables.append(Table(source.name, ("field", "value"), rows, words=True))
    return part


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


def not_measured_part(sources: Sequence[Source]) -> Part | None:
    """What no file has, and what failed."""
    rows: list[list[str]] = []
    failed: list[list[str]] = []
    for source in sources:
        for missing in source.content["not_measured"]:
            row = [missing["what"], missing["why"], missing["command"]]
            if row not in rows:
                rows.append(row)
        failed += [[entry["candidate"], entry["message"], source.name] for entry in source.content["failures"]]
    tables = []
    if rows:
        tables.append(Table("", ("what", "why not here", "command that measures it"), rows, words=True))
    if failed:
        tables.append(Table("Failed", ("candidate", "what happened", "file"), failed, words=True))
    return Part("not-measured", "Not measured", tables=tables) if tables else None


def commands_part(sources: Sequence[Source]) -> Part:
    """The command of each file, with its date and revision."""
    part = Part("reproduce", "Commands to reproduce")
    for source in sources:
        run = source.content.get("run")
        if run is None:
            part.texts.append(f"{source.name} was written by an older command and names none.")
            continue
        git = run["git"]
        revision = "outside of a repository" if git is None else f"revision {git['revision'][:12]}"
        changed = " with changed files" if git and git["dirty"] else ""
        part.commands.append(Command(f"{source.name}, {run['date'][:16]} UTC, {revision}{changed}", run["command"]))
    return part


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value
