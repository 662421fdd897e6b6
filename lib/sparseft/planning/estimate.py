"""What a study takes, before anything runs: its jobs, and the disk and memory of each kind.

Exact: the numbers of jobs and files, the bytes of a model's weights, of a mask, of an adapter's matrices. The rest depends on
data or machine, and says how it is computed. Only config.json of a model is read, and no torch imported.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparseft.masks.mask_file import mask_meta
from sparseft.masks.mask_writer import mask_bytes
from sparseft.planning.lengths import TEXTS, validation_rows
from sparseft.planning.memory import adapter_shapes, count, evaluation_memory, mask_memory, training_memory
from sparseft.planning.sizes import Subject, described, safetensors_bytes
from sparseft.study import grid, targets
from sparseft.study.config import Config
from sparseft.study.grid import DENSE, NO_FINETUNE, TASK_AWARE, Run, split_method
from sparseft.tasks.source import SPLITS

STATE = 12  # bytes a number of an adapter in state.pt: itself and two moments, fp32
RECORD = 1700  # bytes of an evaluation's file without what it says of every example; measured
CHARACTERS = 4  # of a token, about
LOG_DIGITS = {"BF16": 7, "F16": 9, "F32": 18}  # of a log-likelihood as text, about: it is of the model's dtype


@dataclass(frozen=True)
class Item:
    """A figure in bytes, and how it comes about."""

    what: str
    bytes: int
    how: str


def report(config: Config) -> str:
    """The whole estimate as text. Raises InputError for a model whose sizes cannot be known yet."""
    models = [described(name, config.models[name]) for name in config.grid.models]
    planned, found = jobs(config), targets.runs(config)
    trained = len(_trained(config))
    kept, passing = disk_kept(config, models), disk_passing(config, models)
    weights = _each((s.name, s.prunable_weights) for s in models)
    return "\n".join([
        "ESTIMATE, from the configuration alone: nothing was run or measured. GB: 1,000,000,000 bytes.",
        "",
        f"runs: {len(found):,}, of which {trained:,} are trained",
        f"jobs: {sum(planned.values()):,} where nothing is made yet: {', '.join(f'{rule} {n:,}' for rule, n in planned.items())}",
        *_compilations(config),
        f"prunable weights, billions: {weights}",
        *_table("disk, kept", [*kept, Item("together", sum(item.bytes for item in kept), "")]),
        *_table("disk, besides and for a time", passing),
        *(line for title, items in memory(config, models).items() for line in _table(title, items)),
    ])  # fmt: skip


def jobs(config: Config) -> dict[str, int]:
    """Return the number of jobs by rule, for the whole study in a folder where nothing is made yet."""
    found = targets.runs(config)
    trained = sum(run.mode != NO_FINETUNE for run in found)
    masks = {(grid.fill(grid.mask_folder(run.method), run), run.method) for run in found}
    return {
        "prepare_model": len(config.grid.models),
        "prepare_task": len(config.grid.tasks),
        **({"prepare_wikitext2": 1} if config.perplexity else {}),
        **Counter(_mask_rule(method) for _, method in masks),
        **Counter(_export_rule(method) for _, method in _exports(config)),
        **({"compile_program": len(programs)} if (programs := targets.programs(config)) else {}),
        **dict.fromkeys(("train_adapter", "evaluate_adapter"), trained),
        **dict.fromkeys(("merge_adapter", "validate_sparsity", "evaluate_run"), len(found)),
        **dict.fromkeys(("write_configuration", "analyze_results", "analyze"), 1),
    }


def mask_sizes(config: Config, subject: Subject) -> list[int]:
    """The bytes of every mask file of a model; those of one method are as large as one another."""
    found = {(grid.fill(grid.mask_folder(run.method), run), run.method)
             for run in targets.runs(config) if run.model == subject.name}  # fmt: skip
    sizes = []
    for _, method in sorted(found):
        percents = [0] if method == DENSE else config.grid.sparsities
        meta = mask_meta(method, percents, config.masks, "0" * 64) | {"sparsity": 0.5}
        if split_method(method)[1] in TASK_AWARE:
            meta |= {"task": "hellaswag", "train_sha256": "0" * 64, "accumulated": " " * 70}
        sizes += [mask_bytes(meta, subject.prunable)] * len(percents)
    return sizes


def disk_kept(config: Config, models: list[Subject]) -> list[Item]:
    """What lies on the disk when the study is done."""
    masks = [size for subject in models for size in mask_sizes(config, subject)]
    adapters = [
        safetensors_bytes(adapter_shapes(config, _named(models, run), run.task), "F32") for run in _trained(config)
    ]
    items = [
        Item("models", sum(subject.bytes for subject in models),
             f"parameters x bytes of the dtype: {_each((s.name, s.bytes) for s in models)}; tokenizers come to it"),
        Item("masks", sum(masks), f"{len(masks)} files of {_range(masks)}: a bit a prunable weight"),
        Item("adapters", sum(adapters), f"{len(adapters)} of {_range(adapters)}: r x (rows + cols) x 4 bytes a layer"),
        _evaluation_records(config, models),
        Item("data", sum(_data_bytes(config, task) for task in config.grid.tasks), "rows x the mean of their bytes, rough"),
    ]  # fmt: skip
    if config.keep_merged:
        items.append(Item("merged models", sum(_named(models, run).bytes for run in targets.runs(config)),
                          "keep_merged: as large as its base for every run"))  # fmt: skip
    return items


def disk_passing(config: Config, models: list[Subject]) -> list[Item]:
    """What comes to it for a time."""
    items = []
    if hub := [subject for subject in models if subject.source.startswith("hub:")]:
        items.append(Item("hub cache", sum(subject.bytes for subject in hub),
                          "the hub's own files, as large again where their dtype is the same; in HF_HOME, until you delete it"))  # fmt: skip
    if not config.keep_merged:
        items.append(Item("a merged model", max(subject.bytes for subject in models),
                          "as large as its base, until it is evaluated; about as many at a time as jobs that run"))  # fmt: skip
    saving = [run for run in _trained(config) if config.training_of(run.task).save_every]
    states = [STATE * count(adapter_shapes(config, _named(models, run), run.task)) for run in saving]
    how = f"{STATE} bytes a number of its adapter, the old and the new for a moment"
    if config.training_backend.exports_checkpoints:
        items.append(Item("a masked checkpoint", max(subject.bytes for subject in models),
                          "as large as its base, until the last training of its mask; about as many as jobs that run"))  # fmt: skip
        states = [state + _named(models, run).bytes for run, state in zip(saving, states, strict=True)]
        how = f"its base and {how}"
    items.append(Item("a training's state", 2 * max(states, default=0), how))
    return items


def memory(config: Config, models: list[Subject]) -> dict[str, list[Item]]:
    """Title of a table -> one job of each kind on each model, for the task that needs most."""
    each = f", each of {config.resources.processes} processes" if config.resources.processes > 1 else ""
    kinds = {"mask": mask_memory, f"training{each}": training_memory, "evaluation": evaluation_memory}
    places = {"memory of a job": lambda need: need.model | need.machine}
    if config.resources.gpus:
        places = {"memory of a job, on its GPU": lambda need: need.model,
                  "memory of a job, in the machine": lambda need: need.machine}  # fmt: skip
    found = {}
    for title, parts in places.items():
        items = [_most(f"{subject.name}, {kind}", {task: parts(need(config, subject, task)) for task in config.grid.tasks})
                 for subject in models for kind, need in kinds.items()]  # fmt: skip
        found[title] = [item for item in items if item.bytes]
    return found


def _most(what: str, needs: dict[str, dict[str, int]]) -> Item:
    """The task, of those in `needs`, whose parts are the most."""
    task = max(needs, key=lambda task: sum(needs[task].values()))
    how = " + ".join(f"{part} {_gb(size)}" for part, size in needs[task].items() if size)
    which = f" ({task})" if any(parts != needs[task] for parts in needs.values()) else ""
    return Item(what, sum(needs[task].values()), how + which)


def _compilations(config: Config) -> list[str]:
    if config.training_backend.compiles_first is None:
        return []
    programs, measured = targets.programs(config), targets.measured_programs(config)
    if not programs:
        return ["compilations for the wafer: within each training, or none (cerebras.compile_once, cerebras.target)"]
    repeats = len(targets.throughput_targets(config)) * len(config.throughput.batch_sizes) * config.throughput.repeats
    return [
        f"compilations for the wafer: {len(programs)}, for {len(_trained(config))} trainings",
        f"besides, where `throughput` is asked for: {len(measured.keys() - programs.keys())}, for {repeats:,} measurements",
    ]


def _mask_rule(method: str) -> str:
    if method == DENSE:
        return "compute_dense_mask"
    return "compute_task_masks" if method in grid.TASK_METHODS else "compute_masks"


def _exports(config: Config) -> set[tuple[str, str]]:
    """(folder, method) of every masked checkpoint that ModelZoo's Trainer begins with."""
    if not config.training_backend.exports_checkpoints:
        return set()
    return {(grid.fill(grid.exported(run.method), run), run.method) for run in _trained(config)}


def _export_rule(method: str) -> str:
    return "export_task_checkpoint" if method in grid.TASK_METHODS else "export_checkpoint"


def _trained(config: Config) -> list[Run]:
    return [run for run in targets.runs(config) if run.mode != NO_FINETUNE]


def _named(models: list[Subject], run: Run) -> Subject:
    return next(subject for subject in models if subject.name == run.model)


def _data_bytes(config: Config, task: str) -> int:
    data, texts, total = config.tasks[task], TEXTS[task], 0
    for split, number, rows in zip(SPLITS, (data.train_examples, data.validation_examples), texts.rows, strict=True):
        whole = (Path(data.local) / f"{split}.jsonl").stat().st_size if data.local else rows * texts.bytes
        total += number * texts.bytes if number else whole
    return total


def _evaluation_records(config: Config, models: list[Subject]) -> Item:
    """evaluation.json of every run, before_merge.json of every trained one: indented JSON, a line a value."""
    sizes = []
    for run in [*targets.runs(config), *_trained(config)]:
        choices, digits = TEXTS[run.task].choices, LOG_DIGITS[_named(models, run).dtype]
        row = 16 + 9 + 23  # prediction and outcome, the answer's tokens, the loss
        if choices:
            row += 7 + 13 + (8 + digits) * choices + 12 + 10 * choices  # label, log-likelihoods, lengths of the choices
        else:
            row += 7 + 2 * (10 + CHARACTERS * TEXTS[run.task].answer)  # the right answer and the generated one
        sizes.append(RECORD + row * validation_rows(config.tasks[run.task], run.task))
    how = f"{len(sizes)} of {_range(sizes)}: what every number is computed from, of every example, rough"
    return Item("evaluations", sum(sizes), how)


def _table(title: str, items: list[Item]) -> list[str]:
    width = max(len(item.what) for item in items)
    return ["", f"{title}, GB", *(f"  {item.what:{width}} {_gb(item.bytes):>8}  {item.how}".rstrip() for item in items)]


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f}" if size >= 1e7 else f"{size / 1e9:.5f}"


def _range(sizes: list[int]) -> str:
    low, high = _gb(min(sizes, default=0)), _gb(max(sizes, default=0))
    return low if low == high else f"{low} to {high}"


def _each(sizes: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {_gb(size)}" for name, size in sizes)
