"""Write the model card of an exported run: what it is, how it was made, its results and its proof.

The metadata at its top are those of the Hugging Face hub. Their model-index has the results of evaluation.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load

import sparseft
from sparseft.checkpoints.model_source import README
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.manifests import ModelManifest
from sparseft.records.training_record import TrainingRecord
from sparseft.records.validation_record import ValidationRecord
from sparseft.study.grid import DENSE, Run
from sparseft.tasks.metrics import PERPLEXITIES

# The metadata of the base that hold for what is made from it.
_LICENCE = ("license", "license_name", "license_link")

_TEXT = """\
# {run}

{what}

## Proof

1. Every weight was compared with its mask: {checked} of {expected} layers, {violations} violations, largest pruned weight
   {largest:g}.
2. {zeros:.2f} % of the {weights:,} prunable weights {state}. The sha256 of the mask is `{mask}`.
3. {size}

## Results

| data | metric | value |
|---|---|---:|
{rows}

{settings}

## Load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```

SparseFT {version} wrote this folder. `manifest.json` has the sha256 of every file.
"""


def model_card(
    run: Run,
    base: Path,
    manifest: ModelManifest,
    records: tuple[ValidationRecord, EvaluationRecord, TrainingRecord | None],
    size: str,
) -> ModelCard:
    """Return the model card of a run.

    base: the folder of the prepared base, with its README.md if its source has one. size: a sentence on what was left out."""
    proof, evaluation, training = records
    results = list(_results(run, evaluation))
    kind, _, place = manifest.source.partition(":")
    stated = metadata_load(base / README) if (base / README).exists() else None
    data = ModelCardData(
        base_model=place.partition("@")[0] if kind == "hub" else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sparseft", "pruned"] if run.sparsity else ["sparseft"],
        model_name=run.id,
        eval_results=results,
        **{name: (stated or {}).get(name) for name in _LICENCE},
    )
    text = _TEXT.format(
        run=run.id,
        what=_what(run, manifest, training),
        checked=proof.layers_checked,
        expected=proof.layers_expected,
        violations=proof.violations,
        largest=proof.max_abs_pruned,
        zeros=100 * (proof.actual_sparsity or 0),
        weights=proof.weights + proof.removed_weights,
        state="of the dense model were left out" if proof.removed_weights else "are exact zeros in the merged model",
        mask=proof.inputs.mask,
        size=size,
        rows="\n".join(f"| {one.dataset_name} | {one.metric_type} | {one.metric_value:.4f} |" for one in results),
        settings=f"{evaluation.examples} examples of {run.task}, {evaluation.few_shot} worked examples before each"
        + (f", {evaluation.harness}." if evaluation.harness else "."),
        version=sparseft.__version__,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _what(run: Run, manifest: ModelManifest, training: TrainingRecord | None) -> str:
    """Return in sentences what the model is, and how it was made."""
    revision = f" at revision {manifest.revision}" if manifest.revision else ""
    pruned = f"pruned to {run.sparsity} % of its prunable weights by `{run.method}`"
    sentences = [f"This is `{manifest.source}`{revision}, {pruned if run.method != DENSE else 'not pruned'}."]
    if training:
        keys = training.settings
        sentences.append(
            f"It was fine-tuned on `{run.task}` in mode `{run.mode}` with LoRA of rank {keys['lora_r']}: {training.steps}"
            f" steps of {keys['batch_size']} examples, learning rate {keys['learning_rate']:g}, seed {run.seed}. The adapter is"
            " merged into the weights."
        )
    else:
        sentences.append("It was not fine-tuned.")
    return " ".join(sentences)


def _results(run: Run, evaluation: EvaluationRecord) -> Iterator[EvalResult]:
    """Yield the metrics of the task, its loss, the perplexity of a text, and the headline metric of each probe."""
    values: dict[tuple[str, str], Any] = {(run.task, name): value for name, value in evaluation.metrics.items()}
    values[run.task, "eval_loss"] = evaluation.eval_loss
    parts: dict[str, Any] = {**evaluation.probes, **evaluation.groups}
    values |= {(name, part.metric): part.value for name, part in parts.items()}
    for (data, name), value in values.items():
        if value is not None and "_stderr" not in name:
            data = name.rpartition("_ppl_")[0] if name.startswith(PERPLEXITIES) else data
            yield EvalResult(
                "text-generation", dataset_type=data, dataset_name=data, metric_type=name, metric_value=value
            )
