"""The candidates of a command: its arguments, and loading the models that they name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.candidates.open import describe_manifest, open_candidate
from benchmarks.candidates.spec import BACKENDS, PEERS, Spec, make_specs, parse_batches, parse_sizes, with_size
from benchmarks.candidates.timed import TimedBackend
from benchmarks.reporting.command import failure, nothing
from benchmarks.reporting.provenance import describe_file
from emra_deploy.errors import EmraError
from emra_deploy.host.command import words

_log = logging.getLogger(__name__)
PEER_SIZE = (512, 512)


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Declare the candidates and the result file."""
    add = parser.add_argument
    add("models", nargs="*", type=Path, metavar="MODEL", help="ONNX files, engines and checkpoint folders, in any mix")
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
        help=f"comma-separated: {', '.join(PEERS)}; NAME@512 or NAME@512x640 sets the size of one, and "
        "NAME=FILE.safetensors its weights, which are random otherwise",
    )
    add("--batch", default="1", metavar="N,N", help="pictures at once (1)")
    add("--sizes", metavar="H,HxW", help="heights and widths of the input, for models that take several (their own)")
    add("--threads", type=int, metavar="N", help="threads of a processor's backend (its choice)")
    add("--json", metavar="FILE", help="write all figures there")
    add("--overwrite", action="store_true", help="replace existing outputs")


def specs_of(arguments: argparse.Namespace) -> list[Spec]:
    """The candidates that the arguments of `add_candidates` name.

    Raises:
        EmraError: An unknown name, a number out of range or a missing model.
    """
    threads = arguments.threads
    if threads is not None and threads < 1:
        raise EmraError("threads", f"{threads} threads, expected at least 1", "Give as many as cores, or leave it out")
    specs = make_specs(
        arguments.models,
        words(arguments.peer),
        backends=words(arguments.backend),
        batches=parse_batches(arguments.batch),
        sizes=parse_sizes(arguments.sizes) if arguments.sizes else (),
        threads=threads,
    )
    for path in dict.fromkeys(spec.path for spec in specs if spec.path is not None):
        if not path.exists():
            raise EmraError("model-missing", "The model does not exist", "Check the spelling", path)
    return specs


class Opened:
    """Loaded candidates in the order of their specifications, and the failures of the others.

    Attributes:
        runners: By specification, now with its size.
        failures: Records by `failure`.
        models: Files as `describe_file` gives them, with the facts of their Manifests; each once.
    """

    def __init__(self) -> None:
        self.runners: dict[Spec, TimedBackend] = {}
        self.failures: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = []
        self._files: dict[Path, dict[str, Any]] = {}

    def add(self, spec: Spec) -> None:
        """Load a candidate; a failure is recorded, not raised."""
        try:
            runner = open_candidate(spec)
        except Exception as error:
            # Libraries for other machines fail in many ways, which must not lose the other candidates.
            _log.debug("%s cannot be opened", spec.key, exc_info=True)
            self.failures.append(failure(spec.key, error))
            return
        self.runners[with_size(spec, runner.input_shape[1:])] = runner
        if spec.path is not None and spec.path not in self._files:
            self._files[spec.path] = {**describe_file(spec.path), "manifest": describe_manifest(spec, runner)}
            self.models.append(self._files[spec.path])

    def sha256(self, spec: Spec) -> str | None:
        """The sha256 of a candidate's file; None for a peer with random weights."""
        return None if spec.path is None else str(self._files[spec.path]["sha256"])

    def describe(self, spec: Spec) -> dict[str, Any]:
        """The facts of a candidate that every result holds."""
        runner = self.runners[spec]
        return describe_candidate(spec, self.sha256(spec), runner.describe(), runner.precision, runner.cuda_graph)

    def close(self) -> None:
        """Free all models."""
        for runner in self.runners.values():
            runner.close()


def describe_candidate(
    spec: Spec, sha256: str | None, backend: dict[str, str], precision: str, cuda_graph: bool | None
) -> dict[str, Any]:
    """The facts of a candidate of known size, as JSON values."""
    assert spec.size is not None
    return {
        "key": spec.key,
        "name": spec.name,
        "sha256": sha256,
        "backend": backend,
        "batch": spec.batch,
        "height": spec.size[0],
        "width": spec.size[1],
        "precision": precision,
        "cuda_graph": cuda_graph,
    }


def open_all(specs: Sequence[Spec], progress: Callable[[str], None] = lambda name: None) -> Opened:
    """Load all candidates; peers without a size take those of the files.

    Raises:
        EmraError: ``nothing-measured``: none of them can be loaded.
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
    """Load a command's candidates for the block; also gives a function that shows progress on the terminal.

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
