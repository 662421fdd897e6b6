"""Define the configuration of a study as pydantic models, and check its sections against each other.

`python -m sparseft.study.config > config/schema.json` writes their schema.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, model_validator

from sparseft.axes.architectures import PROJECTIONS
from sparseft.axes.grid import (
    DATA,
    MODES,
    NAMED_METHOD,
    RESULTS,
    TRAINING,
    WILDCARDS,
    ResultPaths,
    Run,
    base_folder,
    start_of,
)
from sparseft.axes.methods import DENSE, METHODS, SELF, TASK, Method, get_method
from sparseft.axes.modes import get_mode, with_starts
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError, located
from sparseft.common.section import Count, Faults, Percent, Positive, Section, Seed, first_fault, refuse
from sparseft.data.settings import DIVERGENCE, OWN_LENGTH, CalibrationText, Perplexity, TaskData, held_out
from sparseft.models.checkpoints.settings import Model, pruned_base
from sparseft.pruning.masks.settings import Masks
from sparseft.serving.settings import LLAMA_CPP, Export, Ship
from sparseft.study.resources import Resources
from sparseft.study.ship import DIVERGENCE_WINDOWS, with_ship
from sparseft.training.settings import Narrowed, Reconstruction, Throughput, Training, laid_over
from sparseft.training.trainers.backends import BACKENDS
from sparseft.training.trainers.backends.backend import Backend
from sparseft.training.trainers.backends.cerebras import Cerebras


def _known_method(name: str) -> str:
    """Return the name of a method of the grid. Raises InputError for any other name."""
    if get_method(name).pattern is DENSE:
        raise InputError(f"{name!r} is the method of the runs at sparsity 0", "list 0 in grid.sparsities")
    return name


_METHOD = {"anyOf": [{"enum": list(METHODS)}, {"type": "string", "pattern": f"^(?:{NAMED_METHOD})$"}]}
MethodName = Annotated[str, AfterValidator(_known_method), WithJsonSchema(_METHOD)]
ModelName = Annotated[str, Field(pattern=f"^{WILDCARDS['model']}$")]
TaskName = Annotated[str, Field(pattern=f"^{WILDCARDS['task']}$")]
# The default number of windows of the divergence, and from how many validation examples on it is measured by default.
DEFAULT_WINDOWS, MANY_EXAMPLES = 16, 200
TrainingName = Annotated[str, Field(pattern=f"^{TRAINING}$")]


class Grid(Section):
    """List the cells of the study: every combination of the values below."""

    models: list[str] = Field(min_length=1, examples=[["smollm2"]])
    """Models to prune, by their names under `models:`."""
    tasks: list[str] = Field(min_length=1, examples=[["boolq_mini"]])
    """Tasks to train and evaluate, by their names under `tasks:`."""
    methods: list[MethodName] = Field(min_length=1, examples=[["unstructured", "unstructured_wanda", "random"]])
    """How to prune: a pattern, and after an underscore an importance. With `_owl` after it, each decoder layer has a
    sparsity of its own. A method that looks at examples takes those of the task, or those of a text if the name ends in
    `_on_NAME` (`masks.calibration`). Dense runs belong to sparsity 0."""
    sparsities: list[Percent] = Field(min_length=1, examples=[[0, 50, 70]])
    """Percent of the prunable weights to prune, 0 to 99. 0 is the dense model."""
    sparsities_of: dict[MethodName, Annotated[list[Annotated[int, Field(gt=0, lt=100)]], Field(min_length=1)]] = Field(
        {}, examples=[{"structured_obs": [20, 30]}]
    )
    """The sparsities of single methods, in percent, in place of `sparsities`. Channels at 50 % are another wish than
    single weights at 50 %. A method that is not in the grid has no effect here."""
    modes: list[Literal[MODES]] = Field(  # type: ignore[valid-type]  # computed from the table of modes
        min_length=1, examples=[["sparse_to_sparse"]]
    )
    """How to fine-tune. `no_finetune`, the pruned model without it, is always evaluated too, also if the list leaves it
    out, and so is a mode that another one starts from."""
    seeds: list[Seed] = Field([0], min_length=1, examples=[[0, 1, 2]])
    """Seeds of adapters and batches. Each is one more training."""
    trainings: dict[TrainingName, dict[str, Any]] = Field(
        {}, examples=[{"short": {"learning_rate": 0.001, "steps": 40}, "long": {"learning_rate": 0.0005, "steps": 200}}]
    )
    """Trainings by a name that you choose (letters, digits, `_`, `.`), each with the keys of `training:` that it
    changes. They are laid over `tasks.NAME.training`. Every trained cell is trained once per name and seed, and the
    name is a part of the run's name. If it is empty, there is one training without a name."""

    def percents(self, method: str) -> list[int]:
        """Return the sparsities of a method, in percent."""
        return self.sparsities_of.get(method, self.sparsities)


class Evaluation(Section):
    """Set what every merged model is evaluated on, beside its task."""

    probes: list[TaskName] = Field([], examples=[["arc_easy", "piqa"]])
    """Tasks on which every merged model is evaluated and none is trained: names under `tasks:` or of lm-eval's."""
    divergence: Count | None = Field(None, examples=[64])
    """Windows of 512 tokens that each dense model samples at temperature 1, on which the divergence of every merged
    model from it is measured. 0 means none. Null means 16 if every task of the grid has at least 200
    `validation_examples`, or is built in and takes all examples of its own data set, because their evaluation costs
    more; else none. A task with `text` sets another default: its `validation_examples` or 16, and windows as long as
    those of its text."""


class Analysis(Section):
    """Set what the tables and pages judge by."""

    tolerance: float = Field(0.02, gt=0, lt=1)
    """Loss of the headline metric that you accept, as a fraction. A point is within tolerance if the whole 95 %
    confidence interval of its difference to dense is above -tolerance."""
    compare: list[Literal["dense", "untuned", "methods", "modes"]] = Field([], examples=[["dense", "methods"]])
    """What is compared: each cell with dense, each trained cell with the untrained one, each pair of methods at each
    sparsity and mode, each pair of modes. An empty list means all of them, but methods only if the study has at most
    six pruned methods."""
    against: str | None = Field(None, examples=["unstructured_wanda"])
    """Method that the others are compared with. Null: `random`, if it is in the grid and not every pair is compared."""


class Config(Section):
    """Describe a study."""

    models: dict[ModelName, Model] = Field(examples=[{"mine": {"source": "path:/data/llama-7b", "dtype": "bfloat16"}}])
    """Models by a name that you choose: letters, digits, `_` and `.`. Names appear in paths and tables."""
    tasks: dict[TaskName, TaskData] = Field(
        examples=[{"hellaswag": {"train_examples": 800, "validation_examples": 200}}]
    )
    """Tasks by name. One that is not built in has a name of small letters, digits and `_`, and `lm_eval` or `kind`."""
    grid: Grid
    masks: Masks = Masks()
    training: Training = Training()
    reconstruction: Reconstruction = Reconstruction()
    perplexity: Perplexity | None = Field(None, examples=[{"context": 2048}])
    """Perplexity of every merged model, beside its task. Null means that none is measured."""
    evaluation: Evaluation = Evaluation()
    evaluation_batch_size: Positive = 32
    """Sequences per forward pass in the evaluation. A smaller value needs less memory."""
    resources: Resources = Resources()
    throughput: Throughput = Throughput()
    analysis: Analysis = Analysis()
    export: Export = Export()
    # The table of backends has the names.
    backend: Literal[tuple(backend.name for backend in BACKENDS)] = BACKENDS[0].name  # type: ignore[valid-type]
    """What trains. Only `torch` trains on this machine's CPU and GPUs."""
    revisions: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{40}$")]] = Field(
        {}, examples=[{"hub:org/model": "0123456789abcdef0123456789abcdef01234567"}]
    )
    """Commits of the places on the hub that you give without `@REVISION`: `hub:ORG/NAME` of a model, or a place of
    data. `configuration.yaml` has those that were fetched, so that another folder or machine fetches the same."""
    keep_merged: bool = False
    """Keep the merged models, `results/runs/*/model_dir`, after their evaluation."""
    results: str = Field("results", pattern=f"^{RESULTS}$", examples=["results/wanda"])
    """The folder of the runs, the throughput, the logs and the analysis: `results`, or `results/NAME` with a name that
    you choose. So several studies share models, data and masks, and each has its own results."""
    cerebras: Cerebras = Cerebras()
    ship: Ship | None = Field(None, examples=[{"model": "smollm2", "speed": 1.3}])
    """What `snakemake ship` decides. It makes the grid, its texts and its task. Null: nothing is wished."""

    @model_validator(mode="before")
    @classmethod
    def _has_candidates(cls, values: dict) -> dict:
        """Return the sections with those that `ship` decides."""
        # Sections that are parsed already have them, and a wrong one is reported with the others.
        if values.get("ship") and not isinstance(values["ship"], Ship):
            with suppress(ValidationError):
                return with_ship(values, Ship.model_validate(values["ship"]))
        return values

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Check the sections against each other."""
        checks: list[Callable[[], None]] = [
            *(partial(self.masks.check, get_method(name), self.grid.percents(name)) for name in self.grid.methods),
            *(partial(self._check_model, name) for name in self.models),
            *(partial(self._check_task, name) for name in self.tasks),
            partial(self.training_backend.check, self),
        ]
        faults: Faults = {}
        for check in checks:
            try:
                check()
            except ValueError as error:
                faults[str(error)] = True
        refuse(faults)
        return self

    def contradictions(self) -> Faults:
        """Return what a section may name that another one does not describe or that it cannot use, and whether it
        does."""
        axes = sorted(Narrowed.model_fields)
        # The values that name something, and the values that they may have.
        references: dict[str, tuple[Iterable, Iterable]] = {
            "grid.models": (self.grid.models, self.models),
            "grid.tasks": (self.grid.tasks, self.tasks),
            "ship.siblings": (self.ship.siblings if self.ship else [], self.models),
            "analysis.against": (filter(None, [self.analysis.against]), self.grid.methods),
            "reconstruction.calibration": (filter(None, [self.reconstruction.calibration]), self.masks.texts),
            **{f"throughput.{axis}": (getattr(self.throughput, axis), getattr(self.grid, axis)) for axis in axes},
        }
        faults: Faults = {}
        for key, (names, known) in references.items():
            choices = ", ".join(map(str, known))
            faults |= {f"{key} asks for {name!r}, which is none of {choices}": name not in known for name in names}
        methods = [get_method(name) for name in self.grid.methods]
        imported = [method.name for method in methods if method.imported and len(self.grid.models) > 1]
        unchanged = [method.name for method in methods if self.reconstructs and not method.pattern.is_reconstructed]
        by_loss = [name for name in self.evaluation.probes if self.task_data(name).kind]
        text, number = self.masks.texts.get(self.reconstruction.calibration or ""), self.reconstruction.examples
        served_by, export = [*self.export.pythons][-1:], self.export
        return faults | {
            f"grid.methods: {imported} prune one model: list one in grid.models": imported,
            f"grid.modes: a reconstruction has nothing to learn with {unchanged}, whose decoder layers compute"
            " what they did; leave out one or the other": unchanged,
            f"reconstruction.examples {number}: {self.reconstruction.calibration} has fewer windows; lower it, or raise"
            " its examples": text and text.has_own_windows and number > text.examples,
            f"evaluation.probes: {by_loss} have no metric but their loss; name tasks of lm-eval": by_loss,
            f"ship.formats are those of {LLAMA_CPP}: name both, and {LLAMA_CPP} last in export.engines": (
                self.ship and bool(self.ship.formats) != (served_by == [LLAMA_CPP])
            ),
            f"export: `ship` has {DIVERGENCE_WINDOWS} prompts of at most {OWN_LENGTH} tokens; lower prompts or"
            " prompt_tokens": self.ship and (export.prompts > DIVERGENCE_WINDOWS or export.prompt_tokens > OWN_LENGTH),
            "evaluation.divergence 1: one window has no standard error; set 2 or more, or 0": (
                self.evaluation.divergence == 1
            ),
        }

    def _check_model(self, name: str) -> None:
        """Raise InputError if the source of a model is a pruned base that this study cannot make."""
        seen = [name]
        while base := pruned_base(self.models[seen[-1]].source):
            method = get_method(base["method"])
            place = base_folder(method.name).format(**base.groupdict()).removeprefix("pruned/")
            names_known = base["model"] in self.models and (base["task"] or "") in ("", *self.tasks)
            is_made = names_known and method.has_pruned_base and base.string == f"pruned:{place}"
            refuse(
                {
                    f"models.{name}: this study makes no {base.string}; write pruned:MODEL/sparsityXX_METHOD, or"
                    " pruned:MODEL/TASK/sparsityXX_METHOD if the method looks at a task's examples, with names that are"
                    " under models and tasks": not is_made,
                    f"models.{name} is made from itself; name another model": base["model"] in seen,
                }
            )
            self.masks.check(method, [int(base["sparsity"])])
            seen.append(base["model"])

    def _check_task(self, name: str) -> None:
        """Raise ValueError or InputError if a task's description, schedule or data are impossible."""
        data = self.tasks[name]
        if (name in BY_NAME) == bool(data.task_kind):
            what = f"tasks.{name}: a task needs lm_eval or kind unless it is built in"
            raise InputError(what, f"set one (docs/tasks.md), or choose one of {', '.join(BY_NAME)} and set none")
        text = self.masks.texts.get(data.text or "")
        is_sampled = text and text.has_own_windows and TASK not in text.parts
        is_read = data.text and name in self.grid.tasks
        refuse(
            {
                f"tasks.{name}.text {data.text}: name a text under masks.calibration that the model samples, or"
                f" {SELF}": is_read and not is_sampled,
                f"tasks.{name}: its validation rows are the windows of the divergence; set evaluation.divergence to 2"
                " or more": is_read and is_sampled and not self.divergence_windows,
            }
        )
        of_task = [method for method in self.grid.methods if get_method(method).uses_task]
        for training in dict.fromkeys(["", *self.grid.trainings]):
            try:
                first = self.training_of(name, training).recover_on
            except ValidationError as error:
                place = f"grid.trainings.{training}, for {name}" if training else f"tasks.{name}.training"
                raise ValueError(f"{place}: {first_fault(error)}") from None
            refuse(
                {
                    f"training.recover_on {first}: name a task of kind text that is in grid.tasks": (
                        first and (first not in self.grid.tasks or self.task_data(first).kind != "text")
                    ),
                    f"training.recover_on {first}: the masks of {of_task} differ from task to task; calibrate them"
                    " on a text, METHOD_on_TEXT": first and of_task,
                }
            )
        # The default configuration has tasks that a study need not use.
        for mode in self.trained_modes if name in self.grid.tasks else []:
            self.check_trainings(name, partial(Training.check_processes, processes=self.resources.processes, mode=mode))
            self.check_trainings(name, partial(Training.check, mode=mode, projections=set(PROJECTIONS)))

    def check_trainings(self, task: str, check: Callable[[Training], object]) -> None:
        """Call `check` with the schedule of each training of a task.

        If `check` raises InputError, the error gets the name of the training."""
        for training in self.training_names:
            with located(f"grid.trainings.{training}, for {task}" if training else ""):
                check(self.training_of(task, training))

    def lineage(self, model: str) -> list[str]:
        """Return a model and those from which it was pruned, each from the one after it."""
        base = pruned_base(self.models[model].source) if model in self.models else None
        return [model, *(self.lineage(base["model"]) if base else [])]

    def original(self, model: str) -> str:
        """Return the model from which a model was pruned, in one step or several. A model of another source is its
        own."""
        return self.lineage(model)[-1]

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
        """Return the modes of the grid that train, and those that they start from."""
        return [mode for mode in with_starts(self.grid.modes) if get_mode(mode).is_trained]

    @property
    def reconstructs(self) -> bool:
        """Return whether decoder layers are reconstructed."""
        return any(get_mode(mode).reconstructs for mode in self.trained_modes)

    @property
    def training_backend(self) -> Backend:
        """Return the description of the backend that trains."""
        return next(backend for backend in BACKENDS if backend.name == self.backend)

    def task_data(self, name: str) -> TaskData:
        """Return the data of a task. A probe that `tasks` does not describe is lm-eval's task of this name, or a
        built-in one."""
        if name in self.tasks:
            return self.tasks[name]
        return TaskData() if name in BY_NAME else TaskData(lm_eval=name)

    def data_folder(self, task: str, model: str) -> str:
        """Return the folder of a task's rows. If models sample them, there is one per model that was not pruned."""
        sampler = f"-{self.original(model)}" if self.task_data(task).text else ""
        return DATA.format(task=task) + sampler

    def mask_settings(self, method: Method, task: str) -> dict:
        """Return the settings on which the masks of a method depend. A text that models sample may have fewer windows
        than `masks.calibration_examples`."""
        used = self.masks.used_by(method)
        if method.uses_task and not method.calibration and (text := self.task_data(task).text):
            used["calibration_examples"] = min(used["calibration_examples"], self.masks.texts[text].examples)
        return used

    def pruned_source(self, model: str, method: str, percent: int) -> str | None:
        """Return the source of an imported checkpoint; None if it is the model's own, so that the model was pruned
        itself."""
        source = self.masks.imported_source(get_method(method), percent)
        return None if source == self.models[model].source else source

    def evaluates(self, mode: str, task: str, training: str = "") -> bool:
        """Return whether a training computes evaluation losses, for which it reads the validation rows."""
        return self.training_backend.evaluates or bool(self.schedule_of(mode, task, training).eval_every)

    def evaluated_tasks(self, name: str) -> list[str]:
        """Return the tasks on which a merged model of the task `name` is evaluated: its own, and the probes."""
        return [name, *(probe for probe in self.evaluation.probes if probe != name)]

    def training_of(self, task: str, training: str = "") -> Training:
        """Return the schedule of a task in a training, which is a name in `grid.trainings`, or "".

        A key has the value of the training, or else of `tasks.NAME.training`, or else that which the user set in
        `training`, or else the task's suggestion, or else the default of Training."""
        suggested = BY_NAME[task].suggested_training if task in BY_NAME else {}
        set_by_user = self.training.model_dump(include=self.training.model_fields_set)
        named = self.grid.trainings[training] if training else {}
        return Training(**laid_over(suggested, set_by_user, self.tasks[task].training, named))

    def start_of(self, run: Run) -> Run | None:
        """Return the run whose training that of a run continues; None if it starts from the pruned model."""
        return start_of(run, self.training_of(run.task, run.training).recover_on)

    def schedule_of(self, mode: str, task: str, training: str = "") -> Training:
        """Return the schedule of a mode on a task in a training, without the keys that the mode does not have.

        If the mode reconstructs, it is that of each decoder layer."""
        schedule = self.training_of(task, training)
        if get_mode(mode).reconstructs:
            return self.reconstruction.schedule(schedule)
        return Training(**schedule.model_dump(include=schedule.model_fields_set - Training.unused_in(mode)))

    @property
    def divergence_windows(self) -> int:
        """Return the number of windows on which the divergence is measured; 0 if it is not."""
        if self.evaluation.divergence is not None:
            return self.evaluation.divergence
        if sampled := self._sampled_tasks():
            return sampled[0].validation_examples or DEFAULT_WINDOWS
        for name in self.grid.tasks:
            data = self.tasks[name]
            takes_whole_data_set = name in BY_NAME and not (data.validation_examples or data.local or data.hub)
            if not takes_whole_data_set and (data.validation_examples or 0) < MANY_EXAMPLES:
                return 0
        return DEFAULT_WINDOWS

    @property
    def divergence_length(self) -> int:
        """Return the tokens of such a window: those of a window of a sampled task, or else 512."""
        return next((self.masks.texts[data.text or ""].length for data in self._sampled_tasks()), OWN_LENGTH)

    def _sampled_tasks(self) -> list[TaskData]:
        """Return the tasks of the grid whose rows the dense model samples."""
        return [self.tasks[name] for name in self.grid.tasks if self.tasks[name].text]

    @property
    def texts(self) -> dict[str, CalibrationText]:
        """Return the texts that models read, by name: those on which masks can calibrate, and that of the
        divergence."""
        return self.masks.texts | held_out(self.divergence_windows, self.divergence_length)

    def texts_read(self) -> list[str]:
        """Return the names of the texts that the study reads, with the parts of mixtures.

        They are those of its methods, of its tasks, that of a reconstruction, and that of the divergence."""
        texts, names = self.texts, {DIVERGENCE, *(get_method(name).calibration for name in self.grid.methods)}
        names |= {self.tasks[name].text for name in self.grid.tasks}
        if self.reconstructs:
            names.add(self.reconstruction.calibration)
        read = [name for name in texts if name in names]
        return sorted(texts.keys() & {*read, *(part for name in read for part in texts[name].parts)})

    def reconstruction_examples(self) -> dict[str, Any]:
        """Return by the names of the flags which examples the decoder layers are reconstructed on.

        The length is None unless they are windows of documents, and the choice is None if it is the default."""
        text = self.masks.texts.get(self.reconstruction.calibration or "")
        return {
            "calibration_examples": self.reconstruction.examples,
            "calibration_seed": 0 if text else self.masks.calibration_seed,
            "calibration_length": None,
            "calibration_choice": None,
        } | (text.chosen if text else {})

    def unused_training(self) -> list[str]:
        """Return a sentence for each key of `training` that no run uses, because no mode has it, or because every task
        or training has its own value."""
        modes = [Training.unused_in(mode) for mode in self.trained_modes]
        schedules = [self.training_of(task, name) for task in self.grid.tasks for name in self.training_names]
        used = {key: [getattr(schedule, key) for schedule in schedules] for key in self.training.model_fields_set}
        used |= {key: [] for key in used if modes and all(key in unused for unused in modes)}
        # A complete configuration sets every key, so a default value need not be the user's choice.
        return [
            f"training.{key} {value} is used by no run, because"
            f" {f'tasks or trainings set {used[key]}' if used[key] else 'no mode of grid.modes has it'}"
            for key in sorted(used)
            if (value := getattr(self.training, key)) not in (getattr(Training(), key), *used[key])
        ]


def schema() -> str:
    """Return the JSON schema of a configuration file, as config/schema.json holds it.

    No key is required, because the default study has a value for every key that a file leaves out."""
    content = Config.model_json_schema()
    for section in (content, *content["$defs"].values()):
        section.pop("required", None)
    # Only descriptions have line breaks.
    return json.dumps(content, indent=2).replace("\\n", " ")


if __name__ == "__main__":
    print(schema())
