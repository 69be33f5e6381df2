"""The options of the command line that say what runs the model, the same for all verbs that run one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emra_deploy.backends.names import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def add_model_arguments(parser: ArgumentParser) -> None:
    """Declare them."""
    add = parser.add_argument
    add(
        "--backend",
        type=str,
        default="auto",
        help=f"what runs the model: {', '.join(BACKENDS)} (default: auto, by file and machine; --verbose tells)",
    )
    add(
        "--precision",
        type=str,
        choices=PRECISIONS,
        default=None,
        help="what OpenVINO computes in where the model leaves it the choice (default: what suits the model)",
    )
    add("--device", type=int, default=0, metavar="N", help="number of the GPU, for ONNX Runtime (default: 0)")
    add(
        "--engine-cache",
        type=str,
        default=None,
        metavar="FOLDER",
        help="keep the engines that ONNX Runtime's TensorRT builds; nobody else should be able to write there",
    )
    add(
        "--trust-engine",
        action="store_true",
        help="load a TensorRT engine that has no sidecar, such as one of trtexec: loading it runs its code",
    )
    add(
        "--isolate",
        action="store_true",
        help="run the model in a process of its own, which is replaced when it crashes, hangs or loses its GPU",
    )
    add("--threads", type=int, default=None, help="threads of one run (default: the backend's choice)")
    add("--batch", type=int, default=None, help="tiles run at once (default: the model's choice)")
    add("--halo", type=int, default=None, help="overlap of tiles on each side in pixels (default: 1/8 of a tile)")
    add("--verbose", "-v", action="store_true", help="say on stderr what was chosen and why")


def model_options(options: Namespace) -> dict[str, Any]:
    """Arguments of `Segmenter.open`, by their names."""
    names = ("backend", "precision", "device", "trust_engine", "isolate", "threads", "halo")
    return {**{name: options[name] for name in names}, "cache": options.engine_cache}
