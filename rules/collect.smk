# The stages by name, each the whole grid up to that stage; the last, analyze, is in the Snakefile.
localrules:
    masks,
    train,
    validate,
    evaluate,


rule masks:
    input:
        grid.mask_targets(STUDY),


rule train:
    input:
        grid.run_targets(STUDY, "train.json", trained_only=True),


rule validate:
    input:
        grid.run_targets(STUDY, "validation_report.json"),


rule evaluate:
    input:
        grid.run_targets(STUDY, "evaluation.json"),
