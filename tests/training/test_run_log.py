from __future__ import annotations

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.run_log import NAME, RunLog


def steps(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / NAME).read_text().splitlines()]


def test_a_line_and_scalars_for_every_step(tmp_path):
    with RunLog(tmp_path, 0, True) as log:
        log.record(1, loss=0.5, lr=0.1)
        log.record(2, loss=0.25, epoch=1)
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.25)]
    assert lines[1]["epoch"] == 1
    assert lines[0]["time"] > 1e9
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert "epoch" not in board.Tags()["scalars"]


def test_going_on_forgets_what_will_be_done_again(tmp_path):
    with RunLog(tmp_path, 0, True) as log:
        for step in range(1, 6):
            log.record(step, loss=float(step))
    with (tmp_path / NAME).open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    with RunLog(tmp_path, 3, True) as log:
        log.record(4, loss=40.0)
    assert steps(tmp_path) == [1, 2, 3, 4]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("loss")] == [1.0, 2.0, 3.0, 40.0]
    with RunLog(tmp_path, 0, True):
        pass
    assert steps(tmp_path) == []


def test_other_processes_write_nothing(tmp_path):
    with RunLog(tmp_path, 0, False) as log:
        log.record(1, loss=0.5)
    assert not list(tmp_path.iterdir())
