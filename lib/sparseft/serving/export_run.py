"""Write a run's merged model as a folder that can be given away: a stock checkpoint, a model card, and the hashes of
all files.

model files     the merged model, without the channels and heads that its mask prunes if compact can leave them out
licences        those of the dense model, and the file Notice if its licence wants one
README.md       the model card
model.gguf      the same model for llama.cpp, if the configuration asks for it
manifest.json   what it was made from, and the hash of each file
"""

import shutil
from pathlib import Path

import numpy as np

from sparseft.axes.grid import NO_FINETUNE, Run
from sparseft.common.errors import InputError
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.models.checkpoints.checkpoint import README, Checkpoint
from sparseft.models.checkpoints.manifests import ModelManifest
from sparseft.models.checkpoints.rewriting import write_manifest
from sparseft.models.checkpoints.settings import without_folders
from sparseft.pruning.compact import compact, plan_cuts
from sparseft.pruning.masks.mask_file import Mask, read_mask
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.serving.gguf_file import GGUF, write_gguf
from sparseft.serving.licence import check_derivatives, stated_licence, terms_of
from sparseft.serving.manifest import ExportManifest
from sparseft.serving.model_card import model_card
from sparseft.serving.settings import Export
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.hashes import sha256
from sparseft.storage.record import remake_advice
from sparseft.storage.record_file import read_record_file
from sparseft.training.lora.merge_record import check_model
from sparseft.training.training_record import TrainingRecord


def export(run: Run, merged: Checkpoint, mask_path: Path, base: Path, output: Path, settings: Export) -> str | None:
    """Write the folder, and return why its model is not smaller; None if it is. `merged` lies in the run's folder,
    whose records are read.

    Raises InputError if a record is missing or of another model, if the proof of the run failed, or if the licence of
    the dense model forbids to share the folder. Then no file is written."""
    mask, hashes, mask_sha256 = read_mask(mask_path), merged.hashes(), sha256(mask_path)
    check_model(merged.folder, hashes)
    records = read_records(merged.folder.parent, run, hashes)
    if records[0].inputs.mask != mask_sha256:
        raise InputError(f"{mask_path}: not the mask of the run's proof", remake_advice(mask_path))
    origin = read_record_file(base / "manifest.json", ModelManifest)
    licence = {"license": settings.license} if settings.license else stated_licence(base)
    if origin.digest != (mask.meta.get("original") or mask.meta.get("base")):
        raise InputError(f"{base}: not the dense model of the run's mask", "give the model that was pruned")
    check_derivatives(base, licence)
    terms = terms_of(licence)
    # Nobody else needs to know where files lie on this machine.
    origin = origin.model_copy(update={"source": without_folders(origin.source)})
    obstacle = why_not_smaller(merged, mask)
    with atomic_folder(output, "manifest.json", ExportManifest.known_by) as folder:
        report = None
        if obstacle is None:
            report = compact(merged, mask_path, folder)
        else:
            merged.copy_rest(folder)
            for file in merged.files:
                shutil.copyfile(file, folder / file.name)
        for name, entry in origin.others.items():
            shutil.copyfile(base / name, folder / name)
            if sha256(folder / name) != entry.sha256:
                raise InputError(f"{base / name}: not the file that manifest.json records", remake_advice(base))
        if terms and not any(name.casefold().startswith("notice") for name in origin.others):
            (folder / "Notice").write_text(terms.notice, encoding="utf-8")
        model_card(run, origin, licence, records, report).save(folder / README)
        if settings.gguf:
            write_gguf(settings, folder, folder / GGUF, run.id)
        write_manifest(
            folder,
            ExportManifest,
            run_id=run.id,
            source=origin.source,
            dense=origin.digest,
            merged=hashes,
            mask=mask_sha256,
            why_not_smaller=obstacle,
            licence=licence,
        )
    return obstacle


def why_not_smaller(merged: Checkpoint, mask: Mask) -> str | None:
    """Return why a mask leaves nothing out; None if it leaves out channels or heads."""
    if mask.meta.get("removed_weights"):
        return "experts or decoder layers were left out when the model was pruned"
    try:
        cuts, _ = plan_cuts(merged, mask)
    except InputError as error:
        return error.args[0]
    return "the mask keeps every channel and head" if all(np.all(cut.kept) for cut in cuts.values()) else None


def read_records(
    folder: Path, run: Run, hashes: dict[str, str]
) -> tuple[ValidationRecord, EvaluationRecord, TrainingRecord | None]:
    """Return the proof, the evaluation and the training of a run, all sound and of the model with these hashes."""
    proof = read_record_file(folder / ValidationRecord.file_name, ValidationRecord)
    evaluation = read_record_file(folder / EvaluationRecord.file_name, EvaluationRecord)
    is_trained = run.mode != NO_FINETUNE
    training = read_record_file(folder / TrainingRecord.file_name, TrainingRecord) if is_trained else None
    if faults := proof.faults():
        what = f"{folder / proof.file_name}: {faults[0]}"
        raise InputError(what, "correct the run, because an export states its proof")
    # A training names no merged model.
    models = [(proof, proof.inputs.checkpoint), (evaluation, evaluation.inputs.model), (training, hashes)]
    for record, model in models:
        if record and (record.run_id or run.id, getattr(record, "task", run.task), model) != (run.id, run.task, hashes):
            path = folder / record.file_name
            raise InputError(f"{path}: of another run or model than {run.id}", remake_advice(path))
    return proof, evaluation, training
