"""The log of a run: one line per step, also after kills and resumes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from training.checkpoint import replace_file

NAME = "log.jsonl"


class RunLog:
    """Log files that are open inside a ``with`` block.

    Args:
        folder: Existing folder of the run.
        step: Steps done before; lines of later steps, left by a killed run, are dropped.
        active: Whether this process writes; otherwise calls do nothing.
    """

    def __init__(self, folder: Path, step: int, active: bool) -> None:
        self.folder = folder
        self.step = step
        self.active = active

    def __enter__(self) -> RunLog:
        if self.active:
            path = self.folder / NAME
            if path.exists():
                kept = [line for line in path.read_text("utf-8", "replace").splitlines() if self._is_before(line)]
                replace_file(path, lambda part: part.write_text("".join(f"{line}\n" for line in kept), "utf-8"))
            self._lines = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self._lines.close()
            self._board.close()

    def record(self, step: int, **values: float | int) -> None:
        """Write one line of JSON, and a TensorBoard scalar for each float.

        Args:
            step: Steps done, from 1.
            values: By name.
        """
        if not self.active:
            return
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, step)

    def _is_before(self, line: str) -> bool:
        try:
            return int(json.loads(line)["step"]) <= self.step
        except (ValueError, KeyError, TypeError):  # the incomplete line of a killed run
            return False
