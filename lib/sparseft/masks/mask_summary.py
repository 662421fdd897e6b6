"""Summarise a mask file, to compare it with the report that validated it."""

from pathlib import Path

from pydantic import ValidationError

from sparseft.errors import InputError
from sparseft.masks.mask_file import count_kept, read_mask
from sparseft.records.validation_record import MaskFile, MaskMeta
from sparseft.storage.hashes import sha256


def summarise_mask(path: Path) -> MaskFile:
    """Return what is compared with the validations of a mask. The file may hold anything."""
    digest = sha256(path)
    try:
        mask = read_mask(path)
        settings = MaskMeta.model_validate(mask.meta)
    except (InputError, ValidationError):
        return MaskFile(digest)
    layers = [
        (layer, rows * cols, rows * cols - count_kept(mask.bits[layer])) for layer, (rows, cols) in mask.shape.items()
    ]
    return MaskFile(digest, settings, sorted(layers))
