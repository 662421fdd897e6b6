"""Describe the tables of cells and of the points of curves."""

from sparseft.analysis.columns.column import (
    EXAMPLES_PER_SECOND,
    NATS,
    OF_VALUE,
    PRUNABLE,
    TOKENS_PER_SECOND,
    TRAINED_ONLY,
    Column,
    TableDescription,
    like,
)
from sparseft.analysis.columns.run_columns import SUMMARY
from sparseft.tasks import RECALLS
from sparseft.tasks.metrics import MAJORITY_FLOOR

ONE_MODEL = "the cell has one model"

_TRAINING = (
    Column(
        "training",
        "text",
        empty="the training has no name; the cell was not trained",
        meaning="The training that is reported: the best one on the selection rows (budget.csv).",
    ),
    Column(
        "trainings_tried",
        "integer",
        unit="trainings",
        meaning="Trainings of the cell that were tried; 0 if the cell was not trained.",
    ),
)

SPEEDS_DIFFER = (
    "the run was not trained; the runs differ in device, batch_size, processes, gradient_checkpointing or cache_weights"
)

SETTING = Column(
    "setting",
    "text",
    empty="all runs of the model and task have the same settings",
    meaning="What distinguishes these runs from other runs of the same model and task.",
)


def _mean_and_interval(name: str, unit: str, what: str, empty: str = "never") -> tuple[Column, ...]:
    """Return the four columns that describe `name` over the models of a cell."""
    one_model = ONE_MODEL if empty == "never" else f"{empty}; {ONE_MODEL}"
    no_interval = one_model if unit in (EXAMPLES_PER_SECOND, TOKENS_PER_SECOND) else empty
    return (
        Column(f"{name}_mean", "number", unit=unit, empty=empty, meaning=f"Mean of {what} over the models."),
        Column(
            f"{name}_sd",
            "number",
            unit=unit,
            empty=one_model,
            meaning=f"Standard deviation of {what} between the models.",
        ),
        Column(
            f"{name}_low", "number", unit=unit, empty=no_interval, meaning="Lower end of the 95 % confidence interval."
        ),
        Column(
            f"{name}_high", "number", unit=unit, empty=no_interval, meaning="Upper end of the 95 % confidence interval."
        ),
    )


def _interval_source(name: str, empty: str = "never") -> Column:
    """Return the column that says where an interval comes from."""
    return Column(
        f"{name}_interval_from",
        "text",
        empty=empty,
        meaning="What the interval covers: examples, or seeds and examples. Several models without an interval over the examples"
        " have seeds.",
    )


_NO_PROBE = "no model was evaluated on the probe"

_LACKS_PROBE = "every model lacks a probe"

_PROBES = (
    Column(
        "probe_NAME",
        "number",
        unit="fraction",
        empty=_NO_PROBE,
        meaning="Metric on the probe NAME, mean over the models that were evaluated on it. These columns exist only if you set"
        " `evaluation.probes`.",
    ),
    Column(
        "probe_NAME_stderr", "number", unit="fraction", empty=_NO_PROBE, meaning="Mean of the models' standard errors."
    ),
    Column(
        "probe_NAME_low",
        "number",
        unit="fraction",
        empty=_NO_PROBE,
        meaning="Lower end of the 95 % confidence interval, which is made as that of value.",
    ),
    Column("probe_NAME_high", "number", unit="fraction", empty=_NO_PROBE, meaning="Upper end of that interval."),
    Column(
        "probes_mean",
        "number",
        unit="fraction",
        empty=_LACKS_PROBE,
        meaning="Mean of the probes (summary.csv), mean over the models.",
        is_optional=True,
    ),
    Column(
        "probes_mean_stderr",
        "number",
        unit="fraction",
        empty=_LACKS_PROBE,
        meaning="Mean of the models' probes_mean_stderr.",
        is_optional=True,
    ),
    Column(
        "probes_mean_low",
        "number",
        unit="fraction",
        empty=_LACKS_PROBE,
        meaning="Lower end of the 95 % confidence interval. Over the examples it is Student's t with probes_mean_stderr, with the"
        " degrees of freedom of the smallest probe.",
        is_optional=True,
    ),
    Column(
        "probes_mean_high",
        "number",
        unit="fraction",
        empty=_LACKS_PROBE,
        meaning="Upper end of that interval.",
        is_optional=True,
    ),
)

GROUPED = TableDescription(
    "grouped_summary.csv",
    "One row per cell: model, task, method, sparsity and mode. Everything is computed from the cell's rows of summary.csv"
    " with in_study True, and with chosen True if there is that column. They differ only in the seed. Runs of the same"
    " model, such as untrained runs of two seeds, count once.\n\n"
    "The standard deviation has n - 1 in its denominator. The 95 % confidence interval of one model is over the"
    " examples: Wilson's for value, and Student's t with the standard error of a ratio for losses and gaps. That of several"
    " models combines it with Student's t over the models. Each end is at the root of the sum of the two squared distances. Where outcomes lie between 0 and 1,"
    " Wilson's interval is at least as wide as it must be, because such outcomes vary less than zeros and ones with the same"
    " mean. A loss as value has the interval of eval_loss, which may reach beyond 1. Speeds have only the interval over the models.\n\n"
    "Runs of a model and task with different settings are never averaged or compared: each setting has rows of its own."
    " Dense and untrained runs appear in every setting that they agree with.",
    (
        SETTING,
        *like(SUMMARY, "model task metric method sparsity mode"),
        *_TRAINING,
        Column("runs", "integer", unit="runs", meaning="Number of runs."),
        Column("n", "integer", unit="models", meaning="Number of different models among them."),
        Column(
            "n_sound",
            "integer",
            unit="models",
            meaning="Number of models without a fault, and whose training took all of its steps.",
        ),
        Column(
            "n_ended_early",
            "integer",
            unit="models",
            meaning="Number of models whose training ended early (`training.stop_if_loss_above`). If it is not 0, nothing is compared,"
            " judged or concluded from the values of the cell.",
        ),
        Column(
            "examples",
            "integer",
            unit="validation examples",
            meaning="Examples that were evaluated, the largest number.",
        ),
        *like(SUMMARY, "chance"),
        Column(
            "standard_error",
            "number",
            unit=OF_VALUE,
            meaning="Mean of the models' standard errors. It does not shrink with more seeds, because they see the same examples.",
        ),
        Column("reached_sparsity", "number", unit=PRUNABLE, meaning="Sparsity of the masks, mean over the models."),
        *like(SUMMARY, " ".join((MAJORITY_FLOOR.name, *RECALLS.values()))),
        *_mean_and_interval("value", OF_VALUE, "value"),
        _interval_source("value"),
        *_mean_and_interval("eval_loss", NATS, "eval_loss"),
        _interval_source("eval_loss"),
        *_mean_and_interval("train_merge_gap", NATS, "train_merge_gap", TRAINED_ONLY),
        _interval_source("train_merge_gap", TRAINED_ONLY),
        *_mean_and_interval("samples_per_second", EXAMPLES_PER_SECOND, "samples_per_second", SPEEDS_DIFFER),
        *_mean_and_interval("tokens_per_second", TOKENS_PER_SECOND, "tokens_per_second", SPEEDS_DIFFER),
        Column("device", "text", empty=TRAINED_ONLY, meaning='All devices that trained, joined by "; ".'),
        Column("processes", "integer", empty=TRAINED_ONLY, meaning="The largest number of processes of a training."),
        *like(SUMMARY, "gradient_checkpointing cache_weights", empty=SPEEDS_DIFFER),
        *_PROBES,
    ),
)

_NO_DENSE = "there is no such run, or it has a fault"

_NO_DIFFERENCE = f"{_NO_DENSE}; the two saw different examples; a run of the point has a fault"

_NO_LOSS = "the examples do not show that pruning lost anything, so that the share could be any number"

_NO_INTERVAL = f"sparsity 0; {_NO_DIFFERENCE}; a seed has no counterpart"

CURVES = TableDescription(
    "sparsity_vs_performance.csv",
    "One row per point of a curve over sparsity. The dense cells are point 0 of every curve of their model and task, so"
    " that they appear several times. Means and intervals are those of grouped_summary.csv.",
    (
        *like(GROUPED, "setting model task metric"),
        Column(
            "method",
            "text",
            meaning="Method of the curve, at sparsity 0 too; `dense` only if a model and task have nothing else.",
        ),
        Column(
            "mode",
            "text",
            meaning="Mode of the curve. At sparsity 0 stands dense plain LoRA if the mode trains on the task, and else the dense model.",
        ),
        *like(GROUPED, "training trainings_tried"),
        *like(GROUPED, "sparsity reached_sparsity runs n n_sound n_ended_early examples chance majority_floor"),
        Column("value", "number", unit=OF_VALUE, meaning="Headline metric, mean over the models."),
        *like(GROUPED, "value_sd value_low value_high value_interval_from standard_error"),
        Column("dense_value", "number", unit=OF_VALUE, empty=_NO_DENSE, meaning="value at the curve's point 0."),
        Column(
            "difference_to_dense",
            "number",
            unit=OF_VALUE,
            empty=_NO_DIFFERENCE,
            meaning="value minus dense_value. If metric is loss, above 0 is worse.",
        ),
        Column(
            "difference_low",
            "number",
            unit=OF_VALUE,
            empty=_NO_INTERVAL,
            meaning="difference_low of comparisons.csv, kind dense.",
        ),
        Column(
            "difference_high",
            "number",
            unit=OF_VALUE,
            empty=_NO_INTERVAL,
            meaning="difference_high of comparisons.csv, kind dense.",
        ),
        Column(
            "difference_interval_from",
            "text",
            empty=_NO_INTERVAL,
            meaning="What that interval covers: examples, or seeds and examples.",
        ),
        Column(
            "verdict",
            "text",
            empty=f"{_NO_INTERVAL}; the dense model is not above chance or majority_floor; metric is loss, because the tolerance is"
            " a fraction",
            meaning="within tolerance: difference_low is above -`analysis.tolerance`. beyond tolerance: difference_high is below"
            " it. undecided: neither.",
        ),
        Column(
            "untuned_value",
            "number",
            unit=OF_VALUE,
            empty=_NO_DENSE,
            meaning="value of the same model, task, method and sparsity in mode no_finetune.",
        ),
        Column(
            "recovered_share",
            "number",
            unit="share, any number",
            empty="sparsity 0; mode no_finetune; pruning lost nothing; difference_to_dense or one of the three values is empty",
            meaning="(value - untuned_value) / (dense_value - untuned_value): 0 if fine-tuning recovers nothing, 1 if it reaches"
            " the dense value of its mode.",
        ),
        Column(
            "recovered_share_low",
            "number",
            unit="share, any number",
            empty=f"recovered_share is empty; {_NO_LOSS}",
            meaning="Lower end of its 95 % confidence interval over the examples, Fieller's. It holds for these trained models. To"
            " outcomes three examples are added, one that only the fine-tuned model has right, one only the untuned and one only"
            " the dense one.",
        ),
        Column(
            "recovered_share_high",
            "number",
            unit="share, any number",
            empty=f"recovered_share is empty; {_NO_LOSS}",
            meaning="Upper end of that interval.",
        ),
        Column("eval_loss", "number", unit=NATS, meaning="Loss of the right answers, mean over the models."),
        *like(GROUPED, "eval_loss_sd eval_loss_low eval_loss_high eval_loss_interval_from"),
        Column(
            "eval_loss_difference",
            "number",
            unit=NATS,
            empty=_NO_INTERVAL,
            meaning="Difference of the loss to dense (comparisons.csv).",
        ),
        Column(
            "eval_loss_difference_low", "number", unit=NATS, empty=_NO_INTERVAL, meaning="Lower end of its interval."
        ),
        Column(
            "eval_loss_difference_high", "number", unit=NATS, empty=_NO_INTERVAL, meaning="Upper end of its interval."
        ),
        Column(
            "eval_loss_difference_interval_from",
            "text",
            empty=_NO_INTERVAL,
            meaning="What that interval covers, as in difference_interval_from.",
        ),
        Column(
            "train_merge_gap", "number", unit=NATS, empty=TRAINED_ONLY, meaning="train_merge_gap, mean over the models."
        ),
        *like(GROUPED, "train_merge_gap_sd"),
        Column(
            "samples_per_second",
            "number",
            unit=EXAMPLES_PER_SECOND,
            empty=SPEEDS_DIFFER,
            meaning="Training speed, mean over the models.",
        ),
        *like(GROUPED, "samples_per_second_sd samples_per_second_low samples_per_second_high device processes"),
        *like(GROUPED, "gradient_checkpointing cache_weights"),
        *_PROBES,
    ),
)

LAYERS = TableDescription(
    "layer_sparsity.csv",
    "One row per pruned layer of a model, task, method and sparsity: what the validations counted in the merged models of"
    " its runs, over all modes and seeds. A kept weight that happens to be zero counts as a zero.",
    (
        SETTING,
        *like(SUMMARY, "model task"),
        Column("method", "text", meaning="Pattern, importance and allocation; never `dense`."),
        *like(SUMMARY, "sparsity"),
        Column("layer", "text", meaning="Name of the weight without `.weight` (validation_report.json)."),
        Column("weights", "integer", unit="weights", meaning="Weights of the layer (validation_report.json)."),
        Column("n", "integer", unit="runs", meaning="Number of runs."),
        Column(
            "sparsity_mean",
            "number",
            unit="fraction of the layer's weights",
            meaning="Zeros divided by weights, mean over the runs.",
        ),
        Column("sparsity_min", "number", unit="fraction of the layer's weights", meaning="Smallest value of the runs."),
        Column("sparsity_max", "number", unit="fraction of the layer's weights", meaning="Largest value of the runs."),
    ),
)
