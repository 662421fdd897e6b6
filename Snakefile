# Sparse fine-tuning of language models: masks, masked LoRA, sparse merge, proof, evaluation, analysis.
#
#   snakemake results/analysis/summary.csv                  the study in config/config.yaml
#   snakemake analyze --configfile config/sweep.yaml        the full study
#   snakemake prepare | masks | train | validate | evaluate | analyze the whole grid up to that stage
#   snakemake throughput | engines                          measurements, which no study needs
#
# Any file can be a target: snakemake masks/smollm2/masks_sparsity20_unstructured.pt

from snakemake.utils import min_version

min_version("9.19")


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/prepare.smk"
include: "rules/masks.smk"
include: f"rules/backends/{STUDY.backend}.smk"
include: "rules/merge.smk"
include: "rules/evaluate.smk"
include: "rules/export.smk"
include: "rules/analyze.smk"


if STUDY.ship:

    include: "rules/ship.smk"


if not IS_MODULE:

    include: "rules/terminal.smk"


# The stages by name, the default one first. A function gives the files of one, because the plan of another target needs
# none of them.
STAGES = {
    "analyze": lambda: targets.final_targets(STUDY),
    # What needs the network. On a cluster whose nodes have none, the login node makes it first.
    "prepare": lambda: fetched_files(STUDY),
    "masks": lambda: targets.mask_targets(STUDY),
    "train": lambda: targets.run_targets(STUDY, "train.json", trained_only=True),
    "validate": lambda: targets.run_targets(STUDY, "validation_report.json"),
    # With the selection, because the merged model is deleted after its last reader.
    "evaluate": lambda: targets.run_targets(STUDY, "evaluation.json") + targets.selection_targets(STUDY),
    "ship": lambda: targets.ship_targets(STUDY),
    "throughput": lambda: PATHS.throughput_table,
    # An untrained run has the shape of the trained ones, and so their speed.
    "engines": lambda: targets.run_targets(STUDY, "engines.json", trained_only=bool(STUDY.trained_modes)),
}
for STAGE, files_of in STAGES.items():

    rule:
        name:
            STAGE
        input:
            lambda w, files_of=files_of: files_of(),
