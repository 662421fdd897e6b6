"""Describe the table of batch sizes."""

from sparseft.analysis.columns.column import EXAMPLES_PER_SECOND, TOKENS_PER_SECOND, Column, TableDescription, like
from sparseft.analysis.columns.run_columns import SUMMARY

NOT_MEASURED = "nothing was measured"

THROUGHPUT = TableDescription(
    "throughput_vs_batch_size.csv",
    "One row per cell and batch size, written by `snakemake throughput` from `results/throughput/{cell}.json`. With the"
    " backend `cerebras` every batch size is a program of its own, and each repeat lies in `results/throughput/{cell}/`."
    " The intervals are 95 % confidence intervals of the mean over the repeats, Student's t.",
    (
        *like(SUMMARY, "model task method sparsity mode training", part="cell"),
        Column("device", "text", source="measurement.device", meaning="Device that trained; CSX is the CS-3."),
        Column(
            "threads",
            "integer",
            source="measurement.threads",
            unit="CPU threads",
            meaning="CPU threads, `resources.threads`.",
        ),
        *like(SUMMARY, "processes gradient", part="measurement", empty="never"),
        Column(
            "sequence_length",
            "integer",
            source="measurement.sequence_length",
            unit="tokens per example",
            empty="the examples have their own lengths, or on `cerebras` are padded to `cerebras.sequence_length`",
            meaning="Length of every example, `throughput.sequence_length`.",
        ),
        Column(
            "warmup_steps",
            "integer",
            source="measurement.warmup_steps",
            unit="optimiser steps",
            meaning="Steps before the clock runs.",
        ),
        Column(
            "steps",
            "integer",
            source="measurement.steps",
            unit="optimiser steps",
            meaning="Steps that are timed in one repeat.",
        ),
        Column("dtype", "text", source="dtype", empty=NOT_MEASURED, meaning="Dtype of the model's weights."),
        Column(
            "batch_size",
            "integer",
            source="batch.batch_size",
            unit="examples",
            meaning="Examples per step, in one forward pass. With device CSX, `cerebras.csx_micro_batch_size` divides them.",
        ),
        Column("status", "text", source="batch.status", meaning="measured, out of memory, or skipped."),
        Column(
            "n", "integer", source="repeats", unit="repeats", meaning="Number of repeats; 0 if nothing was measured."
        ),
        Column(
            "samples_per_second_mean",
            "number",
            source="samples_per_second.mean",
            unit=EXAMPLES_PER_SECOND,
            empty=NOT_MEASURED,
            meaning="Mean over the repeats.",
        ),
        Column(
            "samples_per_second_low",
            "number",
            source="samples_per_second.low",
            unit=EXAMPLES_PER_SECOND,
            empty="fewer than two repeats",
            meaning="Lower end of its interval.",
        ),
        Column(
            "samples_per_second_high",
            "number",
            source="samples_per_second.high",
            unit=EXAMPLES_PER_SECOND,
            empty="fewer than two repeats",
            meaning="Upper end of its interval.",
        ),
        Column(
            "tokens_per_second_mean",
            "number",
            source="tokens_per_second.mean",
            unit=TOKENS_PER_SECOND,
            empty=NOT_MEASURED,
            meaning="Mean over the repeats.",
        ),
        Column(
            "tokens_per_second_low",
            "number",
            source="tokens_per_second.low",
            unit=TOKENS_PER_SECOND,
            empty="fewer than two repeats",
            meaning="Lower end of its interval.",
        ),
        Column(
            "tokens_per_second_high",
            "number",
            source="tokens_per_second.high",
            unit=TOKENS_PER_SECOND,
            empty="fewer than two repeats",
            meaning="Upper end of its interval.",
        ),
        Column(
            "tokens_per_sample",
            "number",
            source="tokens_per_sample",
            unit="tokens per example",
            empty=NOT_MEASURED,
            meaning="Mean length over all repeats.",
        ),
        Column(
            "tokens_per_sample_padded",
            "number",
            source="tokens_per_sample_padded",
            unit="tokens per example",
            empty=NOT_MEASURED,
            meaning="The same with padding counted.",
        ),
        Column(
            "peak_memory_bytes",
            "integer",
            source="peak_memory_bytes",
            unit="bytes",
            empty=NOT_MEASURED,
            meaning="Peak memory, the largest of the repeats.",
        ),
        Column(
            "peak_memory_kind",
            "text",
            source="measurement.peak_memory_kind",
            meaning="What the peak counts: `allocated by torch` on a GPU, `resident` on a CPU. With device CSX it is that of the"
            " process on the user node, not of the CS-3.",
        ),
        Column(
            "memory_limit_bytes",
            "integer",
            source="measurement.memory_limit_bytes",
            unit="bytes",
            empty="the backend is `cerebras`, which sets no limit",
            meaning="Memory of the GPU, or the limit of a measurement on a CPU.",
        ),
        Column(
            "memory_limit_kind",
            "text",
            source="measurement.memory_limit_kind",
            empty="the backend is `cerebras`",
            meaning="What the limit counts: `the GPU's`, or `private (RLIMIT_DATA)`, which counts memory that is reserved and not"
            " yet used.",
        ),
        Column(
            "cpu_share",
            "number",
            source="cpu_share",
            unit="fraction",
            empty="the device is a GPU or a CS-3; nothing was measured",
            meaning="Share of its threads' time that the CPU gave the training, the smallest of the repeats. Far below 1, other"
            " work disturbed the measurement.",
        ),
        Column(
            "reason",
            "text",
            source="batch.reason",
            empty="memory did not end",
            meaning="What the system reported when memory ended.",
        ),
    ),
)
