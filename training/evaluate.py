"""Scores of a checkpoint on a labelled data set.

python training/evaluate.py --checkpoint runs/dubai/best --data DIR --split val --page worst.html
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from emra_deploy.errors import EmraError
from emra_deploy.evaluation import check_bands, evaluate
from emra_deploy.evaluation_report import describe, print_tables, write_json, write_page
from emra_deploy.files import check_output
from emra_deploy.segmenter import Segmenter
from training.backend import TorchBackend, torch_manifest
from training.checkpoint import WEIGHTS, load_checkpoint
from training.data import KINDS, open_dataset

EVALUATION = "evaluation.json"
"""What ``--record`` writes into the checkpoint; `export/to_onnx.py` carries it as the model's evidence."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="evaluate.py", description="Score a checkpoint on a labelled data set.")
    add = made.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="folder that training wrote, such as runs/NAME/best")
    add("--data", required=True, metavar="ROOT", help="folder of the data set")
    add("--kind", default="auto", choices=KINDS, help="layout of the data set (auto)")
    add("--split", default="val", help="train, val or test, as far as the data set has it (val)")
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="window in pixels, multiples of 16 (the checkpoint's)")
    add("--batch", type=int, metavar="N", help="windows run at once (the runtime's)")
    add("--halo", type=int, metavar="PIXELS", help="half of the overlap of windows (1/8 of a window)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--json", metavar="FILE", help="write all numbers there")
    add("--page", metavar="FILE.html", help="write a page of the worst pictures there")
    add("--worst", type=int, default=8, metavar="N", help="pictures on the page (8)")
    add("--record", action="store_true", help=f"write {EVALUATION} into the checkpoint, for the export to carry")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print and write.

    Raises:
        EmraError: A bad checkpoint, data set or argument.
    """
    for output in filter(None, (arguments.json, arguments.page)):
        check_output(output, overwrite=arguments.overwrite)
    folder = Path(arguments.checkpoint)
    checkpoint = load_checkpoint(folder)
    backend = TorchBackend(checkpoint, None if arguments.size is None else tuple(arguments.size), arguments.device)
    manifest = torch_manifest(checkpoint, backend, folder.name or "checkpoint")
    segmenter = Segmenter(backend, manifest, halo=arguments.halo, batch_size=arguments.batch)
    data = open_dataset(arguments.kind, arguments.data, arguments.split)
    check_bands(manifest.bands, data.bands)
    console = Console(stderr=True)
    with console.status("evaluating") as status:
        evaluation = evaluate(segmenter, data.tiles, data.classes, lambda name: status.update(f"{name} done"))
    print_tables(evaluation, Console())
    content = describe(
        evaluation,
        {
            "path": str(folder),
            "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
            "name": manifest.name,
        },
        {"name": data.name, "split": data.split, "bands": list(data.bands)},
    )
    if arguments.json:
        write_json(arguments.json, content, overwrite=arguments.overwrite)
    if arguments.page:
        write_page(
            arguments.page,
            evaluation,
            segmenter,
            data.tiles,
            content,
            count=arguments.worst,
            overwrite=arguments.overwrite,
        )
    if arguments.record:
        # The folder's own name is part of no evidence, and may say more about its owner than a model file should.
        content["model"] = {"name": manifest.name, "sha256": content["model_sha256"]}
        write_json(folder / EVALUATION, content, overwrite=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    try:
        run(parser().parse_args(argv))
    except EmraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
