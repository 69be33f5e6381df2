"""CI runs existing targets on the supported Pythons, and the templates name existing commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from emra_deploy.cli.main import build_parser
from tests.conftest import REPOSITORY
from tests.test_package import PYTHONS, dry_run

yaml = pytest.importorskip("yaml", reason="PyYAML reads the workflow")

GITHUB = REPOSITORY / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(GITHUB / "workflows" / "ci.yml")["jobs"][job]["steps"]
    return found


def targets(text: str) -> list[str]:
    return re.findall(r"^\s*(?:- run: )?make ([a-z-]+)", text, re.MULTILINE)


def test_the_workflow_runs_the_targets_of_ci_run_and_contributing() -> None:
    run = set(targets((REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")))
    named = set(targets((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    used = [target for job in ("lint", "test") for step in steps(job) for target in targets(step.get("run", ""))]
    assert used == ["lint", "demo", "test-device", "test"]
    assert run == {"demo", "test-device", "test"}
    assert {"lint", "demo", "test-device", "test"} <= named
    for target in used:
        assert dry_run(target).returncode == 0, target


def test_the_workflow_has_every_python_with_its_lock() -> None:
    matrix = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert tuple(matrix["python"]) == PYTHONS
    for job, version in (("lint", "3.11"), ("test", "${{ matrix.python }}")):
        [setup] = [step for step in steps(job) if step.get("uses", "").startswith("actions/setup-python")]
        assert setup["with"]["python-version"] == version
        assert setup["with"]["cache-dependency-path"] == f"requirements/python-{version}.txt"


def test_the_workflow_installs_the_system_packages_of_ci_run() -> None:
    [listed] = re.findall(r"packages=\((.*?)\)", (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8"), re.DOTALL)
    [install] = [step["run"] for step in steps("test") if "apt-get" in step.get("run", "")]
    _, packages = install.replace("\\\n", " ").split("--no-install-recommends")
    assert packages.split() == listed.split()


def test_actions_are_pinned_and_may_only_read() -> None:
    workflow = read(GITHUB / "workflows" / "ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step


@pytest.mark.parametrize("form", FORMS, ids=[path.stem for path in FORMS])
def test_the_forms_name_commands_files_and_pages_that_exist(form: Path) -> None:
    text = form.read_text(encoding="utf-8")
    for command in re.findall(r"`emra ([^`]+)`", text):
        if command != "--version":
            build_parser().parse_args(shlex.split(command))
    for script in re.findall(r"`python (\S+\.py)", text):
        assert (REPOSITORY / script).is_file()
    for page in re.findall(r"\.\./blob/main/([^#)\s]+)", text) + re.findall(r"\b([A-Z]+\.md)\b", text):
        assert (REPOSITORY / page).is_file()
    content = read(form)
    names = [part["id"] for part in content["body"] if "id" in part]
    assert len(names) == len(set(names))
    assert all(part["type"] == "markdown" or part["attributes"]["label"] for part in content["body"])


def test_bugs_and_wrong_maps_come_with_the_doctors_report() -> None:
    for name in ("bug", "wrong-map"):
        [part] = [
            part for part in read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")["body"] if part.get("id") == "doctor"
        ]
        assert "`emra doctor --json`" in part["attributes"]["label"]
        assert part["validations"]["required"] is True
