"""One worker of `tests.reliability.workers`: reads numbers of cases, answers with their outcomes.

python -m tests.reliability.worker GROUP SEED MEMORY ORIGINALS SCRATCH
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.reliability import documents, pictures, planted
from tests.reliability.cases import MEMORY, Subject, outcome_of, pick

GROUPS: dict[str, Callable[[], list[Subject]]] = {
    "documents": documents.subjects,
    "pictures": pictures.subjects,
    "planted": planted.subjects,
}

_ADDRESSES = 3
"""Address space per byte of the limit: threads and allocators reserve more than they use."""


def main() -> None:
    """Answer until standard input ends, or write the originals."""
    if sys.argv[1] == "prepare":
        for subject in GROUPS[sys.argv[2]]():
            folder = Path(sys.argv[3]) / subject.name
            folder.mkdir(parents=True)
            subject.prepare(folder)
        return
    group, seed, memory, originals, scratch = sys.argv[1:]
    # Libraries print to standard output; answers need a separate stream.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # The signal alone reports a crash.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    subjects = GROUPS[group]()
    for subject in subjects:
        subject.load(Path(originals) / subject.name)
    limit = int(memory)
    _limit_addresses(_ADDRESSES * limit)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        number = int(line)
        result = _run(subjects, number, f"{seed}/{group}/{number}", Path(originals), Path(scratch), limit)
        print(json.dumps({"case": number, **result}), file=answers, flush=True)


def _run(subjects: list[Subject], number: int, seed: str, originals: Path, scratch: Path, limit: int) -> dict[str, str]:
    chance = random.Random(seed)
    subject = pick(subjects, number, chance)
    for entry in scratch.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    folder = scratch / "files"
    folder.mkdir()
    case = subject.make(originals / subject.name, folder, chance)
    about = {"subject": subject.name, "damage": case.damage}
    (scratch / "case.json").write_text(json.dumps(about))
    before = _reset_peak()
    outcome, detail = outcome_of(subject, case)
    grown = _status("VmHWM") - before
    if grown > limit:
        outcome, detail = MEMORY, f"{grown / 2**20:.0f} MiB more than before ({outcome}, {detail})"
    return {**about, "outcome": outcome, "detail": detail}


def _limit_addresses(more: int) -> None:
    limit = _status("VmSize") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _reset_peak() -> int:
    """Resident bytes now; the peak is reset to them."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


if __name__ == "__main__":
    main()
