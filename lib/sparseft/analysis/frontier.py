"""Choose the model to serve from the candidates of served.json, and say why.

Every candidate is compared on the same held-out windows with the dense model that was trained on the same texts, in the
first format. The choice has the lowest mean of the log perplexity ratios over the user's texts. Without such texts, it
has the lowest divergence from the dense model. Intervals are Student's over windows, and over repeats for speeds.
"""

from pathlib import Path
from typing import Any

import matplotlib

# pyplot would otherwise open a display.
matplotlib.use("Agg")

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from sparseft.analysis.figures import SETTINGS
from sparseft.analysis.statistics import mean_columns, mean_interval
from sparseft.export.served import SAMPLED
from sparseft.export.settings import FIRST_LAYERS, Wish
from sparseft.export.ship_record import Served, ServedRecord
from sparseft.grid import DENSE, Run
from sparseft.methods import get_method
from sparseft.modes import get_mode

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
    before = "" if run.model == model else f"{FIRST_LAYERS} % of the layers and "
    return f"{before}{run.sparsity} % of the {units}"


def frontier(record: ServedRecord, wish: Wish, model: str) -> pd.DataFrame:
    """Return a row per candidate and format, the best first: its size, speeds, perplexities and divergence.

    A speed is a multiple of that of the dense model in the first format, repeat by repeat. A ratio is of the perplexity
    of the dense model that was trained on the same texts, in the first format."""
    first = record.models[0].format
    labels = {served.name: label(served.name, model) for served in record.models}
    at = {(labels[served.name], served.format): served for served in record.models}
    dense, trained = at[AS_IS, first], at[TRAINED, first]
    tokens = {name: np.array(counts) for name, counts in record.tokens.items()}
    texts = [name for name in tokens if name != SAMPLED]
    rows = []
    for served in record.models:
        row: dict[str, Any] = {"candidate": labels[served.name], "format": served.format, "name": served.name}
        row |= {"bytes": served.bytes, "peak_memory_bytes": max(use.peak_memory_bytes for use in served.uses)}
        own, theirs = _speeds(served), _speeds(dense)
        for kind in own:
            row |= mean_columns(kind, own[kind] / theirs[kind])
        apart = (np.array(record.dense_log_p) - served.log_likelihoods[SAMPLED]) / tokens[SAMPLED]
        row |= mean_columns("divergence", apart)
        for text in texts:
            own, theirs = (np.array(one.log_likelihoods[text]) / tokens[text] for one in (served, trained))
            ratio = mean_columns(f"{text}_ratio", theirs - own)
            row |= {f"{text}_perplexity": float(np.exp(-own.mean()))} | {key: np.exp(of) for key, of in ratio.items()}
        ratios = [np.log(row[f"{text}_ratio"]) for text in texts]
        row |= {"task": served.task, "loss": float(np.mean(ratios)) if ratios else row["divergence"]}
        row["reaches"] = bool(row["speed"] >= wish.speed if wish.speed else row["bytes"] <= (wish.bytes or 0))
        rows.append(row)
    table = pd.DataFrame(rows)
    # If nothing reaches the wish, the nearest one comes first.
    nearest = -table["speed"] if wish.speed else table["bytes"]
    order = table["loss"] if table["reaches"].any() else nearest
    table = table.assign(order=order).sort_values(["reaches", "order"], ascending=[False, True]).drop(columns="order")
    return table.reset_index(drop=True)


def _speeds(served: Served) -> dict[str, np.ndarray]:
    """Return the speeds of each repeat by column: of generated tokens with the prompt, of prompts, and of later tokens;
    NaN where these took too short a time."""
    single = [use.loads[0] for use in served.uses]
    return {
        "speed": np.array([use.tokens_per_second for use in served.uses]),
        "prompt_speed": np.array([one.prompt_tokens_per_second for one in single]),
        "decode_speed": np.array([one.decode_tokens_per_second or np.nan for one in single]),
    }


def losses(record: ServedRecord, name: str, kind: str) -> np.ndarray:
    """Return the loss of a candidate on each window that decides, in nats per token."""
    served = next(one for one in record.models if (one.name, one.format) == (name, kind))
    texts = [text for text in record.tokens if text != SAMPLED] or [SAMPLED]
    return np.concatenate([-np.array(served.log_likelihoods[text]) / record.tokens[text] for text in texts])


def sentences(table: pd.DataFrame, record: ServedRecord, wish: Wish) -> list[str]:
    """Return what to take, what was close, and what was not worth it."""
    first, *others = table.to_dict("records")
    reaching = [row for row in others if row["reaches"]]
    own = losses(record, first["name"], first["format"])
    close = []
    for row in reaching:
        low, high = mean_interval(losses(record, row["name"], row["format"]) - own)
        if low <= 0 <= high:
            close.append(f"{titled(row)} ({described(row)})")
    worse = [row for row in others if all((row["bytes"] >= first["bytes"], row["speed"] <= first["speed"]))]
    worse = [row for row in worse if row["loss"] > first["loss"] and row["candidate"] not in (AS_IS, TRAINED)]
    wished = f"x {wish.speed:g} of the dense model's speed" if wish.speed else f"{wish.bytes:,.0f} bytes"
    begin = "Take" if first["candidate"] not in (AS_IS, TRAINED) else "Do not prune: take"
    if not first["reaches"]:
        begin = f"No candidate reaches {wished}. The nearest is"
    return [
        f"{begin} {titled(first)}: {described(first)}.",
        f"Close, and not told apart on these windows: {'; '.join(close)}."
        if close
        else f"Nothing else that reaches {wished} is as good.",
        f"Not worth it, because larger, slower and worse: {'; '.join(map(titled, worse))}."
        if worse
        else "No pruned candidate is larger, slower and worse.",
    ]


def titled(row: dict[str, Any]) -> str:
    """Return a candidate with its format."""
    return f"{row['candidate']}{' in ' if row['format'] else ''}{row['format']}"


def described(row: dict[str, Any]) -> str:
    """Return the size, the speed and the quality of a candidate in words."""
    texts = [name.removesuffix("_ratio") for name in row if name.endswith("_ratio")]
    parts = [f"{row['bytes'] / 1e6:,.0f} MB", f"x {interval(row, 'speed')} of the speed of the dense model"]
    parts += [
        f"x {interval(row, f'{text}_ratio', '.3f')} of the perplexity of the equally trained dense model on {text}"
        for text in texts
    ]
    parts.append(f"divergence {interval(row, 'divergence', '.3f')}")
    if row["task"] is not None and not pd.isna(row["task"]):
        parts.append(f"task {row['task']:.3f}")
    return ", ".join(parts)


def interval(row: dict[str, Any], column: str, form: str = ".2f") -> str:
    """Return a value with its 95 % interval, if it has one."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return f"{row[column]:{form}}" + ("" if pd.isna(low) else f" ({low:{form}} to {high:{form}})")


def draw(table: pd.DataFrame, wish: Wish, path: Path) -> None:
    """Draw the divergence of each candidate against its speed, or its size, with the wish as a line."""
    x, limit = ("speed", wish.speed) if wish.speed else ("bytes", wish.bytes or 0.0)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        frame = table.assign(format=table["format"].replace("", "own"))
        seaborn.scatterplot(frame, x=x, y="divergence", hue="candidate", style="format", s=60, ax=axes)
        apart = np.abs(table[["divergence_low", "divergence_high"]].sub(table["divergence"], axis=0)).T
        axes.errorbar(table[x], table["divergence"], apart, fmt="none", ecolor="0.6", zorder=0)
        axes.axvline(limit, color="0.4", linestyle="--")
        axes.set_xlabel("speed, as a multiple of the dense model's" if wish.speed else "bytes")
        axes.set_ylabel("divergence from dense (nats per token)")
        axes.legend(fontsize=7)
        figure.savefig(path, format="png", metadata={"Software": "SparseFT analysis"})
