"""A page of the worst pictures of an evaluation with their ground truth: one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.evaluation.loop import Evaluation, LabelledTile
from emra_deploy.evaluation.report import percent
from emra_deploy.host.extras import need
from emra_deploy.host.files import atomic_output
from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.palettes import drawn_classes
from emra_deploy.segmenting.segmenter import Segmenter

PANEL = 480
"""Longest side of a picture on the page, in pixels; larger ones are subsampled."""

RIGHT, WRONG, UNLABELLED = (0, 114, 178), (230, 159, 0), (0, 0, 0)
"""Blue and orange of Okabe and Ito's palette, which differ in hue and in lightness for every kind of colour vision."""

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Panels:
    """One picture on the page, subsampled to `PANEL`: uint8 h×w×3 each."""

    image: _Bytes
    truth: _Bytes
    prediction: _Bytes
    errors: _Bytes


def make_panels(segmenter: Segmenter, tile: LabelledTile, classes: ClassSet) -> Panels:
    """Segment a picture again and draw it, reading by windows and subsampling the pixels."""
    from emra_deploy.segmenting.overlay import colour_map

    source = tile.source()
    step = max(1, math.ceil(max(source.height, source.width) / PANEL))
    kept: list[tuple[_Bytes, _Bytes, _Bytes]] = []
    for window, prediction in segmenter.segment_rows(source):
        rows = np.arange(-window.top % step, window.height, step)
        if rows.size:
            pick = np.ix_(rows, np.arange(0, window.width, step))
            area = Window(window.top, window.left, window.height, window.width)
            kept.append((source.read(area)[pick], tile.read_labels(area)[pick], prediction[pick]))
    image, truth, prediction = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    errors = np.array([WRONG, RIGHT], np.uint8)[(truth == prediction).astype(np.uint8)]
    errors = (0.75 * errors + 0.25 * image.mean(axis=2, keepdims=True)).astype(np.uint8)
    errors[(truth == IGNORE) | (prediction == IGNORE)] = UNLABELLED
    return Panels(image, colour_map(truth, classes), colour_map(prediction, classes), errors)


def check_page() -> None:
    """Check that a page can be written, before any work.

    Raises:
        EmraError: ``library-missing`` without jinja2.
    """
    need("report", "jinja2", purpose="the page")


def write_page(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    segmenter: Segmenter,
    tiles: Iterable[LabelledTile],
    content: Mapping[str, Any],
    *,
    count: int = 8,
    overwrite: bool = False,
) -> None:
    """Write one self-contained HTML file with the scores, and the worst pictures with their ground truth.

    Args:
        path: The file to write.
        evaluation: The scores.
        segmenter: The model, which is run again on the pictures shown.
        tiles: The evaluated tiles.
        content: Result of `describe`.
        count: Number of pictures.
        overwrite: Whether an existing file may be replaced.

    Raises:
        EmraError: ``library-missing`` without jinja2, and those of writing.
    """
    check_page()
    import jinja2

    by_name = {tile.name: tile for tile in tiles}
    classes = drawn_classes(evaluation.classes)
    shown = []
    for image in evaluation.worst(count):
        panels = make_panels(segmenter, by_name[image.name], classes)
        shown.append(
            {
                "score": image,
                "panels": [
                    ("Picture", _uri(panels.image, "JPEG")),
                    ("Truth", _uri(panels.truth, "PNG")),
                    ("Prediction", _uri(panels.prediction, "PNG")),
                    ("Right and wrong", _uri(panels.errors, "JPEG")),
                ],
            }
        )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = percent
    counts = evaluation.matrix.counts
    text = environment.from_string(TEMPLATE).render(
        content=content,
        scores=evaluation.scores,
        without=evaluation.miou_without_clutter,
        palette=[_hex(colour) for colour in classes.palette],
        verdicts=[("right", _hex(RIGHT)), ("wrong", _hex(WRONG)), ("no label", _hex(UNLABELLED))],
        confusion=(counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist(),
        shown=shown,
        total=max(1, int(counts.sum())),
        images=evaluation.images,
    )
    with atomic_output(path, overwrite=overwrite) as part:
        part.write_text(text, encoding="utf-8")


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _uri(pixels: _Bytes, form: str) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=form, **({"quality": 85} if form == "JPEG" else {"optimize": True}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation on {{ content.data.name }} / {{ content.data.split }}</title>
<style>
:root { --ink: #1c2126; --soft: #626c75; --line: #dfe3e7; --back: #ffffff; --tint: 30, 110, 180; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ad; --line: #363d44; --back: #15191d; --tint: 90, 160, 230; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 24px 60px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
p { margin: 4px 0; color: var(--soft); overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 32px; margin: 20px 0 8px; }
.figures b { display: block; font-size: 28px; line-height: 1.2; } .figures span { color: var(--soft); }
.tables { display: flex; flex-wrap: wrap; gap: 12px 48px; align-items: flex-start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 4px; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 500; }
i { display: inline-block; width: 12px; height: 12px; margin-right: 7px; border: 1px solid var(--line); }
section { margin: 18px 0 26px; } h3 { font-size: 15px; margin: 0 0 8px; overflow-wrap: anywhere; }
h3 small { font-weight: 400; color: var(--soft); margin-left: 10px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 10px; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 13px; }
img { display: block; width: 100%; image-rendering: auto; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; }
</style>
</head>
<body>
<h1>{{ content.data.name }} / {{ content.data.split }}</h1>
<p>{{ content.model.path }}{% if content.model_sha256 %} · sha256 {{ content.model_sha256[:16] }}{% endif %}</p>
<p>{{ images | length }} pictures · windows of {{ content.windows.height }} × {{ content.windows.width }}, halo
{{ content.windows.halo }}{{ ", blended" if content.windows.blend }} ·
{{ content.runner.values() | join(" ") }} · emra-deploy
{{ content.versions["emra-deploy"] }}</p>
<div class="figures">
<div><b>{{ scores.miou | percent }}</b><span>mIoU, %</span></div>
{% if without is not none %}<div><b>{{ without | percent }}</b><span>mIoU without clutter, %</span></div>{% endif %}
<div><b>{{ scores.mf1 | percent }}</b><span>mean F1, %</span></div>
<div><b>{{ scores.accuracy | percent }}</b><span>overall accuracy, %</span></div>
</div>
<div class="tables">
<div class="scroll"><table><caption>Per class, %</caption>
<thead><tr><th>class</th><th>IoU</th><th>F1</th><th>precision</th><th>recall</th><th>share</th></tr></thead>
<tbody>{% for name in scores.names %}<tr><th><i style="background: {{ palette[loop.index0] }}"></i>{{ name }}</th>
<td>{{ scores.iou[loop.index0] | percent }}</td><td>{{ scores.f1[loop.index0] | percent }}</td>
<td>{{ scores.precision[loop.index0] | percent }}</td><td>{{ scores.recall[loop.index0] | percent }}</td>
<td>{{ (scores.support[loop.index0] / total) | percent }}</td></tr>
{% endfor %}</tbody></table></div>
<div class="scroll"><table><caption>Confusion, % of the true class (rows)</caption>
<thead><tr><th>true \\ predicted</th>{% for name in scores.names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for name in scores.names %}<tr><th>{{ name }}</th>
{% for share in confusion[loop.index0] %}<td style="background: rgba(var(--tint), {{ (share * 0.6) | round(3) }})">
{{- share | percent }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
</div>
<h2>The {{ shown | length }} worst pictures</h2>
<div class="key">{% for name in scores.names %}<span><i style="background: {{ palette[loop.index0] }}"></i>{{ name }}
</span>{% endfor %}</div>
<div class="key"><span>Right and wrong, in colours that colour-blind eyes can distinguish:</span>
{% for name, colour in verdicts %}<span><i style="background: {{ colour }}"></i>{{ name }}</span>{% endfor %}</div>
{% for entry in shown %}<section>
<h3>{{ entry.score.name }}<small>mIoU {{ entry.score.miou | percent }} % · right
{{ entry.score.accuracy | percent }} %</small></h3>
<div class="panels">{% for caption, uri in entry.panels %}<figure><img src="{{ uri }}"
alt="{{ caption }} of {{ entry.score.name }}"><figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div>
</section>
{% endfor %}
</body>
</html>
"""
