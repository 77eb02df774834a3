"""The report of one run as HTML: text in, text out, every string from outside escaped."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from statistics import fmean
from string import Template
from typing import Any

from stepcredit.config import ComponentSection, RewardSection, TrainConfig
from stepcredit.report.charts import Line, Point, line_chart, number

Row = Mapping[str, Any]

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name · stepcredit</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$name</h1>
<p class="verdict">$verdict</p>
$summary
</header>
<main>
$reward
$steps
$curves
$grids
$environment
<details>
<summary>Configuration</summary>
<pre>$config</pre>
</details>
</main>
</body>
</html>
""")

_DRAWN = 1e150
_SECONDS = {"sampling": "seconds_sampling", "reward": "seconds_reward", "training": "seconds_training"}
_TITLES = {
    "approx_kl": "Approximate KL to the sampling policy",
    "clip_fraction": "Clip fraction",
    "grad_norm": "Gradient norm",
    "ratio_max_deviation": "Largest |ratio − 1|",
}
_PROFILES = {"credit": "credit_profile", "sampler": "native_scale", "update": "update_profile"}
_ELSEWHERE = {
    "epoch",
    "reward_queries",
    "reward_mean",
    "reward_std",
    "peak_memory_bytes",
    *_SECONDS.values(),
    *_PROFILES.values(),
}


@dataclass(frozen=True)
class Grid:
    """A sample grid: the number of finished epochs and the PNG's bytes."""

    epoch: int
    png: bytes


def render(
    name: str,
    config: TrainConfig,
    config_text: str,
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    grids: Sequence[Grid],
) -> str:
    """The page. `rows` are all epochs in order, `grids` those to show side by side; both may be empty, as may
    `environment`."""
    return _PAGE.substitute(
        name=escape(name),
        style=resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8"),
        verdict=verdict(rows),
        summary=_facts(_summary(config)),
        reward=_reward(rows) + _components(config.reward, rows),
        steps=_steps(rows),
        curves=_curves(rows),
        grids=_grids(grids),
        environment=_environment(environment),
        config=escape(config_text),
    )


def verdict(rows: Sequence[Row]) -> str:
    """What the run came to, in one sentence of HTML."""
    if not rows:
        return "No epoch has finished yet."
    first, last = rows[0], rows[-1]
    queries = _value(last, "reward_queries")
    asked = f"{queries:,.0f}" if math.isfinite(queries) else "unknown"
    spent = f"{asked} reward queries and {_duration(sum(map(_seconds, rows)))}"
    if len(rows) == 1:
        return f"Mean reward {_read(last, 'reward_mean')} in epoch {_read(last, 'epoch')}, after {spent}."
    gain = _value(last, "reward_mean") - _value(first, "reward_mean")
    change = f" ({'+' if gain > 0 else ''}{number(gain)})" if math.isfinite(gain) else ""
    return (
        f"Mean reward {_read(first, 'reward_mean')} in epoch {_read(first, 'epoch')} → "
        f"{_read(last, 'reward_mean')} in epoch {_read(last, 'epoch')}{change}, after {spent}."
    )


def _summary(config: TrainConfig) -> dict[str, str]:
    prompts = config.sample.prompts_per_epoch or "all"
    return {
        "Model": f"{config.model.path}, {config.model.adapter}",
        "Reward": _reward_name(config.reward),
        "Credit": config.credit.name,
        "Prompts": config.prompts.source,
        "Each epoch": f"{prompts} prompts × {config.sample.images_per_prompt} images × {config.sample.steps} steps",
        "Seed": str(config.run.seed),
    }


def _reward(rows: Sequence[Row]) -> str:
    points = [
        Point(_value(row, "reward_queries"), _value(row, "reward_mean"), _finite(_value(row, "reward_std")))
        for row in rows
    ]
    line = Line("mean reward", points)
    svg = line_chart([line], x_label="reward queries", y_label="mean reward", width=600, height=290, letters=19)
    if not svg:
        return ""
    return (
        f'<section>\n<h2>Reward</h2>\n<figure class="large">{svg}</figure>\n'
        '<p class="note">Mean over the images an epoch was trained on, drawn before its updates; the band is one '
        "standard deviation of the images to each side. Not a held-out evaluation.</p>\n</section>"
    )


def _components(reward: RewardSection, rows: Sequence[Row]) -> str:
    """A chart for each reward of a mixture: its own scores, on its own scale."""
    figures = "\n".join(filter(None, (_component(part, rows) for part in reward.components)))
    if not figures:
        return ""
    return (
        f'\n<section>\n<h2>Rewards of the mixture</h2>\n<div class="small">\n{figures}\n</div>\n'
        '<p class="note">Each reward\'s own scores, before weights and standardisation; the band is one standard '
        "deviation. One that falls while another rises is being paid for it. The mean reward above is the weighted sum "
        "of these scores, without the standardisation per prompt that training adds (its mean would always be 0).</p>\n"
        "</section>"
    )


def _component(part: ComponentSection, rows: Sequence[Row]) -> str:
    figures = [(row, _mapping(_mapping(row.get("reward_components")).get(part.called))) for row in rows]
    points = [
        Point(_value(row, "reward_queries"), _value(scores, "mean"), _finite(_value(scores, "std")))
        for row, scores in figures
    ]
    svg = line_chart([Line(part.called, points)], x_label="reward queries", y_label=part.called)
    title = escape(f"{part.called}, weight {number(part.weight)}")
    return f"<figure><figcaption>{title}{_change(points)}</figcaption>{svg}</figure>" if svg else ""


def _change(points: Sequence[Point]) -> str:
    """`: first → last` of the finite values."""
    finite = [point.y for point in points if math.isfinite(point.y)]
    return f": {number(finite[0])} → {number(finite[-1])}"


def _reward_name(reward: RewardSection) -> str:
    parts = ", ".join(f"{number(part.weight)} × {part.called}" for part in reward.components)
    return f"{reward.name} of {parts}" if parts else reward.name


def _steps(rows: Sequence[Row]) -> str:
    """How much each denoising step counted: a chart of the profiles that were recorded, averaged over the epochs."""
    lines = [Line(label, _profile(key, rows)) for label, key in _PROFILES.items()]
    svg = line_chart(lines, x_label="denoising step", y_label="weight", width=600, height=290, letters=19)
    if not svg:
        return ""
    keys = "".join(_key(index, line.label) for index, line in enumerate(lines) if line.points)
    return (
        f'<section>\n<h2>Which steps are trained</h2>\n<figure class="large"><figcaption>{keys}</figcaption>{svg}'
        '</figure>\n<p class="note">Each scaled to mean 1, averaged over the epochs; step 0 is the noisiest. '
        "<em>Credit</em>: mean |step advantage|, the rule’s doing. <em>Sampler</em>: how strongly the model output "
        "moves the step’s log-probability, |d mean / d output| / std, whatever the rule. <em>Update</em>: their "
        "product, what the policy gradient weighs the step by.</p>\n</section>"
    )


def _profile(key: str, rows: Sequence[Row]) -> list[Point]:
    """The mean over epochs of a number per step."""
    recorded = [row[key] for row in rows if isinstance(row.get(key), list)]
    steps = range(min(map(len, recorded), default=0))
    columns = [[value for values in recorded if math.isfinite(value := _number(values[step]))] for step in steps]
    return [Point(step, fmean(column)) for step, column in zip(steps, columns, strict=True) if column]


def _curves(rows: Sequence[Row]) -> str:
    """A small chart per recorded number, the best known first."""
    recorded = dict.fromkeys(key for row in rows for key in row if key not in _ELSEWHERE)
    keys = [*(key for key in _TITLES if key in recorded), *sorted(recorded.keys() - _TITLES.keys())]
    figures = [_curve(_TITLES.get(key, key), [_line(key, key, rows)]) for key in keys]
    figures.append(_curve("Seconds", [_line(label, key, rows) for label, key in _SECONDS.items()]))
    figures.append(_curve("Peak memory, GiB", [_line("peak memory", "peak_memory_bytes", rows, scale=2.0**-30)]))
    drawn = "\n".join(filter(None, figures))
    return f'<section>\n<h2>Each epoch</h2>\n<div class="small">\n{drawn}\n</div>\n</section>' if drawn else ""


def _line(label: str, key: str, rows: Sequence[Row], scale: float = 1.0) -> Line:
    return Line(label, [Point(_value(row, "epoch"), scale * _value(row, key)) for row in rows])


def _curve(title: str, lines: Sequence[Line]) -> str:
    svg = line_chart(lines, x_label="epoch", y_label=title)
    if not svg:
        return ""
    keys = "".join(_key(index, line.label) for index, line in enumerate(lines)) if len(lines) > 1 else ""
    return f"<figure><figcaption>{escape(title)}{keys}</figcaption>{svg}</figure>"


def _key(index: int, label: str) -> str:
    stroke = f'<svg class="s{index}" viewBox="0 0 24 8" aria-hidden="true"><path class="line" d="M0 4H24"/></svg>'
    return f' <span class="key">{stroke}{escape(label)}</span>'


def _grids(grids: Sequence[Grid]) -> str:
    if not grids:
        return ""
    figures = "\n".join(map(_grid, grids))
    return f'<section>\n<h2>Samples</h2>\n<div class="grids">\n{figures}\n</div>\n</section>'


def _grid(grid: Grid) -> str:
    when = f"After epoch {grid.epoch}" if grid.epoch else "Before training"
    data = base64.b64encode(grid.png).decode()
    return f'<figure><figcaption>{when}</figcaption><img alt="{when}" src="data:image/png;base64,{data}"></figure>'


def _environment(environment: Mapping[str, Any]) -> str:
    if not environment:
        return ""
    known = dict(environment)
    words = known.pop("command", [])
    command = shlex.join(map(str, words)) if isinstance(words, list) else str(words)
    packages = _mapping(known.pop("packages", {}))
    facts = {key.replace("_", " "): str(value) for key, value in known.items() if value is not None}
    facts["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    return f"<section>\n<h2>Where it ran</h2>\n<pre>{escape(command)}</pre>\n{_facts(facts)}\n</section>"


def _facts(facts: Mapping[str, str]) -> str:
    items: Iterable[str] = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f"<dl>\n{chr(10).join(items)}\n</dl>"


def _value(row: Row, key: str) -> float:
    """The number recorded under `key`, NaN where there is none."""
    return _number(row.get(key))


def _number(value: Any) -> float:
    """`value` if it is a number that can be drawn: the range of sizes beyond 1e150 overflows, below 1e-150 vanishes."""
    if not isinstance(value, int | float) or not -_DRAWN < value < _DRAWN:
        return math.nan
    return float(value) if abs(value) > 1 / _DRAWN else 0.0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _read(row: Row, key: str) -> str:
    value = _value(row, key)
    return number(value) if math.isfinite(value) else "unknown"


def _seconds(row: Row) -> float:
    return sum(_finite(_value(row, key)) for key in _SECONDS.values())


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
