# The stages by name. Each one is the whole grid up to that stage, except throughput, which only measures. The last stage,
# analyze, is in the Snakefile. A function gives the files of a stage, because the plan of another target needs none of them.
localrules:
    masks,
    train,
    validate,
    evaluate,
    throughput,


rule masks:
    input:
        lambda w: targets.mask_targets(STUDY),


rule train:
    input:
        lambda w: targets.run_targets(STUDY, "train.json", trained_only=True),


rule validate:
    input:
        lambda w: targets.run_targets(STUDY, "validation_report.json"),


rule evaluate:
    input:
        lambda w: targets.run_targets(STUDY, "evaluation.json"),
        # In the same stage, because the merged model is deleted after its last reader.
        lambda w: targets.selection_targets(STUDY),


rule throughput:
    input:
        PATHS.throughput_table,
        PATHS.throughput_plots,
