# The file to serve, from a wish:
#   snakemake ship --configfile my.yaml
from sparseft.serving.ship_record import SharesRecord
from sparseft.stages import find_shares, split_texts
from sparseft.stages import ship as ship_stage
from sparseft.storage.record_file import read_record_file

# Nothing else may run on the machine while something is measured.
ALONE = STUDY.resources.threads if QUEUED else max(STUDY.resources.threads, workflow.cores or 1)
text_of = lambda name: grid.SAMPLED.format(text=name, model="{model}")
# The windows by which the candidates are judged, if the user gave texts.
held_out_texts = [text_of(ship.HELD_OUT)] if ship.HELD_OUT in STUDY.texts else []


def candidates_of(w):
    """Return the manifests of the models that are measured: the dense one, the runs, and the siblings."""
    record = read_record_file(Path(checkpoints.find_shares.get(model=w.model).output[0]), SharesRecord)
    exports = [
        f"{grid.fill(PATHS.run, run)}/export/manifest.json"
        for run in ship.runs(w.model, STUDY.ship.mode, record.chosen)
    ]
    siblings = [grid.MANIFEST.format(model=name) for name in STUDY.ship.siblings]
    return [grid.MANIFEST.format(model=w.model), *exports, *siblings]


ship_sources = own_files(lambda w: [*STUDY.ship.texts, *filter(None, [STUDY.ship.prompts])])


if held_out_texts:

    # Divide the user's texts into windows for the calibration, for the training, and for the judgement.
    rule split_texts:
        input:
            ship_sources,
            model_path=grid.MANIFEST,
        output:
            texts=[text_of(name) for name in ship.TEXTS],
            sources=[f"{text_of(name)}.json" for name in ship.TEXTS],
        log:
            f"{PATHS.logs}/split_texts/{{model}}.log",
        benchmark:
            f"{PATHS.benchmarks}/split_texts/{{model}}.tsv"
        conda:
            ENVIRONMENT
        threads: threads_of(split_texts)
        resources:
            mem_mb=memory_of(split_texts),
            runtime=minutes_of(split_texts),
            gpu=gpus_of(split_texts),
        params:
            settings=settings_of(split_texts),
            version=version_of(split_texts),
            content=content_of(ship_sources),
        shell:
            f"{PYTHON} {SCRIPTS}/split_texts.py"
            " --model_path {input.model_path:q} --output {output.texts:q} {params.settings}"
            f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Find how much must leave the model for the wish. The runs that are made follow from it.
checkpoint find_shares:
    input:
        model_path=grid.MANIFEST,
    output:
        f"{PATHS.ship}/shares.json",
    log:
        f"{PATHS.logs}/find_shares/{{model}}.log",
    benchmark:
        f"{PATHS.benchmarks}/find_shares/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: ALONE
    resources:
        mem_mb=memory_of(find_shares),
        runtime=minutes_of(find_shares),
        gpu=gpus_of(find_shares),
    params:
        settings=settings_of(find_shares),
        version=version_of(find_shares),
        effort=effort_of(find_shares),
        gpus=STUDY.resources.gpus,  # Another device measures again.
    shell:
        f"{PYTHON} {SCRIPTS}/find_shares.py"
        " --model_path {input.model_path:q} --output {output:q} {params.settings} {params.effort}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Measure all candidates as they are served, choose, and write the chosen model with its card. A wish that nothing
# reaches (exit code 1) is a result.
rule ship_model:
    input:
        models=candidates_of,
        divergence=text_of(DIVERGENCE),
        held_out=held_out_texts,
    output:
        [f"{PATHS.ship}/{name}" for name in ("frontier.csv", "frontier.png", "findings.txt")],
        record=f"{PATHS.ship}/served.json",
        chosen=update(f"{PATHS.ship}/chosen/ship.json"),
    log:
        f"{PATHS.logs}/ship_model/{{model}}.log",
    benchmark:
        f"{PATHS.benchmarks}/ship_model/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: ALONE
    resources:
        mem_mb=memory_of(ship_stage),
        runtime=minutes_of(ship_stage),
        gpu=gpus_of(ship_stage),
    params:
        settings=settings_of(ship_stage),
        version=version_of(ship_stage),
        effort=effort_of(ship_stage),
        optional=lambda w, input: flags(held_out=input.held_out),
        chosen=lambda w, output: Path(output.chosen).parent,
        gpus=STUDY.resources.gpus,  # Another device measures again.
    shell:
        f"{PYTHON} {SCRIPTS}/ship.py"
        " --models {input.models:q} --divergence {input.divergence:q} {params.optional}"
        " --output {output.record:q} --output_dir {params.chosen:q} {params.settings} {params.effort}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1 || [ $? -eq 1 ]"
