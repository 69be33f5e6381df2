"""Rewrite the class attention of an ONNX file into another form, and check the result against the original.

python -m export.rewrite_aggregation model.onnx --to plugin --output model.plugin.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from emra_deploy.errors import EmraError, about
from emra_deploy.host.command import command, tell
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import need, script_imports
from emra_deploy.host.files import atomic_output, check_output
from emra_deploy.model_file.manifest import Manifest

with script_imports(__name__, "quant"):
    import onnx

    from export.compare import verify
    from export.compare.runners import OnnxRunner
    from export.compare.tiles import conversion_tiles
    from export.graphs.aggregation_forms import to_plugin_form, to_streamed_form, with_body
    from export.graphs.function_body import DOMAIN, OPERATOR, aggregation_nodes, drop_body
    from export.graphs.model_file import WrittenModel, has_half, read_model, tool_versions, write_model

FORMS = ("plugin", "streamed")

EVIDENCE = "aggregation"
"""Key of this comparison in the Manifest's evidence."""


def rewrite_aggregation(
    model: str | Path,
    output: str | Path,
    *,
    to: str,
    function_body: bool = True,
    check_data: str | Path | None = None,
    overwrite: bool = False,
) -> WrittenModel:
    """Rewrite and check a file; the result gets its name only after all checks.

    Args:
        model: File of any precision, in the streamed or the plugin form.
        output: File to write, ``.onnx``.
        to: The form to write, of `FORMS`.
        function_body: Whether the plugin form's node has a function body of standard operators; see `export.to_onnx`.
        check_data: Folder of images on which both files are compared, besides the golden tile and generated scenes.
        overwrite: Whether an existing output may be replaced.

    Raises:
        EmraError: A bad argument, a graph of an unknown form, or a failed check; no file is left.
    """
    source, output = Path(model), Path(output)
    check_output(output, overwrite=overwrite, inputs=(source,))
    need("quant", "onnxruntime", purpose="checking the file")
    _check_arguments(output, to, function_body)
    first, manifest = read_model(source)
    with about(source):
        first, second = _forms(first, manifest, to, function_body)
    tiles = conversion_tiles(manifest, check_data)
    parent = OnnxRunner(first, manifest)
    limits = verify.ROUNDED if has_half(first) else verify.SAME_PRECISION
    elsewhere = verify.INT8_ELSEWHERE if manifest.precision == "int8" else limits
    measured = verify.measure_backend(OnnxRunner(second, manifest), parent, tiles, limits)
    made = replace(
        manifest,
        aggregation=to,
        parent_sha256=file_sha256(source),
        tools={**manifest.tools, **tool_versions("onnx", "onnxruntime")},
        evidence={
            **manifest.evidence,
            EVIDENCE: {
                "of": manifest.aggregation,
                "label_agreement": measured.agreement,
                "logit_error": measured.logits and measured.logits.max,
                "pixels": measured.pixels,
            },
        },
    )
    with atomic_output(output, overwrite=overwrite) as part:
        write_model(second, made, part)
        checks = (
            f"{to} form in ONNX Runtime, against {verify.title(parent)}: {measured}",
            verify.check_structure(part),
            *((verify.check_runtime(part),) if manifest.golden is not None else ()),
            verify.check_openvino(part, parent, tiles[:2], elsewhere),
            verify.check_tensorrt(part, manifest.input_shape[0]),
        )
        if not function_body:
            drop_body(second)
            write_model(second, made, part)
            verify.check_structure(part)
            checks += (f"without the function body of {DOMAIN}::{OPERATOR}: for TensorRT with the plugin",)
        size = part.stat().st_size
    return WrittenModel(output, made, checks, size)


def _forms(
    model: onnx.ModelProto, manifest: Manifest, to: str, function_body: bool
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model as ONNX Runtime can run it, and in the requested form, with its function body.

    Raises:
        EmraError: ``aggregation-form`` when the file has the form already or no class attention,
            ``aggregation-unrecognised``, ``graph-types``.
    """
    if not manifest.mca_blocks:
        raise EmraError(
            "aggregation-form",
            "the file has no class attention: it was exported without MCA",
            "Use it as it is; it needs no plugin",
        )
    if not aggregation_nodes(model):
        if to == manifest.aggregation == "streamed":
            raise _already("streamed")
        if to == "streamed":
            raise EmraError(
                "aggregation-form",
                f"the file's class attention is in the {manifest.aggregation} form, expected the plugin form",
                "Export the checkpoint again, with python -m export.to_onnx --aggregation streamed",
            )
        return model, to_plugin_form(model)
    if to == "streamed":
        return with_body(model), to_streamed_form(model)
    if bool(model.functions) == function_body:
        raise _already("plugin", function_body)
    whole = with_body(model)
    return whole, whole


def _already(form: str, function_body: bool | None = None) -> EmraError:
    body = {None: "", True: ", with its function body", False: ", without a function body"}[function_body]
    return EmraError("aggregation-form", f"the file is in the {form} form{body} already", "Use it as it is")


def _check_arguments(output: Path, to: str, function_body: bool) -> None:
    if output.suffix.lower() != ".onnx":
        raise EmraError("output-suffix", "the output's name does not end in .onnx", "Name it FILE.onnx", output)
    if to not in FORMS:
        raise EmraError("export-argument", f"form {to!r}, expected {' or '.join(FORMS)}", "Change --to")
    if not function_body and to != "plugin":
        raise EmraError(
            "export-argument", f"the {to} form has no function body to leave out", "Omit --no-function-body"
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rewrite_aggregation.py",
        description="Rewrite the class attention of a model file to one node for TensorRT's plugin, or back, and check"
        " the new file against the original.",
    )
    add = made.add_argument
    add("model", metavar="MODEL.onnx", help="file that to_onnx, to_fp16 or to_int8 wrote")
    add("--to", required=True, choices=FORMS, help="plugin: one node; streamed: standard operators alone")
    add("--output", required=True, metavar="FILE.onnx", help="file to write")
    add(
        "--no-function-body",
        dest="function_body",
        action="store_false",
        help="with plugin: a file for TensorRT with the plugin alone",
    )
    add("--check-data", metavar="DIR", help="images on which both files are compared, besides generated scenes")
    add("--overwrite", action="store_true", help="replace an existing output")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    rewritten = rewrite_aggregation(**vars(parser().parse_args(argv)))
    for line in rewritten.checks:
        print(line)
    about = f"{rewritten.size / 1e6:.1f} MB, {rewritten.manifest.aggregation} form"
    tell(f"wrote {rewritten.path}: {about}", rewritten.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
