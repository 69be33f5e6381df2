"""Commands on data sets: contents and problems, sources of public ones, and a generated one to start with.

python -m training.data KIND ROOT [--split S]
python -m training.data fetch-help [KIND]
python -m training.data generate FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence

from emra_deploy.errors import EmraError
from training.data.base import AerialDataset
from training.data.catalogue import KINDS, open_dataset
from training.data.checking import DatasetSummary, summarise
from training.data.generated import SIDE, write_folder
from training.data.public import PUBLIC


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names.

    Returns:
        0, or 2 if there is a problem, or with ``--strict`` a warning.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verb = {"fetch-help": _fetch_help, "generate": _generate}.get(words[0] if words else "")
    return _show(words) if verb is None else verb(words[1:])


def _fetch_help(argv: Sequence[str]) -> int:
    """Print the sources of public data sets; nothing is downloaded."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data fetch-help", description="Print sources, licences and layouts of data sets."
    )
    parser.add_argument("kind", nargs="?", choices=[data.kind for data in PUBLIC], help="one of them (default: all)")
    kind = parser.parse_args(argv).kind
    print("\n\n".join("\n".join(data.lines()) for data in PUBLIC if kind in (None, data.kind)))
    return 0


def _generate(argv: Sequence[str]) -> int:
    """Write generated scenes as a data set of the layout ``folder``."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data generate",
        description="Write a labelled data set of generated scenes, with the shipped model's classes.",
    )
    parser.add_argument("folder", help="a new or empty folder")
    parser.add_argument("--train", type=int, default=12, metavar="N", help="pictures to train on (12)")
    parser.add_argument("--val", type=int, default=4, metavar="N", help="pictures to validate on (4)")
    parser.add_argument("--side", type=int, default=SIDE, metavar="PIXELS", help=f"of each ({SIDE})")
    parser.add_argument("--seed", type=int, default=0, help="of the first (0)")
    arguments = parser.parse_args(argv)
    try:
        write_folder(arguments.folder, {"train": arguments.train, "val": arguments.val}, arguments.side, arguments.seed)
    except EmraError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {arguments.train} and {arguments.val} labelled pictures into {arguments.folder}; to check them:")
    print(f"  python -m training.data folder {shlex.quote(arguments.folder)} --split train")
    return 0


def _show(argv: Sequence[str]) -> int:
    """Print classes, tiles, pixels, class fractions and problems."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("root", help="folder of the data set")
    parser.add_argument("--split", default="train", help="train, val, trainval, test; own data also: all")
    parser.add_argument("--labels", choices=("full", "eroded"), help="Potsdam and Vaihingen")
    parser.add_argument("--product", choices=("RGB", "IRRG"), help="Potsdam")
    parser.add_argument("--domain", choices=("all", "urban", "rural"), help="LoveDA")
    parser.add_argument("--quick", action="store_true", help="read headers only, decode nothing")
    parser.add_argument("--strict", action="store_true", help="exit 2 for warnings, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = {
        name: value for name in ("labels", "product", "domain") if (value := getattr(arguments, name)) is not None
    }
    try:
        dataset = open_dataset(arguments.kind, arguments.root, arguments.split, **options)
    except EmraError as error:
        if arguments.json:
            print(json.dumps({"problems": [error.to_dict()]}))
        print(error, file=sys.stderr)
        return 2
    summary = summarise(dataset, full=not arguments.quick)
    if arguments.json:
        print(json.dumps(_as_dict(dataset, summary)))
    else:
        print(_as_text(dataset, summary, decoded=not arguments.quick))
    for problem in summary.problems:
        print(problem, file=sys.stderr)
    for warning in summary.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 2 if summary.problems or (arguments.strict and summary.warnings) else 0


def _as_dict(dataset: AerialDataset, summary: DatasetSummary) -> dict[str, object]:
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "bands": dataset.bands,
        "gsd": dataset.gsd,
        "labelled": dataset.labelled,
        "tiles": summary.tiles,
        "pixels": summary.pixels,
        "ignored_pixels": summary.ignored_pixels,
        "ignored_values": dict(summary.ignored_values),
        "classes": [
            {"name": name, "colour": "#{:02X}{:02X}{:02X}".format(*colour), "pixels": pixels}
            for name, colour, pixels in zip(
                dataset.classes.names, dataset.classes.palette, summary.class_pixels, strict=True
            )
        ],
        "problems": [problem.to_dict() for problem in summary.problems],
        "warnings": [warning.to_dict() for warning in summary.warnings],
    }


def _as_text(dataset: AerialDataset, summary: DatasetSummary, decoded: bool) -> str:
    heights = [tile.height for tile in dataset.tiles]
    widths = [tile.width for tile in dataset.tiles]
    lines = [
        f"{dataset.name}, split {dataset.split}: {summary.tiles} tiles, {summary.pixels / 1e6:.1f} million pixels",
        f"tiles of {min(heights)} to {max(heights)} rows, {min(widths)} to {max(widths)} columns",
        f"channels {', '.join(dataset.bands)}; "
        + (f"{dataset.gsd} m per pixel" if dataset.gsd else "unknown ground sample distance"),
    ]
    width = max(len(name) for name in dataset.classes.names)
    for label, name in enumerate(dataset.classes.names):
        share = f"  {summary.fractions[label]:7.2%}" if decoded and dataset.labelled else ""
        colour = "#{:02X}{:02X}{:02X}".format(*dataset.classes.palette[label])
        lines.append(f"  {label:3d}  {name:{width}}  {colour}{share}")
    if not dataset.labelled:
        lines.append("the labels of this split are not public")
    elif decoded:
        held = ", ".join(value for value, _ in summary.ignored_values[:5])
        more = ", ..." if len(summary.ignored_values) > 5 else ""
        share = f"{summary.ignored_pixels / max(summary.pixels, 1):.2%} of the pixels have no label"
        lines.append(share + (f" ({held}{more})" if held else ""))
    found = f"{len(summary.problems)} problems" if summary.problems else "no problems found"
    warned = f", {len(summary.warnings)} warnings" if summary.warnings else ""
    lines.append(found + warned + ("" if decoded else " (headers only, no pixel was looked at)"))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
