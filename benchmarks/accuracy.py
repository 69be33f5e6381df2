"""Scores of any model file on a labelled data set, in the backend that will run it; needs no PyTorch.

python -m benchmarks.accuracy model.onnx --data DIR --split val
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from emra_deploy.backends.options import LoadOptions
from emra_deploy.cli.flags import add_flags, read_flags
from emra_deploy.evaluation.command import add_arguments, check_outputs, exit_status, score
from emra_deploy.host.digest import file_sha256
from emra_deploy.segmenting.segmenter import Segmenter
from training.data import KINDS, open_dataset


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="accuracy.py", description="Score a model file on a labelled data set.")
    made.add_argument("model", metavar="MODEL", help="model file")
    add_flags(made, LoadOptions)
    add_arguments(made, KINDS)
    return made


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print and write.

    Raises:
        EmraError: A bad model, data set or argument.
    """
    check_outputs(arguments, inputs=(arguments.model,))
    path = Path(arguments.model)
    data = open_dataset(arguments.kind, arguments.data, arguments.split)
    load = read_flags(arguments, LoadOptions)
    with Segmenter.open(path, load, halo=arguments.halo, blend=arguments.blend) as segmenter:
        manifest = segmenter.manifest
        model = {
            "path": str(path),
            "sha256": file_sha256(path),
            "name": manifest.name,
            "precision": manifest.precision,
            "parent_sha256": manifest.parent_sha256,
        }
        score(segmenter, data, model, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
