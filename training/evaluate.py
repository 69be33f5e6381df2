"""Scores of a checkpoint on a labelled data set.

python -m training.evaluate --checkpoint runs/dubai/best --data DIR --split val --page worst.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from emra_deploy.evaluation.command import add_arguments, check_outputs, exit_status, score
from emra_deploy.evaluation.report import write_json
from emra_deploy.host.digest import file_sha256
from emra_deploy.host.extras import script_imports
from emra_deploy.host.files import check_output
from emra_deploy.segmenting.segmenter import Segmenter

with script_imports(__name__, "train"):
    from training.backend import checkpoint_backend
    from training.checkpoint import WEIGHTS, load_checkpoint
    from training.data import KINDS, open_dataset

EVALUATION = "evaluation.json"
"""File that ``--record`` writes into the checkpoint; `export/to_onnx.py` copies it into the model as evidence."""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(prog="evaluate.py", description="Score a checkpoint on a labelled data set.")
    add = made.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="folder that training wrote, such as runs/NAME/best")
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="window in pixels, multiples of 16 (the checkpoint's)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--batch", type=int, metavar="N", help="windows run at once (the runtime's)")
    add("--record", action="store_true", help=f"write {EVALUATION} into the checkpoint, for the exported model")
    add_arguments(made, KINDS)
    return made


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print and write.

    Raises:
        EmraError: A bad checkpoint, data set or argument.
    """
    check_outputs(arguments)
    folder = Path(arguments.checkpoint)
    if arguments.record:
        check_output(folder / EVALUATION, overwrite=True)
    checkpoint = load_checkpoint(folder)
    size = None if arguments.size is None else tuple(arguments.size)
    backend = checkpoint_backend(checkpoint, folder.name or "checkpoint", size, arguments.device)
    segmenter = Segmenter(backend, halo=arguments.halo, batch_size=arguments.batch, blend=arguments.blend)
    data = open_dataset(arguments.kind, arguments.data, arguments.split)
    digest = file_sha256(folder / WEIGHTS)
    model = {"path": str(folder), "sha256": digest, "name": segmenter.manifest.name}
    content = score(segmenter, data, model, arguments)
    if arguments.record:
        # The folder's name is no evidence, and may reveal more about its owner than a model file should.
        content["model"] = {"name": segmenter.manifest.name, "sha256": digest}
        write_json(folder / EVALUATION, content, overwrite=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return the exit status."""
    return exit_status(run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
