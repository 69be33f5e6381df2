"""Print ``docs/errors.md``: ``python -m emra_deploy.errors > docs/errors.md``."""

from __future__ import annotations

import inspect
import sys

from emra_deploy.errors import KINDS
from emra_deploy.errors.codes import CODES

_HEAD = """\
# Errors

<!-- Made by: python -m emra_deploy.errors > docs/errors.md -->

Every failure whose cause is known is an `EmraError` with `code`, `cause` (what was received and expected), `remedy`
(what to do) and `path`. Programs may match on codes; `CHANGELOG.md` lists every change of one. Each code belongs to one
subclass, and each subclass calls for a different reaction:

```python
from emra_deploy import AccuracyError, BackendMissingError, EmraError, Segmenter

try:
    segmenter = Segmenter.open(backend="openvino")
except (BackendMissingError, AccuracyError):
    segmenter = Segmenter.open()
except EmraError as error:
    print(error.code, error.cause, error.remedy, error.path)
    raise
```

Commands print an error on one line on stderr and exit with a status:

| status | meaning |
|---|---|
| 0 | done |
| 1 | the command worked and found a fault: a check, comparison or promise that failed |
| 2 | an `EmraError`, or arguments that cannot be parsed |
| 130 | interrupted by Ctrl-C, which in Python is a `KeyboardInterrupt` |

`emra VERB --json` also prints `{"error": {"code", "cause", "remedy", "path"}}` on stdout.
"""


def document() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for name, kind in KINDS.items():
        rows = [f"| `{code}` | {entry.meaning} |\n" for code, entry in sorted(CODES.items()) if entry.kind == name]
        parts.append(f"\n## {name}\n\n{inspect.getdoc(kind)}\n\n| code | meaning |\n|---|---|\n{''.join(rows)}")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(document())
