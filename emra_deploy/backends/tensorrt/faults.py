"""TensorRT releases with known wrong results, and remedies for an engine that gives wrong results."""

from __future__ import annotations

from emra_deploy.backends.tensorrt.flavour import parse_version

_KNOWN = (
    # First version, first version without the fault, precisions, description.
    (
        (10, 3),
        (10, 4),
        ("fp16", "int8"),
        "TensorRT 10.3, which JetPack 6.1 and 6.2 bring, is known to compute vision transformers wrongly in FP16"
        " without an error (NVIDIA/TensorRT issues 4723 and 4419)",
    ),
)


def known_fault(library: str, version: str, precision: str) -> str | None:
    """The known fault of a library at a precision, one sentence without a full stop, or None.

    Args:
        library: As a backend's ``describe()["backend"]``.
        version: Version of the library.
        precision: Precision in the Manifest.
    """
    if library != "tensorrt":
        return None
    try:
        number = parse_version(version)
    except ValueError:
        return None
    for first, mended, precisions, fault in _KNOWN:
        if first <= number < mended and precision in precisions:
            return fault
    return None


def way_out(library: str, version: str, precision: str) -> str:
    """The remedy for wrong results, one sentence without a full stop."""
    if library not in ("tensorrt", "tensorrt-rtx"):
        return f"Do not trust its results with {library} {version}: use another version or backend, or export again"
    first = (
        "build the engine again from the FP32 file"
        if precision == "fp32"
        else "build it again from a file that keeps LayerNormalization and softmax in FP32 (python -m export.to_fp16)"
        ", or from the FP32 file"
    )
    return (
        f"Do not trust its results with {library} {version}: {first}, use another version of TensorRT, or give the ONNX"
        " file, which another backend runs"
    )
