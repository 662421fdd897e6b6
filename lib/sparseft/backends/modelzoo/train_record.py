"""The measured part of train.json, from the logs that ModelZoo's Trainer leaves."""

import resource
import statistics

from torch import Tensor

from sparseft.backends.modelzoo.log import TrainerLog, read_logs
from sparseft.backends.modelzoo.trainer_run import TrainerRun
from sparseft.errors import InputError
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
    log_of_step = _last_logs(run, train_logs)
    progress = _progress(run, log_of_step)
    progress.resumed_after = [min(log.losses) - 1 for log in train_logs if min(log.losses) > 1]
    # ru_maxrss is in KiB.
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    record = progress.record(settings.batch_size, peak_bytes) | _speed(run, progress, log_of_step)
    return record | {
        # The logs have no learning rates, so the schedule tells: the first step of a warm-up has rate 0.
        "updates": settings.steps - min(1, settings.steps_to_peak),
        "eval_loss": _eval_loss(run, logs[-1].evaluation),
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


def _last_logs(run: TrainerRun, logs: list[TrainerLog]) -> dict[int, TrainerLog]:
    """Return the last log of each step, by step. Raises InputError if one is missing, or if a log is of another device."""
    device = WAFER if run.cerebras.on_csx else "cpu"
    others = {log.device for log in logs} - {device}
    if others:
        raise InputError(
            f"{run.model_dir}: its logs are of {min(others)}, not of {device}", "remove it, and train again"
        )
    log_of_step = {step: log for log in logs for step in log.losses}
    steps = run.job.settings.steps
    if sorted(log_of_step) != list(range(1, steps + 1)):
        raise InputError(
            f"{run.model_dir}: {len(log_of_step)} of {steps} steps in its logs", "remove it, and train again"
        )
    return log_of_step


def _progress(run: TrainerRun, log_of_step: dict[int, TrainerLog]) -> Progress:
    """Return the loss, the seconds and the tokens of each step. Raises InputError if a loss is not finite."""
    progress = Progress()
    for step, examples in enumerate(run.batches()["train"], start=1):
        log = log_of_step[step]
        check_finite(step, log.losses[step], 0.0)
        progress.curve.append({"step": step, "loss": log.losses[step]})
        progress.seconds.append(run.job.settings.batch_size / log.rates[step])
        progress.tokens.append(sum(len(example.ids) for example in examples))
    return progress


def _speed(run: TrainerRun, progress: Progress, log_of_step: dict[int, TrainerLog]) -> dict:
    """Return the speeds: medians over the steady steps, or the overall rates if there are few, and the overall rates."""
    size = run.job.settings.batch_size
    total_seconds = _total_seconds(run, log_of_step)
    samples_per_second = size * len(progress.tokens) / total_seconds
    tokens_per_second = sum(progress.tokens) / total_seconds
    speed = {
        "samples_per_second": samples_per_second,
        "tokens_per_second": tokens_per_second,
        "samples_per_second_overall": samples_per_second,
        "tokens_per_second_overall": tokens_per_second,
        "train_seconds": total_seconds,
    }
    steady = _steady_steps(progress, log_of_step)
    if len(steady) > SMOOTHED:
        speed["samples_per_second"] = size / statistics.median(seconds for _, seconds in steady)
        speed["tokens_per_second"] = statistics.median(tokens / seconds for tokens, seconds in steady)
    return speed


def _total_seconds(run: TrainerRun, log_of_step: dict[int, TrainerLog]) -> float:
    """Return the time of all steps, from the mean of the overall rates. Raises InputError if no log has such a rate."""
    settings = run.job.settings
    step_seconds = [settings.batch_size / log.overall_rate for log in log_of_step.values() if log.overall_rate]
    if not step_seconds:
        raise InputError(
            f"{run.model_dir}: no start of the Trainer made two steps, which a rate needs", "train more steps at once"
        )
    return settings.steps * statistics.fmean(step_seconds)


def _steady_steps(progress: Progress, log_of_step: dict[int, TrainerLog]) -> list[tuple[int, float]]:
    """Return tokens and seconds of the steps whose smoothed rate no longer holds the first one of their log."""
    steps = zip(progress.curve, progress.tokens, progress.seconds, strict=True)
    return [
        (tokens, seconds)
        for point, tokens, seconds in steps
        if point["step"] - min(log_of_step[point["step"]].losses) >= SMOOTHED
    ]


def _eval_loss(run: TrainerRun, losses: list[float]) -> float:
    """Return the mean loss over all answer tokens, in nats. The Trainer's own mean ignores how many tokens a batch has."""
    tokens = [
        sum(len(example.ids) - example.answer_start for example in batch) for batch in run.batches()["validation"]
    ]
    if len(losses) != len(tokens):
        raise InputError(f"{run.model_dir}: {len(losses)} of {len(tokens)} batches evaluated", "train again")
    loss = sum(loss * number for loss, number in zip(losses, tokens, strict=True)) / sum(tokens)
    check_finite_evaluation(loss)
    return loss
