"""What a study takes, before anything runs: its jobs, and the disk and memory of each kind.

Exact: the numbers of jobs and files, the bytes of a model's weights, of a mask, of an adapter's matrices. The rest depends on
data or machine, and says how it is computed. Only config.json of a model is read, and no torch imported.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparseft import grid, targets
from sparseft.checkpoints.layers import attention_heads
from sparseft.checkpoints.sizes import Shapes, Subject, described, safetensors_bytes
from sparseft.config import Config
from sparseft.grid import DENSE, NO_FINETUNE, TASK_AWARE, Run, split_method
from sparseft.pruning.mask_generator import mask_meta
from sparseft.pruning.mask_writer import mask_bytes
from sparseft.tasks import get_task
from sparseft.tasks.source import SPLITS

RECORD = 1000  # bytes of an evaluation's file without what it says of every example; measured
LOG_DIGITS = {"BF16": 7, "F16": 9, "F32": 18}  # of a log-likelihood as text, about: it is of the model's dtype
PROGRAM = 600_000_000  # bytes of python, torch and its libraries on a CPU; measured
MASK_JOB = 210_000_000  # of masks from weights alone, whatever the model: benchmarks/masks.py; measured
ADAM = 16  # bytes a number of an adapter: itself, its gradient, two moments, all fp32
STATE = 12  # bytes a number of an adapter in state.pt: the same without the gradient
TRACE = 9  # bytes a weight where a training for the wafer is traced; measured on LLaMA shapes of 83 and 185 million
TRACER = 1_200_000_000  # bytes of the program that does it; measured beside it
LOGITS = 4  # lm-eval's in an evaluation: with their softmax, and the last batch's; measured


@dataclass(frozen=True)
class Texts:
    """A task's rows on the hub (train, validation), bytes a row, and tokens, about four characters each: of a mean example,
    of a long one (the 99th percentile) and of its answer; choices to score, none where the answer is generated. Measured
    on 700 to 2000 rows of each."""

    rows: tuple[int, int]
    bytes: int
    mean: int
    long: int
    answer: int
    choices: int


TEXTS = {
    "boolq": Texts((9427, 3270), 700, 140, 450, 1, 2),
    "hellaswag": Texts((39905, 10042), 1200, 90, 160, 75, 4),
    "gsm8k": Texts((7473, 1319), 560, 130, 310, 190, 0),
    "boolq_mini": Texts((0, 0), 90, 25, 25, 1, 2),
    "hellaswag_mini": Texts((0, 0), 310, 30, 30, 8, 4),
    "gsm8k_mini": Texts((0, 0), 120, 40, 40, 12, 0),
}


@dataclass(frozen=True)
class Item:
    """A figure in bytes, and how it comes about."""

    what: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Need:
    """Bytes of a job by part: what lies where the model computes, on the GPU if there is one, and what lies in the machine's
    memory either way."""

    model: dict[str, int]
    machine: dict[str, int]


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
        *_table("disk, kept", kept),
        *_table("disk, besides and for a time", passing),
        *(line for title, items in memory(config, models).items() for line in _table(title, items)),
    ])  # fmt: skip


def jobs(config: Config) -> dict[str, int]:
    """Rule -> jobs of the whole study in a folder where nothing is made yet."""
    found = targets.runs(config)
    trained = sum(run.mode != NO_FINETUNE for run in found)
    masks = {(grid.fill(grid.mask_folder(run.method), run), run.method) for run in found}
    return {
        "prepare_model": len(config.grid.models),
        "prepare_task": len(config.grid.tasks),
        **({"prepare_wikitext2": 1} if config.perplexity else {}),
        **Counter(_mask_rule(method) for _, method in masks),
        **({"compile_program": len(programs)} if (programs := targets.programs(config)) else {}),
        **dict.fromkeys(("train_adapter", "evaluate_adapter"), trained),
        **dict.fromkeys(("merge_adapter", "validate_sparsity", "evaluate_run"), len(found)),
        **dict.fromkeys(("analyze_results", "analyze"), 1),
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


def adapter_shapes(config: Config, subject: Subject, task: str) -> Shapes:
    """The matrices of a run's adapter as its file names them."""
    settings = config.training_of(task)
    shapes: Shapes = {}
    for layer, (rows, cols) in subject.prunable.items():
        if layer.rpartition(".")[2] in (settings.lora_targets or grid.PROJECTIONS):
            shapes[f"base_model.model.{layer}.lora_A.weight"] = (settings.lora_r, cols)
            shapes[f"base_model.model.{layer}.lora_B.weight"] = (rows, settings.lora_r)
    return shapes


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
    states = [STATE * _numbers(adapter_shapes(config, _named(models, run), run.task)) for run in _trained(config)
              if config.training_of(run.task).save_every]  # fmt: skip
    items.append(Item("a training's state", 2 * max(states, default=0),
                      f"{STATE} bytes a number of its adapter, the old and the new for a moment"))  # fmt: skip
    return items


def memory(config: Config, models: list[Subject]) -> dict[str, list[Item]]:
    """Title of a table -> one job of each kind on each model, for the task that needs most."""
    each = f", each of {config.resources.processes} processes" if config.resources.processes > 1 else ""
    kinds = {"mask": _mask_memory, f"training{each}": _training_memory, "evaluation": _evaluation_memory}
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


def activation_bytes(subject: Subject) -> int:
    """Bytes a token that one decoder layer keeps for its backward under LoRA, roughly: the inputs of its projections, q, k,
    v and the attention's output, what the product of gate and up needs, and both norms' inputs in fp32."""
    hidden, (heads, kv_heads, head_dim) = subject.config["hidden_size"], attention_heads(subject.config)
    experts = subject.config.get("num_experts_per_tok", 0)
    mlp = 4 * subject.config["intermediate_size"] + (2 * hidden if experts else 0)
    attention = (3 * heads + 2 * kv_heads) * head_dim
    return subject.width * (2 * hidden + attention + (experts or 1) * mlp) + 2 * 4 * hidden


def _most(what: str, needs: dict[str, dict[str, int]]) -> Item:
    """The task, of those in `needs`, whose parts are the most."""
    task = max(needs, key=lambda task: sum(needs[task].values()))
    how = " + ".join(f"{part} {_gb(size)}" for part, size in needs[task].items() if size)
    which = f" ({task})" if any(parts != needs[task] for parts in needs.values()) else ""
    return Item(what, sum(needs[task].values()), how + which)


def _mask_memory(config: Config, subject: Subject, task: str) -> Need:
    aware = {split_method(method)[1] for method in config.grid.methods} & set(TASK_AWARE)
    if not aware:
        return Need({}, {"blocks of a matrix": MASK_JOB})
    width = max(subject.width, 4 if subject.dtype == "F16" else 0)  # float16 is calibrated in fp32
    weights, texts = width * subject.weights, TEXTS[task]
    if aware - {"wanda"}:
        activations = texts.long * subject.config["num_hidden_layers"] * activation_bytes(subject)
        scores = {"scores, fp32": 4 * subject.prunable_weights}
        if config.resources.gpus:  # not both at a time
            scores = {"scores, fp32, or before them the weights": max(weights, *scores.values())}
        return Need({"weights": weights, "activations": activations}, scores | {"program": PROGRAM})
    if not config.masks.sequential:
        return Need({"weights": weights}, _loading(config, subject))
    a_token = subject.config["hidden_size"] + 2 * attention_heads(subject.config)[2]  # and its place: cosines, sines
    states = width * config.masks.calibration_examples * texts.mean * a_token
    matrix = 12 * max(map(math.prod, subject.prunable.values()))
    machine = _loading(config, subject) | {"a matrix, its magnitudes and scores, fp32": matrix}
    return Need({"weights": weights, "hidden states of the examples": states}, machine)


def _compilations(config: Config) -> list[str]:
    if config.backend != "cerebras":
        return []
    programs, measured = targets.programs(config), targets.measured_programs(config)
    if not programs:
        return ["compilations for the wafer: within each training, or none (cerebras.compile_once, cerebras.target)"]
    repeats = len(targets.throughput_targets(config)) * len(config.throughput.batch_sizes) * config.throughput.repeats
    return [
        f"compilations for the wafer: {len(programs)}, for {len(_trained(config))} trainings",
        f"besides, where `throughput` is asked for: {len(measured.keys() - programs.keys())}, for {repeats:,} measurements",
    ]


def _training_memory(config: Config, subject: Subject, task: str) -> Need:
    if config.backend != "torch":
        tracing = {"tracing, not on the wafer: fp32 weights, masks, graph": TRACE * subject.weights, "program": TRACER}
        return Need({}, tracing)
    settings, texts, layers = config.training_of(task), TEXTS[task], subject.config["num_hidden_layers"]
    tokens = settings.micro_batch_size * texts.long
    kept = layers * activation_bytes(subject)
    if settings.gradient_checkpointing:
        kept = layers * subject.width * subject.config["hidden_size"] + activation_bytes(subject)
    effective = subject.prunable_weights if settings.cache_weights else max(map(math.prod, subject.prunable.values()))
    logits = settings.micro_batch_size * texts.answer * subject.config["vocab_size"]
    model = {
        "weights": subject.width * subject.weights // (config.resources.processes if settings.shard_model else 1),
        "W'": subject.width * effective if "sparse_to_sparse" in config.grid.modes else 0,
        "adapter, gradient, AdamW": ADAM * _numbers(adapter_shapes(config, subject, task)),
        f"activations of {tokens:,} tokens": tokens * kept,
        "logits of the answers": logits * subject.width,
    }
    return Need(model, _loading(config, subject))


def _evaluation_memory(config: Config, subject: Subject, name: str) -> Need:
    texts, task, batch = TEXTS[name], get_task(name), config.evaluation_batch_size
    model = {"weights": subject.width * subject.weights}
    if "sparse_to_sparse" in config.grid.modes:  # before the merge every W' is kept; not those of structured masks
        model["W' and adapter before the merge"] = subject.width * subject.prunable_weights
        model["W' and adapter before the merge"] += 4 * _numbers(adapter_shapes(config, subject, name))
    tokens = batch * (texts.long + task.few_shot * texts.mean + task.max_new_tokens)
    if texts.choices:
        model[f"logits of {tokens:,} tokens"] = LOGITS * subject.width * tokens * subject.config["vocab_size"]
    else:
        _, kv_heads, head_dim = attention_heads(subject.config)
        cached = subject.config["num_hidden_layers"] * 2 * kv_heads * head_dim
        model[f"keys and values of {tokens:,} tokens"] = subject.width * tokens * cached
    return Need(model, _loading(config, subject))


def _loading(config: Config, subject: Subject) -> dict[str, int]:
    """In the machine's memory of every job that runs the model."""
    weights = subject.width * subject.weights if config.resources.gpus else 0
    return {"program": PROGRAM, "weights, until they are on the GPU": weights}


def _mask_rule(method: str) -> str:
    if method == DENSE:
        return "compute_dense_mask"
    return "compute_task_masks" if method in grid.TASK_METHODS else "compute_masks"


def _trained(config: Config) -> list[Run]:
    return [run for run in targets.runs(config) if run.mode != NO_FINETUNE]


def _named(models: list[Subject], run: Run) -> Subject:
    return next(subject for subject in models if subject.name == run.model)


def _numbers(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


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
        row = 16 + 13 + (8 + digits) * choices if choices else 23  # a generated answer is a number, or [invalid]
        sizes.append(RECORD + row * _validation_rows(config, run.task))
    how = f"{len(sizes)} of {_range(sizes)}: outcome, prediction and log-likelihoods of every example, rough"
    return Item("evaluations", sum(sizes), how)


def _validation_rows(config: Config, task: str) -> int:
    data = config.tasks[task]
    if data.validation_examples or not data.local:
        return data.validation_examples or TEXTS[task].rows[1]
    with open(Path(data.local) / "validation.jsonl", "rb") as file:
        return sum(1 for _ in file)


def _table(title: str, items: list[Item]) -> list[str]:
    width = max(len(item.what) for item in items)
    return ["", f"{title}, GB", *(f"  {item.what:{width}} {_gb(item.bytes):>8}  {item.how}" for item in items)]


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f}" if size >= 1e7 else f"{size / 1e9:.5f}"


def _range(sizes: list[int]) -> str:
    low, high = _gb(min(sizes, default=0)), _gb(max(sizes, default=0))
    return low if low == high else f"{low} to {high}"


def _each(sizes: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {_gb(size)}" for name, size in sizes)
