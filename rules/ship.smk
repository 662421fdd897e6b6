# The file to serve, from a wish:
#   snakemake ship --configfile my.yaml
from sparseft.serving.ship_record import SharesRecord
from sparseft.storage.record_file import read_record_file
from sparseft.study import ship

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
    use rule run_script as split_texts with:
        input:
            ship_sources,
            model_path=grid.MANIFEST,
        output:
            [f"{text_of(name)}.json" for name in ship.TEXTS],
            output=[text_of(name) for name in ship.TEXTS],
        pathvars:
            job="split_texts/{model}",
        params:
            **running("split_texts", sources=ship_sources),


# Find how much must leave the model for the wish. The runs that are made follow from it.
use rule run_script as find_shares with:
    input:
        model_path=grid.MANIFEST,
    output:
        output=f"{PATHS.ship}/shares.json",
    pathvars:
        job="find_shares/{model}",
    threads: ALONE
    params:
        **running("find_shares"),
        gpus=STUDY.resources.gpus,  # Another device measures again.


workflow.get_rule("find_shares").is_checkpoint = True
checkpoints.register(workflow.get_rule("find_shares"))


# Measure all candidates as they are served, choose, and write the chosen model with its card. A wish that nothing
# reaches (exit code 1) is a result.
use rule run_script as ship_model with:
    input:
        models=candidates_of,
        divergence=text_of(DIVERGENCE),
        held_out=held_out_texts,
    output:
        [f"{PATHS.ship}/{name}" for name in ("frontier.csv", "frontier.png", "findings.txt")],
        output=f"{PATHS.ship}/served.json",
        output_dir=update(f"{PATHS.ship}/chosen/ship.json"),
    pathvars:
        job="ship_model/{model}",
    threads: ALONE
    params:
        **running("ship"),
        gpus=STUDY.resources.gpus,  # Another device measures again.
