"""The command line: arguments and help texts. Every command imports what it needs, torch included, when it runs."""

from __future__ import annotations

import io
import json as json_
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stepcredit import __version__
from stepcredit.errors import Interrupted, StepcreditError, printable
from stepcredit.utils.error_log import with_log, write_error_log
from stepcredit.utils.paths import expanded

app = typer.Typer(
    name="stepcredit",
    help="Fine-tune text-to-image diffusion and flow models with RL and per-step credit.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE", help="your Python file or module, imported first; repeatable"),
]
Seed = Annotated[int, typer.Option(min=0, help="seed of the noise")]
Steps = Annotated[int | None, typer.Option(min=1, help="denoising steps; default: those of the run or model")]
Guidance = Annotated[float | None, typer.Option(min=0, help="guidance scale; default: that of the run or model")]
Images = Annotated[int, typer.Option(min=1, help="images per prompt")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. An error of this package is printed as one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # prompts have characters that the terminal may not be able to print
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except StepcreditError as error:
        if error.show_on_every_rank or _is_first_of_machine():
            line = with_log(str(error), write_error_log(error))
            print(f"stepcredit: {line}", file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        message = _with_hint(error.format_message(), sys.argv[1:] if arguments is None else arguments)
        print(f"stepcredit: {printable(message)} (see stepcredit --help)", file=sys.stderr)
        return error.exit_code


def _is_first_of_machine() -> bool:
    """False for the other processes that a launcher has started on this machine, which fail for the same reason.

    A LOCAL_RANK alone may have been left in the shell by another program.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "WORLD_SIZE" in os.environ
    return not launched or os.environ.get("LOCAL_RANK", "0") == "0"


def _run(arguments: Sequence[str] | None) -> int:
    code: int | None = app(arguments, prog_name="stepcredit", standalone_mode=False)
    if code == Interrupted.exit_code:  # typer returns it for Ctrl-C
        raise Interrupted("interrupted")
    return code or 0


def _with_hint(message: str, arguments: Sequence[str]) -> str:
    """Add the key that an unknown option of `train` may mean, such as train.learning_rate for --lr."""
    option = re.match(r"No such option: (-\S+)", message)
    if option is None or arguments[:1] != ["train"]:
        return message
    from stepcredit.runs.recipes import key_hint

    hint = key_hint(option[1].partition("=")[0].lstrip("-").replace("-", "_"))
    return f"No such option: {option[1]}{hint}; keys are given as section.key=value" if hint else message


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stepcredit {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Version = False) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


Recipe = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RECIPE] [section.key=value ...]", help="recipe file or name, and keys to change"),
]
NewRun = Annotated[
    Path | None, typer.Option(parser=expanded, metavar="DIR", help="run directory; default: runs/<recipe>-NNN")
]
Resume = Annotated[bool, typer.Option("--resume", help="resume the run in --run; default: the newest run")]


From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        parser=expanded,
        metavar="RUN",
        help="run whose weights, and without a recipe settings, a new run starts from",
    ),
]
AllowChange = Annotated[
    bool, typer.Option("--allow-change", help="with --resume, accept keys that change the results of the run")
]


@app.command()
def train(
    arguments: Recipe = None,
    run: NewRun = None,
    resume: Resume = False,
    plugin: Plugins = None,
    weights: From = None,
    allow_change: AllowChange = False,
) -> None:
    """Train a model. Without a recipe, train the bundled model for small JPEG files: a few minutes on a CPU."""
    from stepcredit.cli.train import train as command

    recipe, overrides = _split(arguments)
    command(recipe, overrides, run, resume, plugin or [], weights, allow_change)


RunOrModel = Annotated[
    str, typer.Argument(metavar="RUN|MODEL", help="run directory, hub id, pipeline folder or `embedded`")
]
PromptTexts = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="a prompt; repeatable")]
PromptSource = Annotated[str | None, typer.Option(metavar="NAME|FILE", help="prompt list or file")]
ImageFolder = Annotated[Path, typer.Option(parser=expanded, metavar="DIR", help="folder for the images")]


@app.command()
def sample(
    source: RunOrModel,
    prompt: PromptTexts = None,
    prompts: PromptSource = None,
    out: ImageFolder = Path("samples"),
    images: Images = 1,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    plugin: Plugins = None,
) -> None:
    """Sample images from a run or a model."""
    from stepcredit.cli.sample import sample as command

    _load(plugin)
    command(source, prompt or [], prompts, out, images, seed, steps, guidance)


RunsOrModel = Annotated[list[str], typer.Argument(metavar="RUN|MODEL...", help="run directories, or a model")]
PromptSets = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|FILE",
        help="prompt list or file; repeatable; default for a run: `training`, and `held-out` for bundled lists",
    ),
]
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="reward in addition to that of the run; repeatable; NAME@URL uses a reward server"
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option(parser=expanded, metavar="FILE.json", help="also write all results to this file")
]
Cross = Annotated[bool, typer.Option("--cross", help="add a table of runs against rewards; several runs always get it")]


@app.command()
def evaluate(
    sources: RunsOrModel,
    prompts: PromptSets = None,
    reward: Rewards = None,
    out: JsonFile = None,
    images: Images = 4,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    cross: Cross = False,
    json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Score the model of a run before and after training, with confidence intervals; or score any model."""
    from stepcredit.cli.evaluate import evaluate as command

    _load(plugin)
    command(sources, prompts or [], reward or [], out, images, seed, steps, guidance, cross, json)


ComparisonSource = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|RECIPE [section.key=value ...]", help="comparison file, or recipe; and keys to change"
    ),
]
ComparisonFolder = Annotated[
    Path | None, typer.Option(parser=expanded, metavar="DIR", help="folder of the comparison; default: runs/<name>")
]
Rules = Annotated[str | None, typer.Option(metavar="A,B,...", help="credit rules to compare")]
FreshSeeds = Annotated[int | None, typer.Option(min=1, help="number of seeds for the final runs; default: 5")]
LearningRates = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,...", help="learning rates to choose from for each rule; default: the recipe's / 3, x 1, x 3"
    ),
]
ClipRanges = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,...", help="clip ranges to choose from for each rule; default: the recipe's / 5, x 1, x 5"
    ),
]
TuningSeeds = Annotated[
    int | None, typer.Option(min=0, help="number of seeds for these choices; 0 tunes nothing; default: 2")
]
Controls = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="rules to add as controls; 'none' adds none; default: drop-last")
]
ComparedRewards = Annotated[str | None, typer.Option(metavar="A,B,...", help="rewards, in place of the recipe's own")]
Reference = Annotated[
    str | None, typer.Option(metavar="RULE", help="rule to compare with; default: uniform, or the first rule")
]
LastEpochs = Annotated[
    int | None, typer.Option(min=1, help="number of last epochs to average as the final reward; default: 3")
]
WatchedRewards = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="rewards to measure without training on them")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="runs at a time; default: one per core, or per CUDA device")]
SkipFailed = Annotated[
    bool, typer.Option("--skip-failed", help="report on the other runs if some fail, and list the failed ones")
]


@app.command()
def compare(
    arguments: ComparisonSource,
    run: ComparisonFolder = None,
    credit: Rules = None,
    seeds: FreshSeeds = None,
    learning_rates: LearningRates = None,
    clip_ranges: ClipRanges = None,
    tuning_seeds: TuningSeeds = None,
    controls: Controls = None,
    reward: ComparedRewards = None,
    reference: Reference = None,
    last_epochs: LastEpochs = None,
    watch: WatchedRewards = None,
    jobs: Jobs = None,
    skip_failed: SkipFailed = False,
    plugin: Plugins = None,
) -> None:
    """Compare credit rules on fresh seeds, each at its best learning rate and clip range.

    To resume, repeat the command. The first line of the output says what the comparison costs.
    Options from --credit to --watch need a recipe. A comparison file contains these settings itself.
    """
    from stepcredit.cli.compare import RecipeOptions
    from stepcredit.cli.compare import compare as command

    _load(plugin)
    options = RecipeOptions(
        credit, reward, reference, seeds, learning_rates, clip_ranges, tuning_seeds, last_epochs, watch, controls
    )
    source, overrides = _split(arguments)
    recorded = [f"run.plugins={json_.dumps(plugin)}"] if plugin else []
    command(source, [*overrides, *recorded], options, run, jobs, skip_failed)


RunOrComparison = Annotated[
    Path, typer.Argument(parser=expanded, metavar="RUN|DIR", help="run directory, or folder of a comparison")
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(parser=expanded, metavar="FILE.html", help="file to write; default: report.html in the folder"),
]


@app.command()
def report(source: RunOrComparison, out: HtmlFile = None) -> None:
    """Write a report of a run or a comparison as one self-contained HTML page."""
    from stepcredit.cli.report import report as command

    command(source, out)


Run = Annotated[Path, typer.Argument(parser=expanded, metavar="RUN", help="run directory")]
NewFolder = Annotated[
    Path | None,
    typer.Option(parser=expanded, metavar="DIR", help="new folder for the files; default: export/<format> in the run"),
]
Format = Annotated[str, typer.Option(metavar="lora|diffusers|peft|kohya|merged", help="file format of the weights")]


@app.command()
def export(run: Run, out: NewFolder = None, format: Format = "lora") -> None:
    """Write the latest weights of a run: a LoRA for diffusers, peft, or ComfyUI and A1111, or a merged pipeline."""
    from stepcredit.cli.export import export as command

    command(run, format, out)


ServedRewards = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="rewards; PUBLIC=NAME serves one under another name")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="port; 0 selects a free one")]
Host = Annotated[str, typer.Option(help="address to listen on; other machines can connect only with a token")]
TokenFile = Annotated[
    Path | None,
    typer.Option(parser=expanded, metavar="FILE", help="file with the token; default: STEPCREDIT_REWARD_TOKEN"),
]
ServedOptions = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="option of the reward; with several rewards, NAME.key=value; repeatable"),
]
MaxBytes = Annotated[int, typer.Option(min=1, help="largest number of bytes per request")]
MaxImages = Annotated[int, typer.Option(min=1, help="largest number of images per request")]
MaxPixels = Annotated[int, typer.Option(min=1, help="largest number of pixels per request, over all its images")]
Queue = Annotated[int, typer.Option(min=1, help="requests per reward that may be in progress or waiting")]


@app.command("serve-reward")
def serve_reward(
    names: ServedRewards,
    port: Port = 8080,
    host: Host = "127.0.0.1",
    token_file: TokenFile = None,
    option: ServedOptions = None,
    max_bytes: MaxBytes = 2**26,
    max_images: MaxImages = 256,
    max_pixels: MaxPixels = 2**25,
    queue: Queue = 32,
    plugin: Plugins = None,
) -> None:
    """Serve rewards over HTTP, for `reward.remote` of runs on other machines."""
    from stepcredit.cli.serve_reward import serve_reward as command

    _load(plugin)
    limits = {"request_bytes": max_bytes, "images": max_images, "pixels": max_pixels, "queue": queue}
    command(names, host, port, token_file, option or [], limits)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="hub id, pipeline folder, `embedded` or `embedded-flow`")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value ...]", help="keys as for train, such as model.dtype=bfloat16"),
]


@app.command()
def doctor(model: Model, overrides: Overrides = None, json: Json = False) -> None:
    """Check whether a model can be trained, what would be trained, and which micro-batch fits into memory."""
    from stepcredit.cli.doctor import doctor as command

    command(model, overrides or [], json)


Kind = Annotated[
    str, typer.Argument(metavar="credit|reward|prompt|recipe|algorithm|sampler|tracker", help="what to list")
]


@app.command("list")
def list_parts(kind: Kind, json: Json = False, plugin: Plugins = None) -> None:
    """List algorithms, credit rules, prompt lists, recipes, rewards, samplers or trackers."""
    from stepcredit.cli.list import show as command

    _load(plugin)
    command(kind, json)


Reward = Annotated[str, typer.Argument(metavar="REWARD", help="name, module:function or path/file.py:function")]
ImageFiles = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="image files of any size")]
ScoredPrompts = Annotated[
    list[str], typer.Option(metavar="TEXT", help="prompt of all images, or repeat it for each image")
]
RewardOptions = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="option of the reward; repeatable")]


@app.command()
def score(
    reward: Reward,
    images: ImageFiles,
    prompt: ScoredPrompts,
    option: RewardOptions = None,
    json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Score image files with a reward."""
    from stepcredit.cli.score import score as command

    _load(plugin)
    command(reward, images, prompt, option or [], json)


def _split(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(recipes, overrides): an override contains '='."""
    words = arguments or []
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def _load(plugins: Sequence[str] | None) -> None:
    from stepcredit.plugins import load_plugins

    load_plugins(plugins or [])
