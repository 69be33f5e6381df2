"""The progress of a build: it never goes back, never passes the end, and stops on request."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.engine.progress import BuildProgress, run_shown

# The phases of a build by TensorRT-RTX 1.7.1.116, as its monitor gave them: name, parent, steps.
RECORDED = (
    ("Building engine", None, 6),
    ("Cloning network graph", "Building engine", 20),
    ("Preparing graph for optimization", "Building engine", 4),
    ("Building engine from subgraph", "Building engine", 1),
    ("Optimizing graph", "Building engine from subgraph", 30),
    ("Computing profile costs", "Building engine from subgraph", 5),
    ("Timing tactics", "Computing profile costs", 3),
)


def test_a_recorded_build() -> None:
    progress = BuildProgress()
    seen = [0.0]

    def play(index: int) -> int:
        """Run a phase with those that follow and belong to it; the index of the next that does not."""
        name, parent, steps = RECORDED[index]
        progress.start(name, parent, steps)
        following = index + 1
        for step in range(steps):
            while following < len(RECORDED) and RECORDED[following][1] == name:
                following = play(following)
                seen.append(progress.fraction)
            assert progress.step(name, step)
            seen.append(progress.fraction)
        progress.finish(name)
        return following

    assert play(0) == len(RECORDED)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    # The work of the phases inside the first of six steps shows before that step is done.
    assert len({round(value, 6) for value in seen if value < 1 / 6}) > 20


_events = st.lists(
    st.tuples(
        st.sampled_from(("start", "step", "finish")),
        st.sampled_from("abcd"),
        st.one_of(st.none(), st.sampled_from("abcd")),
        st.integers(-3, 40),
    ),
    max_size=60,
)


@given(_events)
def test_whatever_a_builder_says(events: list[tuple[str, str, str | None, int]]) -> None:
    progress = BuildProgress()
    before = 0.0
    for kind, name, parent, number in events:
        if kind == "start":
            # A phase that were its own ancestor would never end.
            progress.start(name, parent if parent is not None and parent < name else None, number)
        elif kind == "step":
            assert progress.step(name, number)
        else:
            progress.finish(name)
        assert before <= progress.fraction <= 1.0
        before = progress.fraction


def test_a_build_that_is_stopped() -> None:
    progress = BuildProgress()
    progress.start("a", None, 10)
    assert progress.step("a", 0)
    progress.cancel()
    assert not progress.step("a", 1)
    assert progress.cancelled


def test_results_and_errors_come_through(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_shown(lambda: threading.current_thread().name, BuildProgress()) == "emra-build"

    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        run_shown(fail, BuildProgress())
    assert capfd.readouterr().err == "building\n" * 2


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    progress = BuildProgress()
    shown = threading.Event()

    def work() -> None:
        progress.start("Timing tactics", None, 4)
        progress.step("Timing tactics", 0)
        shown.wait(0.6)

    run_shown(work, progress)
    reported = capfd.readouterr().err
    assert "25%" in reported
    assert "Timing tactics" in reported
