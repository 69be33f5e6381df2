"""Optional libraries: the command that installs them, for remedies, and the check that they are installed.

emra-deploy is on no package registry, so a remedy cannot name it with an extra. The extra's requirements can be
installed anywhere; they are read from setup.cfg in a clone, else from the installed package's metadata.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from emra_deploy.errors import EmraError, one_line

_NAME = "emra-deploy"
_OWN = ("emra_deploy", "training", "export", "benchmarks")
_CLAUSE = re.compile(r"""\W*(\w+)\s*(<|>=|==)\s*["']([^"']*)["']\W*""")


def install_command(*extras: str) -> str:
    """The command that installs the requirements of extras on this Python, with the installer of this environment."""
    wanted = [requirement for extra in extras for requirement in requirements(extra)]
    if not wanted:
        # There is no metadata: the code was copied to a device, or is on PYTHONPATH.
        return f"{_pip('install')} -e '.[{','.join(extras)}]' in a clone of {_NAME}"
    return pip_install(*dict.fromkeys(wanted))


def pip_install(*packages: str) -> str:
    """The command that installs requirements such as ``"shapely>=2.0"`` into this environment."""
    return " ".join([_pip("install"), *(shlex.quote(package) for package in packages)])


def pip_replace(old: str, new: str) -> str:
    """The command that installs a requirement in place of a package with the same module."""
    return f"{_pip('uninstall')} {old}; {pip_install(new)}"


def requirements(extra: str) -> list[str]:
    """Requirements of an extra on this Python, without markers; empty if unknown."""
    found = []
    for line in _declared(extra):
        requirement, _, marker = line.partition(";")
        # onnxruntime-gpu and others have the same module, which a second package would overwrite.
        other = requirement.startswith("onnxruntime>") and _other_onnxruntime()
        if _applies(marker, extra) and not other:
            found.append(requirement.strip())
    return found


def need(extra: str, *modules: str, purpose: str) -> None:
    """Check that libraries can be imported; call this before long work.

    Args:
        extra: The extra with the libraries.
        modules: Names of their modules.
        purpose: The feature that needs them, such as ``"--plot"``.

    Raises:
        EmraError: ``library-missing`` if one cannot be imported.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            cause = f"{purpose} needs {module}, which {_state(error)}"
            raise EmraError("library-missing", cause, f"Run: {install_command(extra)}") from error


@contextmanager
def script_imports(script: str, *extras: str) -> Iterator[None]:
    """Context of a script's imports: a missing library ends it with one line and status 2 instead of a traceback.

    Args:
        script: The script's ``__name__``; an imported module raises `ImportError` as usual.
        extras: The extras with the libraries.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if script != "__main__" or name in _OWN:
            raise
        missing = EmraError("library-missing", f"{name} {_state(error)}", f"Run: {install_command(*extras)}")
        sys.stderr.write(f"error: {missing}\n")
        raise SystemExit(2) from None


def _state(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "is not installed"
    return f"cannot be loaded ({one_line(error, 200)})"


def _declared(extra: str) -> list[str]:
    """Requirements with markers, of a clone or of the installed package."""
    # Imported here because every command imports this module, and few need these.
    import configparser
    from importlib import metadata

    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    if setup.get("metadata", "name", fallback=None) == _NAME:
        # The metadata of an editable installation may be outdated.
        return setup.get("options.extras_require", extra, fallback="").strip().splitlines()
    try:
        lines = metadata.requires(_NAME) or []
    except metadata.PackageNotFoundError:
        return []
    return [line for line in lines if re.search(rf"""extra\s*==\s*["']{re.escape(extra)}["']""", line)]


def _applies(marker: str, extra: str) -> bool:
    """Evaluate a marker of this project: comparisons joined by ``and``; `packaging` is not needed for them."""
    here = {"extra": extra, "sys_platform": sys.platform, "python_version": "{}.{}".format(*sys.version_info)}
    for name, sign, value in _CLAUSE.findall(marker):
        mine = here.get(name, value)
        if name == "python_version":
            older = _numbers(mine) < _numbers(value)
            holds = {"<": older, ">=": not older}.get(sign, mine == value)
        else:
            holds = mine == value
        if not holds:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _other_onnxruntime() -> bool:
    # The library is not imported: a build for GPUs may fail here.
    return find_spec("onnxruntime") is not None and not _is_installed("onnxruntime")


def _is_installed(package: str) -> bool:
    """Whether a package is installed, by its metadata: a search for the module pip breaks setuptools' distutils."""
    from importlib import metadata

    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _pip(verb: str) -> str:
    """``pip VERB`` if that changes this environment, else a longer form that does."""
    pip = "uninstall --yes" if verb == "uninstall" else verb
    if not sys.executable:
        return f"pip {pip}"
    found = shutil.which("pip")
    if sys.prefix != sys.base_prefix and found and Path(found).parent == Path(sys.executable).parent:
        return f"pip {pip}"
    python = shlex.quote(sys.executable)
    if not _is_installed("pip") and shutil.which("uv"):
        return f"uv pip {verb} --python {python}"
    return f"{python} -m pip {pip}"
