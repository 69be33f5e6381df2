"""What the commands that measure have in common: their arguments, opening candidates, and how they end."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.candidates.open import describe_manifest, open_candidate
from benchmarks.candidates.spec import BACKENDS, PEERS, Spec, make_specs, parse_batches, parse_sizes, with_size
from benchmarks.candidates.timed import TimedBackend
from benchmarks.provenance import describe_file, portable
from benchmarks.results_file import write_result
from emra_deploy.errors import EmraError
from emra_deploy.host.command import command
from emra_deploy.host.extras import need
from emra_deploy.host.files import check_all_outputs

if TYPE_CHECKING:
    from rich.console import Console

_log = logging.getLogger(__name__)
PEER_SIZE = (512, 512)

FAILED = 1
"""Exit status when some candidates failed and the others' results were kept."""


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Declare what is measured, and where the result goes."""
    add = parser.add_argument
    add(
        "models", nargs="*", type=Path, metavar="MODEL", help="ONNX files, engines and checkpoints' folders, in any mix"
    )
    add(
        "--backend",
        default="auto",
        metavar="NAMES",
        help=f"comma-separated: auto, all, {', '.join(BACKENDS)}; a colon adds an option, "
        "as in openvino:bf16, torch:bf16, torch-compile:graph, onnxruntime:cuda (auto)",
    )
    add(
        "--peer",
        default="",
        metavar="NAMES",
        help=f"comma-separated: {', '.join(PEERS)}; NAME@512 or NAME@512x640 gives one a size of its own, and "
        "NAME=FILE.safetensors its weights, which are random otherwise",
    )
    add("--batch", default="1", metavar="N,N", help="pictures at once (1)")
    add("--sizes", metavar="H,HxW", help="heights and widths of the input, for models that take several (their own)")
    add("--threads", type=int, metavar="N", help="threads of a processor's backend (its choice)")
    add("--json", metavar="FILE", help="write all figures there")
    add("--overwrite", action="store_true", help="replace existing outputs")


def specs_of(arguments: argparse.Namespace) -> list[Spec]:
    """The candidates that `add_candidates` was given.

    Raises:
        EmraError: A name, number or model that is none.
    """
    threads = arguments.threads
    if threads is not None and threads < 1:
        raise EmraError("threads", f"{threads} threads, expected at least 1", "Give as many as cores, or leave it out")
    specs = make_specs(
        arguments.models,
        _words(arguments.peer),
        backends=_words(arguments.backend),
        batches=parse_batches(arguments.batch),
        sizes=parse_sizes(arguments.sizes) if arguments.sizes else (),
        threads=threads,
    )
    for path in dict.fromkeys(spec.path for spec in specs if spec.path is not None):
        if not path.exists():
            raise EmraError("model-missing", "The model does not exist", "Check the spelling", path)
    return specs


def check_outputs(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse outputs that cannot be written, before anything is measured.

    Args:
        arguments: Of the command.
        names: Attributes that hold output names or None.

    Raises:
        EmraError: That of `emra_deploy.host.files.check_all_outputs`, ``bench-missing`` without jsonschema, and that of
            `benchmarks.plots.check_plot` for ``plot``.
    """
    inputs = [path for path in getattr(arguments, "models", ()) if path.is_file()]
    outputs = [getattr(arguments, name) for name in names]
    check_all_outputs(outputs, overwrite=arguments.overwrite, inputs=inputs)
    if "json" in names and arguments.json:
        need("bench", "jsonschema", purpose="--json", code="bench-missing")
    if getattr(arguments, "plot", None):
        from benchmarks.plots import check_plot

        check_plot(arguments.plot)


def failure(candidate: str, error: Exception) -> dict[str, Any]:
    """What is kept of a candidate that failed."""
    code = error.code if isinstance(error, EmraError) else type(error).__name__
    return {"candidate": candidate, "code": code, "message": portable(" ".join(str(error).split()))[:500]}


class Opened:
    """Candidates that could be loaded, in the order of their specifications, and the failures of the others.

    Attributes:
        runners: By specification, whose size is known now.
        failures: As `failure` makes them.
        models: Files, as `describe_file` gives them, with their Manifests; each once.
    """

    def __init__(self) -> None:
        self.runners: dict[Spec, TimedBackend] = {}
        self.failures: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = []
        self._files: dict[Path, dict[str, Any]] = {}

    def add(self, spec: Spec) -> None:
        """Load one; a failure is kept, not raised."""
        try:
            runner = open_candidate(spec)
        except Exception as error:
            # A library for another machine fails in ways of its own, and must not lose the other candidates.
            _log.debug("%s cannot be opened", spec.key, exc_info=True)
            self.failures.append(failure(spec.key, error))
            return
        self.runners[with_size(spec, runner.input_shape[1:])] = runner
        if spec.path is not None and spec.path not in self._files:
            self._files[spec.path] = {**describe_file(spec.path), "manifest": describe_manifest(spec, runner)}
            self.models.append(self._files[spec.path])

    def sha256(self, spec: Spec) -> str | None:
        """Of the file of a candidate; None for a peer."""
        return None if spec.path is None else self._files[spec.path]["sha256"]

    def close(self) -> None:
        """Free all."""
        for runner in self.runners.values():
            runner.close()


def open_all(specs: Sequence[Spec], progress: Callable[[str], None] = lambda name: None) -> Opened:
    """Load all candidates; peers without a size get those of the files.

    Raises:
        EmraError: ``nothing-measured``: not one of them can be loaded.
    """
    opened = Opened()
    for spec in specs:
        if spec.kind != "peer":
            progress(spec.key)
            opened.add(spec)
    own = list(dict.fromkeys(spec.size for spec in opened.runners)) or [PEER_SIZE]
    for spec in specs:
        if spec.kind == "peer":
            for size in [spec.size] if spec.size else own:
                assert size is not None
                progress(spec.key)
                opened.add(with_size(spec, size))
    if not opened.runners:
        raise nothing(opened.failures)
    return opened


@contextmanager
def opened_candidates(arguments: argparse.Namespace) -> Iterator[tuple[Opened, Callable[[str], None]]]:
    """The candidates of a command, loaded for the block, and what says on the terminal what is being done.

    Raises:
        EmraError: Those of `specs_of` and `open_all`.
    """
    from rich.console import Console

    specs = specs_of(arguments)
    with Console(stderr=True).status("loading") as status:
        opened = open_all(specs, lambda name: status.update(f"loading {name}"))
        try:
            yield opened, lambda words: status.update(words)
        finally:
            opened.close()


def finish(
    arguments: argparse.Namespace,
    result: Mapping[str, Any],
    show: Callable[[Mapping[str, Any], Console], None],
    draw: Callable[..., None] | None = None,
) -> int:
    """Print a result, and write what was asked for.

    Args:
        arguments: Of the command.
        result: As `benchmarks.results_file.make_result` gives it.
        show: Prints it.
        draw: Writes its chart.

    Returns:
        The exit status: 0, or `FAILED` when some candidates failed.
    """
    from benchmarks.tables import make_console

    show(result, make_console())
    if arguments.json:
        write_result(arguments.json, result, overwrite=arguments.overwrite)
    if draw is not None and arguments.plot:
        draw(arguments.plot, result, overwrite=arguments.overwrite)
    return FAILED if result["failures"] else 0


def nothing(failures: Sequence[dict[str, Any]]) -> EmraError:
    """The error of a run in which every candidate failed, with the first cause in full."""
    first = failures[0]
    more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return EmraError(
        "nothing-measured",
        f"No candidate could be measured; {first['candidate']}: {first['message']}{more}",
        "Give models and backends that this machine can run",
    )


def describe_candidate(spec: Spec, runner: TimedBackend, opened: Opened) -> dict[str, Any]:
    """What every result says of a candidate."""
    assert spec.size is not None
    return {
        "key": spec.key,
        "name": spec.name,
        "sha256": opened.sha256(spec),
        "backend": runner.describe(),
        "batch": spec.batch,
        "height": spec.size[0],
        "width": spec.size[1],
        "precision": runner.precision,
        "cuda_graph": runner.cuda_graph,
    }


def start(
    make: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Parse and run a command that keeps its own words in its result; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = make().parse_args(words)
    arguments.argv = words
    return exit_status(run, arguments)


@command("interrupted: nothing was written")
def exit_status(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command: its status, or 2 and one line on stderr for a mistake of the user's."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    return run(arguments)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
