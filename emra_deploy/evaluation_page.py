"""The template of the page that `emra_deploy.evaluation_report.write_page` writes."""

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
{{ content.windows.halo }} · {{ content.runner.values() | join(" ") }} · emra-deploy
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
</span>{% endfor %}<span><i style="background: #000"></i>no label</span></div>
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
