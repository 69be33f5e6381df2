"""Many threads through one Segmenter: every label must equal that of a single thread."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import scene
from tests.reliability.board import Row, counted

_SIDES = (17, 40, 64, 65, 130)
"""Sides of pictures, smaller than, equal to and larger than a tile; all are cut out of one scene."""


def share_segmenter(segmenter: Segmenter, threads: int, images: int, seed: int) -> tuple[dict[str, Any], list[Row]]:
    """Segment the same pictures by one thread, then by several at once, each in its own order.

    Args:
        segmenter: Shared by all threads.
        threads: Number of threads.
        images: Pictures for each thread.
        seed: Determines pictures and orders.
    """
    whole = scene(400, 400, seed)
    chance = random.Random(seed)
    cuts = []
    for _ in range(images):
        height, width = chance.choice(_SIDES), chance.choice(_SIDES)
        cuts.append((chance.randrange(400 - height), chance.randrange(400 - width), height, width))

    def digest(cut: tuple[int, int, int, int]) -> str:
        top, left, height, width = cut
        pixels: npt.NDArray[np.uint8] = np.ascontiguousarray(whole[top : top + height, left : left + width])
        labels = segmenter.segment(pixels).labels
        return hashlib.sha256(repr(labels.shape).encode() + labels.tobytes()).hexdigest()

    expected = [digest(cut) for cut in cuts]

    def run(number: int) -> int:
        order = list(range(images))
        random.Random(f"{seed}/{number}").shuffle(order)
        return sum(digest(cuts[index]) != expected[index] for index in order)

    with ThreadPoolExecutor(threads) as pool:
        different = sum(pool.map(run, range(threads)))
    content = {
        "threads": threads,
        "images": images,
        "different": different,
        "distinct_answers": len(set(expected)),
        "model": segmenter.manifest.name,
        "backend": segmenter.backend.describe(),
    }
    figure = f"{different} of {threads * images:,} label maps differ from one thread's"
    goal = f"{threads} threads bit-identical to serial"
    return content, [counted("threads", threads * images, different, figure, goal)]
