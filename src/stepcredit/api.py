"""The Python API: train a model, then sample from it, evaluate it and export it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Never

from stepcredit.algorithms.sampling_plan import evaluation_plan
from stepcredit.comparison.comparison_file import compare_rules
from stepcredit.comparison.progress import ConsoleProgress as ComparisonProgress
from stepcredit.comparison.run import compare
from stepcredit.config import RewardSection, TrainConfig
from stepcredit.distributed.launcher import read_launch
from stepcredit.errors import InputError, shortened
from stepcredit.evaluation.base_and_tuned import BaseAndTuned
from stepcredit.evaluation.image_size import size_note
from stepcredit.evaluation.long_prompts import long_prompt_notes
from stepcredit.evaluation.prompt_sets import PromptSet, own_prompt_sets
from stepcredit.evaluation.sampling import BATCH, sample_images
from stepcredit.evaluation.sources import evaluate_policy
from stepcredit.policy.export.formats import export_format
from stepcredit.prompts import as_prompts, load_prompts
from stepcredit.rewards import CheckedReward, as_reward, build_reward
from stepcredit.runs import recipes
from stepcredit.runs.directory import RunDirectory, next_run_path
from stepcredit.runs.progress import ConsoleProgress, LoggingProgress
from stepcredit.training.argument_checks import require_callbacks, require_integer, require_names
from stepcredit.training.arguments import read_arguments
from stepcredit.training.assembly import Objects, prompt_source, require_objects, weights_dir
from stepcredit.training.live_policy import LivePolicy
from stepcredit.training.result import TrainResult
from stepcredit.training.resume import require_same_run
from stepcredit.training.run import resume_run, start_run
from stepcredit.utils.files import written_whole
from stepcredit.utils.global_state import usual_settings
from stepcredit.utils.logging import library_logging_restored
from stepcredit.utils.output import as_path, require_empty, writing_to
from stepcredit.utils.signals import interruptible

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL import Image

    from stepcredit.training.callbacks import Callback
    from stepcredit.types import CreditAssigner, Policy, Prompt, RewardFunction

RUNS = Path("runs")


class Trainer:
    """Trains a text-to-image model on a reward.

    Every argument sets keys of the configuration, as `section.key=value` does on the command line. `model`, `reward`,
    `prompts` and `credit` accept a name or an object, or a mapping with the keys of their section:

        Trainer(model={"path": pipeline, "lora_rank": 16}, reward={"name": judge, "timeout": 60})

    A section of a TrainConfig, such as `TrainSection(epochs=3)`, is a mapping of the keys that were set.

    Keys that are not set come from `config`. Without `config`, they come from the run in `output_dir`. If that holds no
    run, they have the defaults of `stepcredit train`. The constructor loads no model and writes nothing.

    A run that was started in Python can be resumed on the command line, and the other way round. config.yaml records
    what YAML can hold. It records any other object as `python:` and a description; pass that object again to resume.

    Args:
        model: hub id, folder, `embedded` or `embedded-flow`; a diffusers pipeline; or any `Policy`. A pipeline is
            trained in place, on the device and in the dtype that it has.
        reward: name of a reward; `module:function` or `path/file.py:function`; or a callable that takes (images),
            (images, prompts) or (images, prompts, metadata) and returns one score per image, higher is better. Images
            are a tensor (B, 3, H, W) in [0, 1].
        prompts: name of a prompt list; path of a file; a list of strings or of dicts with the key `prompt` (or a
            generator, an array or a column of a data frame); or a data set of the `datasets` library. If there are
            fewer than `sample.prompts_per_epoch` prompts and that key is not set, every epoch trains on all of them.
        credit: name of a credit rule; a function (Trajectory, advantage (B,)) -> step advantages (B, T); or a
            `CreditAssigner`.
        algorithm: name of an algorithm.
        output_dir: the run directory. By default `runs/<name>-NNN`.
        seed: fixes every random number of the run.
        sample: keys of the section `sample`.
        train: keys of the section `train`.
        run: keys of the section `run`.
        config: a TrainConfig, a recipe file or the name of a recipe.
        start_from: a run directory, whose newest weights `train` starts from. Without `config`, keys that are not set
            come from this run too.
        callbacks: functions (metrics, images) called on rank 0 after every epoch, with its row of metrics.jsonl and its
            `EpochImages`. A callback that raises `StopTraining` ends the run. Return values are ignored, and settings
            of torch that a callback changes are restored.
        plugins: files or modules of your own to import first. They register rewards, credit rules and so on.
        progress: show a progress bar and print messages. Otherwise nothing is printed: messages go to the logger
            `stepcredit`.

    Attributes:
        output_dir: the run directory; None until `train` has chosen one.

    Raises:
        InputError: an argument has the wrong type or value. The message is one line.
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, Any] | DiffusionPipeline | Policy | None = None,
        reward: str | Mapping[str, Any] | RewardFunction | Callable[..., Any] | None = None,
        prompts: Any = None,
        *,
        credit: str | Mapping[str, Any] | CreditAssigner | Callable[..., Any] | None = None,
        algorithm: str | None = None,
        output_dir: str | Path | None = None,
        seed: int | None = None,
        sample: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
        config: TrainConfig | str | Path | None = None,
        start_from: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        plugins: Sequence[str | Path] = (),
        progress: bool = False,
        **unknown: Never,
    ) -> None:
        given = {
            "model": model,
            "reward": reward,
            "prompts": prompts,
            "credit": credit,
            "algorithm": algorithm,
            "seed": seed,
            "sample": sample,
            "train": train,
            "run": run,
            "plugins": plugins,
            **unknown,
        }
        self.output_dir = None if output_dir is None else as_path("output_dir", output_dir)
        self._start_from = None if start_from is None else RunDirectory.open(as_path("start_from", start_from)).path
        if self._start_from is not None and config is None and not (self.output_dir and _holds_run(self.output_dir)):
            config = RunDirectory(self._start_from).config
        self._arguments = read_arguments(given, config, self.output_dir)
        self._name = Path(config).stem if isinstance(config, str | Path) else "python"
        self._callbacks = require_callbacks(callbacks)
        self._progress = ConsoleProgress if progress else LoggingProgress
        self._policy = LivePolicy(self._arguments.model)
        self._started = False

    @property
    def config(self) -> TrainConfig:
        """The complete configuration."""
        return self._arguments.config

    def train(self, epochs: int | None = None) -> TrainResult:
        """Train until `train.epochs` epochs are finished. A second call continues the run.

        Args:
            epochs: number of epochs of the whole run, in place of `train.epochs`.

        Returns:
            The metrics of every epoch, and the paths of what was written.

        Raises:
            InputError: `output_dir` already holds a run, or a part cannot be used.
            RewardError, ResumableError: the run ended early. Fix what the message says and call `resume`.
            Interrupted: Ctrl-C ended the run; call `resume` to continue.
        """
        if self._started:
            return self.resume(epochs)
        if self.output_dir is not None and _holds_run(self.output_dir):
            raise InputError(
                f"{self.output_dir} already holds a run: call resume() to continue it, or choose another output_dir"
            )
        self._set_epochs(epochs)
        command = ["python", *sys.argv]
        start = partial(start_run, self.config, self._choose_directory, self._objects(), weights=self._start_from)
        return self._run(partial(start, command=command))

    def resume(self, epochs: int | None = None, *, allow_change: bool = False) -> TrainResult:
        """Continue the run in `output_dir` from its latest checkpoint.

        The run may have been started by another program or on the command line. Keys that do not change its results
        may differ from its config.yaml, such as `train.epochs` and `model.path`.

        Result and errors are those of `train`.

        Args:
            epochs: as in `train`.
            allow_change: accept keys that change the results as well. The run records them in history.jsonl.
        """
        directory = self._directory()
        self._set_epochs(epochs)
        self._arguments = self._arguments.resuming(directory)
        require_same_run(directory, self.config, allow_change=allow_change)
        return self._run(partial(resume_run, self.config, directory, self._objects(), allow_change=allow_change))

    @usual_settings()
    def sample(
        self,
        prompts: Any,
        images: int = 1,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> list[Image.Image]:
        """Sample images with the trained weights, or with the base model before any training.

        Args:
            prompts: a prompt, or several as in `Trainer`.
            images: images per prompt.
            seed: fixes the noise.
            steps: denoising steps, in place of those of the run.
            guidance: guidance scale, in place of that of the run.

        Returns:
            PIL images, grouped by prompt.
        """
        wanted = as_prompts([prompts] if isinstance(prompts, str) else prompts)
        images, seed = require_integer("images", images, 1), require_integer("seed", seed, 0)
        config = self._sampling(steps, guidance)
        self._restored()
        policy, plan = self._policy.sampler(config), evaluation_plan(config, BATCH)
        _warn_of_long_prompts(policy, wanted)
        pictures = [image for _, image in sample_images(policy, wanted, images, seed, plan)]
        if note := size_note(config.sample, pictures[0].height, pictures[0].width):
            logging.getLogger("stepcredit").warning(note)
        return pictures

    @usual_settings()
    def evaluate(
        self,
        prompts: Any = None,
        rewards: Sequence[Any] = (),
        *,
        images: int = 4,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> dict[str, Any]:
        """Score the base model and the trained one on the same prompts and noise.

        Args:
            prompts: as in `Trainer`. By default the prompts of the run, and the bundled held-out list that belongs to
                them, if there is one.
            rewards: names or callables as in `Trainer`, in addition to the reward of the run.
            images: images per prompt.
            seed: fixes the noise and the bootstrap.
            steps: denoising steps, in place of those of the run.
            guidance: guidance scale, in place of that of the run.

        Returns:
            What `stepcredit evaluate --json` has under `evaluations` for a run: `sets`, with the mean, standard error
            and confidence interval of every reward before and after training, and of their difference.
        """
        images, seed = require_integer("images", images, 1), require_integer("seed", seed, 0)
        rewards = [rewards] if isinstance(rewards, str | RewardSection) or callable(rewards) else rewards
        if not isinstance(rewards, Sequence):
            raise InputError(f"rewards is {shortened(repr(rewards))}, expected a list of names or callables")
        config = self._sampling(steps, guidance)
        self._restored("model.path", "reward.name", *(() if prompts is not None else ("prompts.source",)))
        sets = self._prompt_sets(prompts)
        own = self._arguments.reward or build_reward(self.config.reward)
        scorers = _by_name([own, *map(as_reward, rewards)])
        policy = self._policy.sampler(config, safety_checker=False)
        measure = BaseAndTuned(scorers, images, seed)
        _warn_of_long_prompts(policy, [prompt for one in sets for prompt in one.prompts], scorers.values())
        trained = self._policy.checkpoint is not None
        name = str(self.output_dir or self.config.model.path)
        about = {"source": name, "model": self.config.model.path, "trained_on": own.name}
        return about | evaluate_policy(policy, config, sets, measure, name=name, trained=trained)

    def compare(
        self,
        credit: Sequence[str],
        *,
        folder: str | Path | None = None,
        seeds: int | None = None,
        learning_rates: Sequence[float] | None = None,
        clip_ranges: Sequence[float] | None = None,
        tuning_seeds: int | None = None,
        controls: Sequence[str] | None = None,
        jobs: int | None = None,
    ) -> dict[str, Any]:
        """Compare credit rules on this configuration, as `stepcredit compare` does. To resume, call it again.

        Every run is a separate process, so name all parts. Lambdas and pipeline objects are refused.

        Args:
            credit: names of at least two rules.
            folder: folder of the comparison. By default `<output_dir>-compare`.
            seeds: number of fresh seeds.
            learning_rates: rates to choose from for each rule. By default `train.learning_rate`, a third of it and
                three times it. If empty, every rule trains with `train.learning_rate`.
            clip_ranges: likewise. By default `train.clip_range`, a fifth of it and five times it.
            tuning_seeds: number of seeds on which both are chosen, by default 2. With 0, nothing is tuned.
            controls: rules to add, by default `drop-last`.
            jobs: number of runs at a time. By default one per core, or per CUDA device.

        Returns:
            The content of results.json in the folder.

        Raises:
            InputError: a part is a Python object, or a rule is unknown.
        """
        credit = require_names("credit", credit)
        controls = None if controls is None else require_names("controls", controls)
        for name, number, least in (("seeds", seeds, 1), ("tuning_seeds", tuning_seeds, 0), ("jobs", jobs, 1)):
            if number is not None:
                require_integer(name, number, least)
        _require_names_only(self.config)
        base = self.output_dir or RUNS / self._name
        target = base.with_name(f"{base.name}-compare") if folder is None else as_path("folder", folder)
        with TemporaryDirectory() as place:
            recipe = Path(place) / f"{self._name}.yaml"
            recipe.write_text(recipes.dump(self.config), encoding="utf-8")
            file = compare_rules(
                str(recipe),
                credit,
                seeds=seeds,
                learning_rates=learning_rates,
                clip_ranges=clip_ranges,
                tuning_seeds=tuning_seeds,
                controls=controls,
                jobs=jobs,
                where="the arguments of compare",
            )
            bar = ComparisonProgress() if self._progress is ConsoleProgress else None
            finished = compare(file, target, command=["python", *sys.argv], progress=bar)
        return dict(finished.results)

    @usual_settings()
    def export(self, format: str = "lora", path: str | Path | None = None) -> Path:
        """Write the weights of the latest checkpoint for other programs.

        Args:
            format: `lora` (or `diffusers`) for `load_lora_weights`, or the denoiser's folder with model.adapter=full;
                `peft` for `peft.PeftModel.from_pretrained`, which `lora` is too if diffusers has no LoRA loader for the
                pipeline; `kohya` for ComfyUI and A1111; `merged` for a whole pipeline.
            path: a new or empty folder. By default `<output_dir>/export/<format>`, and
                `<output_dir>/export/full` for format `lora` with model.adapter=full.

        Returns:
            The file or folder to load. Under torchrun only rank 0 writes; the other ranks get the folder.
        """
        export_format(format)  # before anything is loaded
        folder = self._directory().export_path(format) if path is None else as_path("path", path)
        self._require_unsharded()
        if not _is_rank_0():
            return folder
        require_empty(folder)
        self._restored()
        with writing_to(folder):
            return self._policy.export(self.config, format, folder)

    @usual_settings()
    def save(self, path: str | Path | None = None) -> Path:
        """Write the weights of the latest checkpoint, as `train` does at its end.

        Args:
            path: a new or empty folder. By default the one that `train` writes, whose content is replaced.

        Returns:
            The file or folder to load: see `export`.
        """
        self._require_unsharded()
        policy = self._restored()
        folder = weights_dir(self.config, policy, self._directory()) if path is None else as_path("path", path)
        if not _is_rank_0():
            return folder
        if path is not None:
            require_empty(folder)
        with writing_to(folder), written_whole(folder) as partial_folder:
            file = policy.export(partial_folder).relative_to(partial_folder)
        return folder / file

    def _run(self, work: Callable[..., TrainResult]) -> TrainResult:
        self._policy.forget_checkpoint()
        with library_logging_restored(), interruptible(), usual_settings():
            result = work(callbacks=self._callbacks, progress=self._progress, keep_processes=True)
        self.output_dir, self._started = result.output_dir, True
        self._arguments = self._arguments.resuming(RunDirectory(result.output_dir))
        return result

    def _objects(self) -> Objects:
        given = self._arguments
        named = given.model is None and "model.path" in self.config.python_objects
        return Objects(None if named else self._policy.load, given.reward, given.credit, given.prompts)

    def _restored(self, *keys: str) -> Policy:
        """The policy with the weights of the newest checkpoint.

        Args:
            keys: parts that are needed besides the model, by their key in the configuration.
        """
        if self.output_dir is None:
            return self._policy.load(self.config)
        directory = RunDirectory(self.output_dir)
        require_objects(self.config, self._objects(), directory, ("model.path", *keys))
        return self._policy.restore(self.config, directory.checkpoint_root)

    def _prompt_sets(self, prompts: Any) -> list[PromptSet]:
        if prompts is not None:
            name = str(prompts) if isinstance(prompts, str | Path) else "prompts"
            return [PromptSet(name, name, as_prompts(prompts))]
        config = self.config
        source = prompt_source(config, RunDirectory(self.output_dir)) if self.output_dir else config.prompts.source
        return own_prompt_sets(config, source, self._arguments.prompts or load_prompts(source))

    def _sampling(self, steps: int | None, guidance: float | None) -> TrainConfig:
        changes = {
            **({} if steps is None else {"steps": steps, "evaluation_steps": None}),
            **({} if guidance is None else {"guidance": guidance}),
        }
        return self._arguments.with_keys("sample", changes).config

    def _directory(self) -> RunDirectory:
        if self.output_dir is None:
            raise InputError("there is no run yet: call train(), or set output_dir to a run directory")
        return RunDirectory.open(self.output_dir)

    def _choose_directory(self) -> Path:
        self.output_dir = self.output_dir or next_run_path(RUNS, self._name)
        return self.output_dir

    def _require_unsharded(self) -> None:
        if self.config.model.shard and read_launch() is not None:
            raise InputError(
                "model.shard: each process holds a part of the weights; train() has written them whole, or use "
                "`stepcredit export` in a single process"
            )

    def _set_epochs(self, epochs: int | None) -> None:
        if epochs is not None:
            self._arguments = self._arguments.with_keys("train", {"epochs": epochs})


def _require_names_only(config: TrainConfig) -> None:
    """InputError if a part is a Python object, which another process cannot get."""
    if config.python_objects:
        key, value = next(iter(config.python_objects.items()))
        raise InputError(
            f"compare starts every run in a process of its own, but {key} is {value}: use a name, module:name or "
            "path/file.py:name"
        )


def _warn_of_long_prompts(policy: Policy, prompts: Sequence[Prompt], rewards: Iterable[CheckedReward] = ()) -> None:
    for note in long_prompt_notes(policy, prompts, rewards):
        logging.getLogger("stepcredit").warning(note)


def _is_rank_0() -> bool:
    launch = read_launch()
    return launch is None or launch.rank == 0


def _by_name(rewards: Sequence[CheckedReward]) -> dict[str, CheckedReward]:
    scorers: dict[str, CheckedReward] = {}
    for reward in rewards:
        if scorers.setdefault(reward.name, reward) is not reward:
            raise InputError(
                f"two rewards are called '{reward.name}': give each once, and each function a name of its own"
            )
    return scorers


def _holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()
