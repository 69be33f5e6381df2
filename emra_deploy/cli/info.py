"""``emra info``: what a model file says about itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Show the classes, input, precision and measured evidence of a model file."


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("model", type=str, nargs="?", default=None, help="model file (default: the shipped one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(options: Namespace) -> int:
    """Read the Manifest and print it."""
    path = options.model
    if path is None:
        from emra_deploy.models import shipped_model

        path = str(shipped_model())
    content = describe(path)
    if options.json:
        print(json.dumps(content))
    else:
        _show(content)
    return 0


def describe(path: str) -> dict[str, Any]:
    """What is known of a model file, as JSON values; the golden tile's pictures are left out.

    Raises:
        EmraError: Whatever is wrong with the file.
    """
    from emra_deploy.backends import open_backend

    backend, manifest = open_backend(path)
    backend.close()
    content: dict[str, Any] = json.loads(manifest.to_json())
    golden = content.pop("golden")
    digest, size = hashlib.sha256(), 0
    with Path(path).open("rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
            size += len(part)
    return {
        "path": path,
        "bytes": size,
        "sha256": digest.hexdigest(),
        **content,
        "golden_tile": None if golden is None else {"tolerance": golden["tolerance"]},
    }


def _show(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False, markup=False)
    batch, height, width = content["input_shape"]
    golden = content["golden_tile"]
    gsd = content["gsd"]
    rows = {
        "model": content["name"],
        "file": f"{content['path']} ({content['bytes'] / 1e6:.2f} MB)",
        "sha256": content["sha256"],
        "made from": content["parent_sha256"] or "not said",
        "input": f"{content['input_kind']}, {height} x {width} pixels, batch {'any' if batch is None else batch}",
        "bands": ", ".join(content["bands"]),
        "ground sample": "mixed or not said" if gsd is None else f"{gsd:g} m per pixel",
        "outputs": ", ".join(content["heads"]),
        "precision": content["precision"],
        "network": f"{content['backbone']}, M {content['hra_block']}, P {content['mca_blocks']}, "
        f"{content['fusion']}, {content['aggregation']}, zoom {content['zoom']}",
        "golden tile": "no: results cannot be checked on this machine"
        if golden is None
        else f"yes, {100 * golden['tolerance']:g} % of its pixels may differ",
        "tools": ", ".join(f"{name} {version}" for name, version in content["tools"].items()) or "not said",
    }
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key, value in rows.items():
        table.add_row(key, Text(value, overflow="fold"))
    console.print(table)
    console.print("\nclasses")
    for label, (name, colour) in enumerate(
        zip(content["classes"]["names"], content["classes"]["palette"], strict=True)
    ):
        swatch = Text("██", style="rgb({},{},{})".format(*colour))
        console.print(Text(f"{label:>4}  "), swatch, Text(f" {name}  #{bytes(colour).hex()}"), sep="")
    console.print("\nevidence")
    for line in _lines(content["evidence"], 2) or ["  none"]:
        console.print(line)


def _lines(value: Any, indent: int) -> list[str]:
    """Nested JSON as indented lines."""
    pad = " " * indent
    if isinstance(value, dict):
        lines: list[str] = []
        for key, item in value.items():
            if isinstance(item, dict) and item:
                lines += [f"{pad}{key}", *_lines(item, indent + 2)]
            else:
                lines.append(f"{pad}{key}  {_short(item)}")
        return lines
    return [f"{pad}{_short(value)}"]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
