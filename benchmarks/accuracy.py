"""Scores of any model file on a labelled data set, with what will run it; needs no PyTorch.

python benchmarks/accuracy.py model.onnx --data DIR --split val
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
from training.data import KINDS, open_dataset


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="accuracy.py", description="Score a model file on a labelled data set.")
    add = made.add_argument
    add("model", metavar="MODEL", help="model file")
    add("--data", required=True, metavar="ROOT", help="folder of the data set")
    add("--kind", default="auto", choices=KINDS, help="layout of the data set (auto)")
    add("--split", default="val", help="train, val or test, as far as the data set has it (val)")
    add("--backend", default="auto", help="what runs the model (auto)")
    add("--threads", type=int, metavar="N", help="threads of one run (the backend's choice)")
    add("--batch", type=int, metavar="N", help="windows run at once (the runtime's)")
    add("--halo", type=int, metavar="PIXELS", help="half of the overlap of windows (1/8 of a window)")
    add("--json", metavar="FILE", help="write all numbers there")
    add("--page", metavar="FILE.html", help="write a page of the worst pictures there")
    add("--worst", type=int, default=8, metavar="N", help="pictures on the page (8)")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print and write.

    Raises:
        EmraError: A bad model, data set or argument.
    """
    for output in filter(None, (arguments.json, arguments.page)):
        check_output(output, overwrite=arguments.overwrite, inputs=(arguments.model,))
    path = Path(arguments.model)
    data = open_dataset(arguments.kind, arguments.data, arguments.split)
    with Segmenter.open(
        path,
        backend=arguments.backend,
        threads=arguments.threads,
        batch_size=arguments.batch,
        halo=arguments.halo,
    ) as segmenter:
        check_bands(segmenter.manifest.bands, data.bands)
        console = Console(stderr=True)
        with console.status("evaluating") as status:
            evaluation = evaluate(segmenter, data.tiles, data.classes, lambda name: status.update(f"{name} done"))
        print_tables(evaluation, Console())
        manifest = segmenter.manifest
        content = describe(
            evaluation,
            {
                "path": str(path),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "name": manifest.name,
                "precision": manifest.precision,
                "parent_sha256": manifest.parent_sha256,
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
