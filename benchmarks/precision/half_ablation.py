"""Ablation of the rules of the FP16 conversion, compared with ModelOpt AutoCast on the same file.

    python -m benchmarks.precision.half_ablation MODEL.onnx [--data DIR] [--json FILE]

Every variant is held against the FP32 file with each of its FP16 tensors rounded to FP16 (`rounding`), on the
golden tile, generated scenes and the middles of up to four images. These are errors, not times: no GPU is asked.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.host.command import command
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import install_command, need, script_imports
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.manifest import Manifest

with script_imports(__name__, "quant"):
    import onnx

    from export.compare.comparison import compare
    from export.compare.runners import OnnxRunner
    from export.compare.tiles import conversion_tiles
    from export.graphs.model_file import read_model
    from export.half import rules as half_rules
    from export.half.audit import DtypeAudit
    from export.half.convert import fold_constants, prepare, rewrite
    from export.half.rounding import with_rounding

_Rule = Callable[[onnx.NodeProto, str], bool]

RULES: dict[str, _Rule] = {
    "as export/to_fp16.py writes it": lambda node, reason: True,
    "without FP32 normalisation": lambda node, reason: reason != half_rules.NORMALISATION,
    "without FP32 LayerNormalization (--layer-norm stash)": lambda node, reason: reason != half_rules.LAYER_NORM,
    "without FP32 softmax of class rows": lambda node, reason: reason != half_rules.CLASS_ROWS,
    "without FP32 aggregation, class rows included": lambda node, reason: (
        reason not in (half_rules.AGGREGATION, half_rules.CLASS_ROWS, half_rules.REDUCTION)
    ),
    "without the last FP32 resizing and argmax": lambda node, reason: node.op_type not in ("Resize", "ArgMax"),
    "nothing in FP32": lambda node, reason: False,
}
"""Variants: whether a node that the rules keep in FP32 for a reason stays there."""

AUTOCASTS = {"": None, ", LayerNormalization and means excluded": ["LayerNormalization", "ReduceMean"]}
"""Ways to call AutoCast: suffix of its name in the table, and operators that it must leave in FP32."""


def measure(model: str | Path, data: str | Path | None = None) -> list[dict[str, Any]]:
    """One row for each variant: casts, nodes in FP32, label agreement and logit errors against the FP32 file.

    Args:
        model: FP32 file.
        data: Folder of images, or None.

    Raises:
        EmraError: The file is no FP32 model file, or the images cannot be read.
    """
    need("quant", "onnxruntime", purpose="measuring a model")
    single, manifest = read_model(model)
    tiles = conversion_tiles(manifest, data)
    reference = OnnxRunner(single, manifest)
    view = prepare(single)
    kept = half_rules.choose(view)
    rows = []
    for name, rule in RULES.items():
        chosen = {index: reason for index, reason in kept.items() if rule(view.nodes[index], reason)}
        half, audit = rewrite(single, view, chosen)
        rows.append(_row(name, half, audit, reference, manifest, tiles))
    for name, half in _autocast(single, tiles):
        rows.append(_row(name, half, DtypeAudit.measure(single, half, ()), reference, manifest, tiles))
    return rows


@step("measuring a variant")
def _row(
    name: str,
    half: onnx.ModelProto,
    audit: DtypeAudit,
    reference: OnnxRunner,
    manifest: Manifest,
    tiles: npt.NDArray[np.uint8],
) -> dict[str, Any]:
    found = compare(reference, OnnxRunner(with_rounding(half), manifest), tiles)
    return {
        "variant": name,
        "casts": audit.casts,
        "nodes_in_fp32": sum(audit.single.values()),
        "agreement": found.agreement,
        "logit_error_max": found.logits and found.logits.max,
        "logit_error_mean": found.logits and found.logits.mean,
        "pixels": found.pixels,
    }


def _autocast(single: onnx.ModelProto, tiles: npt.NDArray[np.uint8]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Graphs that ModelOpt makes of the same one, with pictures to calibrate on, which graphs of bytes need there."""
    if importlib.util.find_spec("modelopt") is None:
        return
    from modelopt.onnx.autocast import convert_to_mixed_precision

    name = f"ModelOpt {version('nvidia-modelopt')} AutoCast"
    folded = onnx.ModelProto()
    folded.CopyFrom(single)
    fold_constants(folded)
    with tempfile.TemporaryDirectory() as folder:
        path, pictures = Path(folder) / "model.onnx", Path(folder) / "pictures.npz"
        onnx.save(folded, path)
        np.savez(pictures, image=tiles[:2])
        for suffix, excluded in AUTOCASTS.items():
            made = convert_to_mixed_precision(
                onnx_path=str(path),
                low_precision_type="fp16",
                keep_io_types=True,
                calibration_data=str(pictures),
                op_types_to_exclude=excluded,
            )
            fold_constants(made)
            yield name + suffix, made


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="half_ablation.py", description="Measure what each rule of the FP16 conversion saves."
    )
    made.add_argument("model", metavar="MODEL.onnx", help="FP32 file that export.to_onnx wrote")
    made.add_argument("--data", metavar="DIR", help="images, besides the golden tile and generated scenes")
    made.add_argument("--json", metavar="FILE", help="write the rows there")
    made.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.json:
        check_output(arguments.json, overwrite=arguments.overwrite, inputs=(arguments.model,))
    rows = measure(arguments.model, arguments.data)
    if arguments.json:
        content = {"model_sha256": file_sha256(arguments.model), "rows": rows}
        with atomic_output(arguments.json, overwrite=arguments.overwrite) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("| variant | casts | nodes in FP32 | labels that agree | logit error, largest | mean |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['variant']} | {row['casts']} | {row['nodes_in_fp32']} | {row['agreement']:.4%}"
            f" | {row['logit_error_max']:.1e} | {row['logit_error_mean']:.1e} |"
        )
    if importlib.util.find_spec("modelopt") is None:
        print(f"AutoCast not measured; to measure it: {install_command('autocast')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
