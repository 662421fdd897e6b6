"""Describe the tables with a row per run."""

from sparseft.analysis.columns.column import (
    NATS,
    OF_VALUE,
    PERCENT,
    PRUNABLE,
    SHARE_SEEN,
    TRAINED_ONLY,
    Column,
    TableDescription,
)
from sparseft.analysis.columns.metric_columns import METRIC_COLUMNS
from sparseft.analysis.columns.training_columns import TRAINING_COLUMNS

_NAME = (
    Column("run_id", "text", source="record.run.id", meaning="Name of the run's folder."),
    Column("model", "text", source="record.run.model", meaning="Key of `models:` in the configuration (run_id)."),
    Column("task", "text", source="record.run.task", meaning="Key of `tasks:` in the configuration (run_id)."),
    Column(
        "method",
        "text",
        source="record.run.method",
        meaning="Pattern, importance and allocation; `dense` at sparsity 0 (run_id).",
    ),
    Column(
        "sparsity",
        "integer",
        source="record.run.sparsity",
        unit=PERCENT,
        meaning="Sparsity that the configuration requests (run_id).",
    ),
    Column("mode", "text", source="record.run.mode", meaning="How the run was fine-tuned (run_id)."),
    Column(
        "training",
        "text",
        source="record.run.training",
        empty="the study names no training; the run was not trained",
        meaning="Name in `grid.trainings` of the configuration (run_id).",
    ),
    Column("seed", "integer", source="record.run.seed", meaning="Seed of the adapter and of the batches (run_id)."),
    Column(
        "chosen",
        "true/false",
        meaning="Whether the run's training is the one that the other tables report. The column exists only if the study names"
        " trainings. An untrained run of the study has True.",
        is_optional=True,
    ),
    Column(
        "in_study",
        "true/false",
        source="in_study",
        meaning="False if the run is not in the configured grid, or was made with other settings. No other table has such a run.",
    ),
)

_MASK = (
    Column(
        "reached_sparsity",
        "number",
        source="record.validation.expected_sparsity",
        unit=PRUNABLE,
        empty="no layer was checked",
        meaning="Sparsity of the mask (validation_report.json).",
    ),
    Column(
        "actual_sparsity",
        "number",
        source="record.validation.actual_sparsity",
        unit=PRUNABLE,
        empty="no layer was checked",
        meaning="Share of zeros in the merged model (validation_report.json).",
    ),
    Column(
        "mask_scope",
        "text",
        source="record.validation.mask.scope",
        meaning="What the mask ranked together (validation_report.json).",
    ),
    Column(
        "mask_seed",
        "integer",
        source="record.validation.mask.seed",
        empty="the method is not random",
        meaning="Seed of the mask (validation_report.json).",
    ),
    Column(
        "mask_sequential",
        "true/false",
        source="record.validation.mask.sequential",
        empty="the importance does not look at inputs, or updates weights",
        meaning="Whether the masks were made layer by layer (validation_report.json).",
    ),
    Column(
        "nm_group",
        "integer",
        source="record.validation.mask.nm_group",
        unit="weights",
        empty="the method is not semistructured",
        meaning="M of the pattern N:M (validation_report.json).",
    ),
    Column(
        "calibration_examples",
        "integer",
        source="record.validation.mask.calibration_examples",
        unit="training examples",
        empty="the method looks at no examples",
        meaning="Training examples that the method used, or windows of a text (validation_report.json).",
    ),
    Column(
        "calibration_length",
        "integer",
        source="record.validation.mask.calibration_length",
        unit="tokens",
        empty="the importance did not use a text",
        meaning="Tokens per window of the text that the importance used (validation_report.json). The column exists only if a"
        " method calibrates on a text.",
        is_optional=True,
    ),
    Column(
        "owl_lambda",
        "number",
        source="record.validation.mask.owl_lambda",
        empty="the method has no allocation",
        meaning="Half of the largest difference of sparsity that owl allowed between two decoder layers (validation_report.json). The"
        " column exists only if a method uses it.",
        is_optional=True,
    ),
    Column(
        "owl_m",
        "number",
        source="record.validation.mask.owl_m",
        empty="the method has no allocation",
        meaning="Multiple of a decoder layer's mean score above which owl counted an outlier (validation_report.json). The column"
        " exists only if a method uses it.",
        is_optional=True,
    ),
    Column(
        "sparsegpt_block",
        "integer",
        source="record.validation.mask.sparsegpt_block",
        unit="columns",
        empty="the importance is not sparsegpt",
        meaning="Columns that sparsegpt ranked together (validation_report.json). The column exists only if a method uses it.",
        is_optional=True,
    ),
    Column(
        "sparsegpt_damping",
        "number",
        source="record.validation.mask.sparsegpt_damping",
        empty="the importance is not sparsegpt",
        meaning="Share of the mean of the Hessian's diagonal that sparsegpt added to it (validation_report.json). The column exists"
        " only if a method uses it.",
        is_optional=True,
    ),
)

_RESULT = (
    Column(
        "metric", "text", source="record.evaluation.metric", meaning="The task's headline metric (evaluation.json)."
    ),
    Column(
        "value",
        "number",
        source="record.evaluation.value",
        unit=OF_VALUE,
        meaning="Headline metric of the merged model (evaluation.json). A loss is better if it is lower, a fraction if it is higher.",
    ),
    Column(
        "standard_error",
        "number",
        source="record.evaluation.standard_error",
        unit=OF_VALUE,
        meaning="Standard error of value over the examples (evaluation.json).",
    ),
    Column(
        "examples",
        "integer",
        source="record.evaluation.examples",
        unit="validation examples",
        meaning="Examples that were evaluated (evaluation.json).",
    ),
    Column(
        "validation_overlap",
        "number",
        source="record.evaluation.overlap",
        unit=SHARE_SEEN,
        empty="the evaluation is older than this column",
        meaning="Share of the validation rows that also occur in the training rows, or in a text on which the mask was calibrated or"
        " the layers were reconstructed (evaluation.json). Case, blanks and punctuation do not count.",
    ),
    Column(
        "chance",
        "number",
        source="record.evaluation.chance",
        unit="fraction",
        empty="metric is loss",
        meaning="Value of a random guess, from the number of choices of each row (evaluation.json).",
    ),
)

_OF_SELECTION = "the run's training has no name, or selection.json is missing or damaged"
_SELECTION = (
    Column(
        "selection_value",
        "number",
        source="record.selection.value",
        unit=OF_VALUE,
        empty=_OF_SELECTION,
        meaning="Headline metric on the selection rows, by which the tables choose among trainings (selection.json). The"
        " columns of the selection rows exist only if a run was evaluated on them.",
        is_optional=True,
    ),
    Column(
        "selection_standard_error",
        "number",
        source="record.selection.standard_error",
        unit=OF_VALUE,
        empty=_OF_SELECTION,
        meaning="Standard error of selection_value over the examples (selection.json).",
        is_optional=True,
    ),
    Column(
        "selection_loss",
        "number",
        source="record.selection.eval_loss",
        unit=NATS,
        empty=_OF_SELECTION,
        meaning="Loss of the right answers of the selection rows, of the merged model (selection.json).",
        is_optional=True,
    ),
    Column(
        "selection_examples",
        "integer",
        source="record.selection.examples",
        unit="selection examples",
        empty=_OF_SELECTION,
        meaning="Selection examples that were evaluated (selection.json).",
        is_optional=True,
    ),
    Column(
        "selection_overlap",
        "number",
        source="record.selection.overlap",
        unit=SHARE_SEEN,
        empty=_OF_SELECTION,
        meaning="Share of the selection rows that also occur in the training or validation rows, or in a text on which the mask was"
        " calibrated or the layers were reconstructed (selection.json).",
        is_optional=True,
    ),
)

_CONDITIONS = (
    Column(
        "distinct_prompts",
        "integer",
        source="record.evaluation.distinct_prompts",
        unit="validation examples",
        meaning="Number of different prompts among the examples (evaluation.json).",
    ),
    Column(
        "harness",
        "text",
        source="record.evaluation.harness",
        empty="metric is loss",
        meaning="lm-eval and its version (evaluation.json).",
    ),
    Column(
        "few_shot",
        "integer",
        source="record.evaluation.few_shot",
        unit="worked examples",
        meaning="Worked examples before a question, for the metric.",
    ),
    Column(
        "loss_few_shot",
        "integer",
        source="record.evaluation.loss_few_shot",
        unit="worked examples",
        meaning="Worked examples before a question, for the loss.",
    ),
)

_LOSS = (
    Column(
        "eval_loss",
        "number",
        source="record.evaluation.eval_loss",
        unit=NATS,
        meaning="Loss of the right answers, of the merged model (evaluation.json).",
    ),
    Column(
        "eval_loss_standard_error",
        "number",
        source="record.evaluation.eval_loss_standard_error",
        unit=NATS,
        meaning="Standard error of eval_loss over the examples, as of a ratio.",
    ),
    Column(
        "eval_loss_before_merge",
        "number",
        source="record.before.eval_loss",
        unit=NATS,
        empty=TRAINED_ONLY,
        meaning="Loss of the right answers before the merge (before_merge.json).",
    ),
    Column(
        "train_merge_gap",
        "number",
        source="record.train_merge_gap",
        unit=NATS,
        empty=TRAINED_ONLY,
        meaning="eval_loss minus eval_loss_before_merge.",
    ),
    Column(
        "train_merge_gap_standard_error",
        "number",
        source="record.train_merge_gap_standard_error",
        unit=NATS,
        empty=TRAINED_ONLY,
        meaning="Standard error of train_merge_gap over the pairs of examples.",
    ),
    Column(
        "value_before_merge",
        "number",
        source="record.before.value",
        unit=OF_VALUE,
        empty=TRAINED_ONLY,
        meaning="Headline metric before the merge (before_merge.json).",
    ),
    Column(
        "train_merge_gap_value",
        "number",
        source="record.train_merge_gap_value",
        unit=OF_VALUE,
        empty=TRAINED_ONLY,
        meaning="value minus value_before_merge.",
    ),
)

_EVALUATION = (
    Column(
        "evaluation_device",
        "text",
        source="record.evaluation.device",
        meaning="Device that evaluated (evaluation.json).",
    ),
    Column(
        "evaluation_dtype",
        "text",
        source="record.evaluation.dtype",
        meaning="Dtype of the evaluation (evaluation.json).",
    ),
    Column(
        "evaluation_seconds",
        "number",
        source="record.evaluation.seconds",
        unit="seconds",
        meaning="Time of the whole evaluation job, with loading and perplexity (evaluation.json).",
    ),
    Column(
        "evaluation_peak_memory_bytes",
        "integer",
        source="record.evaluation.peak_memory_bytes",
        unit="bytes",
        empty="the evaluation is older than this column",
        meaning="Peak memory of that job (evaluation.json).",
    ),
)

_CHECKS = (
    Column(
        "validated",
        "true/false",
        source="record.validation.passed",
        meaning="Whether the proof of sparsity passed (validation_report.json).",
    ),
    Column(
        "violations",
        "integer",
        source="record.validation.violations",
        unit="weights",
        meaning="Pruned weights that are not zero (validation_report.json).",
    ),
    Column(
        "layers_checked",
        "integer",
        source="record.validation.layers_checked",
        unit="layers",
        meaning="Layers that were checked (validation_report.json).",
    ),
    Column(
        "layers_expected",
        "integer",
        source="record.validation.layers_expected",
        unit="layers",
        meaning="Prunable layers of the model (validation_report.json).",
    ),
    Column(
        "model_sha256",
        "text",
        source="record.merge.inputs.model",
        empty="merge.json is missing or damaged",
        meaning="Digest of the base's weights, configuration and tokenizer (merge.json).",
    ),
    Column(
        "mask_sha256",
        "text",
        source="record.validation.inputs.mask",
        meaning="sha256 of the mask file (validation_report.json).",
    ),
    Column(
        "adapter_sha256",
        "text",
        source="record.train.outputs.adapter",
        empty=TRAINED_ONLY,
        meaning="Digest of the adapter (train.json).",
    ),
    Column(
        "definition_sha256",
        "text",
        source="record.evaluation.definition_sha256",
        empty="the task is built in",
        meaning="Digest of the definition of a task that the configuration describes (evaluation.json). The column exists only"
        " if a run has such a task.",
        is_optional=True,
    ),
    Column(
        "train_sha256",
        "text",
        source="record.evaluation.inputs.train",
        meaning="sha256 of train.jsonl (evaluation.json).",
    ),
    Column(
        "data_sha256",
        "text",
        source="record.evaluation.inputs.data",
        meaning="sha256 of validation.jsonl (evaluation.json).",
    ),
    Column(
        "merged_sha256",
        "text",
        source="record.validation.merged_digest",
        meaning="sha256 of what `LC_ALL=C sha256sum *` prints in the merged model's folder (validation_report.json).",
    ),
    Column(
        "unchecked",
        "integer",
        source="unchecked_count",
        meaning="Checks that could not be made. correctness_memo.md names them.",
    ),
    Column(
        "faults",
        "integer",
        source="fault_count",
        meaning="Faults that correctness_memo.md lists: in the validation, in the chain of hashes, or in the comparison with other runs.",
    ),
)

SUMMARY = TableDescription(
    "summary.csv",
    "One row per run. The files named below are those of the run's folder, `results/runs/{run_id}/`. If train.json,"
    " before_merge.json, merge.json or selection.json is missing or damaged, the columns that come from it are empty too, and missing.csv"
    " gives the reason.\n\n"
    "The metrics of a task of lm-eval are as lm-eval and the task define them. A metric that has no column here is only in"
    " evaluation.json, unless it is the headline, which is `value`.",
    (
        *_NAME,
        *_MASK,
        *_RESULT,
        *METRIC_COLUMNS,
        *_SELECTION,
        *_CONDITIONS,
        *_LOSS,
        *TRAINING_COLUMNS,
        *_EVALUATION,
        *_CHECKS,
    ),
)

MISSING = TableDescription(
    "missing.csv",
    "One row per run of which something is missing, unreadable or contradictory; no row if all is sound. A run without a"
    " folder is missing if the configuration requests it. Without a configuration, it is missing if the other runs make it"
    " part of their grid: per model and task, the product of the methods, sparsities, modes, trainings and seeds that are there. Dense"
    " and pruned runs have separate grids, and untrained runs need one seed. A run without a probe that another run has, or that"
    " the configuration requests, has a row too.",
    (
        Column("run_id", "text", meaning="Name of the folder, or the name that it would have."),
        Column(
            "left_out", "true/false", meaning="True if the run is in no table; False if it is there with empty fields."
        ),
        Column("reason", "text", meaning='Every fault with its file, joined by " | ".'),
    ),
)
