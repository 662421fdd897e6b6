# The windows that the dense model has sampled, on which the divergence of a run from it is measured.
held_out = lambda w: [targets.text_path(STUDY, DIVERGENCE, w.model, w.task)] if STUDY.divergence_windows else []
# The texts on which a run's mask was calibrated, or its decoder layers reconstructed.
seen_texts = lambda w: targets.seen_texts(STUDY, w)


# Evaluate the merged model on the task's validation examples and on the probes, after it passed the validation of its
# sparsity.
use rule run_script as evaluate_run with:
    input:
        f"{PATHS.run}/validation_report.json",
        lambda w: targets.probe_files(STUDY, w.task),
        [grid.WIKITEXT2, f"{grid.WIKITEXT2}.json"] if STUDY.perplexity else [],
        lambda w: [f"{text}.json" for text in held_out(w)],
        divergence=held_out,
        dense=lambda w: original_of(w) if STUDY.divergence_windows else [],
        data_dir=rows_of,
        checkpoint=f"{PATHS.run}/model_dir",
        # They are searched for the evaluated examples.
        calibration=seen_texts,
    output:
        output=f"{PATHS.run}/evaluation.json",
    pathvars:
        job=f"evaluate_run/{grid.RUN_ID}",
    # An evaluation runs before the next merge, so that few merged models are on the disk.
    priority: 2
    params:
        **running("evaluate", has_probes=True),


# Evaluate the merged model of a training with a name on the selection rows, by which the tables choose among them.
use rule run_script as evaluate_selection with:
    input:
        f"{PATHS.run}/validation_report.json",
        lambda w: [f"{STUDY.data_folder(w.task, w.model)}/selection{end}" for end in (".jsonl", "_manifest.json")],
        data_dir=rows_of,
        checkpoint=f"{PATHS.run}/model_dir",
        calibration=seen_texts,
    output:
        output=f"{grid.of_modes(PATHS.run, grid.TRAINED_MODES)}/selection.json",
    pathvars:
        job=f"evaluate_selection/{grid.RUN_ID}",
    wildcard_constraints:
        training=f"-{grid.TRAINING}",
    priority: 2
    params:
        **running("evaluate", split="selection"),


# Evaluate the model before the merge, on the same examples, for the train-merge gap.
use rule run_script as evaluate_adapter with:
    input:
        data_dir=rows_of,
        checkpoint=base_of,
        mask_path=mask_of,
        adapter=trained_of,
    output:
        output=f"{grid.of_modes(PATHS.run, grid.TRAINED_MODES)}/before_merge.json",
    pathvars:
        job=f"evaluate_adapter/{grid.RUN_ID}",
    params:
        **running("evaluate"),
