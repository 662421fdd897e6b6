"""Choose the model to serve from the candidates of served.json, and say why.

Every candidate is compared on the same held-out windows with the dense model that was trained on the same texts, in the
first format. The choice has the lowest mean of the log perplexity ratios over the user's texts. Without such texts, it
has the lowest divergence from the dense model. Intervals are Student's over windows, and over repeats for speeds.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from scipy import stats

from sparseft.analysis.figures import MARK, SETTINGS
from sparseft.analysis.sentences import with_interval
from sparseft.analysis.statistics import mean_columns
from sparseft.axes.grid import DENSE, Run
from sparseft.axes.methods import get_method
from sparseft.axes.modes import get_mode
from sparseft.serving.settings import FIRST_LAYERS, SAMPLED, Wish
from sparseft.serving.ship_record import Served, ServedRecord

# The names of the dense model as it is, and trained on the same texts as the candidates.
AS_IS, TRAINED = "dense", "dense, trained on the same texts"


def label(name: str, model: str) -> str:
    """Return a candidate in words. `model` is the dense model."""
    if "-" not in name:
        return AS_IS if name == model else name
    run = Run.parse(name)
    if run.method == DENSE:
        return TRAINED if get_mode(run.mode).is_trained else AS_IS
    units = get_method(run.method).pattern.removes
    before = "" if run.model == model else f"{FIRST_LAYERS} % (layers) and "
    return f"pruned by {before}{run.sparsity} % ({units})"


def frontier(record: ServedRecord, wish: Wish, model: str) -> pd.DataFrame:
    """Return a row per candidate and format, the best first: its size, speeds, perplexities and divergence.

    The index is the place in `record.models`, where the dense model in the first format comes first. A speed is a
    multiple of its speed, repeat by repeat. A ratio is of the perplexity of the dense model that was trained on the
    same texts, in the first format."""
    labels = [label(served.name, model) for served in record.models]
    dense_speeds, trained = _speeds(record.models[0]), _said(record, labels.index(TRAINED))
    rows = []
    for place, (candidate, served) in enumerate(zip(labels, record.models, strict=True)):
        row: dict[str, Any] = {"candidate": candidate, "format": served.format, "name": served.name}
        row |= {"bytes": served.bytes, "peak_memory_bytes": max(use.peak_memory_bytes for use in served.uses)}
        for kind, speeds in _speeds(served).items():
            row |= mean_columns(kind, speeds / dense_speeds[kind])
        said = _said(record, place)
        row |= mean_columns("divergence", np.array(record.dense_log_p) / record.tokens[SAMPLED] - said.pop(SAMPLED))
        for text, own in said.items():
            row[f"{text}_perplexity"] = float(np.exp(-own.mean()))
            row |= {key: np.exp(of) for key, of in mean_columns(f"{text}_ratio", trained[text] - own).items()}
        ratios = [np.log(row[f"{text}_ratio"]) for text in said]
        row |= {"task": served.task, "loss": float(np.mean(ratios)) if ratios else row["divergence"]}
        row["reaches"] = bool(row["speed"] >= wish.speed if wish.speed else row["bytes"] <= (wish.bytes or 0))
        rows.append(row)
    table = pd.DataFrame(rows)
    if table["reaches"].any():
        return table.sort_values(["reaches", "loss"], ascending=[False, True])
    # The nearest one comes first.
    return table.sort_values("speed" if wish.speed else "bytes", ascending=not wish.speed, kind="stable")


def _speeds(served: Served) -> dict[str, np.ndarray]:
    """Return the speeds of each repeat by column: of generated tokens with the prompt, of prompts, and of later tokens;
    NaN where these took too short a time."""
    names = ["tokens_per_second", "prompt_tokens_per_second", "decode_tokens_per_second"]
    repeats = pd.DataFrame([vars(use) | vars(use.loads[0]) for use in served.uses])[names].astype(float)
    return dict(zip(("speed", "prompt_speed", "decode_speed"), repeats.to_numpy().T, strict=True))


def _said(record: ServedRecord, place: int) -> dict[str, np.ndarray]:
    """Return the log-likelihood per token of each window by text, of a model by its place in the record."""
    log_likelihoods = record.models[place].log_likelihoods
    return {text: np.array(log_likelihoods[text]) / tokens for text, tokens in record.tokens.items()}


def _is_close(record: ServedRecord, place: int, other: int) -> bool:
    """Return whether 0 is in the 95 % interval of the difference of two models by what decides: the mean over texts of
    the log-likelihood per token. The degrees of freedom are those of the text with the fewest windows."""
    ours, theirs = _said(record, place), _said(record, other)
    texts = [text for text in ours if text != SAMPLED] or [SAMPLED]
    apart = [ours[text] - theirs[text] for text in texts]
    difference = np.mean([of_text.mean() for of_text in apart])
    error = np.sqrt(sum(of_text.var(ddof=1) / len(of_text) for of_text in apart)) / len(texts)
    return bool(abs(difference) <= stats.t.ppf(0.975, min(map(len, apart)) - 1) * error)


def sentences(table: pd.DataFrame, record: ServedRecord, wish: Wish) -> list[str]:
    """Return what to take, what was close, and what was not worth it."""
    first, *others = (row for _, row in table.iterrows())
    close, worse = [], []
    for place, row in zip(table.index[1:], others, strict=True):
        is_larger = row["bytes"] >= first["bytes"] and row["speed"] <= first["speed"] and row["loss"] > first["loss"]
        if row["reaches"] and _is_close(record, table.index[0], place):
            close.append(f"{titled(row)} ({described(row)})")
        elif is_larger and row["candidate"] not in (AS_IS, TRAINED):
            worse.append(titled(row))
    wished = f"x {wish.speed:g} of the dense model's speed" if wish.speed else f"{wish.bytes:,.0f} bytes"
    begin = "Take the model" if first["candidate"] not in (AS_IS, TRAINED) else "Do not prune: take"
    if not first["reaches"]:
        begin = f"No candidate reaches {wished}. The nearest is"
    second = f"Close, without a significant difference on these windows: {'; '.join(close)}."
    if not close:
        next_best = [f"; the next is {titled(row)}, {described(row)}" for row in others[:1] if row["reaches"]]
        second = f"Nothing else that reaches {wished} is as good{''.join(next_best)}."
    third = f"Not worth it, because larger, slower and worse: {'; '.join(worse)}."
    return [
        f"{begin} {titled(first)}: {described(first)}.",
        *[second] * bool(first["reaches"]),
        third if worse else "No pruned candidate is larger, slower and worse.",
    ]


def titled(row: pd.Series) -> str:
    """Return a candidate with its format."""
    return " in ".join(filter(None, (row["candidate"], row["format"])))


def described(row: pd.Series) -> str:
    """Return the size, the speed and the quality of a candidate in words."""
    ratios = {name.removesuffix("_ratio"): with_interval(row, name) for name in row.filter(regex="_ratio$").index}
    parts = [
        f"{row['bytes'] / 1e6:,.0f} MB",
        f"x {with_interval(row, 'speed', '.2f')} of the speed of the dense model",
        *(
            f"x {ratio} of the perplexity of the equally trained dense model on {text}"
            for text, ratio in ratios.items()
        ),
        f"divergence {with_interval(row, 'divergence')}",
    ]
    if pd.notna(row["task"]):
        parts.append(f"task {row['task']:.3f}")
    return ", ".join(parts)


def draw(table: pd.DataFrame, wish: Wish, path: Path) -> None:
    """Draw the divergence of each candidate against its speed, or its size, with the wish as a line."""
    x = "speed" if wish.speed else "bytes"
    frame = table.replace({"format": {"": "own"}})
    apart = np.abs(table[["divergence_low", "divergence_high"]].sub(table["divergence"], axis=0)).T
    with matplotlib.rc_context(SETTINGS):
        panels = seaborn.relplot(frame, x=x, y="divergence", hue="candidate", style="format", s=60, height=4.2)
        panels.ax.errorbar(table[x], table["divergence"], apart, fmt="none", ecolor="0.6", zorder=0)
        panels.refline(x=wish.speed or wish.bytes)
        words = "speed, as a multiple of the dense model's" if wish.speed else "bytes"
        panels.set_axis_labels(words, "divergence from dense (nats per token)")
        panels.figure.savefig(path, format="png", metadata={"Software": MARK})
