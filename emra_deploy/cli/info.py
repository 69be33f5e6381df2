"""``emra info``: the Manifest of a model file or engine, and the backend that would run it on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emra_deploy.errors import EmraError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from emra_deploy.model_file.manifest import Manifest

HELP = "Show the classes, input, precision and measured evidence of a model file or engine."


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("model", type=str, nargs="?", default=None, help="model file (default: the shipped one)")
    parser.add_argument(
        "--manifest",
        type=str,
        default=None,
        help="ONNX file from which an engine without a sidecar was built (default: FILE.onnx for FILE.engine)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(options: Namespace) -> int:
    """Read the Manifest and print it."""
    path = options.model
    if path is None:
        from emra_deploy.models import shipped_model

        path = str(shipped_model())
    content = describe(path, options.manifest)
    if options.json:
        print(json.dumps(content))
    else:
        _show(content)
    return 0


def describe(path: str, manifest_of: str | None = None) -> dict[str, Any]:
    """Facts about a model file, as JSON values without the images of the golden tile.

    Engines are not loaded: the facts come from their first bytes, sidecar and ONNX file.

    Args:
        path: An ONNX file or an engine.
        manifest_of: The ONNX file from which an engine was built.

    Raises:
        EmraError: Any error of the file.
    """
    from emra_deploy.backends.names import ENGINES
    from emra_deploy.backends.opening import explain
    from emra_deploy.host.digest import file_sha256
    from emra_deploy.models import gsd_of

    if Path(path).suffix.lower() in ENGINES:
        from emra_deploy.backends.tensorrt.about import about_engine

        manifest, engine = about_engine(path, manifest_of)
    else:
        if manifest_of is not None:
            raise EmraError("manifest-unused", "--manifest is for engines; this file has its own", "Leave it out", path)
        manifest, engine = _manifest(path), None
    content: dict[str, Any] = {"manifest": None} if manifest is None else json.loads(manifest.to_json())
    if manifest is not None:
        content["gsd"] = gsd_of(manifest)
    golden = content.pop("golden", None)
    return {
        "path": path,
        "bytes": Path(path).stat().st_size,
        "sha256": file_sha256(path),
        **content,
        **({} if manifest is None else {"golden_tile": None if golden is None else {"tolerance": golden["tolerance"]}}),
        **({} if engine is None else {"engine": engine}),
        "backend": explain(path),
    }


def _manifest(path: str) -> Manifest | None:
    """The Manifest of an ONNX file, after a backend has loaded the file and checked it against the Manifest."""
    from emra_deploy.backends.metadata import peek_manifest
    from emra_deploy.backends.opening import open_backend, soonest

    try:
        # The backend that loads fastest.
        backend = open_backend(path, backend=soonest(path))
    except EmraError as error:
        # The file is valid; `explain` reports the backend that would run it.
        if error.code != "backend-rounding":
            raise
        return peek_manifest(Path(path))
    backend.close()
    return backend.manifest


def _gsd(gsd: list[float] | tuple[float, float] | float | None) -> str:
    if gsd is None:
        return "mixed or not recorded"
    return f"{gsd:g} m per pixel" if isinstance(gsd, (int, float)) else f"{gsd[0]:g} to {gsd[1]:g} m per pixel"


def _show(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if "engine" in content:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for key, value in content["engine"].items():
            table.add_row(key.replace("_", " "), Text(_fact(value), overflow="fold"))
        console.print(table)
        console.print()
    if "classes" not in content:
        console.print(f"file    {content['path']} ({content['bytes'] / 1e6:.2f} MB)\nsha256  {content['sha256']}")
        return
    batch, height, width = content["input_shape"]
    golden = content["golden_tile"]
    rows = {
        "model": content["name"],
        "file": f"{content['path']} ({content['bytes'] / 1e6:.2f} MB)",
        "sha256": content["sha256"],
        "made from": content["parent_sha256"] or "not recorded",
        "input": f"{content['input_kind']}, {height} x {width} pixels, batch {'any' if batch is None else batch}",
        "bands": ", ".join(content["bands"]),
        "ground sample": _gsd(content["gsd"]),
        "outputs": ", ".join(content["heads"]),
        "precision": content["precision"],
        "network": f"{content['backbone']}, M {content['hra_block']}, P {content['mca_blocks']}, "
        f"{content['fusion']}, {content['aggregation']}, zoom {content['zoom']}",
        "attention": class_attention(content),
        "runs with": content["backend"],
        "golden tile": "no: results cannot be checked on this machine"
        if golden is None
        else f"yes, {100 * golden['tolerance']:g} % of its pixels may differ",
        "tools": ", ".join(f"{name} {version}" for name, version in content["tools"].items()) or "not recorded",
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


def class_attention(content: Mapping[str, Any]) -> str:
    """The contribution of GCA to a model's scores, in one line; evidence may be of any form."""
    if not content["mca_blocks"]:
        return "left out"
    found = content["evidence"].get("class_attention")
    found = found if isinstance(found, dict) else {}
    labelled = found.get("labelled")
    labelled = labelled if isinstance(labelled, dict) else {}
    miou, areas, data = (labelled.get(key) for key in ("miou", "auc", "data"))
    parts = []
    if isinstance(miou, dict) and {"whole", "without"} <= miou.keys():
        parts.append(f"mIoU {_short(miou['whole'])}, without it {_short(miou['without'])}")
        parts.append(f"on {_short(data.get('name'))} {_short(data.get('split'))}" if isinstance(data, dict) else "")
    if isinstance(areas, dict) and (known := [area for area in areas.values() if isinstance(area, float)]):
        parts.append(f"AUC of a class at least {_short(min(known))}")
    if isinstance(found.get("changed"), float):
        parts.append(f"decides {100 * found['changed']:.2g} % of the check pictures' pixels")
    return ", ".join(filter(None, parts)) or "contribution not measured"


def _fact(value: Any) -> str:
    """A fact about an engine as text."""
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_fact(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_fact(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _short(value)


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
