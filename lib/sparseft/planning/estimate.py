"""Estimate what a study needs before anything runs: its jobs, its disk space, the memory of each kind of job, and its
hours.

These numbers are exact: the jobs, the files, and the bytes of a model's weights, of a mask and of an adapter's matrices. The
others depend on the data or the machine, and the report says how they are computed. Of a model only config.json is read, and
torch is not imported.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from sparseft.architectures.architecture import Shapes
from sparseft.masks.mask_file import mask_meta
from sparseft.masks.mask_writer import mask_bytes
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.planning.hours import Job, hours_table
from sparseft.planning.lengths import TaskLengths, selection_rows, task_lengths, text_bytes
from sparseft.planning.memory import (
    Need,
    adapter_shapes,
    count,
    evaluation_memory,
    mask_memory,
    reconstruction_memory,
    training_memory,
)
from sparseft.planning.model_sizes import Subject, described, safetensors_bytes
from sparseft.study import grid, targets
from sparseft.study.config import Config
from sparseft.study.grid import DENSE, NO_FINETUNE, Run

# Bytes per number of an adapter in state.pt: the number and AdamW's two moments, all in fp32.
STATE = 12
# Bytes of an evaluation's file without the rows of its examples; measured.
RECORD = 1700
# Characters per token, roughly.
CHARACTERS = 4
# The model's dtype -> digits of a log-likelihood as text, roughly.
LOG_DIGITS = {"BF16": 7, "F16": 9, "F32": 18}
# Stands for any sha256.
DIGEST = "0" * 64


@dataclass(frozen=True)
class Item:
    """Hold a number of bytes, and how it is computed."""

    label: str
    bytes: int
    explanation: str


def report(config: Config) -> str:
    """Return the whole estimate as text. Raises InputError for a model whose sizes are not known yet."""
    models = [described(name, config.models[name]) for name in config.grid.models]
    jobs_by_rule = jobs(config)
    kept = disk_kept(config, models)
    total = Item("together", sum(item.bytes for item in kept), "")
    by_rule = ", ".join(f"{rule} {number:,}" for rule, number in jobs_by_rule.items())
    lines = [
        "ESTIMATE, from the configuration and the times of earlier jobs: nothing was run. GB: 1,000,000,000 bytes.",
        "",
        f"runs: {len(targets.runs(config)):,}, of which {len(_trained(config)):,} are trained",
        f"jobs: {sum(jobs_by_rule.values()):,} where nothing is made yet: {by_rule}",
        *_compilations(config),
        f"prunable weights, billions: {_by_name((model.name, model.prunable_weights) for model in models)}",
        *_table("disk, kept", [*kept, total]),
        *_table("disk, in addition, temporary", disk_temporary(config, models)),
    ]
    for title, items in memory(config, models).items():
        lines += _table(title, items)
    return "\n".join([*lines, "", *hours_table(config, study_jobs(config))])


def jobs(config: Config) -> dict[str, int]:
    """Return the number of jobs by rule, for the whole study in an empty folder."""
    return {**Counter(rule for rule, _ in study_jobs(config)), "analyze": 1}


def study_jobs(config: Config) -> Iterator[Job]:
    """Yield the rule and the wildcards of each job of the whole study."""
    yield from (("prepare_model", {"model": model}) for model in config.grid.models)
    yield from (("prepare_task", {"task": task}) for task in _prepared_tasks(config))
    if config.grid.trainings:
        yield from (("prepare_selection", {"task": task}) for task in config.grid.tasks)
    if config.perplexity:
        yield "prepare_wikitext2", {}
    yield from (("prepare_calibration", {"text": text}) for text in config.calibration_texts())
    runs = targets.runs(config)
    yield from ((_mask_rule(run.method), _mask_wildcards(run)) for _, run in sorted(_mask_jobs(runs).items()))
    yield from ((_export_rule(run.method), _mask_wildcards(run)) for _, run in sorted(_exports(config).items()))
    yield from (("compile_program", {"program": name}) for name in targets.programs(config))
    for run in runs:
        wildcards = {**vars(run), "sparsity": f"{run.sparsity:02d}"}
        made = ["merge_adapter", "validate_sparsity", "evaluate_run"]
        if run.mode != NO_FINETUNE:
            made = [_adapter_rule(run), "evaluate_adapter", *made]
        if run.training:
            made.append("evaluate_selection")
        yield from ((rule, wildcards) for rule in made)
    yield from ((rule, {}) for rule in ("write_configuration", "analyze_results"))


def mask_sizes(config: Config, subject: Subject) -> list[int]:
    """Return the bytes of every mask file of a model. All files of one method have the same size."""
    runs = [run for run in targets.runs(config) if run.model == subject.name]
    sizes = []
    for name in sorted(run.method for run in _mask_jobs(runs).values()):
        percents = [0] if name == DENSE else config.grid.sparsities
        # The job of a method that updates weights makes one mask.
        files = 1 if get_method(name).updates_weights else len(percents)
        sizes += [mask_bytes(_mask_metadata(config, subject, name, percents), subject.prunable)] * files
    return sizes


def _mask_metadata(config: Config, subject: Subject, name: str, percents: list[int]) -> dict:
    """Return metadata as long as those of a mask of a method."""
    method = get_method(name)
    meta = mask_meta(name, percents, config.masks, DIGEST) | {"sparsity": 0.5}
    if method.uses_task:
        meta |= {"task": "hellaswag", "train_sha256": DIGEST, "accumulated": method.accumulated}
    elif text := config.masks.text_of(name):
        source = {"local": DIGEST}
        if text.hub:
            source = {"hub": text.hub.partition("@")[0], "revision": DIGEST[:40]}
        meta |= {
            "calibration": method.calibration,
            "text_sha256": DIGEST,
            "text_source": source,
            "accumulated": method.accumulated,
        }
    if method.updates_weights:
        meta |= {"original": DIGEST}
    if method.imported:
        meta |= {"inferred": True, "source": "path:", "source_digest": DIGEST}
        meta |= dict.fromkeys(("natural_zeros", "changed_weights"), subject.prunable_weights)
    elif method.updates_weights:
        meta |= {"more_damping": {}}
    if method.allocation:
        meta |= {"outliers": [0.0] * subject.config["num_hidden_layers"]}
    return meta


def disk_kept(config: Config, models: list[Subject]) -> list[Item]:
    """Return what the finished study keeps on the disk."""
    masks = [size for subject in models for size in mask_sizes(config, subject)]
    adapters = [_adapter_bytes(config, models, run) for run in _trained(config)]
    models_bytes = _by_name((model.name, model.bytes) for model in models)
    items = [
        Item(
            "models",
            sum(model.bytes for model in models),
            f"parameters x bytes of the dtype: {models_bytes}; without the tokenizers",
        ),
        Item("masks", sum(masks), f"{len(masks)} files of {_range(masks)}: one bit per prunable weight"),
        *_pruned_bases(config, models),
        Item(
            "adapters",
            sum(adapters),
            f"{len(adapters)} of {_range(adapters)}: r x (rows + cols) x 4 bytes per layer",
        ),
        _evaluation_records(config, models),
        Item(
            "data",
            sum(_data_bytes(config, task) for task in _prepared_tasks(config))
            + sum(text_bytes(config, text) for text in config.calibration_texts()),
            f"rows x the mean of their bytes; {_origins(config)}",
        ),
    ]
    if config.keep_merged:
        merged = sum(_model_of(models, run).bytes for run in targets.runs(config))
        items.append(Item("merged models", merged, "keep_merged: each run's is as large as its base"))
    return items


def disk_temporary(config: Config, models: list[Subject]) -> list[Item]:
    """Return the disk space that is needed only while the study runs."""
    largest = max(model.bytes for model in models)
    items = []
    hub = sum(model.bytes for model in models if model.source.startswith("hub:"))
    if hub:
        items.append(Item("hub cache", hub, "the hub's own files, as large again, in HF_HOME until you delete them"))
    if not config.keep_merged:
        items.append(
            Item("a merged model", largest, "as large as its base, until it is evaluated; about one per running job")
        )
    if config.training_backend.exports_checkpoints:
        items.append(
            Item(
                "a masked checkpoint",
                largest,
                "as large as its base, until the last training of its mask; about one per running job",
            )
        )
    items.append(_training_state(config, models))
    return items


def _training_state(config: Config, models: list[Subject]) -> Item:
    """Return the disk space of the largest saved state. While a new state replaces an old one, both exist."""
    saving = [run for run in _trained(config) if config.training_of(run.task, run.training).save_every]
    states = [STATE * count(_adapter_shapes(config, models, run)) for run in saving]
    explanation = f"{STATE} bytes per number of its adapter, twice while a new state replaces the old one"
    if config.training_backend.exports_checkpoints:
        # ModelZoo saves the base too.
        states = [state + _model_of(models, run).bytes for run, state in zip(saving, states, strict=True)]
        explanation = f"its base and {explanation}"
    return Item("a training's state", 2 * max(states, default=0), explanation)


def memory(config: Config, models: list[Subject]) -> dict[str, list[Item]]:
    """Return the tables of memory by title. They list each kind of job on each model, for the task and method that need most."""
    if not config.resources.gpus:
        return {"memory of a job": _memory_items(config, models, lambda need: need.model | need.machine)}
    return {
        "memory of a job, on its GPU": _memory_items(config, models, lambda need: need.model),
        "memory of a job, in the machine": _memory_items(config, models, lambda need: need.machine),
    }


def _memory_items(config: Config, models: list[Subject], parts_of: Callable[[Need], dict[str, int]]) -> list[Item]:
    """Return the items of one table. `parts_of` returns the parts of a need that the table counts, in bytes."""
    trainings = list(product(config.grid.tasks, config.training_names))

    def of_trainings(needed: Callable[..., Need], subject: Subject) -> list[tuple[str, dict[str, int]]]:
        """Return what a kind of job needs for each task and training, by their names."""
        return [
            (f"{task} {training}".rstrip(), parts_of(needed(config, subject, task, training)))
            for task, training in trainings
        ]

    processes = config.resources.processes
    training = f"training, each of {processes} processes" if processes > 1 else "training"
    items = []
    for subject in models:
        masks = [
            (task, parts_of(mask_memory(config, subject, task, method)))
            for task in config.grid.tasks
            for method in config.grid.methods
        ]
        items.append(_largest(f"{subject.name}, mask", masks))
        items.append(_largest(f"{subject.name}, {training}", of_trainings(training_memory, subject)))
        if config.reconstructs:
            items.append(_largest(f"{subject.name}, reconstruction", of_trainings(reconstruction_memory, subject)))
        items.append(_largest(f"{subject.name}, evaluation", of_trainings(evaluation_memory, subject)))
    return [item for item in items if item.bytes]


def _largest(label: str, needs: list[tuple[str, dict[str, int]]]) -> Item:
    """Return the item of the largest of `needs`, which are pairs of a name and its parts. It gives the name if parts differ."""
    name, parts = max(needs, key=lambda need: sum(need[1].values()))
    explanation = " + ".join(f"{part} {_gb(size)}" for part, size in parts.items() if size)
    if any(other != parts for _, other in needs):
        explanation += f" ({name})"
    return Item(label, sum(parts.values()), explanation)


def _compilations(config: Config) -> list[str]:
    """Return the lines on programs for the Cerebras compiler; empty if nothing is compiled."""
    if config.training_backend.compiles_first is None:
        return []
    programs = targets.programs(config)
    measured = targets.measured_programs(config)
    if not programs:
        return ["compilations for the CS-3: within each training, or none (cerebras.compile_once, cerebras.target)"]
    repeats = len(targets.throughput_targets(config)) * len(config.throughput.batch_sizes) * config.throughput.repeats
    return [
        f"compilations for the CS-3: {len(programs)}, for {len(_trained(config))} trainings",
        f"for the stage throughput, in addition: {len(measured.keys() - programs.keys())}, for {repeats:,} measurements",
    ]


def _mask_jobs(runs: Iterable[Run]) -> dict[tuple[str, str], Run]:
    """Return one run of each job that makes masks of these runs, by the place and the method of the job.

    A pass for all sparsities has the folder of its masks as place. The job of one sparsity has the folder of its base."""
    jobs = {}
    for run in runs:
        folder_of = grid.base_folder if get_method(run.method).updates_weights else grid.mask_folder
        jobs[grid.fill(folder_of(run.method), run), run.method] = run
    return jobs


def _mask_wildcards(run: Run) -> dict[str, str]:
    """Return the wildcards of the job that makes the mask of a run."""
    method = get_method(run.method)
    folder = f"/{run.task}" if run.method in grid.TASK_METHODS else ""
    sparsity = {"sparsity": f"{run.sparsity:02d}"} if method.updates_weights or run.method == DENSE else {}
    return {"model": run.model, "task_folder": folder, "method": run.method, **sparsity}


def _pruned_bases(config: Config, models: list[Subject]) -> list[Item]:
    """Return the disk space of the pruned bases of the methods that update weights; nothing if there is none."""
    updated = [run for run in targets.runs(config) if get_method(run.method).updates_weights]
    sizes = {grid.fill(grid.base_folder(run.method), run): _model_of(models, run).bytes for run in updated}
    if not sizes:
        return []
    return [Item("pruned bases", sum(sizes.values()), f"{len(sizes)}, each as large as its model")]


def _mask_rule(method: str) -> str:
    """Return the rule that makes the masks of a method."""
    if method == DENSE:
        return "compute_one_mask"
    if get_method(method).imported:
        return "import_pruned"
    if get_method(method).updates_weights:
        return "prune"
    return "compute_masks"


def _adapter_rule(run: Run) -> str:
    """Return the rule that makes the adapter of a run."""
    return "reconstruct_adapter" if get_mode(run.mode).reconstructs else "train_adapter"


def _exports(config: Config) -> dict[str, Run]:
    """Return one run of each masked checkpoint from which ModelZoo's Trainer starts, by the folder of the checkpoint."""
    if not config.training_backend.exports_checkpoints:
        return {}
    return {grid.fill(grid.exported(run.method), run): run for run in _trained(config)}


def _export_rule(method: str) -> str:
    """Return the rule that makes the masked checkpoint of a method."""
    return "export_task_checkpoint" if method in grid.TASK_METHODS else "export_checkpoint"


def _trained(config: Config) -> list[Run]:
    """Return the runs that are trained."""
    return [run for run in targets.runs(config) if run.mode != NO_FINETUNE]


def _model_of(models: list[Subject], run: Run) -> Subject:
    """Return the model of a run."""
    return next(subject for subject in models if subject.name == run.model)


def _adapter_shapes(config: Config, models: list[Subject], run: Run) -> Shapes:
    """Return the shapes of the matrices of a run's adapter."""
    return adapter_shapes(config, _model_of(models, run), run.task, run.training)


def _adapter_bytes(config: Config, models: list[Subject], run: Run) -> int:
    """Return the bytes of a run's adapter_model.safetensors."""
    return safetensors_bytes(_adapter_shapes(config, models, run), "F32")


def _prepared_tasks(config: Config) -> list[str]:
    """Return the tasks of the study whose data are prepared: those of the grid, and the probes."""
    return list(dict.fromkeys([*config.grid.tasks, *config.evaluation.probes]))


def _origins(config: Config) -> str:
    """Return where the lengths of each task come from, as text."""
    by_origin: dict[str, list[str]] = {}
    for task in _prepared_tasks(config):
        by_origin.setdefault(task_lengths(config, task).origin, []).append(task)
    return "; ".join(f"lengths of {', '.join(tasks)}: {origin}" for origin, tasks in by_origin.items())


def _data_bytes(config: Config, task: str) -> int:
    """Return the bytes of a task's prepared examples."""
    lengths = task_lengths(config, task)
    selection = selection_rows(config, task) if config.grid.trainings and task in config.grid.tasks else 0
    return (sum(lengths.rows) + selection) * lengths.bytes


def _evaluation_records(config: Config, models: list[Subject]) -> Item:
    """Return the size of the evaluations of the runs: after the merge, before it, and on the selection rows."""
    evaluated = [(run, task_lengths(config, run.task).rows[1]) for run in [*targets.runs(config), *_trained(config)]]
    evaluated += [(run, selection_rows(config, run.task)) for run in targets.runs(config) if run.training]
    sizes = []
    for run, rows in evaluated:
        row = _evaluation_row(task_lengths(config, run.task), LOG_DIGITS[_model_of(models, run).dtype])
        sizes.append(RECORD + row * rows)
    explanation = f"{len(sizes)} of {_range(sizes)}: the outcomes of every example, roughly"
    return Item("evaluations", sum(sizes), explanation)


def _evaluation_row(lengths: TaskLengths, digits: int) -> int:
    """Return the bytes of one example in a record: indented JSON, one value per line."""
    prediction_and_outcome = 16
    answer_tokens = 9
    loss = 23
    row = prediction_and_outcome + answer_tokens + loss
    label = 7
    if not lengths.choices:
        # The right answer and the generated one.
        answers = 2 * (10 + CHARACTERS * lengths.answer)
        return row + label + answers
    log_likelihoods = 13 + (8 + digits) * lengths.choices
    choice_lengths = 12 + 10 * lengths.choices
    return row + label + log_likelihoods + choice_lengths


def _table(title: str, items: list[Item]) -> list[str]:
    """Return the lines of a table, in GB."""
    width = max(len(item.label) for item in items)
    rows = [f"  {item.label:{width}} {_gb(item.bytes):>8}  {item.explanation}".rstrip() for item in items]
    return ["", f"{title}, GB", *rows]


def _gb(size: int) -> str:
    """Return a size in GB as text."""
    return f"{size / 1e9:,.2f}" if size >= 1e7 else f"{size / 1e9:.5f}"


def _range(sizes: list[int]) -> str:
    """Return the smallest and the largest size in GB as text."""
    low = _gb(min(sizes, default=0))
    high = _gb(max(sizes, default=0))
    return low if low == high else f"{low} to {high}"


def _by_name(sizes: Iterable[tuple[str, int]]) -> str:
    """Return each name with its size in GB as text."""
    return ", ".join(f"{name} {_gb(size)}" for name, size in sizes)
