"""A disk that fails at each write, sync and rename of a job in turn: only old or whole outputs may remain."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emra_deploy.errors import EmraError
from tests.onnx_models import build_model, scene
from tests.reliability.board import Row, counted
from tests.reliability.jobs import Job, map_job, sample_raster

_SIDE = 520
_PATIENCE = 120.0
_OLD = b"an older output"
_REFUSAL = re.compile(r"^emra: .*\[[a-z-]+\]$")


@dataclass(frozen=True)
class Fault:
    """A way for the disk to fail.

    Attributes:
        at: Number of the operation, from 1; 0 for a sound disk.
        code: The `errno` that it reports.
        stays: Whether all later operations fail too.
    """

    at: int
    code: int
    stays: bool

    def environment(self, library: Path, folder: Path, log: Path) -> dict[str, str]:
        """Variables for `faults.c`, which counts the operations of all processes together, starting now."""
        count = log.with_suffix(".count")
        count.write_bytes(bytes(8))
        return {
            "LD_PRELOAD": str(library),
            "EMRA_FAULT_FOLDER": str(folder),
            "EMRA_FAULT_AT": str(self.at),
            "EMRA_FAULT_ERRNO": str(self.code),
            "EMRA_FAULT_STAYS": str(int(self.stays)),
            "EMRA_FAULT_LOG": str(log),
            "EMRA_FAULT_COUNT": str(count),
        }


def find_compiler() -> str:
    """The C compiler for `faults.c`.

    Raises:
        EmraError: ``library-missing`` without one, or off Linux.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        raise EmraError(
            "library-missing", "the part faults needs Linux and a C compiler", "Install gcc, or --skip faults"
        )
    return compiler


def compile_library(folder: Path) -> Path:
    """Compile `faults.c`.

    Raises:
        EmraError: That of `find_compiler`.
    """
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([find_compiler(), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def fail_everywhere(
    folder: Path, step: int, seed: int, say: Callable[[str], None] = lambda line: None, only: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[Row]]:
    """Let every ``step``-th operation of every job fail, with ENOSPC from there on and with EIO once.

    Args:
        folder: Holds inputs and outputs.
        step: 1 for every operation.
        seed: Selects the operations to leave out, if any.
        say: Called with a line of progress.
        only: Names of jobs to run; empty for all.

    Raises:
        EmraError: That of `find_compiler`.
        RuntimeError: A job fails on a sound disk.
    """
    library = compile_library(folder)
    content: dict[str, Any] = {}
    rows = []
    for job in _jobs(folder):
        if only and job.name not in only:
            continue
        found = _fail_job(job, folder, library, step, seed, say)
        content[job.name] = found
        failures = found["failures"]
        figure = (
            f"{len(failures)} partial outputs or tracebacks; {found['refused']} refused, {found['borne']} whole, "
            f"{found['operations']} operations"
        )
        rows.append(counted(f"disk fails: {job.name}", found["runs"], len(failures), figure, "0 partial outputs"))
        say(f"  {job.name}: {figure}")
    return content, rows


def _fail_job(
    job: Job, folder: Path, library: Path, step: int, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    log = folder / f"{job.name}.log"
    place = folder / f"{job.name}-out"
    _prepare(place, (), b"")
    status, said = _run(job, place, Fault(0, 0, False), library, log)
    expected = _found(job, place)
    if status or set(expected) != set(job.outputs):
        raise RuntimeError(f"{job.name} ended with {status}: {said[-500:]}")
    lines = log.read_text().splitlines()
    kinds = Counter(line.split()[1] for line in lines)
    failures: list[dict[str, Any]] = []
    refused, borne, runs = 0, 0, 0
    # Threads may reorder their operations from run to run, and add a few.
    for at in range(1 + seed % step, len(lines) + 3, step):
        for code, stays in ((errno.ENOSPC, True), (errno.EIO, False)):
            old = (at + stays) % 2 == 0
            _prepare(place, job.outputs if old else (), _OLD)
            log.unlink(missing_ok=True)
            tried = replace(job, words=(*job.words, "--overwrite")) if old else job
            status, said = _run(tried, place, Fault(at, code, stays), library, log)
            wrong = _wrong(tried, place, expected, status, said, old)
            runs += 1
            refused += status == 2
            borne += status == 0
            if runs % 50 == 0:
                say(f"  {job.name}: {runs} runs, at operation {at} of {len(lines)}, {len(failures)} failed")
            if wrong:
                named = log.read_text().splitlines() if log.exists() else []
                hit = named[at - 1] if len(named) >= at else "none"
                about = {"operation": hit, "error": errno.errorcode[code], "old": old}
                failures.append({**about, "wrong": wrong, "status": status, "said": said[-600:]})
    return {
        "operations": len(lines),
        "kinds": dict(kinds),
        "runs": runs,
        "refused": refused,
        "borne": borne,
        "failures": failures,
    }


def _prepare(place: Path, old: tuple[str, ...], content: bytes) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in old:
        (place / name).write_bytes(content)


def _run(job: Job, place: Path, fault: Fault, library: Path, log: Path) -> tuple[int, str]:
    with job.start(place, fault.environment(library, place, log)) as process:
        try:
            _, said = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return -1, "it hangs"
    return process.returncode, said


def _content(path: Path) -> str:
    """A digest of a file's content: its bytes, but the pixels of a raster, which may be stored in another order after a
    retried write, and the features of a GeoPackage, which holds its time of writing.
    """
    if path.suffix == ".gpkg" and path.read_bytes() != _OLD:
        return _features(path)
    if path.suffix != ".tif" or path.read_bytes() == _OLD:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    import rasterio

    digest = hashlib.sha256()
    with rasterio.open(path) as raster:
        levels = len(raster.overviews(1))
        facts = [raster.profile, raster.tags(), raster.tags(ns="IMAGE_STRUCTURE"), raster.colormap(1), levels]
        digest.update(repr(facts).encode() + raster.read().tobytes())
    for level in range(levels):
        with rasterio.open(path, overview_level=level) as overview:
            digest.update(overview.read().tobytes())
    return digest.hexdigest()


def _features(path: Path) -> str:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        damage = database.execute("PRAGMA integrity_check").fetchall()
        rows = database.execute("SELECT * FROM classes ORDER BY 1").fetchall()
        about = database.execute("SELECT table_name, data_type, srs_id FROM gpkg_contents").fetchall()
    return hashlib.sha256(repr((damage, rows, about)).encode()).hexdigest()


def _found(job: Job, place: Path) -> dict[str, str]:
    """The content of each output that exists, or the error of reading it."""
    found = {}
    for name in job.outputs:
        if (place / name).exists():
            try:
                found[name] = _content(place / name)
            except Exception as error:  # rasterio has many errors for half a file.
                found[name] = repr(error)
    return found


def _wrong(job: Job, place: Path, expected: dict[str, str], status: int, said: str, old: bool) -> str:
    """A description of the broken promise, or an empty text."""
    found = _found(job, place)
    if status == 0:
        if found != expected:
            unlike = sorted(name for name in expected if found.get(name) != expected[name])
            return f"success is reported, and {unlike} differ"
    elif status != 2 or not any(_REFUSAL.match(line) for line in said.splitlines()) or "Traceback" in said:
        return "no error of one line"
    for name in found:
        kept = old and (place / name).read_bytes() == _OLD
        if not kept and found[name] != expected[name]:
            return f"{name} is neither old nor whole"
    if old and set(found) != set(job.outputs):
        return f"{sorted(set(job.outputs) - set(found))} are lost"
    # A later call resumes from the journal.
    rest = {path.name for path in place.iterdir()} - set(job.outputs) - {f".{job.outputs[0]}.journal"}
    return f"left over: {sorted(rest)}" if rest else ""


def _jobs(folder: Path) -> list[Job]:
    """A map with journal, overlay and GeoJSON; a picture; with pyogrio also a map with GeoPackage."""
    from PIL import Image

    first = map_job(folder, _SIDE)
    small = folder / "small.png"
    Image.fromarray(scene(150, 170)).save(small)
    sample_raster(folder / "small.tif", 160)
    build_model(folder / "small.onnx", (64, 64))
    jobs = [replace(first, sync=0.0), Job("picture", small, folder / "small.onnx", ("labels.png",), ())]
    if importlib.util.find_spec("pyogrio") is not None:
        words = ("--polygons", "{}/map.gpkg", "--min-pixels", "50")
        jobs.append(Job("geopackage", folder / "small.tif", folder / "small.onnx", ("map.tif", "map.gpkg"), words))
    return jobs
