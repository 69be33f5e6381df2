"""A report of result files: one self-contained HTML page, and the same in Markdown.

python -m benchmarks.report benchmarks/results/*.json --html report.html --markdown report.md

Takes what latency.py, memory.py, roofline.py, accuracy.py, runtime.py and gpu_suite.py wrote with --json. The page
fetches nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import check_outputs, exit_status
from benchmarks.plots import write_accuracy_plot
from benchmarks.report_accuracy import accuracy_points
from benchmarks.report_page import Part, Source
from benchmarks.report_parts import make_parts
from benchmarks.results_file import SCHEMA, check_result, read_json
from emra_deploy._version import __version__
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output

TEMPLATES = Path(__file__).parent / "templates"
TITLE = "emra-deploy: measured"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        EmraError: No result, a file that is none, no output named, or one that cannot be written.
    """
    if not (arguments.html or arguments.markdown or arguments.plot):
        raise EmraError("no-output", "No output is named", "Give --html FILE, --markdown FILE or --plot FILE")
    arguments.models = arguments.results
    check_outputs(arguments, "html", "markdown", "plot")
    if arguments.html or arguments.markdown:
        need("report", "jinja2", purpose="a report", code="report-missing")
    sources = read_sources(arguments.results)
    scores = [source for source in sources if source.kind == "accuracy"]
    # Of one file: times of two runs are not to be compared.
    found = [accuracy_points(scores, source) for source in sources if source.kind == "latency"]
    points = max(found, key=len, default=[])
    if arguments.plot and not points:
        raise EmraError(
            "no-points",
            "No file was both timed and scored, so there is nothing to plot",
            "Give results of latency.py and of accuracy.py for the same file on the same backend",
        )
    parts = make_parts(sources)
    for output, template in ((arguments.html, "report.html.j2"), (arguments.markdown, "report.md.j2")):
        if output:
            text = render(template, parts, sources, arguments.title)
            with atomic_output(output, overwrite=arguments.overwrite) as part:
                part.write_text(text, encoding="utf-8")
    if arguments.plot:
        write_accuracy_plot(arguments.plot, points, overwrite=arguments.overwrite)
    return 0


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Result files of any kind, in the order given.

    Raises:
        EmraError: ``no-results``, ``result-file``.
    """
    if not paths:
        raise EmraError("no-results", "There is nothing to report", "Give result files")
    sources = []
    for path in paths:
        content = read_json(path)
        sources.append(Source(path.name, _kind(content, path), content))
    return sources


def _kind(content: Mapping[str, Any], path: Path) -> str:
    if content.get("schema") == SCHEMA or "kind" in content:
        check_result(content, path)
        return str(content["kind"])
    if {"confusion", "miou", "accuracy", "model", "data", "model_sha256", "runner"} <= set(content):
        return "accuracy"
    if "model" in content and {"import", "cold", "overhead", "raster"} & set(content):
        return "runtime"
    if {"device", "seed", "rows"} <= set(content):
        return "gpu"
    raise EmraError(
        "result-file",
        "This is no result that a report can hold",
        "Give files that latency.py, memory.py, roofline.py, accuracy.py, runtime.py or gpu_suite.py wrote",
        path,
    )


def render(template: str, parts: Sequence[Part], sources: Sequence[Source], title: str) -> str:
    """Fill a template.

    Args:
        template: Name of a file in `TEMPLATES`.
        parts: The sections.
        sources: What they were made of.
        title: Of the report.
    """
    import jinja2

    html = template.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    # A bar would end the cell.
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    text = environment.get_template(template).render(parts=parts, sources=sources, title=title, version=__version__)
    return text if html else re.sub(r"\n{3,}", "\n\n", text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
