"""Sample a text from a model itself, for the divergence of other models from it, or for importances that calibrate on
it.

    sample_text.py --model_path models/smollm2 --output data/calibration_self-smollm2.jsonl --examples 64 --length 512

It writes a row per window, with its text and its token ids, for compute_masks.py --text and evaluate.py --divergence.
Of each token but the first, `log_p` has the model's log-probability, in nats at temperature 1, and `top` has the
likeliest token in its place. FILE.jsonl.json beside it has the text's sha256, the model's digest and the settings.
"""

import math
from pathlib import Path
from typing import Any

from cyclopts.types import PositiveInt

from sparseft.axes.methods import SELF
from sparseft.common.command import Flags, Folder, Threads
from sparseft.common.section import parse_section
from sparseft.data.settings import OWN_EXAMPLES, OWN_LENGTH, TOGETHER, CalibrationText
from sparseft.data.texts import MODEL, claim_text
from sparseft.models.language_model.gpus import Gpus
from sparseft.study.config import Config
from sparseft.study.planning.needs import LOGITS, Job, Needs, SizesOf, tokens_per_weight_read


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides a sampled text. Another number of threads changes the last bits."""
    return {**config.texts[wildcards.text].sampled, "threads": config.resources.threads}


# Raise it when the results change.
VERSION = 1


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what a sampling needs: the weights, and the cached keys and values and the logits of some windows."""
    text, model = config.texts[job.text], sizes_of(job.model)
    window = text.length * model.cached + LOGITS * model.config["vocab_size"]
    batches = math.ceil(text.examples / text.together)
    return Needs(
        model,
        device=text.together * window,
        offloadable=model.bytes,
        tokens=text.length * (text.examples + batches * tokens_per_weight_read(config)),
    )


def run(
    *,
    model_path: Folder,
    output: Path,
    examples: int = OWN_EXAMPLES,
    length: int = OWN_LENGTH,
    seed: int = 0,
    temperature: float = 1.0,
    together: PositiveInt = TOGETHER,
    threads: Threads = 1,
    gpus: Flags[Gpus] = Gpus(),
) -> None:
    """Load the model, sample the windows, and write both files together.

    Args:
        model_path: Hugging Face checkpoint folder
        output: the .jsonl file; its source is written beside it
        examples: number of windows
        length: tokens per window
        seed: seed of the samples
        temperature: what the logits are divided by; at 1, the text has the model's own distribution
        together: windows that are sampled together; another number gives other windows
        threads: CPU threads; another number changes the last bits, and so may change the text
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.language_model.hardware import choose_device, start
    from sparseft.models.language_model.model import load_model
    from sparseft.models.language_model.placement import available_memory
    from sparseft.models.language_model.sampling import sample_windows, score_windows, write_windows

    settings = {"examples": examples, "length": length, "seed": seed, "temperature": temperature, "together": together}
    text = parse_section(CalibrationText, {"text": SELF, **settings}, "sample_text.py")
    claim_text(output, [model_path])
    start(threads, gpus)
    checkpoint = Checkpoint(model_path)
    model, tokenizer = load_model(checkpoint.folder, choose_device(), available_memory(checkpoint))
    windows = sample_windows(model, tokenizer, text)
    source = {MODEL: checkpoint.digest, "sampled": text.sampled}
    write_windows(output, windows, tokenizer, source, **score_windows(model, windows))
