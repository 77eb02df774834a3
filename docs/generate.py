"""Write the generated pages: `uv run python docs/generate.py`.

docs/configuration.md comes from the configuration schema, docs/guides/model-defaults.md from `stepcredit.families`,
docs/guides/other-trainers.md from the table of `stepcredit.runs.foreign_names`, and docs/notebooks/quickstart.md from
the notebook of that name with its outputs. To execute the notebook first:

    uv run --with nbclient --with ipykernel python docs/generate.py --execute
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from stepcredit.config import TrainConfig
from stepcredit.families import FAMILIES, GENERIC
from stepcredit.runs.foreign_names import FOREIGN_NAMES
from stepcredit.runs.model_defaults import KEYS
from stepcredit.runs.recipes import MIN_SIMILARITY

HEADER = r"""# Configuration

All keys with their defaults. `docs/generate.py` writes this page from `stepcredit/config/`; do not edit it by hand.

A recipe is a YAML file with these sections. Missing keys keep their defaults, and unknown keys are refused. On the
command line, set any key with `section.key=value`. From Python, pass `Trainer` a mapping of keys for a section. The
defaults are the recipe `embedded_jpeg`.

\* The default of these keys is for the bundled models. For other models, it depends on the
[family of the model](guides/model-defaults.md).
"""
MODEL_DEFAULTS = """# Defaults of each model family

Look up what `train` uses for your model where you set nothing. `stepcredit doctor MODEL` shows it too, `train` prints
it on its first lines, and `config.yaml` of the run holds it. Any key that you set, in a recipe or an override, wins.

`docs/generate.py` writes this page from `stepcredit/families.py`; do not edit it by hand.

| family | learning rate | with `adapter=full` | guidance | steps | in evaluation | LoRA rank / alpha | size | dtype |
|---|---|---|---|---|---|---|---|---|
{rows}

- The clip range is 1e-4 for all families.
- The family is found by the class of the pipeline. A class that is not in the table belongs to `generic`. From Python,
  a pipeline object has the defaults of its class.
- A pipeline of `generic` is sampled with the guidance that its `__call__` has by default. The table has the guidance of
  classes without one.
- *Size* is the height and width of the images in pixels, unless `sample.call` sets one of them. *own* is the default of
  the pipeline.
- *dtype* is for GPUs. On a CPU, it is float32. With `adapter=full`, it is bfloat16 instead of float16.
- If you set `sample.steps`, evaluation takes the same number of steps. If you set `model.lora_rank`, `lora_alpha` keeps
  its ratio to it.
- In a comparison, each arm has the defaults [of its own model](compare.md#defaults-of-an-arm).
- `credit.window` is a tenth of `sample.steps`, at least 1: ten windows, as in the CoCA paper.
- Checkpoints that are distilled to few steps are sampled without guidance, in the usual number of steps:
  {few_steps}.
  They are recognized by `is_distilled` in `model_index.json`, or by *turbo*, *schnell* or *lightning* in the name of
  the model.

No search was done for these values. The learning rate with `adapter=full` is that of DDPO for `sd`, and for the others
that of DanceGRPO for FLUX.1 (XueZeyue/DanceGRPO, scripts/finetune/finetune_flux_grpo_8gpus.sh). The other values come
from:

| family | classes | source |
|---|---|---|
{sources}
"""
OTHER_TRAINERS = """# Coming from another trainer

Find the key for a name that you know from TRL, flow_grpo, the scripts of diffusers, kohya or ai-toolkit. If you write
one of these names as a key, option or argument, the error message names the key too. For other unknown keys, the
message suggests the most similar key if its similarity (the ratio of Python's `difflib`) is at least {similarity}.

`docs/generate.py` writes this page from `stepcredit/runs/foreign_names.py`; do not edit it by hand.

| elsewhere | used by | here | difference |
|---|---|---|---|
"""
NOTEBOOK = Path(__file__).parent / "notebooks" / "quickstart.ipynb"


def configuration() -> str:
    """The page's text."""
    schema = TrainConfig.model_json_schema()
    parts = [HEADER]
    for name in TrainConfig.model_fields:
        section = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
        parts += [
            f"## {name}\n",
            section["description"] + "\n",
            "| key | default | allowed | meaning |",
            "|---|---|---|---|",
        ]
        parts += [_row(name, key, field) for key, field in section["properties"].items()]
        parts.append("")
    return "\n".join(parts)


def other_trainers() -> str:
    """The page's text."""
    rows = [
        f"| {', '.join(f'`{name}`' for name in entry.names)} | {', '.join(entry.used_by)} | "
        f"{f'`{entry.key}`' if entry.key else 'none'} | {entry.difference} |"
        for entry in FOREIGN_NAMES
    ]
    return OTHER_TRAINERS.format(similarity=MIN_SIMILARITY) + "\n".join(rows) + "\n"


def model_defaults() -> str:
    """The page's text."""
    rows, sources = [], []
    for family in (*FAMILIES, GENERIC):
        values = family.defaults
        cells = (
            f"`{family.name}`",
            _rate(values.learning_rate),
            _rate(values.full_learning_rate),
            f"{values.guidance:g}",
            values.steps,
            values.evaluation_steps,
            f"{values.lora_rank} / {values.lora_alpha}",
            "own" if values.size is None else values.size,
            values.dtype,
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
        classes = ", ".join(f"`{name}`" for name in family.pipelines) or "all others"
        sources.append(f"| `{family.name}` | {classes} | {values.source} |")
    few = ", ".join(f"{family.few_steps} for `{family.name}`" for family in FAMILIES if family.few_steps is not None)
    return MODEL_DEFAULTS.format(rows="\n".join(rows), sources="\n".join(sources), few_steps=few)


def _rate(value: float) -> str:
    """
    >>> _rate(0.0003)
    '3e-4'
    """
    digits, exponent = f"{value:e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _row(section: str, key: str, field: dict[str, Any]) -> str:
    default, meaning = json.dumps(field.get("default")), field.get("description", "").replace("|", "\\|")
    default = f"`{default}`*" if f"{section}.{key}" in KEYS else f"`{default}`"
    return f"| `{section}.{key}` | {default} | {_allowed(field)} | {meaning} |"


def _allowed(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_allowed(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[bound]:g}" for bound, sign in bounds.items() if bound in field]
    return " ".join([field.get("type", "any"), *limits])


def notebook() -> tuple[str, dict[str, bytes]]:
    """The text of the notebook's page, and its pictures by file name."""
    parts, pictures = ["<!-- Written by docs/generate.py from the notebook; do not edit. -->"], {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"{NOTEBOOK.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def execute_notebook() -> None:
    """Run the notebook in an empty folder and save it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(content, timeout=3600, resources={"metadata": {"path": folder}}).execute()
    for cell in content.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _outputs(cell.outputs)
    nbformat.write(content, NOTEBOOK)


def _outputs(outputs: list[Any]) -> list[Any]:
    """Without stderr and JPEGs, and with consecutive prints joined."""
    kept: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        output.get("data", {}).pop("image/jpeg", None)
        if output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main() -> None:
    if "--execute" in sys.argv[1:]:
        execute_notebook()
    (Path(__file__).parent / "configuration.md").write_text(configuration(), encoding="utf-8")
    (Path(__file__).parent / "guides" / "model-defaults.md").write_text(model_defaults(), encoding="utf-8")
    (Path(__file__).parent / "guides" / "other-trainers.md").write_text(other_trainers(), encoding="utf-8")
    text, pictures = notebook()
    NOTEBOOK.with_suffix(".md").write_text(text, encoding="utf-8")
    for name, content in pictures.items():
        NOTEBOOK.with_name(name).write_bytes(content)


if __name__ == "__main__":
    main()
