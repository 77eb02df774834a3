"""The command line. It parses first and imports torch only inside the command that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stepcredit.errors import Interrupted, StepcreditError, printable

app = typer.Typer(
    name="stepcredit",
    help="Fine-tune text-to-image diffusion models with RL, spreading each image's reward over its denoising steps.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point, returns the exit code: one clear line instead of a traceback for what a user can mend."""
    try:
        return _run(arguments)
    except StepcreditError as error:
        if error.show_on_every_rank or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"stepcredit: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        print(f"stepcredit: {printable(error.format_message())} (see stepcredit --help)", file=sys.stderr)
        return error.exit_code


def _run(arguments: Sequence[str] | None) -> int:
    code: int | None = app(arguments, prog_name="stepcredit", standalone_mode=False)
    if code == Interrupted.exit_code:  # what typer makes of Ctrl-C
        raise Interrupted("interrupted")
    return code or 0


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE] [section.key=value ...]", help="recipe file or name, then overrides"),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="run directory; runs/<recipe>-NNN by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --run (or the newest)")] = False,
) -> None:
    """Train a recipe; without one, the embedded pipeline on JPEG compressibility with CoCA, minutes on a laptop."""
    from stepcredit.cli.train import train as command

    given = arguments or []
    command([word for word in given if "=" not in word], [word for word in given if "=" in word], run, resume)


@app.command()
def sample(
    source: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="run directory, hub id, folder or `embedded`")],
    prompt: Annotated[list[str] | None, typer.Option(help="a prompt; may be repeated")] = None,
    prompts: Annotated[str | None, typer.Option(help="a prompt file or bundled list")] = None,
    out: Annotated[Path, typer.Option(help="folder for the images")] = Path("samples"),
    images: Annotated[int, typer.Option(min=1, help="images per prompt")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="denoising steps; the run's own by default")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="guidance scale; the run's own by default")] = None,
) -> None:
    """Sample images from a trained run or from a model."""
    from stepcredit.cli.sample import sample as command

    command(source, prompt or [], prompts, out, images, seed, steps, guidance)


@app.command()
def evaluate(
    sources: Annotated[list[str], typer.Argument(metavar="RUN|MODEL...", help="run directories, or a model")],
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE", help="may be repeated; of a run `training` and `held-out` by default"),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="besides the run's own: may be repeated; NAME@URL asks a reward server"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="file for everything, prompt by prompt")] = None,
    images: Annotated[int, typer.Option(min=1, help="images per prompt")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="of the noise, and of the bootstrap")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="denoising steps; the run's own by default")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="guidance scale; the run's own by default")] = None,
    cross: Annotated[
        bool, typer.Option("--cross", help="add the table of runs against rewards; several runs have it anyway")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Score a run beside its base model, on training and held-out prompts, with every reward and an interval."""
    from stepcredit.cli.evaluate import evaluate as command

    command(sources, prompts or [], reward or [], out, images, seed, steps, guidance, cross, json)


@app.command()
def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="FILE|RECIPE [section.key=value ...]", help="comparison file, or recipe; overrides"),
    ],
    run: Annotated[Path | None, typer.Option(help="folder; runs/<name> by default, where it goes on")] = None,
    credit: Annotated[str | None, typer.Option(metavar="A,B,...", help="on a recipe: the rules to compare")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="on a recipe: fresh seeds, 5 by default")] = None,
    learning_rates: Annotated[
        str | None, typer.Option(metavar="X,Y,...", help="on a recipe: the grid of every rule; else its own rate")
    ] = None,
    tuning_seeds: Annotated[
        int | None, typer.Option(min=1, help="on a recipe: seeds on which rates are chosen, 2 by default")
    ] = None,
    reward: Annotated[str | None, typer.Option(metavar="A,B,...", help="on a recipe: instead of its own")] = None,
    reference: Annotated[str | None, typer.Option(help="on a recipe: uniform, or the first rule")] = None,
    last_epochs: Annotated[int | None, typer.Option(min=1, help="on a recipe: the criterion's, 3 by default")] = None,
    watch: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="on a recipe: rewards to measure and not to train on")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="runs at a time; one per core, or per CUDA device")] = None,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="report without the runs that fail, and name them")
    ] = False,
) -> None:
    """Compare credit rules: each at its best learning rate, on fresh seeds, against one of them. Can be resumed."""
    from stepcredit.cli.compare import RecipeOptions
    from stepcredit.cli.compare import compare as command

    options = RecipeOptions(credit, reward, reference, seeds, learning_rates, tuning_seeds, last_epochs, watch)
    given = [word for word in arguments if "=" not in word]
    command(given, [word for word in arguments if "=" in word], options, run, jobs, skip_failed)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="run directory, or folder of a comparison")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="instead of report.html in the folder")] = None,
) -> None:
    """Write one HTML page about a run or a comparison, which needs nothing else to be looked at."""
    from stepcredit.cli.report import report as command

    command(source, out)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    out: Annotated[Path, typer.Option(help="new folder for the files")],
    format: Annotated[str, typer.Option(metavar="diffusers|kohya|merged", help="who is to read it")] = "diffusers",
) -> None:
    """Write a run's newest weights as a LoRA file (for diffusers, or for ComfyUI and A1111) or a whole pipeline."""
    from stepcredit.cli.export import export as command

    command(run, format, out)


@app.command("serve-reward")
def serve_reward(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="rewards, or PUBLIC=NAME for another name")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one")] = 8080,
    host: Annotated[str, typer.Option(help="address to listen on; beyond this machine it needs a token")] = "127.0.0.1",
    token_file: Annotated[Path | None, typer.Option(help="holds the token; else STEPCREDIT_REWARD_TOKEN")] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value; of several rewards, NAME.key=value")] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="of a request")] = 2**26,
    max_images: Annotated[int, typer.Option(min=1, help="of a request")] = 256,
    max_pixels: Annotated[int, typer.Option(min=1, help="of a request")] = 2**25,
    queue: Annotated[int, typer.Option(min=1, help="requests at a time, per reward")] = 32,
) -> None:
    """Serve rewards over HTTP for `reward.remote` of training runs elsewhere."""
    from stepcredit.cli.serve_reward import serve_reward as command

    limits = {"request_bytes": max_bytes, "images": max_images, "pixels": max_pixels, "queue": queue}
    command(names, host, port, token_file, option or [], limits)


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="hub id, folder, `embedded` or `embedded-flow`")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value ...]", help="as for train, e.g. model.dtype=bfloat16"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Check whether a model can be trained exactly, how, and with how many images at a time."""
    from stepcredit.cli.doctor import doctor as command

    command(model, overrides or [], json)


@app.command("list")
def list_parts(
    kind: Annotated[
        str, typer.Argument(metavar="credit|reward|prompt|recipe|algorithm|sampler|tracker", help="what to list")
    ],
    json: Annotated[bool, typer.Option("--json", help="as a JSON array")] = False,
) -> None:
    """List algorithms, credit rules, prompt lists, recipes, rewards, samplers or trackers."""
    from stepcredit.cli.list import show as command

    command(kind, json)


@app.command()
def score(
    reward: Annotated[str, typer.Argument(metavar="REWARD", help="see `stepcredit list reward`, or module:function")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="image files of any size")],
    prompt: Annotated[list[str], typer.Option(help="of all the images; or repeated, one for each")],
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="an option of the reward")] = None,
    json: Annotated[bool, typer.Option("--json", help="as a JSON array")] = False,
) -> None:
    """Score image files with a reward."""
    from stepcredit.cli.score import score as command

    command(reward, images, prompt, option or [], json)
