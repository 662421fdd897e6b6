"""Compute the pruning masks of one or several methods, all sparsities of a method in one pass.

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2 --sparsity 0.5 0.7 --method unstructured

Writes for each method masks_sparsity{XX}_{method}.pt per sparsity, report_{method}.json, and with --plot
plots/sparsity_{method}.png. A method that looks at a task's training examples needs --task and --data_dir. A method
that ends in _on_NAME looks at a text:

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2 --sparsity 0.5 \
        --method unstructured_wanda_on_c4 --text c4.jsonl

A flag that is True by default is switched off with =false, as in --sequential=false.

A method that updates weights, or that removes experts or decoder layers, also writes its pruned base, each sparsity as
a checkpoint of its own:

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2/boolq --sparsity 0.5 \
        --method unstructured_sparsegpt --task boolq --data_dir data/boolq --pruned_dir pruned/smollm2/boolq
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import Field

from sparseft.axes import grid
from sparseft.axes.grid import pass_files
from sparseft.axes.importances import DEFAULT, IMPORTANCES
from sparseft.axes.methods import ON, SELF, Method, get_method
from sparseft.common.command import Flags, Folder, Threads
from sparseft.common.errors import InputError
from sparseft.data.settings import Choice
from sparseft.data.texts import MODEL, given_text, recorded_source
from sparseft.models.language_model.gpus import Gpus
from sparseft.pruning.masks.settings import Masks, whole_percent
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart
from sparseft.storage.reading import read_json
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf, calibration_lengths, logit_bytes, matrix_by_matrix

if TYPE_CHECKING:
    from sparseft.models.checkpoints.checkpoint import Checkpoint


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the masks of a method: its settings, its examples, and the place of its pruned base.

    Another number of threads changes the last bits of the scores from examples."""
    method, model, task = get_method(wildcards.method), wildcards.model, wildcards.task
    examples = {"task": task, "data_dir": config.data_folder(task, model)} if method.uses_task else {}
    if method.calibration:
        examples = {"text": targets.text_path(config, method.calibration, model, task)}
    base = f"{grid.PRUNED_BASES.format(model=model)}{wildcards.task_folder}" if method.has_pruned_base else None
    threads = config.resources.threads if method.uses_examples else None
    used = config.mask_settings(method, task)
    return {"method": wildcards.method, **examples, "pruned_dir": base, "threads": threads, **used}


def effort(config: Config, wildcards: Any, sparsities: list[str], threads: int) -> dict:
    """Return the sparsities and the plots of this pass, which decide no bit of a mask, and the threads of scores from
    weights alone."""
    is_added = hasattr(wildcards, "sparsity")
    return {
        "sparsity": [f"0.{percent}" for percent in ([wildcards.sparsity] if is_added else sparsities)],
        "plot": True,
        "is_added": is_added,
        "threads": None if get_method(wildcards.method).uses_examples else threads,
    }


# Raise it when the results change.
VERSION = 1
# Bytes per square of the inputs in an update of weights beside the Hessian: three matrices for the widest layer of a
# decoder layer (pruning/obs.py; pruning/sparsegpt.py needs two).
FACTORS = 12


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what masks need: a matrix at a time, or with examples one decoder layer at a time."""
    method, model = get_method(job.method), sizes_of(job.model)
    percents = config.grid.percents(job.method)
    # One per method for all sparsities, or one per sparsity.
    number = 1 if job.sparsity is not None or job.method == grid.DENSE else len(percents)
    pruned = model.bytes if method.has_pruned_base else 0
    disk = {"kept": {"masks": number * (model.prunable_weights // 8), "pruned": pruned}, "temporary": model.bytes}
    if not method.uses_examples:
        # One layer is read while another is counted.
        return matrix_by_matrix(model, threads=2, **disk)
    examples = config.mask_settings(method, job.task)["calibration_examples"]
    lengths = calibration_lengths(config, method.calibration, job.task, examples)
    of_gradients = any(statistic.of_gradients for statistic in method.statistics)
    states = model.state * lengths.rows[0] * lengths.mean
    # The totals of a decoder layer, nearly all in fp32.
    shapes = [statistic.shape(*layer) for statistic in method.statistics for layer in model.prunable.values()]
    totals = sum(4 * math.prod(shape) for shape in shapes) // model.layers
    device = (
        model.layer_and_outside + lengths.long * model.activation_bytes + logit_bytes(model, lengths.answer) + totals
    )
    if of_gradients:
        # A gradient, which a CPU without 16-bit instructions computes in fp32.
        device += (model.width + 4) * model.largest_prunable
        is_global = config.masks.scope_of(method, percents) == "global"
        scores = 4 * model.prunable_weights // (1 if is_global else model.layers)
        # The inputs of every decoder layer, and the gradients of one's outputs.
        machine = (model.layers + 1) * states + scores
    else:
        # What removes units keeps what entered the one that is left out. In fp32: a matrix, its magnitudes and its
        # scores.
        machine = 2 * states + 3 * 4 * model.largest_prunable
        if method.algorithm:
            device += FACTORS * max(cols**2 for _, cols in model.prunable.values())
    # Three forwards with statistics of inputs, five with a backward, six with updates of weights.
    forwards = 6 if method.algorithm else 5 if of_gradients else 3
    passes = 1
    if method.importance and method.importance.passes:
        passes = method.importance.passes(model.layers)
    elif config.masks.is_sequential(method):
        passes += len([*filter(None, percents)])
    tokens = forwards * passes * lengths.mean * lengths.rows[0]
    return Needs(model, device=device, host=machine, tokens=tokens, **disk)


class MaskFlags(Masks):
    """Leave out what has other flags here (--text), or another script (import_pruned.py)."""

    calibration: Annotated[dict, Parameter(parse=False)] = Field({})
    imported: Annotated[dict, Parameter(parse=False)] = Field({})
    imported_pattern: Annotated[dict, Parameter(parse=False)] = Field({})


@dataclass(frozen=True)
class Examples:
    """Say what the methods look at.

    Args:
        task: task of the examples that some methods look at
        data_dir: folder of the task's train.jsonl
        text: text of the methods that end in _on_NAME, a .jsonl or .txt file; --calibration_* choose its windows. Of a
            text of sample_text.py or mix_texts.py, they are the first --calibration_examples windows
        calibration_length: tokens per window of --text; by default 2048
        calibration_choice: how the windows are chosen, shuffled by default; get_c4 as wanda's code
    """

    task: str | None = None
    data_dir: Path | None = None
    text: Path | None = None
    calibration_length: int | None = None
    calibration_choice: Choice | None = None


def run(
    *,
    model_path: Folder,
    output_dir: Path,
    sparsity: list[str],
    method: list[str],
    importance: Literal[*(value.name for value in IMPORTANCES)] = DEFAULT.name,
    examples: Flags[Examples] = Examples(),
    pruned_dir: Path | None = None,
    format: Literal["pt", "safetensors"] = "pt",
    plot: bool = False,
    threads: Threads = os.cpu_count() or 1,
    is_added: bool = False,
    gpus: Flags[Gpus] = Gpus(),
    masks: Flags[MaskFlags] = MaskFlags(),
) -> None:
    """Check everything, and then compute the masks of one method after the other.

    Args:
        model_path: Hugging Face checkpoint folder, or FILE.mdl[@FOLDER]
        output_dir: folder of the masks and their report
        sparsity: fractions from 0 to below 1, in whole percents
        method: a pattern, or a pattern with an importance or an allocation, as in unstructured_wanda_owl; dense gives a
            mask that keeps every weight
        importance: importance of the methods that name none
        pruned_dir: folder of the pruned bases, for methods that have them; one folder in it per sparsity
        format: format of the mask files
        plot: also draw the sparsities of the layers, plots/sparsity_{method}.png
        threads: any number gives the same masks, unless the scores come from examples
        is_added: keep the report of an earlier pass; each sparsity gets a report of its own,
            report_{method}_sparsity{XX}.json
    """
    from sparseft.pruning.mask_generator import MaskPass, compute_masks

    percents = sorted({whole_percent(fraction) for fraction in sparsity})
    methods = methods_of(method, importance)
    settings = with_text(masks, methods, examples)
    for value in methods:
        check_method(value, settings, percents, examples)
        if value.has_pruned_base and not (pruned_dir and format == "pt"):
            raise InputError(f"{value.name} writes a pruned base", "give --pruned_dir for it, and leave --format out")
    checkpoint = checkpoint_for(methods, model_path)
    if SELF in [value.calibration for value in methods]:
        check_sampled(examples.text, checkpoint)
    passes = []
    for value in methods:
        bases = pruned_dir if value.has_pruned_base else None
        for group in [[percent] for percent in percents] if bases or is_added else [percents]:
            names = [f"{percent:02d}" for percent in group]
            files = pass_files(output_dir, value.name, names, bases, ending=format, has_plot=plot, is_added=is_added)
            passes.append(MaskPass(checkpoint, value, group, files, settings, threads=threads))
        value.pattern.check_model(passes[-1].model, percents, settings.head_share)
    gpus.take()
    inputs = [checkpoint.folder, *checkpoint.files, examples.data_dir, examples.text]
    check_apart(filter(None, [output_dir, pruned_dir]), inputs)
    for one in passes:
        one.check_outputs()
    for one in passes:
        hold(one.files.report)
        if one.files.base:
            hold(one.files.base)
        calibrated = replace(one, calibration=calibration_of(one.method, settings, examples, threads))
        # Only a method with a pruned base needs the libraries of its module.
        if not one.method.has_pruned_base:
            compute_masks(calibrated)
        elif one.method.pattern.units:
            from sparseft.pruning.smaller import remove_units

            remove_units(calibrated)
        else:
            from sparseft.pruning.updates import UPDATES

            UPDATES[one.method.algorithm](calibrated)


def checkpoint_for(methods: list[Method], path: Path) -> Checkpoint:
    """Return the checkpoint. Raises InputError if a method looks at examples and the checkpoint cannot be run."""
    from sparseft.models.checkpoints.modelzoo_checkpoint import ModelZooCheckpoint, open_checkpoint

    checkpoint = open_checkpoint(path)
    if isinstance(checkpoint, ModelZooCheckpoint) and any(value.uses_examples for value in methods):
        raise InputError(
            f"{path}: to run the model, it must be a Hugging Face checkpoint",
            f"prepare_model.py --source mdl:{path}, then give that folder",
        )
    return checkpoint


def methods_of(names: list[str], importance: str) -> list[Method]:
    """Return the methods, each once. Those whose name has no importance get this one."""
    methods = {}
    for name in names:
        method, pattern = get_method(name), get_method(name).pattern.name
        if method.importance is DEFAULT and importance != DEFAULT.name:
            method = get_method(f"{pattern}_{importance}{name.removeprefix(pattern)}")
        methods[method.name] = method
    return list(methods.values())


def with_text(masks: Masks, methods: list[Method], examples: Examples) -> Masks:
    """Return the settings with the text described under the name that the methods have for it."""
    texts = sorted({value.calibration for value in methods} - {None})
    if len(texts) > 1:
        raise InputError(f"--method: the methods look at the texts {' and '.join(texts)}", "name one text per call")
    if bool(examples.text) != bool(texts):
        what = f"--text {examples.text}: the methods look at {f'the text {texts[0]}' if texts else 'no text'}"
        raise InputError(
            what, f"give --text with a method that ends in {ON}NAME; sample_text.py makes that of {ON}{SELF}"
        )
    if not texts:
        return masks
    chosen = {"length": examples.calibration_length, "choice": examples.calibration_choice}
    chosen |= {"examples": masks.calibration_examples, "seed": masks.calibration_seed}
    text = given_text(examples.text, f"masks.calibration.{texts[0]}", **chosen)
    return masks.model_copy(update={"calibration": {texts[0]: text}})


def check_sampled(text: Path, checkpoint: Checkpoint) -> None:
    """Raise InputError if a text was not sampled by the model.

    A model that was made from a pruned base looks at what the dense model has sampled."""
    source = (recorded_source(text, sha256(text)) or {}).get(MODEL)
    manifest = checkpoint.folder / "manifest.json"
    has_parent = manifest.exists() and str(read_json(manifest).get("source")).startswith("pruned:")
    if not source or (source != checkpoint.digest and not has_parent):
        what = f"--text {text}: it was not sampled by {checkpoint.folder}"
        raise InputError(what, f"sample one with sample_text.py, or name the method ..{ON}NAME")


def check_method(method: Method, settings: Masks, percents: list[int], examples: Examples) -> None:
    """Raise InputError if the settings do not allow the method, or if it lacks its examples."""
    if method.imported:
        raise InputError(f"--method {method.name}: its masks are those of another tool", "use import_pruned.py")
    scope = settings.scope_of(method, percents)
    if settings.scope not in (None, scope):
        raise InputError(f"--scope {settings.scope}: {method.name} ranks by {scope}", "leave --scope out")
    given = examples.text if method.calibration else examples.task and examples.data_dir
    if method.uses_examples and not given:
        advice = f"give --text for a method that ends in {ON}NAME, and --task and --data_dir for any other"
        raise InputError(f"{method.name} looks at examples", advice)


def calibration_of(method: Method, settings: Masks, examples: Examples, threads: int) -> Any:
    """Return the ExampleCalibration of a method; None if it looks at no examples."""
    if not method.uses_examples:
        return None
    # Only a calibration needs transformers.
    from sparseft.models.language_model.hardware import limit_threads
    from sparseft.pruning.calibration_examples import calibrate, calibrate_on_text

    limit_threads(threads)
    if not method.calibration:
        return calibrate(method, examples.task, examples.data_dir / "train.jsonl", settings)
    return calibrate_on_text(method, examples.text, settings.text_of(method))
