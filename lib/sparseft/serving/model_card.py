"""Write the model card of an exported run: what it is, how it was made, its results and its proof.

The metadata at its top are those of the Hugging Face hub. Their model-index has the results of evaluation.json.
"""

from collections.abc import Iterator
from importlib.resources import files

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import StrictUndefined, Template

import sparseft
from sparseft.axes.grid import DENSE, Run
from sparseft.axes.tasks import is_toy
from sparseft.axes.tasks.metrics import PERPLEXITIES
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.models.checkpoints.manifests import ModelManifest
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.serving.licence import terms_of
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
    kind, _, place = manifest.source.partition(":")
    data = ModelCardData(
        base_model=place.partition("@")[0] if kind == "hub" else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sparseft", "pruned"] if run.sparsity else ["sparseft"],
        model_name=name,
        eval_results=list(_results(run, evaluation)),
        **licence,
    )
    text = files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    template = Template(text, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    content = template.render(
        data=data,
        name=name,
        terms=terms,
        run=run,
        is_pruned=run.method != DENSE,
        is_toy=is_toy(run.task),
        manifest=manifest,
        proof=proof,
        evaluation=evaluation,
        training=training,
        smaller=smaller,
        version=sparseft.__version__,
    )
    return ModelCard(content)


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
