"""The report: everything is in it, nothing is fetched, and a real browser shows it on a desk and on a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.report import main
from benchmarks.reporting.accuracy import accuracy_points
from benchmarks.reporting.page import render
from benchmarks.reporting.plots import short_names
from benchmarks.reporting.results import Result, make_result, read_result
from benchmarks.reporting.sections import make_sections
from emra_deploy.errors import EmraError
from tests.benchmarks.results import SHA, candidate, latency_result
from tests.benchmarks.test_compare import memory
from tests.conftest import REPOSITORY

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("psutil")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "br", "hr", "img", "link", "input", "path", "use"}


def roofline_result() -> dict[str, Any]:
    top = {"per_second": 2e11, "by": "NumPy"}
    row = {
        "key": "emra.onnx | openvino | b1 | 256x256",
        "name": "emra.onnx",
        "flops": 25e9,
        "matrix_flops": {"fp32": 24e9},
        "bytes_fused": 23e6,
        "bytes_unfused": 16e8,
        "seconds": {"p50": 0.2},
        "flops_per_second": 125e9,
        "intensity_fused": 1087.0,
        "intensity_unfused": 15.6,
        "bound_seconds": 0.12,
        "bound_by": "compute",
        "attained": 0.6,
        "uncounted": {},
    }
    ceilings = {
        "device": "processor",
        "threads": 2,
        "bandwidth": {"per_second": 2e10, "by": "NumPy copy"},
        "compute": {"fp32": top, "bf16": {**top, "per_second": 5e11}},
    }
    content = {"ceilings": ceilings, "gpu_ceilings": None, "noise": {"quiet": True, "reasons": []}, "models": [row]}
    return {**latency_result(), "kind": "roofline", "content": content}


def accuracy_result() -> dict[str, Any]:
    return {
        "schema": 1,
        "model_sha256": SHA,
        "model": {"name": "emra", "precision": "fp32"},
        "data": {"name": "dubai", "split": "val"},
        "miou": 0.6128,
        "accuracy": 0.81,
        "confusion": [],
        "runner": {"backend": "onnxruntime", "version": "1.31.1"},
    }


def scored(content: dict[str, Any]) -> Result:
    """A file of accuracy.py, as it is read."""
    return Result(
        schema="", version=1, kind="accuracy", run=None, machine={}, models=[], failures=[], not_measured=[],
        content=content,
    )  # fmt: skip


def gpu_result() -> dict[str, Any]:
    from benchmarks.gpu.rows import Goal, Row

    rows = [Row("speed", "aggregation", 1.5, "ms", Goal("<=", 2.0)), Row("speed", "blocks", None, note="no room")]
    content = {"device": {"name": "NVIDIA H100"}, "seed": 7, "seconds": 60, "rows": [row.to_dict() for row in rows]}
    return dict(make_result("gpu", "gpu_suite.py", [], content, models=[]))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One file of each kind; the latency has names that HTML and Markdown could stumble over."""
    odd = 'a<b>&"c".onnx | onnxruntime | b1 | 256x256'
    candidates = [
        candidate("emra.onnx | onnxruntime | b1 | 256x256", 100 + np.random.default_rng(0).normal(0, 1, 10)),
        candidate("emra.onnx | openvino | b1 | 256x256", 60 + np.random.default_rng(1).normal(0, 1, 10)),
        candidate(odd, 90 + np.random.default_rng(2).normal(0, 1, 10), sha256=None),
    ]
    latency = latency_result(candidates)
    latency["failures"] = [{"candidate": "broken.onnx", "code": "model-unreadable", "message": "not an ONNX model"}]
    folder = tmp_path_factory.mktemp("results")
    written = {
        "latency.json": latency,
        "memory.json": memory(200 * 2**20),
        "roofline.json": roofline_result(),
        "accuracy.json": accuracy_result(),
        "gpu.json": gpu_result(),
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    return [folder / name for name in written]


class Checker(HTMLParser):
    """Balanced tags, distinct identifiers, text, and everything that could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.stack.append(tag)
        self._look(attributes)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._look(attributes)

    def _look(self, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action") and value:
                self.references.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page(results: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "report.html"
    assert main([*map(str, results), "--html", str(output), "--markdown", str(output.with_suffix(".md"))]) == 0
    return output


def test_the_page_is_whole_and_fetches_nothing(page: Path) -> None:
    checker = Checker()
    checker.feed(page.read_text())
    assert checker.stack == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert all(reference.startswith("#") for reference in checker.references)
    targets = {reference[1:] for reference in checker.references}
    assert targets <= set(checker.ids)
    assert not re.findall(r"url\((?!#)", page.read_text())
    assert "<script" not in page.read_text()


def test_the_page_says_everything(page: Path) -> None:
    checker = Checker()
    checker.feed(page.read_text())
    text = " ".join(" ".join(checker.text).split())
    for words in (
        "emra.onnx | openvino | b1 | 256x256",
        'a<b>&"c".onnx',
        "faster",
        "mIoU",
        "0.613",
        "evidence: miou",
        SHA,
        "not an ONNX model",
        "python benchmarks/gpu_suite.py",
        "python benchmarks/latency.py emra.onnx --json a.json",
        "GFLOP/s",
        "NVIDIA H100",
        "no room",
        version("onnxruntime"),
    ):
        assert words in text, words
    assert "Machine too noisy" not in text
    # Latency: two charts; accuracy, memory and roofline one each.
    assert page.read_text().count("<svg") == 5


def test_accuracy_is_shown_only_of_what_was_measured() -> None:
    """Same file, but another backend, or another precision, or another file: no point on the chart."""
    key = "emra.onnx | {} | b1 | 256x256"
    times = np.full(10, 100.0)
    candidates = [
        candidate(key.format("onnxruntime"), times),
        candidate(key.format("openvino"), times, backend={"backend": "openvino", "precision": "f32"}),
        candidate(key.format("onnxruntime 2"), times, backend={"backend": "onnxruntime", "precision": "bf16"}),
        candidate("other.onnx | onnxruntime | b1 | 256x256", times, sha256="b" * 64),
    ]
    results = {"a.json": scored(accuracy_result()), "l.json": latency_result(candidates)}
    section = next(section for section in make_sections(results) if section.id == "accuracy")
    _, svg = section.charts[0]
    # A name and, in the next line, its figures.
    assert len(re.findall(r"<text[^>]*>[^<]*0\.613[^<]*</text>", svg)) == 1
    drawn = re.findall(r"<text[^>]*>([^<]*joined):</text>", svg)
    assert drawn == ["emra.onnx | onnxruntime | b1 | 256x256 | joined"]


def test_accuracy_stands_against_the_time_of_a_map() -> None:
    """Windows that overlap more, to be averaged, cost more; windows of another size were not timed."""
    latency = latency_result([candidate("emra.onnx | onnxruntime | b2 | 256x256", np.full(10, 100.0), batch=2)])
    scores = []
    for halo, blend, side in ((28, False, 256), (64, True, 256), (28, False, 512), (28, False, 256)):
        windows = {"height": side, "width": side, "halo": halo, "blend": blend}
        scores.append(scored({**accuracy_result(), "windows": windows}))
    points = accuracy_points(scores, latency)
    assert [point["key"].split(" | ")[-1] for point in points] == ["joined", "blended"]
    # 107 ms end to end, two pictures; a window adds its 200 x 200 or 128 x 128 inner pixels.
    expected = [107 / 2 * 1e6 / 200**2, 107 / 2 * 1e6 / 128**2]
    assert [point["milliseconds"] for point in points] == pytest.approx(expected)


def test_the_chart_of_accuracy_alone(tmp_path: Path, results: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "chart.svg"
    assert main([*map(str, results), "--plot", str(chart)]) == 0
    assert "mIoU" in chart.read_text()
    assert main([str(results[0]), "--plot", str(tmp_path / "none.svg")]) == 2
    assert "[no-points]" in capsys.readouterr().err
    assert not (tmp_path / "none.svg").exists()


def test_the_chart_of_accuracy_alone_is_of_one_run(tmp_path: Path) -> None:
    times = np.full(10, 100.0)
    once, twice = (
        latency_result([candidate("emra.onnx | onnxruntime | b1 | 256x256", share * times)]) for share in (1, 2)
    )
    files = {"a": accuracy_result(), "l1": once, "l2": twice}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    chart = tmp_path / "chart.svg"
    assert main([*(str(tmp_path / f"{name}.json") for name in files), "--plot", str(chart)]) == 0
    assert chart.read_text().count("0.613") == 1


def test_markdown_has_whole_tables(page: Path) -> None:
    text = page.with_suffix(".md").read_text()
    lines = text.splitlines()
    tables = [index for index, line in enumerate(lines) if re.fullmatch(r"\|(-+:?\|)+", line)]
    assert len(tables) > 8
    for index in tables:
        cells = len(re.findall(r"(?<!\\)\|", lines[index]))
        assert len(re.findall(r"(?<!\\)\|", lines[index - 1])) == cells
        assert len(re.findall(r"(?<!\\)\|", lines[index + 1])) == cells
        assert lines[index - 2] == ""
    assert "\n\n\n" not in text
    assert "    python benchmarks/latency.py" in text


def test_a_noisy_machine_is_said_first(tmp_path: Path) -> None:
    path = tmp_path / "noisy.json"
    path.write_text(json.dumps(latency_result(quiet=False)))
    output = tmp_path / "report.html"
    assert main([str(path), "--html", str(output)]) == 0
    text = output.read_text()
    assert "Machine too noisy to conclude" in text
    assert text.index("Machine too noisy to conclude") < text.index("<svg")
    # Neither the table nor the chart claims a faster one.
    assert "<td>faster</td>" not in text
    assert text.count("<td>too noisy to conclude</td>") == 2


def test_the_committed_results_can_be_reported() -> None:
    paths = sorted((REPOSITORY / "benchmarks/results").glob("*.json"))
    readable = {}
    for path in paths:
        try:
            readable[path.name] = read_result(path)
        except EmraError:
            # Results of other commands have their own schemas.
            continue
    assert {"accuracy", "latency", "memory", "roofline", "runtime"} <= {result["kind"] for result in readable.values()}
    sections = make_sections(readable)
    assert "mIoU" in render("report.md.j2", sections, len(readable), "test")


def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, results: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    html = ["--html", str(tmp_path / "new.html")]
    for argv, code in (
        ([str(results[0])], "no-output"),
        (html, "no-results"),
        ([str(other), *html], "result-file"),
        ([str(tmp_path / "none.json"), *html], "result-file"),
        ([str(results[0]), "--html", str(tmp_path / "none/a.html")], "output-folder-missing"),
        ([str(results[0]), "--html", str(results[0]), "--overwrite"], "output-is-input"),
    ):
        assert main(argv) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: ")
        assert f"[{code}]" in shown
    assert not (tmp_path / "new.html").exists()


def test_names_are_shortened_to_what_differs() -> None:
    assert short_names(["a | x | b1", "a | y | b1"]) == ["x", "y"]
    assert short_names(["a | x | b1", "b | y | b1"]) == ["a | x", "b | y"]
    assert short_names(["a | x | b1"]) == ["a | x | b1"]
    assert short_names(["a | x", "a | x"]) == ["a | x", "a | x"]


PROBE = """
<script>
addEventListener("load", () => {
  const wide = document.documentElement;
  const charts = [...document.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect());
  const texts = [...document.querySelectorAll("figure svg text")].map((text) => text.getBoundingClientRect());
  const smallest = Math.min(...texts.map((box) => Math.min(box.height, Math.max(box.width, 9))));
  const inside = [...document.querySelectorAll("figure svg")].every((svg) => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].every((text) => {
      const box = text.getBoundingClientRect();
      return box.left >= frame.left - 3 && box.right <= frame.right + 3;
    });
  });
  document.title = JSON.stringify({
    view: innerWidth, content: wide.scrollWidth, charts: charts.length, smallest, inside,
    least: Math.min(...charts.map((box) => box.width)), most: Math.max(...charts.map((box) => box.right)),
    font: parseFloat(getComputedStyle(document.querySelector("td")).fontSize),
  });
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_browser_shows_it_on_a_desk_and_on_a_phone(page: Path, tmp_path: Path, width: int, height: int) -> None:
    """Nothing sticks out of the window, charts fill a phone, and their texts can be read."""
    # Headless Chromium has no window below 500 pixels: the phone is a frame of its width in a wider window.
    text = page.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    inner = tmp_path / "inner.html"
    inner.write_text(text.replace(policy.group(0), "").replace("</body>", PROBE + "</body>"))
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!doctype html><body style="margin:0"><iframe id="f" src="inner.html" style="border:0;width:{width}px;'
        f'height:{height}px"></iframe><p id="answer"></p><script>setInterval(() => {{'
        'document.getElementById("answer").textContent = document.getElementById("f").contentDocument.title;}, 20);'
        "</script></body>"
    )
    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 600)},{height}",
         "--virtual-time-budget=3000", outer.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r'<p id="answer">(\{.*?\})</p>', done.stdout)
    assert found is not None, done.stderr[-500:]
    seen = json.loads(found.group(1))
    assert seen["view"] == width
    # The page scrolls down only.
    assert seen["content"] <= width
    assert seen["charts"] == 5
    assert seen["most"] <= width
    assert seen["least"] >= (340 if width == 390 else 380)
    assert seen["inside"]
    assert seen["smallest"] >= 9
    assert seen["font"] >= 12
