# Evaluate the merged model on the task's validation examples with lm-eval, after it passed the validation of its sparsity. In the
# same job it is evaluated on the probes.
use rule run_on_gpus as evaluate_run with:
    input:
        **TASK_FILES,
        model=f"{PATHS.run}/model_dir",
        proof=f"{PATHS.run}/validation_report.json",
        probes=with_signature(lambda w: targets.probe_files(STUDY, w.task)),
        wikitext2=[grid.WIKITEXT2, grid.WIKITEXT2_SOURCE] if STUDY.perplexity else [],
        # They are searched for the evaluated examples.
        calibration=with_signature(lambda w: targets.seen_texts(STUDY, w.mode, w.method)),
    output:
        record=f"{PATHS.run}/evaluation.json",
    pathvars:
        job=f"evaluate_run/{grid.RUN_ID}",
    # An evaluation runs before the next merge, so that few merged models are on the disk.
    priority: 2
    threads: STUDY.resources.threads
    resources:
        # Mostly the weights, and the logits of a batch in float32.
        **requested("evaluation"),
        gpu=ONE_GPU,
    params:
        **running("evaluate.py", probes=True),
        run_id=grid.RUN_ID,
        settings=scored_besides,
        places=scored_model,
    message:
        "evaluate {params.run_id}"


# Evaluate the merged model of a training with a name on the selection rows, by which the tables choose among the trainings.
# This is a rule of its own, so that a new training reruns no evaluation of a run without one.
use rule evaluate_run as evaluate_selection with:
    input:
        **TASK_FILES,
        model=f"{PATHS.run}/model_dir",
        proof=f"{PATHS.run}/validation_report.json",
        selection=f"{grid.DATA}/selection.jsonl",
        manifest=f"{grid.DATA}/selection_manifest.json",
        calibration=with_signature(lambda w: targets.seen_texts(STUDY, w.mode, w.method)),
    output:
        record=f"{PATHS.run}/selection.json",
    pathvars:
        job=f"evaluate_selection/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
        training=f"-{grid.TRAINING}",
    resources:
        **requested("selection"),
        gpu=ONE_GPU,
    params:
        **running("evaluate_selection.py"),
        settings=with_signature(lambda w: scoring(w, calibration=targets.seen_texts(STUDY, w.mode, w.method))),
    message:
        "evaluate {params.run_id} on the selection examples"


# Evaluate the model before the merge, on the same examples. The difference of the two evaluations is the train-merge gap.
use rule evaluate_run as evaluate_adapter with:
    input:
        **TASK_FILES,
        manifest=base_of,
        mask=mask_of,
        adapter=f"{PATHS.run}/adapter",
    output:
        record=f"{PATHS.run}/before_merge.json",
    pathvars:
        job=f"evaluate_adapter/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
    priority: 0
    params:
        **running("evaluate_adapter.py"),
        settings=with_signature(lambda w: scoring(w)),
        places=with_signature(
            lambda w, input, output: flags(
                model_path=Path(input.manifest).parent,
                mask_path=input.mask,
                adapter=input.adapter,
                data_dir=Path(input.train).parent,
                output=output.record,
            )
        ),
    message:
        "evaluate {params.run_id} before the merge"
