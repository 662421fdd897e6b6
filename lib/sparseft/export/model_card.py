"""Write the model card of an exported run: what it is, how it was made, its results and its proof.

The metadata at its top are those of the Hugging Face hub. Their model-index has the results of evaluation.json.
"""

from collections.abc import Iterator
from importlib.resources import files

from huggingface_hub import EvalResult, ModelCard, ModelCardData

import sparseft
from sparseft.checkpoints.manifests import ModelManifest
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.export.licence import terms_of
from sparseft.grid import DENSE, Run
from sparseft.masks.validation_record import ValidationRecord
from sparseft.tasks import is_toy
from sparseft.tasks.metrics import PERPLEXITIES
from sparseft.training.training_record import TrainingRecord


def model_card(
    run: Run,
    manifest: ModelManifest,
    licence: dict[str, str],
    records: tuple[ValidationRecord, EvaluationRecord, TrainingRecord | None],
    smaller: dict | None,
) -> ModelCard:
    """Return the model card of a run. `manifest` is that of its base, and `smaller` is compact.json if there is one."""
    proof, evaluation, training = records
    terms = terms_of(licence)
    name = terms.named(run.id) if terms else run.id
    results = list(_results(run, evaluation))
    kind, _, place = manifest.source.partition(":")
    data = ModelCardData(
        base_model=place.partition("@")[0] if kind == "hub" else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sparseft", "pruned"] if run.sparsity else ["sparseft"],
        model_name=name,
        eval_results=results,
        **licence,
    )
    template = files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    text = template.format(
        name=name,
        what=_what(run, manifest, training),
        attribution=f"\n{terms.words}.\n" if terms else "",
        run=run,
        proof=proof,
        evaluation=evaluation,
        zeros=100 * (proof.actual_sparsity or 0),
        weights=proof.weights + proof.removed_weights,
        state="of the dense model were left out" if proof.removed_weights else "are exact zeros in the merged model",
        size=_size(proof, smaller),
        rows="\n".join(f"| {one.dataset_name} | {one.metric_type} | {one.metric_value:.4f} |" for one in results),
        harness=f", {evaluation.harness}" if evaluation.harness else "",
        version=sparseft.__version__,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _size(proof: ValidationRecord, smaller: dict | None) -> str:
    """Return in a sentence what the files leave out."""
    if proof.removed_weights:
        return "The files lack the experts or decoder layers that were left out."
    if smaller is None:
        return "The files have every weight." + (" The pruned ones are zeros." if proof.expected_sparsity else "")
    before, after = smaller["before"], smaller["after"]
    return (
        f"The pruned channels and heads, all of them zero, are left out: {before['parameters']:,} ->"
        f" {after['parameters']:,} parameters, {before['bytes']:,} -> {after['bytes']:,} bytes."
    )


def _what(run: Run, manifest: ModelManifest, training: TrainingRecord | None) -> str:
    """Return in sentences what the model is, and how it was made."""
    revision = f" at revision {manifest.revision}" if manifest.revision else ""
    pruned = f"without {run.sparsity} % of its prunable weights, which `{run.method}` chose"
    model = f"This is `{manifest.source}`{revision}, {pruned if run.method != DENSE else 'not pruned'}."
    if training is None:
        return f"{model} It was not fine-tuned."
    keys = training.settings
    rank = keys["lora_r"]
    how = f"LoRA of rank {rank}, merged into the weights" if rank else "all kept weights trained"
    if keys["recover_on"] not in (None, run.task):
        how += f", after a training on `{keys['recover_on']}`"
    toy = f" `{run.task}` is a generated toy task, so the model may answer nothing else." * is_toy(run.task)
    return (
        f"{model} It was fine-tuned on `{run.task}` in mode `{run.mode}`, with {how}: {keys['steps']} steps of"
        f" {keys['batch_size']} examples, learning rate {keys['learning_rate']:g}, seed {run.seed}.{toy}"
    )


def _results(run: Run, evaluation: EvaluationRecord) -> Iterator[EvalResult]:
    """Yield the metrics of the task, its loss, the perplexity of a text, and the headline metric of each probe."""
    metrics = evaluation.metrics | {"eval_loss": evaluation.eval_loss}
    values = {(run.task, name): value for name, value in metrics.items()}
    values |= {(name, probe.metric): probe.value for name, probe in evaluation.probes.items()}
    for (data, name), value in values.items():
        if value is not None and "_stderr" not in name:
            data = name.rpartition("_ppl_")[0] if name.startswith(PERPLEXITIES) else data
            yield EvalResult(
                "text-generation", dataset_type=data, dataset_name=data, metric_type=name, metric_value=value
            )
