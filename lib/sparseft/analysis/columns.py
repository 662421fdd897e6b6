"""Describe the columns of every table: what each holds, its type, its unit and when it is empty.

docs/generate.py prints them as docs/reference/tables.md. tests/analysis/test_docs.py compares them with the tables that the
analysis writes: the same columns, in the same order, with these types. No script imports this module, so that a better
description reruns nothing.
"""

from dataclasses import dataclass, replace

from sparseft.tasks import METRICS, RECALLS, TASKS
from sparseft.tasks.metrics import MAJORITY_FLOOR

TRAINED_ONLY = "the run was not trained"
NOT_MEASURED = "nothing was measured"
ONE_MODEL = "the cell has one model"
PRUNABLE = "fraction of the prunable weights"
PERCENT = "percent of the prunable weights"
NATS = "nats per answer token"
EXAMPLES_PER_SECOND = "examples per second"
TOKENS_PER_SECOND = "tokens per second, without padding"
SPEEDS_DIFFER = (
    "the run was not trained; the runs differ in device, batch_size, processes, gradient_checkpointing or cache_weights"
)


@dataclass(frozen=True)
class Column:
    """Describe one column. `type` is text, version, integer, number or true/false. `empty` says when it has no value."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    empty: str = "never"


@dataclass(frozen=True)
class Table:
    """Describe one file of results/analysis/: what a row is, and its columns in their order."""

    file: str
    about: str
    columns: tuple[Column, ...]


def _same(table: Table, names: str, **changes: str) -> tuple[Column, ...]:
    """Return columns of another table by their names, with some fields changed."""
    known = {column.name: column for column in table.columns}
    return tuple(replace(known[name], **changes) for name in names.split())


def _mean_and_interval(name: str, unit: str, what: str, empty: str = "never") -> tuple[Column, ...]:
    """Return the four columns that describe `name` over the models of a cell."""
    one_model = ONE_MODEL if empty == "never" else f"{empty}; {ONE_MODEL}"
    no_interval = one_model if unit in (EXAMPLES_PER_SECOND, TOKENS_PER_SECOND) else empty
    return (
        Column(f"{name}_mean", "number", f"Mean of {what} over the models.", unit, empty),
        Column(f"{name}_sd", "number", f"Standard deviation of {what} between the models.", unit, one_model),
        Column(f"{name}_low", "number", "Lower end of the 95 % confidence interval.", unit, no_interval),
        Column(f"{name}_high", "number", "Upper end of the 95 % confidence interval.", unit, no_interval),
    )


def _interval_source(name: str, empty: str = "never") -> Column:
    """Return the column that says where an interval comes from."""
    return Column(
        f"{name}_interval_from", "text", "Which interval reaches further: seeds, examples, or both.", empty=empty
    )


def _metric_columns() -> list[Column]:
    """Return the columns of the tasks' metrics and their standard errors. A mini task reports the metrics of its real task."""
    columns = []
    for metric in METRICS:
        tasks = [task.name for task in TASKS if metric in task.metrics and not task.generate]
        empty = f"the task is not {' or '.join(tasks)}" + (f"; {metric.empty}" if metric.empty else "")
        columns.append(Column(metric.name, "number", metric.meaning, "fraction", empty))
        if metric.standard_error:
            meaning = f"Standard error of {metric.name}."
            empty = f"{metric.name} is empty"
            if metric.answer:
                empty += f"; only one example has the answer {metric.answer}"
            columns.append(Column(metric.standard_error, "number", meaning, "fraction", empty))
    return columns


SUMMARY = Table(
    "summary.csv",
    "One row per run. The files named below are those of the run's folder, `results/runs/{run_id}/`. If train.json,"
    " before_merge.json or merge.json is missing or damaged, the columns that come from it are empty too, and missing.csv"
    " gives the reason.",
    (
        Column("run_id", "text", "Name of the run's folder."),
        Column("model", "text", "Key of `models:` in the configuration (run_id)."),
        Column("task", "text", "Key of `tasks:` in the configuration (run_id)."),
        Column("method", "text", "Pattern and importance; `dense` at sparsity 0 (run_id)."),
        Column("sparsity", "integer", "Sparsity that the configuration requests (run_id).", PERCENT),
        Column("mode", "text", "How the run was fine-tuned (run_id)."),
        Column("seed", "integer", "Seed of the adapter and of the batches (run_id)."),
        Column(
            "in_study",
            "true/false",
            "False if the run is not in the configured grid, or was made with other settings. No other table has such a run.",
        ),
        Column(
            "reached_sparsity",
            "number",
            "Sparsity of the mask (validation_report.json).",
            PRUNABLE,
            "no layer was checked",
        ),
        Column(
            "actual_sparsity",
            "number",
            "Share of zeros in the merged model (validation_report.json).",
            PRUNABLE,
            "no layer was checked",
        ),
        Column("mask_scope", "text", "What the mask ranked together (validation_report.json)."),
        Column("mask_seed", "integer", "Seed of the mask (validation_report.json).", empty="the method is not random"),
        Column(
            "mask_sequential",
            "true/false",
            "Whether wanda went layer by layer (validation_report.json).",
            empty="the method is not wanda",
        ),
        Column(
            "nm_group",
            "integer",
            "M of the pattern N:M (validation_report.json).",
            "weights",
            "the method is not semistructured",
        ),
        Column(
            "calibration_examples",
            "integer",
            "Training examples that the importance used (validation_report.json).",
            "training examples",
            "the method is magnitude, random or dense",
        ),
        Column("metric", "text", "The task's headline metric (evaluation.json)."),
        Column("value", "number", "Headline metric of the merged model (evaluation.json).", "fraction"),
        Column(
            "standard_error",
            "number",
            "Standard error of value over the examples (evaluation.json).",
            "fraction",
        ),
        Column("examples", "integer", "Examples that were evaluated (evaluation.json).", "validation examples"),
        Column(
            "chance",
            "number",
            "Value of a random guess, from the number of choices of each row (evaluation.json).",
            "fraction",
        ),
        *_metric_columns(),
        Column(
            "wikitext2_ppl_N",
            "number",
            "Perplexity on WikiText-2 with windows of N tokens. The column exists only if you set `perplexity:`.",
            "perplexity per token, 1 or more",
            "the run was evaluated without it",
        ),
        Column(
            "local_text_ppl_N",
            "number",
            "The same on a text of your own.",
            "perplexity per token, 1 or more",
            "the run was evaluated without it",
        ),
        Column(
            "distinct_prompts",
            "integer",
            "Number of different prompts among the examples (evaluation.json).",
            "validation examples",
        ),
        Column("harness", "text", "lm-eval and its version (evaluation.json)."),
        Column("few_shot", "integer", "Worked examples before a question, for the metric.", "worked examples"),
        Column("loss_few_shot", "integer", "Worked examples before a question, for the loss.", "worked examples"),
        Column(
            "eval_loss",
            "number",
            "Loss of the right answers, of the merged model (evaluation.json).",
            NATS,
        ),
        Column(
            "eval_loss_standard_error",
            "number",
            "Standard error of eval_loss over the examples, as of a ratio.",
            NATS,
        ),
        Column(
            "eval_loss_before_merge",
            "number",
            "Loss of the right answers before the merge (before_merge.json).",
            NATS,
            TRAINED_ONLY,
        ),
        Column("train_merge_gap", "number", "eval_loss minus eval_loss_before_merge.", NATS, TRAINED_ONLY),
        Column(
            "train_merge_gap_standard_error",
            "number",
            "Standard error of train_merge_gap over the pairs of examples.",
            NATS,
            TRAINED_ONLY,
        ),
        Column(
            "value_before_merge",
            "number",
            "Headline metric before the merge (before_merge.json).",
            "fraction",
            TRAINED_ONLY,
        ),
        Column("train_merge_gap_value", "number", "value minus value_before_merge.", "fraction", TRAINED_ONLY),
        Column(
            "final_train_loss",
            "number",
            "Training loss, mean over the last tenth of the steps (train.json).",
            NATS,
            TRAINED_ONLY,
        ),
        Column(
            "samples_per_second",
            "number",
            "batch_size divided by the median time of a step (train.json). The first 3 steps are left out if there are"
            " more than 6.",
            EXAMPLES_PER_SECOND,
            TRAINED_ONLY,
        ),
        Column(
            "tokens_per_second",
            "number",
            "Median over the same steps (train.json).",
            TOKENS_PER_SECOND,
            TRAINED_ONLY,
        ),
        Column(
            "train_seconds",
            "number",
            "Time of all optimiser steps, without loading and evaluating (train.json).",
            "seconds",
            TRAINED_ONLY,
        ),
        Column(
            "peak_memory_bytes",
            "integer",
            "Peak memory of the training's first process (train.json). With device CSX it is that of the process on the"
            " user node, not of the CS-3.",
            "bytes",
            TRAINED_ONLY,
        ),
        Column("batch_size", "integer", "Examples per optimiser step.", "examples", TRAINED_ONLY),
        Column("steps", "integer", "Optimiser steps.", "optimiser steps", TRAINED_ONLY),
        Column(
            "updates",
            "integer",
            "Steps whose learning rate is above 0. The first step of a warm-up has learning rate 0.",
            "optimiser steps",
            TRAINED_ONLY,
        ),
        Column("learning_rate", "number", "Peak learning rate.", empty=TRAINED_ONLY),
        Column(
            "warmup_fraction", "number", "Share of the steps until the peak.", "fraction of the steps", TRAINED_ONLY
        ),
        Column("weight_decay", "number", "Weight decay of AdamW.", empty=TRAINED_ONLY),
        Column("max_grad_norm", "number", "Norm to which gradients are clipped.", empty=TRAINED_ONLY),
        Column("lora_r", "integer", "Rank of the adapters.", empty=TRAINED_ONLY),
        Column("lora_alpha", "number", "The product B A is scaled by alpha / r.", empty=TRAINED_ONLY),
        Column("lora_dropout", "number", "Dropout of the adapters' input.", "fraction", TRAINED_ONLY),
        Column("gradient", "text", "exact or straight_through, for sparse_to_sparse.", empty=TRAINED_ONLY),
        Column(
            "length_buckets",
            "integer",
            "Batches whose examples are sorted by length together.",
            "batches",
            TRAINED_ONLY,
        ),
        Column("shard_model", "true/false", "Whether the processes shared the weights.", empty=TRAINED_ONLY),
        Column("gradient_checkpointing", "true/false", "Whether activations were computed twice.", empty=TRAINED_ONLY),
        Column(
            "cache_weights",
            "true/false",
            "Whether W' was kept over the micro-batches of a step.",
            empty=TRAINED_ONLY,
        ),
        Column("train_examples", "integer", "Training examples of the task.", "training examples", TRAINED_ONLY),
        Column(
            "processes",
            "integer",
            "Processes that shared the training. With device CSX it is the number of systems, `cerebras.num_csx`.",
            empty=TRAINED_ONLY,
        ),
        Column("backend", "text", "torch, cerebras or modelzoo.", empty=TRAINED_ONLY),
        Column("device", "text", "Device that trained.", empty=TRAINED_ONLY),
        Column("dtype", "text", "Dtype of the training.", empty=TRAINED_ONLY),
        Column(
            "micro_batch_size",
            "integer",
            "Examples per forward pass.",
            "examples",
            "the run was not trained; the CS-3 chose it",
        ),
        Column("lora_targets", "text", "Projections with an adapter, or `all`.", empty=TRAINED_ONLY),
        Column("version", "version", "Version of SparseFT that trained.", empty=TRAINED_ONLY),
        Column("evaluation_device", "text", "Device that evaluated (evaluation.json)."),
        Column("evaluation_dtype", "text", "Dtype of the evaluation (evaluation.json)."),
        Column(
            "evaluation_seconds",
            "number",
            "Time of the whole evaluation job, with loading and perplexity (evaluation.json).",
            "seconds",
        ),
        Column(
            "evaluation_peak_memory_bytes",
            "integer",
            "Peak memory of that job (evaluation.json).",
            "bytes",
            "the evaluation is older than this column",
        ),
        Column("validated", "true/false", "Whether the proof of sparsity passed (validation_report.json)."),
        Column("violations", "integer", "Pruned weights that are not zero (validation_report.json).", "weights"),
        Column("layers_checked", "integer", "Layers that were checked (validation_report.json).", "layers"),
        Column("layers_expected", "integer", "Prunable layers of the model (validation_report.json).", "layers"),
        Column(
            "model_sha256",
            "text",
            "Digest of the base's weights, configuration and tokenizer (merge.json).",
            empty="merge.json is missing or damaged",
        ),
        Column("mask_sha256", "text", "sha256 of the mask file (validation_report.json)."),
        Column("adapter_sha256", "text", "Digest of the adapter (train.json).", empty=TRAINED_ONLY),
        Column("train_sha256", "text", "sha256 of train.jsonl (evaluation.json)."),
        Column("data_sha256", "text", "sha256 of validation.jsonl (evaluation.json)."),
        Column(
            "merged_sha256",
            "text",
            "sha256 of what `LC_ALL=C sha256sum *` prints in the merged model's folder (validation_report.json).",
        ),
        Column("unchecked", "integer", "Checks that could not be made. correctness_memo.md names them."),
        Column(
            "faults",
            "integer",
            "Faults that correctness_memo.md lists: in the validation, in the chain of hashes, or in the comparison with other runs.",
        ),
    ),
)

_SETTING = Column(
    "setting",
    "text",
    "What distinguishes these runs from other runs of the same model and task.",
    empty="all runs of the model and task have the same settings",
)

GROUPED = Table(
    "grouped_summary.csv",
    "One row per cell: model, task, method, sparsity and mode. Everything is computed from the cell's rows of summary.csv"
    " with in_study True, which differ only in the seed. Runs of the same model, such as untrained runs of two seeds, count"
    " once.\n\n"
    "The standard deviation has n - 1 in its denominator. An interval covers two 95 % confidence intervals. The first is"
    " Student's t over the models, from two models on. The second is over the examples, which all models share: Wilson's"
    " for value, and Student's t with the standard error of a ratio for losses and gaps. Speeds have only the first.\n\n"
    "Runs of a model and task with different settings are never averaged or compared: each setting has rows of its own."
    " Dense and untrained runs appear in every setting that they agree with.",
    (
        _SETTING,
        *_same(SUMMARY, "model task metric method sparsity mode"),
        Column("runs", "integer", "Number of runs.", "runs"),
        Column("n", "integer", "Number of different models among them.", "models"),
        Column("n_sound", "integer", "Number of models without a fault.", "models"),
        Column("examples", "integer", "Examples that were evaluated, the largest number.", "validation examples"),
        *_same(SUMMARY, "chance"),
        Column(
            "standard_error",
            "number",
            "Mean of the models' standard errors. It does not shrink with more seeds, because they see the same examples.",
            "fraction",
        ),
        Column("reached_sparsity", "number", "Sparsity of the masks, mean over the models.", PRUNABLE),
        *_same(SUMMARY, f"{MAJORITY_FLOOR.name} {' '.join(RECALLS.values())}"),
        *_mean_and_interval("value", "fraction", "value"),
        _interval_source("value"),
        *_mean_and_interval("eval_loss", NATS, "eval_loss"),
        _interval_source("eval_loss"),
        *_mean_and_interval("train_merge_gap", NATS, "train_merge_gap", TRAINED_ONLY),
        _interval_source("train_merge_gap", TRAINED_ONLY),
        *_mean_and_interval("samples_per_second", EXAMPLES_PER_SECOND, "samples_per_second", SPEEDS_DIFFER),
        *_mean_and_interval("tokens_per_second", TOKENS_PER_SECOND, "tokens_per_second", SPEEDS_DIFFER),
        Column("device", "text", 'All devices that trained, joined by "; ".', empty=TRAINED_ONLY),
        Column("processes", "integer", "The largest number of processes of a training.", empty=TRAINED_ONLY),
    ),
)

_NO_DENSE = "there is no such run, or it has a fault"
_NO_DIFFERENCE = f"{_NO_DENSE}; the two saw different examples; a run of the point has a fault"
_NO_INTERVAL = f"sparsity 0; {_NO_DIFFERENCE}; a seed has no counterpart"

CURVES = Table(
    "sparsity_vs_performance.csv",
    "One row per point of a curve over sparsity. The dense cells are point 0 of every curve of their model and task, so"
    " that they appear several times. Means and intervals are those of grouped_summary.csv.",
    (
        *_same(GROUPED, "setting model task metric"),
        Column(
            "method",
            "text",
            "Method of the curve, at sparsity 0 too; `dense` only if a model and task have nothing else.",
        ),
        Column(
            "mode",
            "text",
            "Mode of the curve. At sparsity 0 of a trained curve stands dense plain LoRA.",
        ),
        *_same(GROUPED, "sparsity reached_sparsity runs n n_sound examples chance majority_floor"),
        Column("value", "number", "Headline metric, mean over the models.", "fraction"),
        *_same(GROUPED, "value_sd value_low value_high value_interval_from standard_error"),
        Column("dense_value", "number", "value at the curve's point 0.", "fraction", _NO_DENSE),
        Column("difference_to_dense", "number", "value minus dense_value.", "fraction", _NO_DIFFERENCE),
        Column(
            "difference_low",
            "number",
            "The smaller of difference_low and difference_seeds_low in comparisons.csv, kind dense.",
            "fraction",
            _NO_INTERVAL,
        ),
        Column(
            "difference_high",
            "number",
            "The larger of difference_high and difference_seeds_high in comparisons.csv, kind dense.",
            "fraction",
            _NO_INTERVAL,
        ),
        Column(
            "verdict",
            "text",
            "within tolerance: difference_low is above -`analysis.tolerance`. beyond tolerance: difference_high is below"
            " it. undecided: neither.",
            empty=f"{_NO_INTERVAL}; the dense model is not above chance or majority_floor",
        ),
        Column(
            "untuned_value",
            "number",
            "value of the same model, task, method and sparsity in mode no_finetune.",
            "fraction",
            _NO_DENSE,
        ),
        Column(
            "recovered_share",
            "number",
            "(value - untuned_value) / (dense_value - untuned_value): 0 if fine-tuning recovers nothing, 1 if it reaches"
            " the dense fine-tuned model.",
            "share, any number",
            "sparsity 0; mode no_finetune; pruning lost nothing; difference_to_dense or one of the three values is empty",
        ),
        Column("eval_loss", "number", "Loss of the right answers, mean over the models.", NATS),
        *_same(GROUPED, "eval_loss_sd eval_loss_low eval_loss_high eval_loss_interval_from"),
        Column(
            "eval_loss_difference", "number", "Difference of the loss to dense (comparisons.csv).", NATS, _NO_INTERVAL
        ),
        Column("eval_loss_difference_low", "number", "Lower end of its interval.", NATS, _NO_INTERVAL),
        Column("eval_loss_difference_high", "number", "Upper end of its interval.", NATS, _NO_INTERVAL),
        Column("train_merge_gap", "number", "train_merge_gap, mean over the models.", NATS, TRAINED_ONLY),
        *_same(GROUPED, "train_merge_gap_sd"),
        Column(
            "samples_per_second", "number", "Training speed, mean over the models.", EXAMPLES_PER_SECOND, SPEEDS_DIFFER
        ),
        *_same(GROUPED, "samples_per_second_sd samples_per_second_low samples_per_second_high device processes"),
    ),
)

_ONE_PAIR = "n is below 2"

COMPARISONS = Table(
    "comparisons.csv",
    "One row per comparison of two cells over the same examples. There are four kinds: *dense* compares with the dense cell"
    " at the start of the curve, *random* with random pruning, *untuned* with the same model before its training, and"
    " *modes* with sparse_to_dense.\n\n"
    "Two cells are not compared if they saw different examples, if a run of either has a fault, or if more than a tenth of"
    " the validation prompts repeat another. The intervals are over the examples and hold for these trained models. Seeds"
    " are averaged.",
    (
        _SETTING,
        Column("comparison", "text", "dense, random, untuned or modes."),
        *_same(SUMMARY, "model task metric method sparsity mode"),
        Column("against", "text", "The other cell: model-task-method-sparsity-mode."),
        Column("reached_sparsity", "number", "Sparsity of the cell's masks.", PRUNABLE),
        Column("against_reached_sparsity", "number", "Sparsity of the other cell's masks.", PRUNABLE),
        Column(
            "n",
            "integer",
            "Pairs of models with the same seed; an untrained model pairs with any seed. 0 if a seed has no counterpart:"
            " then there is no test.",
            "pairs of models",
        ),
        *_same(SUMMARY, "examples"),
        Column(
            "family_size",
            "integer",
            "Comparisons of this kind on this model and task that have a p_value, over all settings.",
            "tests",
        ),
        Column("difference", "number", "Mean outcome of the cell minus that of the other cell.", "fraction"),
        Column(
            "difference_low",
            "number",
            "Lower end of its 95 % confidence interval: paired percentile bootstrap with the two added examples of Bonett"
            " and Price.",
            "fraction",
        ),
        Column("difference_high", "number", "Upper end of that interval.", "fraction"),
        Column(
            "difference_seeds_low",
            "number",
            "Lower end of the 95 % confidence interval over the pairs of models, Student's t.",
            "fraction",
            _ONE_PAIR,
        ),
        Column("difference_seeds_high", "number", "Upper end of that interval.", "fraction", _ONE_PAIR),
        Column("one_sign", "true/false", "Whether the difference has the same sign in every pair."),
        Column(
            "p_value",
            "number",
            "McNemar's exact test, two-sided. With several pairs it is the largest p-value.",
            "probability",
            "n is 0",
        ),
        Column("p_holm", "number", "p_value after Holm's correction over the family.", "probability", "n is 0"),
        Column(
            "significant",
            "true/false",
            "Whether p_holm is below 0.05, the interval does not contain 0, and one_sign is True.",
        ),
        Column(
            "eval_loss_difference",
            "number",
            "Loss of the cell minus that of the other cell, over all answer tokens.",
            NATS,
        ),
        Column(
            "eval_loss_difference_low",
            "number",
            "Lower end of its 95 % confidence interval: paired percentile bootstrap over the examples.",
            NATS,
        ),
        Column("eval_loss_difference_high", "number", "Upper end of that interval.", NATS),
        Column(
            "eval_loss_difference_seeds_low",
            "number",
            "Lower end of the 95 % confidence interval over the pairs of models, Student's t.",
            NATS,
            _ONE_PAIR,
        ),
        Column("eval_loss_difference_seeds_high", "number", "Upper end of that interval.", NATS, _ONE_PAIR),
        Column("eval_loss_one_sign", "true/false", "Whether the loss difference has the same sign in every pair."),
        Column(
            "eval_loss_p_value",
            "number",
            "Student's paired t test of the examples' losses, two-sided; 1 if no loss differs. With several pairs it is"
            " the largest p-value.",
            "probability",
            "n is 0; all examples differ by the same amount",
        ),
        Column(
            "eval_loss_p_holm",
            "number",
            "eval_loss_p_value after Holm's correction over the family's tests of losses.",
            "probability",
            "eval_loss_p_value is empty",
        ),
        Column(
            "eval_loss_significant",
            "true/false",
            "Whether eval_loss_p_holm is below 0.05, the interval does not contain 0, and eval_loss_one_sign is True.",
        ),
    ),
)

TRADEOFFS = Table(
    "best_tradeoffs.csv",
    "One row per point that is best in some respect. Points with a fault take no part, nor do points whose mask prunes"
    " nothing. Sparsity means the reached one. The two best_for columns judge by means, largest_within by intervals: its"
    " sparsities are tested from the smallest up to the first that fails.",
    (
        *_same(CURVES, "setting model task metric"),
        *_same(SUMMARY, "method sparsity"),
        Column("mode", "text", "Mode of the point; sparse_to_dense for dense plain LoRA."),
        *_same(CURVES, "reached_sparsity"),
        Column(
            "best_for_sparsity",
            "true/false",
            "No other point of the model and task is as good in value and reached sparsity and better in one of them.",
        ),
        Column(
            "best_for_speed",
            "true/false",
            "The same for value and training speed, among points that one device trained in as many processes.",
        ),
        Column(
            "largest_within",
            "true/false",
            "The largest sparsity of its curve up to which every point is within tolerance and no run is missing.",
        ),
        *_same(
            CURVES,
            "value difference_to_dense difference_low difference_high verdict samples_per_second device processes",
        ),
    ),
)

LAYERS = Table(
    "layer_sparsity.csv",
    "One row per pruned layer of a model, task, method and sparsity: what the validations counted in the merged models of"
    " its runs, over all modes and seeds. A kept weight that happens to be zero counts as a zero.",
    (
        _SETTING,
        *_same(SUMMARY, "model task"),
        Column("method", "text", "Pattern and importance; never `dense`."),
        *_same(SUMMARY, "sparsity"),
        Column("layer", "text", "Name of the weight without `.weight` (validation_report.json)."),
        Column("weights", "integer", "Weights of the layer (validation_report.json).", "weights"),
        Column("n", "integer", "Number of runs.", "runs"),
        Column(
            "sparsity_mean",
            "number",
            "Zeros divided by weights, mean over the runs.",
            "fraction of the layer's weights",
        ),
        Column("sparsity_min", "number", "Smallest value of the runs.", "fraction of the layer's weights"),
        Column("sparsity_max", "number", "Largest value of the runs.", "fraction of the layer's weights"),
    ),
)

MISSING = Table(
    "missing.csv",
    "One row per run of which something is missing, unreadable or contradictory; no row if all is sound. A run without a"
    " folder is missing if the configuration requests it. Without a configuration, it is missing if the other runs make it"
    " part of their grid: per model and task, the product of the methods, sparsities, modes and seeds that are there. Dense"
    " and pruned runs have separate grids, and untrained runs need one seed.",
    (
        Column("run_id", "text", "Name of the folder, or the name that it would have."),
        Column("left_out", "true/false", "True if the run is in no table; False if it is there with empty fields."),
        Column("reason", "text", 'Every fault with its file, joined by " | ".'),
    ),
)

_NO_RUN = "no run of ours matches"
_NO_BASELINE = "no baseline matches"

BASELINE = Table(
    "baseline_comparison.csv",
    "Written if you give `--baseline FILE.csv`. One row per point of sparsity_vs_performance.csv and baseline with the same"
    " task and sparsity, and one row for each side without a counterpart. The file has the columns of"
    " `config/baseline.csv`: baseline (its name), task, sparsity (percent), value (fraction, the task's headline metric),"
    " samples_per_second and device. Leave a field empty if you do not know the number.",
    (
        *_same(CURVES, "model", empty=_NO_RUN),
        *_same(CURVES, "task"),
        *_same(CURVES, "metric method", empty=_NO_RUN),
        *_same(CURVES, "sparsity"),
        *_same(CURVES, "mode value standard_error", empty=_NO_RUN),
        *_same(CURVES, "samples_per_second", empty=f"{_NO_RUN}; {SPEEDS_DIFFER}"),
        *_same(CURVES, "device", empty=f"{_NO_RUN}; {TRAINED_ONLY}"),
        Column("baseline", "text", "Name of the baseline.", empty=_NO_BASELINE),
        Column(
            "baseline_value", "number", "Headline metric of the baseline.", "fraction", f"{_NO_BASELINE}; not known"
        ),
        Column(
            "baseline_samples_per_second",
            "number",
            "Training speed of the baseline.",
            EXAMPLES_PER_SECOND,
            f"{_NO_BASELINE}; not known",
        ),
        Column("baseline_device", "text", "Device of the baseline.", empty=f"{_NO_BASELINE}; not known"),
        Column("counterpart", "text", "both, no baseline, or no run of ours."),
        Column("difference", "number", "value minus baseline_value.", "fraction", "one of the two is empty"),
        Column(
            "speed_ratio",
            "number",
            "samples_per_second divided by baseline_samples_per_second.",
            empty="one of the two is empty; the devices differ",
        ),
    ),
)

THROUGHPUT = Table(
    "throughput_vs_batch_size.csv",
    "One row per cell and batch size, written by `snakemake throughput` from `results/throughput/{cell}.json`. With the"
    " backend `cerebras` every batch size is a program of its own, and each repeat lies in `results/throughput/{cell}/`."
    " The intervals are 95 % confidence intervals of the mean over the repeats, Student's t.",
    (
        *_same(SUMMARY, "model task method sparsity mode"),
        Column("device", "text", "Device that trained; CSX is the CS-3."),
        Column("threads", "integer", "CPU threads, `resources.threads`.", "CPU threads"),
        *_same(SUMMARY, "processes", empty="never"),
        *_same(SUMMARY, "gradient", empty="never"),
        Column(
            "sequence_length",
            "integer",
            "Length of every example, `throughput.sequence_length`.",
            "tokens per example",
            "the examples have their own lengths, or on `cerebras` are padded to `cerebras.sequence_length`",
        ),
        Column("warmup_steps", "integer", "Steps before the clock runs.", "optimiser steps"),
        Column("steps", "integer", "Steps that are timed in one repeat.", "optimiser steps"),
        Column("dtype", "text", "Dtype of the model's weights.", empty=NOT_MEASURED),
        Column(
            "batch_size",
            "integer",
            "Examples per step, in one forward pass. With device CSX, `cerebras.csx_micro_batch_size` divides them.",
            "examples",
        ),
        Column("status", "text", "measured, out of memory, or skipped."),
        Column("n", "integer", "Number of repeats; 0 if nothing was measured.", "repeats"),
        Column("samples_per_second_mean", "number", "Mean over the repeats.", EXAMPLES_PER_SECOND, NOT_MEASURED),
        Column(
            "samples_per_second_low",
            "number",
            "Lower end of its interval.",
            EXAMPLES_PER_SECOND,
            "fewer than two repeats",
        ),
        Column(
            "samples_per_second_high",
            "number",
            "Upper end of its interval.",
            EXAMPLES_PER_SECOND,
            "fewer than two repeats",
        ),
        Column("tokens_per_second_mean", "number", "Mean over the repeats.", TOKENS_PER_SECOND, NOT_MEASURED),
        Column(
            "tokens_per_second_low", "number", "Lower end of its interval.", TOKENS_PER_SECOND, "fewer than two repeats"
        ),
        Column(
            "tokens_per_second_high",
            "number",
            "Upper end of its interval.",
            TOKENS_PER_SECOND,
            "fewer than two repeats",
        ),
        Column("tokens_per_sample", "number", "Mean length over all repeats.", "tokens per example", NOT_MEASURED),
        Column(
            "tokens_per_sample_padded",
            "number",
            "The same with padding counted.",
            "tokens per example",
            NOT_MEASURED,
        ),
        Column("peak_memory_bytes", "integer", "Peak memory, the largest of the repeats.", "bytes", NOT_MEASURED),
        Column(
            "peak_memory_kind",
            "text",
            "What the peak counts: `allocated by torch` on a GPU, `resident` on a CPU. With device CSX it is that of the"
            " process on the user node, not of the CS-3.",
        ),
        Column(
            "memory_limit_bytes",
            "integer",
            "Memory of the GPU, or the limit of a measurement on a CPU.",
            "bytes",
            "the backend is `cerebras`, which sets no limit",
        ),
        Column(
            "memory_limit_kind",
            "text",
            "What the limit counts: `the GPU's`, or `private (RLIMIT_DATA)`, which counts memory that is reserved and not"
            " yet used.",
            empty="the backend is `cerebras`",
        ),
        Column(
            "cpu_share",
            "number",
            "Share of its threads' time that the CPU gave the training, the smallest of the repeats. Far below 1, other"
            " work disturbed the measurement.",
            "fraction",
            "the device is a GPU or a CS-3; nothing was measured",
        ),
        Column("reason", "text", "What the system reported when memory ended.", empty="memory did not end"),
    ),
)

TABLES = (SUMMARY, GROUPED, CURVES, COMPARISONS, TRADEOFFS, LAYERS, MISSING, BASELINE, THROUGHPUT)
