"""The precisions of model files, and what each of them may change."""

from __future__ import annotations

from typing import NamedTuple


class Precision(NamedTuple):
    """Losses allowed to a file of this precision.

    Attributes:
        golden: Fraction of the golden tile's pixels, 0 to 1, that it may label otherwise than PyTorch did, where the
            golden tile asks for less.
        agreement: Least share of pixels, 0 to 1, that it labels as its parent does: what export/check.py allows.
        miou_drop: Most mIoU points (hundredths) that it may lose, where there is ground truth.
    """

    golden: float
    agreement: float
    miou_drop: float


PRECISIONS = {
    "fp32": Precision(0.0, 0.9999, 0.05),
    "fp16": Precision(0.001, 0.999, 0.1),
    "int8": Precision(0.01, 0.99, 0.5),
}
"""By name. Those of FP16 and INT8 are the project's promise; FP32's hold between two libraries that compute the same in
another order."""
