"""``emra doctor``: libraries, devices and the model's self-test on this machine, with remedies for what is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from emra_deploy import __version__
from emra_deploy.errors import EmraError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Check this machine: libraries, devices, and the shipped model's self-test."


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--model", "-m", type=str, default=None, help="model to test (default: the shipped one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(options: Namespace) -> int:
    """Print the findings; return 1 if this machine cannot segment."""
    from emra_deploy.host.machine import collect

    facts = {"emra_deploy": __version__, **collect(), "model": check_model(options.model)}
    if options.json:
        print(json.dumps(facts))
    else:
        _show(facts)
    return 0 if facts["model"]["passed"] else 1


def check_model(path: str | None) -> dict[str, Any]:
    """Load a model, run its golden tile and return the result as JSON values."""
    try:
        from emra_deploy.backends.opening import open_auto
        from emra_deploy.segmenting.selftest import self_test

        if path is None:
            from emra_deploy.models import shipped_model

            path = str(shipped_model())
        backend, choice = open_auto(path)
        different = self_test(backend)
        facts, manifest = backend.describe(), backend.manifest
        backend.close()
    except EmraError as error:
        return {"path": path, "passed": False, "error": error.to_dict()}
    tolerance = None if manifest.golden is None else manifest.golden.tolerance
    return {
        "path": path,
        "name": manifest.name,
        "passed": True,
        "golden_tile": manifest.golden is not None,
        "different": different,
        "tolerance": tolerance,
        "backend": facts,
        "choice": choice.describe(),
        "error": None,
    }


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False, markup=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key, value in _summary(facts).items():
        table.add_row(key, Text(value, overflow="fold"))
    console.print(table)
    console.print()
    libraries = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, library in facts["libraries"].items():
        if library["version"] is None:
            state = Text("missing", style="yellow")
            detail = f"{library['purpose']}; to install: {library['remedy']}"
        else:
            state = Text(library["version"], style="green")
            providers = ", ".join(library.get("providers", []))
            detail = library["purpose"] + (f" ({providers})" if providers else "")
        libraries.add_row(name, state, Text(detail, overflow="fold"))
    console.print(libraries)
    console.print()
    model = facts["model"]
    if model["passed"]:
        console.print(f"backend for many tiles: {model['choice']}")
    if not model["passed"]:
        error = model["error"]
        console.print("self-test failed: " + f"{error['cause']}. {error['remedy']}. [{error['code']}]", style="red")
    elif not model["golden_tile"]:
        console.print(f"self-test of {model['name']}: it runs, but has no golden tile to compare with", style="yellow")
    else:
        console.print(
            f"self-test of {model['name']}: passed, {100 * model['different']:.3f} % of the golden tile differs "
            f"(limit {100 * model['tolerance']:g} %)",
            style="green",
        )


def _summary(facts: dict[str, Any]) -> dict[str, str]:
    processor, memory = facts["processor"], facts["memory"]
    rows = {
        "emra-deploy": facts["emra_deploy"],
        "python": f"{facts['python']} ({facts['executable']})",
        "platform": facts["platform"],
        "processor": f"{processor['name'] or facts['machine']}, {processor['usable_cores']} cores",
        "instructions": ", ".join(processor["features"]) or "none known to speed up inference",
    }
    if memory["total"] is not None:
        free = "" if memory["available"] is None else f", {memory['available'] / 2**30:.1f} GiB free"
        rows["memory"] = f"{memory['total'] / 2**30:.1f} GiB{free}"
    if facts["jetson"] is not None:
        jetson = facts["jetson"]
        rows["jetson"] = f"{jetson['board'] or 'unnamed board'}, JetPack {jetson['jetpack'] or 'unknown'}" + (
            f" (Jetson Linux {jetson['jetson_linux']})" if jetson["jetson_linux"] else ""
        )
        if jetson["note"]:
            rows["jetson note"] = jetson["note"]
    gpus = [
        f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}, sm_{gpu['compute_capability'].replace('.', '')}"
        for gpu in facts["gpus"]
    ]
    rows["gpu"] = "; ".join(gpus) or "none found by nvidia-smi"
    if facts["cuda"] is not None:
        rows["cuda"] = _cuda(facts["cuda"])
    return rows


def _cuda(state: dict[str, Any]) -> str:
    error = state["error"]
    if error is None:
        return f"usable, {state['gpu']}, sm_{state['compute_capability'].replace('.', '')}"
    return f"not usable. {error['cause']}. {error['remedy']}. [{error['code']}]"
