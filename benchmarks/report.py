"""A report of result files: one self-contained HTML page, and the same in Markdown.

python -m benchmarks.report benchmarks/results/*.json --html report.html --markdown report.md

Takes the --json files of latency.py, memory.py, roofline.py, accuracy.py, runtime.py and gpu_suite.py. The page fetches
nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.reporting.accuracy import accuracy_points
from benchmarks.reporting.command import check_outputs, make_parser, start
from benchmarks.reporting.page import render
from benchmarks.reporting.plots import accuracy_figure, save
from benchmarks.reporting.results import Result, read_result
from benchmarks.reporting.sections import make_sections
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output

TITLE = "emra-deploy: measured"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser("report.py", __doc__)
    made.add_argument("results", nargs="*", type=Path, metavar="RESULTS", help="result files")
    made.add_argument("--html", metavar="FILE", help="write the page there")
    made.add_argument("--markdown", metavar="FILE", help="write Markdown there")
    made.add_argument(
        "--plot", metavar="FILE", help="write the chart of accuracy against latency alone: .svg, .png, .pdf"
    )
    made.add_argument("--title", default=TITLE, help=f"of the report ({TITLE})")
    made.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Read, draw and write.

    Raises:
        EmraError: No result, a file of another form, no output, or one that cannot be written.
    """
    if not (arguments.html or arguments.markdown or arguments.plot):
        raise EmraError("no-output", "No output is named", "Give --html FILE, --markdown FILE or --plot FILE")
    arguments.models = arguments.results
    check_outputs(arguments, "html", "markdown", "plot")
    if arguments.html or arguments.markdown:
        need("report", "jinja2", purpose="a report")
    results = read_results(arguments.results)
    scores = [result for result in results.values() if result["kind"] == "accuracy"]
    # A chart holds one latency file: times of two runs cannot be compared.
    found = [accuracy_points(scores, result) for result in results.values() if result["kind"] == "latency"]
    points = max(found, key=len, default=[])
    if arguments.plot and not points:
        raise EmraError(
            "no-points",
            "No file was both timed and scored, so there is nothing to plot",
            "Give results of latency.py and of accuracy.py for the same file on the same backend",
        )
    sections = make_sections(results)
    for output, template in ((arguments.html, "report.html.j2"), (arguments.markdown, "report.md.j2")):
        if output:
            text = render(template, sections, len(results), arguments.title)
            with atomic_output(output, overwrite=arguments.overwrite) as part:
                part.write_text(text, encoding="utf-8")
    if arguments.plot:
        save(arguments.plot, accuracy_figure(points), overwrite=arguments.overwrite)
    return 0


def read_results(paths: Sequence[Path]) -> dict[str, Result]:
    """Result files of any kind by their names, in the order given.

    Raises:
        EmraError: ``no-results``, ``result-file``.
    """
    if not paths:
        raise EmraError("no-results", "There is nothing to report", "Give result files")
    return {path.name: read_result(path) for path in paths}


main = partial(start, parser, run)
"""Run the command; the exit status."""


if __name__ == "__main__":
    sys.exit(main())
