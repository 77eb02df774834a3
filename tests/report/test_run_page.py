import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.toy_policy import toy_config
from tests.training.test_trainer import trainer_of

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.report import write_report
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.image_grid import save_grid
from stepcredit.types import Prompt

ATTACK = "<script>alert('x')</script>"


VOID = {"meta", "img", "input"}


class Balance(HTMLParser):
    """Fails if tags do not nest. Collects tag names and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def start(path: Path, command: tuple[str, ...] = ("stepcredit", "train"), **sections: Any) -> RunDirectory:
    return RunDirectory.create(path, TrainConfig.model_validate(sections), command)


def row(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "reward_queries": 640 * epoch,
        "reward_mean": -0.93 + 0.02 * epoch,
        "reward_std": 0.1,
        "ratio_max_deviation": 0.0,
        "approx_kl": 1e-5 * epoch,
        "clip_fraction": 0.1,
        "grad_norm": float("nan") if epoch == 2 else 1.0,
        "credit_fallback": 0.0,
        "seconds_sampling": 3.0,
        "seconds_reward": 1.0,
        "seconds_training": 4.0,
        "peak_memory_bytes": None,
    }


def write_rows(run: RunDirectory, rows: list[dict[str, Any]]) -> None:
    run.metrics_path.write_text("".join(json.dumps(entry) + "\n" for entry in rows).replace("NaN", "null"))


def page(run: RunDirectory) -> str:
    path = write_report(run.path)
    assert path == run.report_path
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("epochs", "verdict", "charts"),
    [
        (0, "No epoch has finished yet.", 0),
        (1, "Mean reward −0.91 in epoch 1, after 640 reward queries and 8 s.", 7),
        (10, "Mean reward −0.91 in epoch 1 → −0.73 in epoch 10 (+0.18), after 6,400 reward queries and 80 s.", 7),
    ],
)
def test_any_number_of_epochs(tmp_path: Path, epochs: int, verdict: str, charts: int) -> None:
    run = start(tmp_path / "my-run")
    write_rows(run, [row(epoch) for epoch in range(1, epochs + 1)])
    html = page(run)
    assert f'<p class="verdict">{verdict}</p>' in html
    assert [attributes["class"] for attributes in Balance(html).named("svg")].count("chart") == charts
    assert "<h1>my-run</h1>" in html
    assert "Samples" not in html


def test_rows_without_numbers_make_a_page(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    write_rows(run, [{"epoch": 1}, {"epoch": 2, "reward_mean": None}])
    assert "Mean reward unknown in epoch 1 → unknown in epoch 2, after unknown reward queries and 0 s." in page(run)


def test_each_reward_of_a_mixture_has_a_chart(tmp_path: Path) -> None:
    parts = [{"name": "warmth", "weight": 2}, {"name": "x.py:score", "label": ATTACK}, {"name": "alignment"}]
    run = start(tmp_path / "a", reward={"components": parts})
    rising = [{"warmth": {"mean": epoch / 4, "std": 0.1}, ATTACK: {"mean": -epoch, "std": 0.0}} for epoch in (1, 2)]
    write_rows(run, [row(epoch) | {"reward_components": rising[epoch - 1]} for epoch in (1, 2)] + [row(3)])
    html = page(run)
    assert not Balance(html).named("script")
    assert "<figcaption>warmth, weight 2: 0.25 → 0.5</figcaption>" in html
    assert "weight 1: −1 → −2</figcaption>" in html
    assert "<figcaption>alignment" not in html, "it was never recorded"
    assert "warmth 0.25 ± 0.1 at reward queries 640" in html
    assert "<dd>mixture of 2 × warmth, 1 × &lt;script&gt;" in html
    assert "<figcaption>reward_components" not in html


def test_each_tag_of_the_prompts_has_a_chart(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    tags = [{"counting": {"mean": 0.25, "images": 4}}, {ATTACK: {"mean": 1, "images": 4}}, None]
    tags += [{"counting": {"mean": 0.5, "images": 8}, ATTACK: {"mean": 2, "images": 1}}]
    write_rows(run, [row(epoch) | {"reward_by_tag": found} for epoch, found in enumerate(tags, start=1)])
    html = page(run)
    assert not Balance(html).named("script")
    assert "<figcaption>counting: 0.25 → 0.5</figcaption>" in html
    assert ": 1 → 2</figcaption>" in html
    assert "counting 0.25 at reward queries 640" in html
    assert "<figcaption>reward_by_tag" not in html
    assert "Reward by tag" not in page(start(tmp_path / "b"))


def test_the_page_draws_the_first_of_many_tags(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    write_rows(run, [row(1) | {"reward_by_tag": {f"tag {n}": {"mean": n, "images": 1} for n in range(100)}}])
    html = page(run)
    assert html.count("<figcaption>tag ") == 40 and "of 100 tags" in html


def test_step_profiles_are_drawn(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    write_rows(
        run,
        [
            row(1) | {"credit_profile": [1.5, 0.5], "native_scale": [0.5, 1.5], "update_profile": [1.0, 1.0]},
            row(2) | {"credit_profile": [0.5, 1.5], "native_scale": [0.5, 1.5], "update_profile": [0.3, 1.7]},
            row(3) | {"credit_profile": None, "native_scale": [0.5, None], "update_profile": "no list"},
        ],
    )
    html = page(run)
    assert [attributes["class"] for attributes in Balance(html).named("svg")].count("chart") == 8
    for title in ("credit 1", "sampler 0.5", "update 0.65"):
        assert f"<title>{title} at denoising step 0</title>" in html
    for title in ("credit 1", "sampler 1.5", "update 1.35"):
        assert f"<title>{title} at denoising step 1</title>" in html
    assert "<figcaption>credit_profile" not in html


def test_credit_by_epoch_is_drawn_and_tabulated(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    write_rows(run, [row(1) | {"credit_profile": [1.5, 0.5]}, row(2) | {"credit_profile": [0.5, 1.5]}, row(3)])
    html = page(run)
    for title in ("credit 1.5, epoch 1, step 0", "credit 0.5, epoch 1, step 1", "credit 1.5, epoch 2, step 1"):
        assert f"<title>{title}</title>" in html
    assert "epoch 3, step" not in html
    assert '<tr><th scope="row">1</th><td>1</td></tr>' in html


def test_overlapped_scoring_costs_only_the_waiting_time(tmp_path: Path) -> None:
    """An epoch that was scored during sampling takes 3 + 0.5 + 4 seconds; the reward's 1 second is not added."""
    run = start(tmp_path / "a")
    write_rows(run, [row(1) | {"seconds_waiting": 0.5}])
    html = page(run)
    assert "after 640 reward queries and 7.5 s." in html
    assert "<figcaption>Seconds " in html and "<figcaption>seconds_waiting" not in html


def test_hyperparameters_are_at_the_top(tmp_path: Path) -> None:
    html = page(start(tmp_path / "a", train={"learning_rate": 3e-4, "updates_per_epoch": 2, "inner_epochs": 3}))
    assert "10 epochs × 6 updates" in html and "0.0003" in html and "contribution" in html


def test_every_recorded_number_has_a_chart_under_its_own_name(tmp_path: Path) -> None:
    """Also those of algorithms and credit rules that the report has never heard of."""
    run = start(tmp_path / "a")
    basic = {"epoch": 1, "reward_queries": 8, "reward_mean": 0.5, "reward_std": 0.1, "seconds_sampling": 1.0}
    write_rows(run, [basic | {"x0_loss": 0.25, "note": "text"}, basic | {"epoch": 2, "x0_loss": 0.125}])
    html = page(run)
    assert "<figcaption>x0_loss</figcaption>" in html and "<figcaption>note" not in html
    assert "clip_fraction" not in re.findall("<figcaption>(.*?)</figcaption>", html)


def test_profiles_that_were_not_recorded_are_not_mentioned(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    write_rows(run, [row(1) | {"credit_profile": [1.5, 0.5]}])
    html = page(run)
    assert "credit 1.5 at denoising step 0" in html and "Sampler" not in html


def test_one_reward_has_no_mixture_section(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    write_rows(run, [row(1), row(2)])
    assert "mixture" not in page(run)


def test_a_run_with_only_a_configuration(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    run.environment_path.unlink()
    html = page(run)
    Balance(html)
    assert "<dt>packages</dt>" not in html and "adam_epsilon" in html


def test_first_and_last_grid_are_inside_the_page(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    for epoch in (0, 5, 10):
        save_grid(run.grid_path(epoch), torch.full((1, 3, 32, 32), epoch / 10), [f"epoch {epoch}"])
    (run.path / "samples" / "other.png").write_bytes(b"not a grid")
    html = page(run)
    assert re.findall(r"<figcaption>(.*?)</figcaption><img", html) == ["Before training", "After epoch 10"]
    assert '<span class="left">Before training</span><span class="right">After epoch 10</span>' in html
    sources = [
        str(attributes["src"]).removeprefix("data:image/png;base64,") for attributes in Balance(html).named("img")
    ]
    assert [base64.b64decode(source) for source in sources] == [run.grid_path(e).read_bytes() for e in (0, 10)]


@pytest.mark.parametrize("second", [b"not a picture", None], ids=["garbage", "of another size"])
def test_grids_of_different_size_have_no_slider(tmp_path: Path, second: bytes | None) -> None:
    run = start(tmp_path / "a")
    save_grid(run.grid_path(0), torch.zeros(1, 3, 32, 32), ["x"])
    save_grid(run.grid_path(5), torch.zeros(2, 3, 32, 32), ["x", "y"])
    if second is not None:
        run.grid_path(5).write_bytes(second)
    html = page(run)
    assert html.count("<img") == 2 and "<script" not in html and 'type="range" min' not in html


def test_one_grid_is_shown_once(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    save_grid(run.grid_path(5), torch.zeros(1, 3, 32, 32), ["x"])
    assert page(run).count("<img") == 1


def test_strings_from_files_are_escaped(tmp_path: Path) -> None:
    run = start(
        tmp_path / "<b>bold",
        ("stepcredit", "train", f"prompts.source={ATTACK}"),
        prompts={"source": ATTACK},
        reward={"name": "a:b", "options": {"</pre><img src=x onerror=alert(1)>": ATTACK}},
    )
    write_rows(run, [row(1) | {f"{ATTACK}": 1.0, "$name": 2.0}])
    html = page(run)
    parsed = Balance(html)
    assert not parsed.named("script") and not parsed.named("b") and not parsed.named("img")
    assert html.count("&lt;script&gt;") >= 4
    assert "<figcaption>$name</figcaption>" in html


def test_script_tags_in_a_prompt_are_escaped(tmp_path: Path) -> None:
    """A run on such a prompt, which also appears in the name of a metric."""
    config = toy_config(train={"epochs": 1}, sample={"prompts_per_epoch": 1})
    trainer = trainer_of(RunDirectory.create(tmp_path / "a", config, ["stepcredit"]), config, prompts=[Prompt(ATTACK)])
    trainer.train()
    trainer.run.append_metrics({"epoch": 2, f"score of {ATTACK}": 1.0, "note": ATTACK})
    html = page(trainer.run)
    assert re.findall("<script.*?>", html) == ["<script>"], "the slider's alone"
    assert "score of &lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in html
    assert Balance(html).named("img"), "the grid under which the prompt is written"


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    write_rows(run, [row(1), row(2)])
    html = page(run)
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in html
    assert "base-uri 'none'; form-action 'none'" in html and "unsafe" not in html and "script-src" not in html
    assert not re.search(r"https?://|url\(|@import|<link|<script| on\w+=", html)
    assert "prefers-color-scheme: dark" in html and "color-scheme: light dark" in html


def test_command_and_environment_are_shown(tmp_path: Path) -> None:
    html = page(start(tmp_path / "a", ("stepcredit", "train", "model.path=my model")))
    assert '">stepcredit train &#x27;model.path=my model&#x27;</pre>' in html
    assert "<dt>packages</dt><dd>stepcredit " in html


def test_a_report_can_be_written_again(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    first = page(run)
    write_rows(run, [row(1)])
    assert page(run) != first
    assert not [path for path in run.path.iterdir() if path.suffix == ".tmp"]


def test_the_page_can_be_written_elsewhere(tmp_path: Path) -> None:
    run = start(tmp_path / "a")
    assert write_report(run.path, tmp_path / "b" / "page.html") == tmp_path / "b" / "page.html"
    assert (tmp_path / "b" / "page.html").exists() and not run.report_path.exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml"):
        write_report(tmp_path)


@pytest.mark.parametrize("text", ["{", "3"])
def test_a_broken_environment_file_is_named(tmp_path: Path, text: str) -> None:
    run = start(tmp_path / "a")
    run.environment_path.write_text(text)
    with pytest.raises(InputError, match=r"environment.json is not a JSON object"):
        write_report(run.path)
