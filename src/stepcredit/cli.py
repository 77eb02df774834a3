"""The command line. It parses first and imports torch only inside the command that runs."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from stepcredit.errors import StepcreditError

app = typer.Typer(
    name="stepcredit",
    help="Fine-tune text-to-image diffusion models with RL, spreading each image's reward over its denoising steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Listing(enum.StrEnum):
    """What `stepcredit list` can list."""

    credit = "credit"
    reward = "reward"
    prompt = "prompt"
    recipe = "recipe"


def main() -> None:
    """Entry point: one clear line and the error's exit code instead of a traceback for what a user can mend."""
    try:
        app()
    except StepcreditError as error:
        print(f"stepcredit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.callback()
def _root() -> None:
    pass


@app.command()
def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE] [section.key=value ...]", help="recipe file or name, then overrides"),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="run directory; runs/<recipe>-NNN by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --run (or the newest)")] = False,
) -> None:
    """Train. Without a recipe: the embedded pipeline on JPEG compressibility with CoCA, a few minutes on a laptop."""
    from stepcredit.commands import train as command

    given = arguments or []
    command.train([word for word in given if "=" not in word], [word for word in given if "=" in word], run, resume)


@app.command()
def sample(
    source: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="run directory, hub id, folder or `embedded`")],
    prompt: Annotated[list[str] | None, typer.Option(help="a prompt; may be repeated")] = None,
    prompts: Annotated[str | None, typer.Option(help="a prompt file or bundled list")] = None,
    out: Annotated[Path, typer.Option(help="folder for the images")] = Path("samples"),
    images: Annotated[int, typer.Option(min=1, help="images per prompt")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Sample images from a trained run or from a model."""
    from stepcredit.commands import sample as command

    command.sample(source, prompt or [], prompts, out, images, seed)


@app.command("list")
def list_parts(
    kind: Annotated[Listing, typer.Argument(help="what to list")],
    json: Annotated[bool, typer.Option("--json", help="as a JSON array")] = False,
) -> None:
    """List credit rules, rewards, prompt lists or recipes, with a line about each."""
    from stepcredit.commands import listing as command

    command.show(kind.value, json)
