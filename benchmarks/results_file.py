"""The files that hold what was measured: one form for all benchmarks, checked when written and when read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import describe_machine, describe_run, portable, scrub
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output

SCHEMA = "emra-deploy/benchmark"
VERSION = 1
"""Raised by any new, renamed or reinterpreted field that a reader must know."""

KINDS = ("latency", "memory", "roofline", "precision")
"""What ``benchmarks/`` writes; the last is of ``benchmarks/precision/table.py``."""

_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "number", "minimum": 0}
_OPTIONAL = {"type": ["number", "null"], "minimum": 0}
_SUMMARY = {
    "type": "object",
    "required": ["mean", "p50", "p90", "p99", "std", "low", "high", "count"],
    "properties": {
        **{name: _NUMBER for name in ("mean", "p50", "p90", "low", "high")},
        "p99": _OPTIONAL,
        "std": _OPTIONAL,
        "count": {"type": "integer", "minimum": 1},
    },
}
_MODEL = {
    "type": "object",
    "required": ["name", "sha256", "bytes"],
    "properties": {"name": _TEXT, "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "bytes": _NUMBER},
}
_CANDIDATE = {
    "type": "object",
    "required": ["key", "name", "backend", "batch", "height", "width"],
    "properties": {
        "key": _TEXT,
        "name": _TEXT,
        "sha256": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
        "backend": {"type": "object"},
        "batch": {"type": "integer", "minimum": 1},
        "height": {"type": "integer", "minimum": 1},
        "width": {"type": "integer", "minimum": 1},
    },
}
_CONTENT = {
    "latency": {
        "type": "object",
        "required": ["plan", "noise", "candidates", "ratios", "probe"],
        "properties": {
            "noise": {"type": "object", "required": ["quiet", "reasons", "foreign", "scatter", "drift"]},
            "candidates": {
                "type": "array",
                "items": {
                    "allOf": [
                        _CANDIDATE,
                        {
                            "required": ["stages", "rounds", "throughput"],
                            "properties": {
                                "stages": {
                                    "type": "object",
                                    "required": ["end_to_end", "compute"],
                                    "additionalProperties": {"anyOf": [_SUMMARY, {"type": "null"}]},
                                },
                                "rounds": {"additionalProperties": {"type": "array", "items": _NUMBER, "minItems": 1}},
                                "throughput": _NUMBER,
                            },
                        },
                    ]
                },
            },
            "ratios": {
                "type": "array",
                "items": {"required": ["key", "against", "stage", "value", "low", "high", "verdict"]},
            },
            "probe": {"type": "object", "required": ["rounds"]},
        },
    },
    "memory": {
        "type": "object",
        "required": ["candidates"],
        "properties": {
            "candidates": {
                "type": "array",
                "items": {
                    "allOf": [
                        _CANDIDATE,
                        {
                            "required": ["host", "weights_bytes", "activations_bytes", "device"],
                            "properties": {"host": {"type": "object", "required": ["peak_bytes"]}},
                        },
                    ]
                },
            }
        },
    },
    "precision": {
        "type": "object",
        "required": ["model", "tile", "pictures", "times", "rows"],
        "properties": {
            "rows": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "required": ["precision", "file", "accuracy", "times", "engine"],
                    "properties": {
                        "precision": _TEXT,
                        "file": {"anyOf": [_MODEL, {"type": "null"}]},
                        "accuracy": {"type": ["object", "null"], "required": ["miou", "iou", "agreement", "pixels"]},
                        "times": {"additionalProperties": {"required": ["seconds", "over_fp32"]}},
                        "engine": {"type": ["object", "null"], "required": ["library", "bytes", "products"]},
                    },
                },
            }
        },
    },
    "roofline": {
        "type": "object",
        "required": ["ceilings", "models"],
        "properties": {
            "ceilings": {"type": "object", "required": ["bandwidth", "compute"]},
            "models": {"type": "array", "items": {"required": ["name", "flops", "bytes_fused", "bytes_unfused"]}},
        },
    },
}
_FILE = {
    "type": "object",
    "required": ["schema", "version", "kind", "run", "machine", "models", "failures", "not_measured", "content"],
    "properties": {
        "schema": {"const": SCHEMA},
        "version": {"const": VERSION},
        "kind": {"enum": list(KINDS)},
        "run": {
            "type": "object",
            "required": ["date", "command", "git", "versions"],
            "properties": {"date": _TEXT, "command": _TEXT, "versions": {"type": "object"}},
        },
        "machine": {"type": "object", "required": ["device", "system", "processor"]},
        "models": {"type": "array", "items": _MODEL},
        "failures": {"type": "array", "items": {"required": ["candidate", "code", "message"]}},
        "not_measured": {"type": "array", "items": {"required": ["what", "why", "command"]}},
    },
}


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
) -> dict[str, Any]:
    """A whole result, as JSON values.

    Args:
        kind: One of `KINDS`.
        script: Name of the command's file.
        argv: Its arguments.
        content: What was measured.
        models: As `benchmarks.provenance.describe_file` gives them, and what their Manifests say.
        failures: What was asked for and failed.
        not_measured: What could not be measured here, why, and the command that measures it.
        state: The machine's state before and after, where it was taken.
    """
    machine = describe_machine()
    if state is not None:
        machine["state"] = dict(state)
    return scrub(
        {
            "schema": SCHEMA,
            "version": VERSION,
            "kind": kind,
            "run": describe_run(script, argv),
            "machine": machine,
            "models": list(models),
            "failures": list(failures),
            "not_measured": list(not_measured),
            "content": dict(content),
        }
    )


def write_result(path: str | os.PathLike[str], result: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write a result, whole or not at all.

    Raises:
        EmraError: ``result-file`` for a result that is not of this form (a bug), and those of writing.
    """
    check_result(result, path)
    with atomic_output(path, overwrite=overwrite) as part:
        part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_result` wrote.

    Raises:
        EmraError: ``result-file``: no such file, not JSON, or not of this form.
    """
    content = read_json(path)
    check_result(content, path)
    return content


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Any JSON object.

    Raises:
        EmraError: ``result-file``.
    """
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
    """Refuse what is not a result.

    Raises:
        EmraError: ``result-file``, ``bench-missing`` without jsonschema.
    """
    need("bench", "jsonschema", purpose="a result's file", code="bench-missing")
    import jsonschema

    version = content.get("version")
    if content.get("schema") == SCHEMA and isinstance(version, int) and version > VERSION:
        raise EmraError(
            "result-file",
            f"It has version {version}, and this emra-deploy reads {VERSION}",
            "Update emra-deploy, or measure again",
            path,
        )
    for schema, part in ((_FILE, content), (_CONTENT.get(str(content.get("kind"))), content.get("content"))):
        if schema is None:
            continue
        problem = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(part)), None)
        if problem is not None:
            where = "/".join(map(str, problem.absolute_path)) or "its top"
            raise _refuse(f"at {where}: {problem.message[:200]}", path)
    for text in _texts(content):
        if portable(text) != text:
            raise _refuse(f"it names a folder of a machine: {text[:100]}", path)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in (str(key), *_texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return []


def _refuse(cause: str, path: str | os.PathLike[str]) -> EmraError:
    return EmraError(
        "result-file",
        f"This is no result of a benchmark: {cause}",
        "Give a file that benchmarks.latency, memory, roofline or benchmarks.precision.table wrote with --json",
        path,
    )
