"""Pictures that the caller makes: iterables and functions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from emra_deploy import EmraError, Segmenter
from emra_deploy.stream import Stream, StreamOptions, StreamState
from tests.emra_deploy.stream.fakes import label_all, numbers, wait_for
from tests.emra_deploy.stream.videos import number_of, numbered
from tests.onnx_models import build_model, nearest_colour, scene


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path)
    return Segmenter.open(path, threads=1)


def test_masks_are_those_of_the_segmenter(segmenter: Segmenter) -> None:
    pictures = [scene(40, 70, seed=seed) for seed in range(5)]
    with Stream(segmenter, pictures) as stream:
        results = list(stream)
    assert [result.frame.index for result in results] == [0, 1, 2, 3, 4]
    for picture, result in zip(pictures, results, strict=True):
        np.testing.assert_array_equal(result.image, picture)
        np.testing.assert_array_equal(result.labels, nearest_colour(picture))
        areas = result.areas(pixel_area_m2=0.25)
        assert sum(area.pixels for area in areas) == 40 * 70
        assert sum(area.square_metres or 0 for area in areas) == 40 * 70 * 0.25


def test_a_function_gives_frames_until_none(segmenter: Segmenter) -> None:
    pictures = numbers(5)
    with Stream(segmenter, lambda: next(pictures, None)) as stream:
        assert [number_of(result.image) for result in stream] == [0, 1, 2, 3, 4]


def test_a_buffer_that_is_filled_again_does_not_change_frames() -> None:
    buffer = np.zeros((48, 64, 3), np.uint8)

    def camera() -> Iterator[np.ndarray]:
        for number in range(20):
            buffer[:] = numbered(number)
            yield buffer

    with Stream(label_all, camera()) as stream:
        assert [number_of(result.image) for result in stream] == list(range(20))


def test_a_live_function_gives_its_newest() -> None:
    made = []

    def camera() -> np.ndarray | None:
        made.append(len(made))
        return numbered(made[-1]) if made[-1] < 50 else None

    with Stream(label_all, camera, StreamOptions(live=True)) as stream:
        wait_for(lambda: stream.status().counters.received == 50)
        assert [number_of(result.image) for result in stream] == [49]
    # It cannot be started again, so its end is the end.
    assert stream.status().state is StreamState.ENDED


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.zeros((4, 4), np.uint8), "text", np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(wrong: object) -> None:
    with Stream(label_all, [numbered(0), wrong]) as stream:  # type: ignore[list-item]
        assert number_of(next(stream).image) == 0
        with pytest.raises(EmraError) as caught:
            next(stream)
    assert caught.value.code == "image-array"
    assert stream.status().state is StreamState.FAILED


def test_errors_of_the_caller_s_own_code_come_as_they_are() -> None:
    def camera() -> Iterator[np.ndarray]:
        yield numbered(0)
        raise ZeroDivisionError("mine")

    with Stream(label_all, camera()) as stream:
        next(stream)
        with pytest.raises(ZeroDivisionError, match="mine"):
            next(stream)
    assert stream.status().reason == "ZeroDivisionError"


def test_a_generator_is_closed() -> None:
    closed = []

    def camera() -> Iterator[np.ndarray]:
        try:
            for number in range(1000):
                yield numbered(number)
        finally:
            closed.append(True)

    with Stream(label_all, camera()) as stream:
        next(stream)
    wait_for(lambda: closed == [True])


def test_a_stream_of_nothing_ends() -> None:
    with Stream(label_all, []) as stream:
        assert list(stream) == []
    assert stream.status().state is StreamState.ENDED


def test_streams_in_threads_may_share_one_segmenter(segmenter: Segmenter) -> None:
    pictures = [[scene(40, 70, seed=10 * which + seed) for seed in range(6)] for which in range(3)]

    def follow(which: int) -> list[np.ndarray]:
        with Stream(segmenter, pictures[which]) as stream:
            return [result.labels for result in stream]

    with ThreadPoolExecutor(3) as threads:
        for which, labels in enumerate(threads.map(follow, range(3))):
            for picture, mask in zip(pictures[which], labels, strict=True):
                np.testing.assert_array_equal(mask, nearest_colour(picture))
