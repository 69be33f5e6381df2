"""Arguments and outputs shared by all commands that score a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from emra_deploy.evaluation.loop import LabelledTile, check_bands, evaluate
from emra_deploy.evaluation.page import check_page, write_page
from emra_deploy.evaluation.report import describe, print_tables, write_json
from emra_deploy.host.command import command
from emra_deploy.host.files import check_all_outputs
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.segmenting.segmenter import Segmenter


class LabelledData(Protocol):
    """One split of a labelled data set, as `training.data` gives it."""

    @property
    def name(self) -> str:
        """Name of the data set."""
        ...

    @property
    def split(self) -> str:
        """Name of the split, such as ``"val"``."""
        ...

    @property
    def classes(self) -> ClassSet:
        """Classes of the labels."""
        ...

    @property
    def tiles(self) -> Sequence[LabelledTile]:
        """The pictures."""
        ...

    @property
    def bands(self) -> tuple[str, str, str]:
        """Bands of the three channels."""
        ...


def add_arguments(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> None:
    """Declare the arguments for data, windows and outputs.

    Args:
        parser: Parser of the command.
        kinds: Layouts of data sets to choose from.
    """
    add = parser.add_argument
    add("--data", required=True, metavar="ROOT", help="folder of the data set")
    add("--kind", default="auto", choices=kinds, help="layout of the data set (auto)")
    add("--split", default="val", help="train, val or test, if the data set has it (val)")
    add("--halo", type=int, metavar="PIXELS", help="half the overlap of windows (1/8 of a window, blended 1/4)")
    add("--blend", action="store_true", help="average overlapping windows instead of taking the most central one")
    add("--json", metavar="FILE", help="write all numbers to this file")
    add("--page", metavar="FILE.html", help="write a page of the worst pictures to this file")
    add("--worst", type=int, default=8, metavar="N", help="pictures on the page (8)")
    add("--overwrite", action="store_true", help="replace existing outputs")


def check_outputs(arguments: argparse.Namespace, inputs: Sequence[str] = ()) -> None:
    """Refuse outputs that cannot be written, before any work.

    Args:
        arguments: Parsed arguments of `add_arguments`.
        inputs: Files that must not be replaced.

    Raises:
        EmraError: Errors of `emra_deploy.host.files.check_all_outputs`, ``library-missing`` without jinja2.
    """
    check_all_outputs((arguments.json, arguments.page), overwrite=arguments.overwrite, inputs=inputs)
    if arguments.page:
        check_page()


def score(
    segmenter: Segmenter, data: LabelledData, model: Mapping[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Evaluate, print the tables, and write the outputs.

    Args:
        segmenter: The loaded model.
        data: Pictures and labels.
        model: Facts about the model: ``path``, ``sha256`` and others.
        arguments: Parsed arguments of `add_arguments`.

    Returns:
        The whole result as JSON values.

    Raises:
        EmraError: Model and data do not match, a picture cannot be read, or an output cannot be written.
    """
    from rich.console import Console

    check_bands(segmenter.manifest.bands, data.bands)
    with Console(stderr=True).status("evaluating") as status:
        evaluation = evaluate(segmenter, data.tiles, data.classes, lambda name: status.update(f"{name} done"))
    print_tables(evaluation, Console())
    content = describe(evaluation, model, {"name": data.name, "split": data.split, "bands": list(data.bands)})
    replace = arguments.overwrite
    if arguments.json:
        write_json(arguments.json, content, overwrite=replace)
    if arguments.page:
        count = arguments.worst
        write_page(arguments.page, evaluation, segmenter, data.tiles, content, count=count, overwrite=replace)
    return content


@command()
def exit_status(run: Callable[[argparse.Namespace], object], arguments: argparse.Namespace) -> int:
    """Run a command and return its exit status: 2, with one line on stderr, for a user's mistake."""
    run(arguments)
    return 0
