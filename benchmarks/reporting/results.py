"""Result files: one record for all benchmarks, checked when written and when read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from benchmarks.reporting.provenance import describe_machine, describe_run, portable, scrub
from emra_deploy.errors import EmraError
from emra_deploy.host.files import atomic_output

SCHEMA = "emra-deploy/benchmark"
VERSION = 1
"""Raised by any new, renamed or reinterpreted field that a reader must know."""


class Result(TypedDict):
    """A measurement, as JSON values.

    Attributes:
        schema: `SCHEMA`.
        version: `VERSION`.
        kind: Of `KINDS`, or ``"accuracy"``.
        run: Date, command, revision and versions; None in files of older commands.
        machine: The device, and its state before and after where it was read.
        models: Files by name, sha256 and size, with the facts of their Manifests.
        failures: Candidates that failed.
        not_measured: Figures that this machine cannot give, the reason, and a command that measures them.
        content: The figures.
    """

    schema: str
    version: int
    kind: str
    run: dict[str, Any] | None
    machine: dict[str, Any]
    models: list[Mapping[str, Any]]
    failures: list[Mapping[str, Any]]
    not_measured: list[Mapping[str, Any]]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class _Rule:
    """A condition on a value, and its name in messages."""

    name: str
    holds: Callable[[Any], bool]


# A form is a rule, a list with the form of its items, an object with the forms of its members, or a form and None in a
# tuple where null is allowed. A "?" at a name's end makes the member optional; "*" stands for all members.
_ANY = _Rule("a value", lambda value: True)
_OBJECT: dict[str, Any] = {}
_TEXT = _Rule("a text", lambda value: isinstance(value, str) and value != "")
_NUMBER = _Rule("a number from 0 on", lambda value: isinstance(value, (int, float)) and value >= 0)
_COUNT = _Rule("an integer from 1 on", lambda value: type(value) is int and value >= 1)
_SHA256 = _Rule("a sha256", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)
_OPTIONAL = (_NUMBER, None)
_SUMMARY = {
    **dict.fromkeys(("mean", "p50", "p90", "low", "high"), _NUMBER),
    "p99": _OPTIONAL,
    "std": _OPTIONAL,
    "count": _COUNT,
}
_MODEL = {"name": _TEXT, "sha256": _SHA256, "bytes": _NUMBER}
_CANDIDATE = {
    "key": _TEXT,
    "name": _TEXT,
    "sha256?": (_SHA256, None),
    "backend": _OBJECT,
    **dict.fromkeys(("batch", "height", "width"), _COUNT),
}


def _having(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, _ANY)


_CONTENT: dict[str, Any] = {
    "latency": {
        "plan": _ANY,
        "noise": _having("quiet", "reasons", "foreign", "scatter", "drift"),
        "candidates": [
            {
                **_CANDIDATE,
                "stages": {"end_to_end": _ANY, "compute": _ANY, "*": (_SUMMARY, None)},
                "rounds": {"*": [_NUMBER]},
                "throughput": _NUMBER,
            }
        ],
        "ratios": [_having("key", "against", "stage", "value", "low", "high", "verdict")],
        "probe": _having("rounds"),
    },
    "memory": {
        "candidates": [
            {
                **_CANDIDATE,
                **_having("weights_bytes", "activations_bytes", "device"),
                "host": _having("peak_bytes"),
            }
        ]
    },
    "precision": {
        **_having("model", "tile", "pictures", "times"),
        "rows": [
            {
                "precision": _TEXT,
                "file": (_MODEL, None),
                "accuracy": (_having("miou", "iou", "agreement", "pixels"), None),
                "times": {"*": _having("seconds", "over_fp32")},
                "engine": (_having("library", "bytes", "products"), None),
            }
        ],
    },
    "roofline": {
        "ceilings": _having("bandwidth", "compute"),
        "models": [_having("name", "flops", "bytes_fused", "bytes_unfused")],
    },
    "gpu": {**_having("device", "seed"), "rows": [_having("section", "name", "value")]},
    **dict.fromkeys(("runtime", "raster", "streams"), _OBJECT),
}
_SCORES = ("confusion", "miou", "accuracy", "model", "data", "model_sha256", "runner")
"""Members of a file by accuracy.py."""

KINDS = tuple(_CONTENT)
"""Kinds of result files. The verbs have the same names, but for ``precision`` by ``benchmarks/precision/table.py``,
``gpu`` by gpu_suite.py and ``streams`` by stream_soak.py."""

_FILE = {
    "schema": _Rule(repr(SCHEMA), lambda value: bool(value == SCHEMA)),
    "version": _Rule(str(VERSION), lambda value: bool(value == VERSION)),
    "kind": _Rule(f"one of {', '.join(KINDS)}", lambda value: value in KINDS),
    "run": ({"date": _TEXT, "command": _TEXT, "git": _ANY, "versions": _OBJECT}, None),
    "machine": _having("device", "system", "processor"),
    "models": [_MODEL],
    "failures": [_having("candidate", "code", "message")],
    "not_measured": [_having("what", "why", "command")],
    "content": _OBJECT,
}


def _problems(value: Any, form: Any, where: str) -> Iterator[str]:
    """Descriptions of each place where a value differs from its form."""
    if isinstance(form, tuple):
        if value is not None:
            yield from _problems(value, form[0], where)
    elif isinstance(form, list):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, item in enumerate(value):
            yield from _problems(item, form[0], f"{where}/{number}")
    elif isinstance(form, dict):
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        for name, inner in form.items():
            for key in value if name == "*" else [name.rstrip("?")]:
                if key in value:
                    yield from _problems(value[key], inner, f"{where}/{key}")
                elif not name.endswith("?"):
                    yield f"{where} has no member {key!r}"
    elif not form.holds(value):
        yield f"{where} is {str(value)[:80]!r}, expected {form.name}"


def make_result(
    kind: str,
    script: str,
    argv: Sequence[str],
    content: Mapping[str, Any],
    *,
    models: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]] = (),
    not_measured: Sequence[Mapping[str, Any]] = (),
    state: Mapping[str, Any] | None = None,
) -> Result:
    """Assemble a result of this machine.

    Args:
        kind: One of `KINDS`.
        script: Name of the command's file.
        argv: Its arguments.
        content: As in `Result`.
        models: As in `Result`.
        failures: As in `Result`.
        not_measured: As in `Result`.
        state: The machine's state before and after, where it was read.
    """
    machine = describe_machine()
    if state is not None:
        machine["state"] = dict(state)
    result = Result(
        schema=SCHEMA,
        version=VERSION,
        kind=kind,
        run=describe_run(script, argv),
        machine=machine,
        models=list(models),
        failures=list(failures),
        not_measured=list(not_measured),
        content=dict(content),
    )
    return cast(Result, scrub(result))


def write_result(path: str | os.PathLike[str], result: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write a result, whole or not at all.

    Raises:
        EmraError: ``result-file`` for a result of another form (a bug), and those of writing.
    """
    check_result(result, path)
    write_json(path, result, overwrite=overwrite)


def write_json(path: str | os.PathLike[str], content: Any, *, overwrite: bool = False) -> None:
    """Write JSON values, whole or not at all, without paths of this machine.

    Raises:
        EmraError: Those of `emra_deploy.host.files.atomic_output`.
    """
    with atomic_output(path, overwrite=overwrite) as part:
        part.write_text(json.dumps(scrub(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read a file by `write_result`, or one by accuracy.py, which the runtime writes in a form of its own.

    Raises:
        EmraError: ``result-file``: no such file, not JSON, or of another form.
    """
    content = _read_json(path)
    if set(_SCORES) <= set(content):
        empty: dict[str, Any] = {"run": None, "machine": {}, "models": [], "failures": [], "not_measured": []}
        content = {"schema": SCHEMA, "version": VERSION, "kind": "accuracy", **empty, "content": content}
        return cast(Result, content)
    check_result(content, path)
    return cast(Result, content)


def _read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _refuse(f"it cannot be read ({error.strerror})", path) from error
    except (ValueError, RecursionError) as error:
        raise _refuse(f"it is not JSON ({str(error)[:100]})", path) from error
    if not isinstance(content, dict):
        raise _refuse("it is JSON, but not an object", path)
    return content


def check_result(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuse a file of another form.

    Raises:
        EmraError: ``result-file``.
    """
    version = content.get("version")
    if content.get("schema") == SCHEMA and isinstance(version, int) and version > VERSION:
        raise EmraError(
            "result-file",
            f"It has version {version}, and this emra-deploy reads {VERSION}",
            "Update emra-deploy, or measure again",
            path,
        )
    for problem in _problems(content, _FILE, "it"):
        raise _refuse(problem, path)
    for problem in _problems(content["content"], _CONTENT[content["kind"]], "its content"):
        raise _refuse(problem, path)
    if scrub(content) != content:
        raise _refuse(f"it names a folder of a machine: {_first_path(content)[:100]}", path)


def _first_path(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return next(filter(None, map(_first_path, value)), "")
    return value if isinstance(value, str) and portable(value) != value else ""


def _refuse(cause: str, path: str | os.PathLike[str]) -> EmraError:
    return EmraError(
        "result-file",
        f"This is no result of a benchmark: {cause}",
        "Give a file that a command of benchmarks/ wrote with --json",
        path,
    )
