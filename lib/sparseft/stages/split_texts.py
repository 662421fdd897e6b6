"""Divide texts into windows for the calibration, for the training, and for the judgement of `snakemake ship`.

    split_texts.py --model_path models/smollm2 --texts manuals.txt tickets.jsonl --calibration 64 --training 512 \
        --held_out 64 --output data/calibration_ship-smollm2.jsonl data/calibration_shiptrain-smollm2.jsonl \
        data/calibration_shiptest-smollm2.jsonl

The last windows of each text are held out. The others are shuffled; some are for the calibration, and the rest is for
the training. With --prompts, the dense model's answers to them are one more text.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt
from cyclopts.validators import Number

from sparseft.common.command import Flags, Folder, Threads
from sparseft.common.errors import InputError
from sparseft.data.settings import OWN_LENGTH
from sparseft.data.texts import MODEL, claim_text
from sparseft.models.language_model.gpus import Gpus
from sparseft.serving.settings import ANSWERS, SAMPLED
from sparseft.stages import find_shares
from sparseft.study.config import Config
from sparseft.study.ship import CALIBRATION, HELD_OUT, TRAINING


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the windows."""
    names = {"calibration": CALIBRATION, "training": TRAINING, "held_out": HELD_OUT}
    return {
        "texts": config.ship.texts,
        "prompts": config.ship.prompts,
        **{flag: config.texts[name].examples for flag, name in names.items()},
        "threads": config.resources.threads if config.ship.prompts else None,
    }


# Raise it when the results change.
VERSION = 1
# An upper bound: without prompts, no model is run.
needs = find_shares.needs


def run(
    *,
    model_path: Folder,
    output: tuple[Path, Path, Path],
    texts: tuple[Path, ...] = (),
    prompts: Path | None = None,
    calibration: PositiveInt,
    training: PositiveInt,
    held_out: PositiveInt,
    length: Annotated[int, Parameter(validator=Number(gte=2))] = OWN_LENGTH,
    seed: NonNegativeInt = 0,
    threads: Threads = 1,
    gpus: Flags[Gpus] = Gpus(),
) -> None:
    """Divide the texts, and write the three files.

    Args:
        model_path: folder of the dense model, whose tokenizer reads the texts
        output: the three .jsonl files: calibration, training, held out
        texts: .jsonl files with the field text, or .txt files
        prompts: a .jsonl file with prompts in the field text
        calibration: windows for the calibration, of all texts together
        training: windows for the training, of all texts together
        held_out: windows that are held out, of all texts together
        length: tokens per window
        seed: seed of the shuffle, and of the answers
        threads: CPU threads of the model that answers; another number changes the last bits
    """
    import numpy as np

    from sparseft.data.texts import read_documents
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.language_model.answers import answers
    from sparseft.models.language_model.hardware import choose_device, start
    from sparseft.models.language_model.model import load_model, load_tokenizer
    from sparseft.models.language_model.placement import available_memory
    from sparseft.models.language_model.sampling import write_windows
    from sparseft.models.language_model.windows import divided

    if not (texts or prompts):
        raise InputError("neither --texts nor --prompts is given", "give one of them")
    for path in output:
        claim_text(path, [model_path, *texts, prompts])
    checkpoint = Checkpoint(model_path)
    tokenizer = load_tokenizer(model_path)
    documents, digests = {}, {}
    for path in texts:
        documents[path.stem], digests[path.name] = read_documents(path)
    if len({*documents, SAMPLED, ANSWERS}) < len(texts) + 2:
        raise InputError(
            f"--texts: two texts have one name, or one is named {SAMPLED} or {ANSWERS}", "rename one of the files"
        )
    if prompts:
        start(threads, gpus)
        asked, digests[prompts.name] = read_documents(prompts)
        model, _ = load_model(model_path, choose_device(), available_memory(checkpoint))
        documents[ANSWERS] = answers(model, tokenizer, asked, seed)
    numbers = {"calibration": calibration, "training": training, "held_out": held_out}
    parts = divided(documents, tokenizer, numbers, length, seed)
    source = {MODEL: checkpoint.digest, "texts": digests, "length": length, "seed": seed}
    for path, (part, windows) in zip(output, parts.items(), strict=True):
        names = np.array([name for name, _ in windows])
        write_windows(path, [window for _, window in windows], tokenizer, source | {"part": part}, origin=names)
