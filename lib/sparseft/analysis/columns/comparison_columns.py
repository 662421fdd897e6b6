"""Describe the tables that compare cells: with one another, and with a baseline."""

from dataclasses import replace

from sparseft.analysis.columns.cell_columns import CURVES, GROUPED, SETTING, SPEEDS_DIFFER
from sparseft.analysis.columns.column import (
    EXAMPLES_PER_SECOND,
    NATS,
    OF_VALUE,
    PRUNABLE,
    TRAINED_ONLY,
    Column,
    TableDescription,
    like,
)
from sparseft.analysis.columns.run_columns import SUMMARY

_ONE_PAIR = "n is below 2"

_OF_PROBE = "the row is of a probe"

COMPARISONS = TableDescription(
    "comparisons.csv",
    "One row per comparison of two cells over the same examples. There are four kinds: *dense* compares with the dense cell"
    " at the start of the curve, *random* with random pruning, *untuned* with the same model before its training, and"
    " *modes* sparse_to_sparse with sparse_to_dense, and the modes that reconstruct with sparse_to_sparse.\n\n"
    "Two cells are not compared if they saw different examples, if a run of either has a fault, or if more than a tenth of"
    " the validation prompts repeat another. Seeds are averaged. The"
    " interval of one pair of models is over the examples and holds for these trained models. With several pairs it also"
    " covers other seeds: it combines the interval over the examples with Student's t over the pairs.\n\n"
    "A probe that both cells were evaluated on has a row of its own, whose metric is `probe:NAME:METRIC`. It has no loss. Holm's"
    " correction takes the rows of one metric together, so each probe is a family of its own.\n\n"
    "If metric is loss, difference is that of the losses, and its columns are those that begin with eval_loss.",
    (
        SETTING,
        Column("comparison", "text", meaning="dense, random, untuned or modes."),
        *like(SUMMARY, "model task"),
        Column("metric", "text", meaning="The task's headline metric, or `probe:NAME:METRIC` of a probe."),
        *like(SUMMARY, "method sparsity mode"),
        *like(GROUPED, "training trainings_tried"),
        Column("against", "text", meaning="The other cell: model-task-method-sparsity-mode."),
        *(
            replace(column, name=f"against_{column.name}", meaning=f"Of the other cell: {column.name}.")
            for column in like(GROUPED, "training trainings_tried")
        ),
        Column("reached_sparsity", "number", unit=PRUNABLE, meaning="Sparsity of the cell's masks."),
        Column("against_reached_sparsity", "number", unit=PRUNABLE, meaning="Sparsity of the other cell's masks."),
        Column(
            "n",
            "integer",
            unit="pairs of models",
            meaning="Pairs of models with the same seed; an untrained model pairs with any seed. 0 if a seed has no counterpart:"
            " then there is no test.",
        ),
        *like(SUMMARY, "examples"),
        Column(
            "family_size",
            "integer",
            unit="tests",
            meaning="Comparisons of this kind on this model, task and metric that have a p_value, over all settings.",
        ),
        Column(
            "difference",
            "number",
            unit=OF_VALUE,
            meaning="Mean outcome of the cell minus that of the other cell. If metric is loss, above 0 is worse.",
        ),
        Column(
            "difference_low",
            "number",
            unit=OF_VALUE,
            meaning="Lower end of its 95 % confidence interval. Over the examples it is the paired percentile bootstrap with the two"
            " added examples of Bonett and Price.",
        ),
        Column("difference_high", "number", unit=OF_VALUE, meaning="Upper end of that interval."),
        Column(
            "difference_interval_from",
            "text",
            meaning="examples if the interval is over the examples, seeds and examples if it also covers other seeds.",
        ),
        Column(
            "difference_sd",
            "number",
            unit=OF_VALUE,
            empty=_ONE_PAIR,
            meaning="Standard deviation of the difference between the pairs of models.",
        ),
        Column("one_sign", "true/false", meaning="Whether the difference has the same sign in every pair."),
        Column(
            "p_value",
            "number",
            unit="probability",
            empty="n is 0; all examples differ by the same amount",
            meaning="McNemar's exact test, two-sided. Student's paired t test if an outcome is neither 0 nor 1, or if metric is"
            " loss. With several pairs it is the largest p-value.",
        ),
        Column(
            "p_holm",
            "number",
            unit="probability",
            empty="p_value is empty",
            meaning="p_value after Holm's correction over the family.",
        ),
        Column(
            "significant",
            "true/false",
            meaning="Whether p_holm is below 0.05, the interval does not contain 0, and one_sign is True. Two modes also need n"
            " of 2 or more.",
        ),
        Column(
            "eval_loss_difference",
            "number",
            unit=NATS,
            empty=_OF_PROBE,
            meaning="Loss of the cell minus that of the other cell, over all answer tokens.",
        ),
        Column(
            "eval_loss_difference_low",
            "number",
            unit=NATS,
            empty=_OF_PROBE,
            meaning="Lower end of its 95 % confidence interval. Over the examples it is the paired percentile bootstrap.",
        ),
        Column(
            "eval_loss_difference_high", "number", unit=NATS, empty=_OF_PROBE, meaning="Upper end of that interval."
        ),
        Column(
            "eval_loss_difference_interval_from",
            "text",
            empty=_OF_PROBE,
            meaning="What the interval covers, as in difference_interval_from.",
        ),
        Column(
            "eval_loss_difference_sd",
            "number",
            unit=NATS,
            empty=f"{_ONE_PAIR}; {_OF_PROBE}",
            meaning="Standard deviation of that difference between the pairs of models.",
        ),
        Column(
            "eval_loss_one_sign",
            "true/false",
            empty=_OF_PROBE,
            meaning="Whether the loss difference has the same sign in every pair.",
        ),
        Column(
            "eval_loss_p_value",
            "number",
            unit="probability",
            empty=f"n is 0; all examples differ by the same amount; {_OF_PROBE}",
            meaning="Student's paired t test of the examples' losses, two-sided; 1 if no loss differs. With several pairs it is"
            " the largest p-value.",
        ),
        Column(
            "eval_loss_p_holm",
            "number",
            unit="probability",
            empty="eval_loss_p_value is empty",
            meaning="eval_loss_p_value after Holm's correction over the family's tests of losses.",
        ),
        Column(
            "eval_loss_significant",
            "true/false",
            empty=_OF_PROBE,
            meaning="Whether eval_loss_p_holm is below 0.05, the interval does not contain 0, and eval_loss_one_sign is True."
            " Two modes also need n of 2 or more.",
        ),
    ),
)

TRADEOFFS = TableDescription(
    "best_tradeoffs.csv",
    "One row per point that is best in some respect. Points with a fault take no part, nor do points whose mask prunes"
    " nothing. Sparsity means the reached one. The two best_for columns judge by means, largest_within by intervals: its"
    " sparsities are tested from the smallest up to the first that fails.",
    (
        *like(CURVES, "setting model task metric"),
        *like(SUMMARY, "method sparsity"),
        Column("mode", "text", meaning="Mode of the point; sparse_to_dense or no_finetune for dense."),
        *like(CURVES, "reached_sparsity"),
        Column(
            "best_for_sparsity",
            "true/false",
            meaning="No other point of the model and task is as good in value and reached sparsity and better in one of them. A lower"
            " loss is better.",
        ),
        Column(
            "best_for_speed",
            "true/false",
            meaning="The same for value and training speed, among points that one device trained in as many processes, with the"
            " same gradient_checkpointing and cache_weights. Reconstructions compete only with each other.",
        ),
        Column(
            "largest_within",
            "true/false",
            meaning="The largest sparsity of its curve up to which every point is within tolerance and no run is missing.",
        ),
        *like(
            CURVES,
            "value difference_to_dense difference_low difference_high difference_interval_from verdict samples_per_second device processes",
        ),
        *like(CURVES, "gradient_checkpointing cache_weights"),
    ),
)

_NO_RUN = "no run of ours matches"

_NO_BASELINE = "no baseline matches"

BASELINE = TableDescription(
    "baseline_comparison.csv",
    "Written if you give `--baseline FILE.csv`. One row per point of sparsity_vs_performance.csv and baseline with the same"
    " task and requested sparsity, and one row for each side without a counterpart. The file has the columns of"
    " `config/baseline.csv`: baseline (its name), task, sparsity (percent), value (fraction, the task's headline metric),"
    " samples_per_second and device. Leave a field empty if you do not know the number.",
    (
        *like(CURVES, "setting", empty=f"{_NO_RUN}; {SETTING.empty}"),
        *like(CURVES, "model", empty=_NO_RUN),
        *like(CURVES, "task"),
        *like(CURVES, "metric method", empty=_NO_RUN),
        *like(CURVES, "sparsity"),
        *like(CURVES, "mode reached_sparsity value standard_error", empty=_NO_RUN),
        *like(CURVES, "samples_per_second", empty=f"{_NO_RUN}; {SPEEDS_DIFFER}"),
        *like(CURVES, "device", empty=f"{_NO_RUN}; {TRAINED_ONLY}"),
        Column("baseline", "text", empty=_NO_BASELINE, meaning="Name of the baseline."),
        Column(
            "baseline_value",
            "number",
            unit="fraction",
            empty=f"{_NO_BASELINE}; not known",
            meaning="Headline metric of the baseline.",
        ),
        Column(
            "baseline_samples_per_second",
            "number",
            unit=EXAMPLES_PER_SECOND,
            empty=f"{_NO_BASELINE}; not known",
            meaning="Training speed of the baseline.",
        ),
        Column("baseline_device", "text", empty=f"{_NO_BASELINE}; not known", meaning="Device of the baseline."),
        Column("counterpart", "text", meaning="both, no baseline, or no run of ours."),
        Column(
            "difference",
            "number",
            unit="fraction",
            empty="one of the two is empty",
            meaning="value minus baseline_value.",
        ),
        Column(
            "speed_ratio",
            "number",
            empty="one of the two is empty; the devices differ",
            meaning="samples_per_second divided by baseline_samples_per_second.",
        ),
    ),
)
