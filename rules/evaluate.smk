@with_signature
def scored_besides(w):
    """Return the flags of what a merged model is evaluated on beside its task, and of the texts that its run has seen."""
    text = {"wikitext2": grid.WIKITEXT2, "context": STUDY.perplexity.context} if STUDY.perplexity else {}
    probes, seen = targets.probe_places(STUDY, w.task), targets.seen_texts(STUDY, w.mode, w.method)
    return flags(probes=probes, calibration=seen, **text)


# Evaluate the merged model on the task's validation examples with lm-eval, after it passed the validation of its sparsity. In the
# same job it is evaluated on the probes.
rule evaluate_run:
    input:
        model=f"{PATHS.run}/model_dir",
        proof=f"{PATHS.run}/validation_report.json",
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        # How the prepared rows are scored.
        definition=definition_of,
        probes=with_signature(lambda w: targets.probe_files(STUDY, w.task)),
        wikitext2=[grid.WIKITEXT2, grid.WIKITEXT2_SOURCE] if STUDY.perplexity else [],
        # They are searched for the evaluated examples.
        calibration=with_signature(lambda w: targets.seen_texts(STUDY, w.mode, w.method)),
    output:
        record=f"{PATHS.run}/evaluation.json",
    log:
        f"<logs>/evaluate_run/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/evaluate_run/{grid.RUN_ID}.tsv"
    # An evaluation runs before the next merge, so that few merged models are on the disk.
    priority: 2
    conda:
        "../envs/sparseft.yaml"
    threads: STUDY.resources.threads
    resources:
        # Mostly the weights, and the logits of a batch in float32.
        mem_mb=memory("evaluation"),
        runtime=minutes("evaluation"),
        gpu=ONE_GPU,
    params:
        script="evaluate.py",
        code=code("evaluate.py", probes=True),
        run_id=grid.RUN_ID,
        # Another number of threads changes the last bits.
        cores=STUDY.resources.threads,
        data=subpath(input.train, parent=True),
        batch_size=STUDY.evaluation_batch_size,
        model=with_signature(lambda w, input: flags(checkpoint=input.model)),
        others=scored_besides,
    message:
        "evaluate {params.run_id}"
    shell:
        "on_gpus {resources.gpu} "
        'python "$SCRIPTS"/{params.script}'
        " {params.model}"
        " --run_id {params.run_id:q}"
        " --task {wildcards.task:q}"
        " --data_dir {params.data:q}"
        " --batch_size {params.batch_size}"
        " --threads {params.cores}"
        " {params.others}"
        " --output {output.record:q}"
        " 2> {log:q}"


# Evaluate the merged model of a training with a name on the selection rows, by which the tables choose among the trainings.
# This is a rule of its own, so that a new training reruns no evaluation of a run without one.
use rule evaluate_run as evaluate_selection with:
    input:
        model=f"{PATHS.run}/model_dir",
        proof=f"{PATHS.run}/validation_report.json",
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        selection=f"{grid.DATA}/selection.jsonl",
        manifest=f"{grid.DATA}/selection_manifest.json",
        definition=definition_of,
        calibration=with_signature(lambda w: targets.seen_texts(STUDY, w.mode, w.method)),
    output:
        record=f"{PATHS.run}/selection.json",
    log:
        f"<logs>/evaluate_selection/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/evaluate_selection/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
        training=f"-{grid.TRAINING}",
    resources:
        mem_mb=memory("selection"),
        runtime=minutes("selection"),
        gpu=ONE_GPU,
    params:
        script="evaluate_selection.py",
        code=code("evaluate_selection.py"),
        others=with_signature(lambda w: flags(calibration=targets.seen_texts(STUDY, w.mode, w.method))),
    message:
        "evaluate {params.run_id} on the selection examples"


# Evaluate the model before the merge, on the same examples. The difference of the two evaluations is the train-merge gap.
use rule evaluate_run as evaluate_adapter with:
    input:
        manifest=base_of,
        mask=mask_of,
        adapter=f"{PATHS.run}/adapter",
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        definition=definition_of,
    output:
        record=f"{PATHS.run}/before_merge.json",
    log:
        f"<logs>/evaluate_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/evaluate_adapter/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
    priority: 0
    params:
        script="evaluate_adapter.py",
        code=code("evaluate_adapter.py"),
        model=with_signature(
            lambda w, input: flags(model_path=Path(input.manifest).parent, mask_path=input.mask, adapter=input.adapter)
        ),
        others="",
    message:
        "evaluate {params.run_id} before the merge"
