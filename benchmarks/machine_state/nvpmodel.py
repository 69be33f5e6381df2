"""Jetson's power mode."""

from __future__ import annotations

import re
import shutil
import subprocess

_MODE = re.compile(r"NV Power Mode:\s*(\S.*?)\s*$", re.MULTILINE)
_NUMBER = re.compile(r"^\s*(\d+)\s*$", re.MULTILINE)
_FAN = re.compile(r"NV Fan Mode:\s*(\S+)")


def parse_nvpmodel(text: str) -> dict[str, str | int | None] | None:
    """Answer of ``nvpmodel -q``, with or without ``--verbose``; None without a mode.

    Returns:
        ``mode`` (such as ``"MAXN"``), ``number`` and ``fan``, the latter two None if not reported.
    """
    mode = _MODE.search(text)
    if mode is None:
        return None
    number = _NUMBER.search(text, mode.end())
    fan = _FAN.search(text)
    return {
        "mode": mode.group(1),
        "number": int(number.group(1)) if number else None,
        "fan": fan.group(1) if fan else None,
    }


def read_nvpmodel() -> dict[str, str | int | None] | None:
    """The power mode of this machine, None if there is none."""
    program = shutil.which("nvpmodel") or shutil.which("/usr/sbin/nvpmodel")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_nvpmodel(done.stdout)
