"""The measured part of train.json, from the logs that ModelZoo's Trainer leaves."""

import resource
import statistics
from pathlib import Path

from torch import Tensor

from sparseft.backends.modelzoo.log import TrainerLog, read_logs
from sparseft.backends.modelzoo.trainer_run import TrainerRun
from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.language_model.hardware import versions
from sparseft.language_model.loss import check_finite_evaluation
from sparseft.storage.reading import read_json
from sparseft.study.backends.modelzoo import MODELZOO
from sparseft.study.grid import WAFER
from sparseft.training.progress import Progress, check_finite

# Steps until a smoothed rate of the log no longer holds the first one, which is the rate of no step.
SMOOTHED = 12


def train_record(run: TrainerRun, factors: dict[str, tuple[Tensor, Tensor]], commit: str) -> dict:
    """Return what a finished training has measured, with the commit of ModelZoo. Raises InputError for incomplete logs."""
    settings = run.job.settings
    cerebras = run.cerebras
    logs = read_logs(run.model_dir)
    train_logs = [log for log in logs if log.losses]
    # Of a step that was made twice, the last log counts.
    log_of_step = {step: log for log in train_logs for step in log.losses}
    device = WAFER if cerebras.on_csx else "cpu"
    if sorted(log_of_step) != list(range(1, settings.steps + 1)) or {log.device for log in train_logs} != {device}:
        what = f"{run.model_dir}: its logs have {len(log_of_step)} of {settings.steps} steps, and not all on {device}"
        raise InputError(what, "remove it, and train again")
    batches = run.batches()
    progress = Progress()
    for step, examples in enumerate(batches["train"], start=1):
        log = log_of_step[step]
        check_finite(step, log.losses[step], 0.0)
        progress.curve.append({"step": step, "loss": log.losses[step]})
        progress.seconds.append(settings.batch_size / log.rates[step])
        progress.tokens.append(sum(len(example.ids) for example in examples))
    progress.resumed_after = [min(log.losses) - 1 for log in train_logs if min(log.losses) > 1]
    # ru_maxrss is in KiB.
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    record = progress.record(settings.batch_size, peak_bytes) | _speed(run, progress, log_of_step)
    return record | {
        # The logs have no learning rates, so the schedule tells: the first step of a warm-up has rate 0.
        "updates": settings.steps - min(1, settings.steps_to_peak),
        "eval_loss": _eval_loss(batches["validation"], logs[-1].evaluation, run.model_dir),
        "backend": MODELZOO.name,
        "device": WAFER if cerebras.on_csx else "CSX software backend on CPU",
        "processes": cerebras.num_csx if cerebras.on_csx else 1,
        "cerebras": cerebras.model_dump(include=cerebras.DECIDING),
        "micro_batch_size": cerebras.csx_micro_batch_size if cerebras.on_csx else settings.batch_size,
        "dtype": "cbfloat16" if cerebras.on_csx else "float32",
        "trainable_parameters": sum(matrix.numel() for pair in factors.values() for matrix in pair),
        "versions": read_json(run.model_dir / "versions.json")
        | {"sparseft": versions()["sparseft"], "modelzoo": commit},
    }


def _speed(run: TrainerRun, progress: Progress, log_of_step: dict[int, TrainerLog]) -> dict:
    """Return the speeds: medians over the steady steps, or the overall rates if there are few, and the overall rates.

    Raises InputError if no log has an overall rate."""
    size = run.job.settings.batch_size
    step_seconds = [size / log.overall_rate for log in log_of_step.values() if log.overall_rate]
    if not step_seconds:
        what = f"{run.model_dir}: no start of the Trainer made two steps, which a rate needs"
        raise InputError(what, "train more steps at once")
    total_seconds = len(log_of_step) * statistics.fmean(step_seconds)
    overall = {
        "samples_per_second": size * len(log_of_step) / total_seconds,
        "tokens_per_second": sum(progress.tokens) / total_seconds,
    }
    # Those whose smoothed rate no longer holds the first one of their log.
    steady = [
        (tokens, seconds)
        for (step, log), tokens, seconds in zip(
            sorted(log_of_step.items()), progress.tokens, progress.seconds, strict=True
        )
        if step - min(log.losses) >= SMOOTHED
    ]
    speed = dict(overall)
    if len(steady) > SMOOTHED:
        speed["samples_per_second"] = size / statistics.median(seconds for _, seconds in steady)
        speed["tokens_per_second"] = statistics.median(tokens / seconds for tokens, seconds in steady)
    return speed | {f"{name}_overall": rate for name, rate in overall.items()} | {"train_seconds": total_seconds}


def _eval_loss(batches: list[list[Example]], losses: list[float], place: Path) -> float:
    """Return the mean loss over all answer tokens, in nats. The Trainer's own mean ignores how many tokens a batch has."""
    tokens = [sum(len(example.ids) - example.answer_start for example in batch) for batch in batches]
    if len(losses) != len(tokens):
        raise InputError(f"{place}: {len(losses)} of {len(tokens)} batches evaluated", "train again")
    loss = sum(loss * number for loss, number in zip(losses, tokens, strict=True)) / sum(tokens)
    check_finite_evaluation(loss)
    return loss
