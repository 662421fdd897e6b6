"""Compute each field of a study's tables again from its records, without the library (docs/statistics.md has the
formulas).

recompute.py RESULTS_FOLDER prints each field that differs or is in an unknown column, and then exits with 1."""

import hashlib
import json
import sys
from itertools import permutations
from math import isclose, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.stats import norm
from scipy.stats import t as student

METHODS = ["dense", "unstructured", "structured", "random", "unstructured_wanda", "unstructured_sparsegpt"]
KEYS = ["study", "model", "task", "metric", "method", "sparsity", "mode", "setting", "training"]
PLACE, CELL = KEYS[:4], KEYS[:8]
OF_TRAINING = ["train_seconds", "samples_per_second", "tokens_per_second", "peak_memory_bytes", "device"]
SELECTED = ["selection_value", "selection_eval_loss", "selection_examples"]
DIFFERENCE = ["difference", "difference_low", "difference_high", "p_value"]
STEP = ["sparse_to_sparse", "sparse_to_dense"]
DIVERGENCE = ["divergence", "divergence_standard_error", "divergence_low", "divergence_high", "same_top_tokens"]
SIDES = np.array([-1, 1])


class Scores:
    """Hold the answers of a cell's models: outcomes, or, with `tokens`, losses per token, linearised by example."""

    def __init__(self, rows, seeds=(), tokens=None):
        self.seeds, self.is_loss, self.answers = seeds, tokens is not None, np.array(rows, float)
        if self.is_loss:
            for answers, ratio in zip(self.answers, [sum(row) / sum(tokens) for row in rows], strict=True):
                answers[:] = ratio + (answers - ratio * np.array(tokens)) / np.mean(tokens)
        # Examples are added to outcomes only.
        self.adds = 0 if self.is_loss else 1
        self.means = [np.mean(column) for column in self.answers.T]
        self.value = np.mean(self.means)
        self.variance = np.mean([np.var([*row, *[0, 0, 1, 1] * self.adds]) for row in self.answers])
        self.factor = self.variance / len(seeds) if seeds else 0

    def pool(self, cells):
        square = noise = unit = self.degrees = 0
        for cell in (cell for cell in cells if len(cell.seeds) > 1):
            weight, effects = 1 / cell.variance if cell.is_loss else 1, [row - cell.means for row in cell.answers]
            square += weight * sum(np.mean(row) ** 2 for row in effects)
            noise += weight * sum(np.var(row, ddof=1) / len(row) for row in effects)
            unit += weight * cell.variance * (len(effects) - 1)
            self.degrees += len(effects) - 1
        self.square, self.excess = (square / unit, max(square - noise, 0) / unit) if unit else (0, 0)

    def total(self, values, factor, of_examples=None):
        """Return the mean of values, its variance because of examples and seeds, the degrees of freedom, and their
        t."""
        degrees = np.inf if of_examples else len(values) - 1
        of_examples = of_examples or np.var(values, ddof=1) / len(values)
        variance = of_examples + factor * self.excess
        if self.degrees:
            parts = of_examples**2 / degrees + (factor * self.square) ** 2 / self.degrees
            degrees = max(variance**2 / parts if parts else np.inf, min(degrees, self.degrees))
        return np.mean(values), variance, degrees, student.ppf(0.975, degrees)

    def interval(self):
        if self.is_loss:
            value, variance, _, t = self.total(self.means, self.factor)
            return value + SIDES * t * sqrt(variance)
        smoothed, p = [*self.means, 0, 0, 1, 1], self.value
        center, variance, _, z = self.total(smoothed, self.factor, np.var(smoothed) / len(self.means))
        n = center * (1 - center) / variance
        return (p + z**2 / (2 * n) + SIDES * z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))) / (1 + z**2 / n)

    def minus(self, other):
        pairs, bound = [*np.subtract(self.means, other.means), *[1, -1] * self.adds], np.inf if self.is_loss else 1
        center, variance, degrees, t = self.total(pairs, self.factor + other.factor)
        low, high = np.clip(center + SIDES * t * sqrt(variance), -bound, bound)
        p_value = 2 * student.sf(abs(center) / sqrt(variance), degrees) if center else 1
        observed = pairs[: len(self.means)]
        self.deviation, self.is_equal = np.std(observed, ddof=1), not np.any(observed)
        return self.value - other.value, low, high, p_value


def scores_of(records, seeds=()):
    loss = Scores([one["losses"] for one in records], seeds, records[0]["answer_tokens"])
    parts = {f"probe_{name}": [one["probes"][name] for one in records] for name in records[0].get("probes", {})}
    parts |= {"value": records} if records[0]["outcomes"] else {}
    outcomes = {name: Scores([one["outcomes"] for one in part], seeds) for name, part in parts.items()}
    if windows := [one["divergences"] for one in records if one.get("divergences")]:
        outcomes["divergence"] = Scores(windows, seeds, np.ones(len(windows[0])))
    return {"eval_loss": loss, "value": loss} | outcomes


def same(ours, theirs, *names):
    return all(ours[name] == theirs[name] for name in names)


def read_run(folder):
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    after, proof, train = files["evaluation"], files["validation_report"], files.get("train", {})
    *cell, seed = folder.name.split("-")
    run = dict(zip(["model", "task", "method", "sparsity", "mode", "training"], [*cell, ""], strict=False))
    run |= {"study": folder.parents[1].name, "run_id": folder.name, "seed": int(seed[4:]), "sparsity": int(cell[3][8:])}
    run |= {name: after[name] for name in ("metric", "examples", "chance")} | after["metrics"]
    run |= {name: scores.value for name, scores in scores_of([after]).items()} | {"setting": "", "after": after}
    run |= {f"overlap_{name}": part["overlap"] for name, part in after["probes"].items()}
    run["standard_error"] = np.std(scores_of([after])["value"].means, ddof=1) / sqrt(after["examples"])
    pruned, weights = (sum(layer[name] for layer in proof["layers"]) for name in ("pruned", "weights"))
    if windows := after.get("divergences"):
        error = np.std(windows, ddof=1) / sqrt(len(windows))
        run |= {"divergence_standard_error": error, "same_top_tokens": after["same_top_tokens"]}
    run |= {"reached_sparsity": 100 * pruned / weights, "validation_overlap": after["overlap"]}
    run |= {"parameters": proof["parameters"], "model_bytes": proof["bytes"]}
    channels = sum(row["pruned"] for row in proof["layers"]) if proof["mask"]["method"].startswith("structured") else 0
    run["parameters_left"] = proof["parameters"] - channels
    is_sound = proof["passed"] and not proof["not_checked"]
    if train:
        losses = [step["loss"] for step in train["loss_curve"]][-max(1, len(train["loss_curve"]) // 10) :]
        run |= {name: train[name] for name in OF_TRAINING} | {"training_tokens": train["tokens"]}
        run["value_before_merge"] = files["before_merge"]["value"]
        run["train_merge_gap"] = run["eval_loss"] - scores_of([files["before_merge"]])["eval_loss"].value
        run["train_loss"], train["lora_targets"] = np.mean(losses), ", ".join(train["lora_targets"])
    if choice := files.get("selection"):
        values = {name: scores.value for name, scores in scores_of([choice]).items()} | {"examples": choice["examples"]}
        run |= {f"selection_{name}": value for name, value in values.items()}
    # A column of settings.csv names a place.
    listing = [f"{digest}  {name}\n" for name, digest in sorted(files["merge"]["outputs"].items())]
    run["merged"] = hashlib.sha256("".join(listing).encode()).hexdigest() if listing[1:] else listing[0].split()[0]
    digests = files["merge"]["inputs"] | {name: after["inputs"][name] for name in ("data", "train")}
    digests |= {"base": digests["model"], "merged": run["merged"], "definition": after["definition_sha256"]}
    places = {"evaluation": after, "masks": {run["method"]: proof["mask"]}, "version": train.get("versions", {})}
    shared = {name: train[name] for name in ("backend", "dtype", "inputs") if train}
    places |= {"sha256": digests, "training": shared | {run["training"]: train} if run["training"] else train}
    return run | pd.json_normalize(places).iloc[0].to_dict() | {"status": "sound" if is_sound else "not sound"}


def pool(runs, order):
    cells = []
    for first in {tuple(run[name] for name in KEYS): run for run in runs}.values():
        models = {run["merged"]: run for run in runs if same(run, first, *KEYS)}.values()
        cell = first | pd.DataFrame(models).mean(numeric_only=True).to_dict() | {name: first[name] for name in KEYS}
        seeds = [run["seed"] for run in models if cell["mode"] != "no_finetune"]
        cell["task_mode"] = cell["mode"] != "no_finetune"
        cell |= {"scores": scores_of([run["after"] for run in models], seeds), "seeds": len(models)}
        cell["gain"] = -1 if cell["metric"] == "loss" else 1
        value, loss = (round(cell.get(name) or 0, 12) for name in SELECTED[:2])
        cells.append(cell | {"rank": [cell["gain"] * value, -loss, -order.index(cell["training"])]})
    for cell in cells:
        *worse, best = sorted((one for one in cells if same(one, cell, *CELL)), key=lambda one: one["rank"])
        cell |= {"trainings_tried": len(worse) + 1, "chosen": cell is best}
        if worse and cell is best:
            cell["decided_by"] = ["value", "loss", "order"][np.argmax(np.not_equal(best["rank"], worse[-1]["rank"]))]
    for cell in cells:
        others = [one for one in cells if same(one, cell, *PLACE) and one["chosen"]]
        for name, scores in cell["scores"].items():
            scores.pool([one["scores"][name] for one in others])
            cell[f"{name}_low"], cell[f"{name}_high"] = scores.interval()
        cell["guesses"] = cell["value_low"] <= max(cell["chance"] or 0, cell.get("majority_floor", 0))
    return cells


def compare(cells, options):
    rows, methods = [], {cell["method"] for cell in cells} - {"dense"}
    asked = options.get("compare") or ["dense", "untuned", "modes", *(["methods"] if len(methods) <= 4 else [])]
    against = options.get("against") or ("random" if "methods" not in asked and "random" in methods else None)
    for ours, theirs in permutations([cell for cell in cells if cell["chosen"]], 2):
        is_mask, modes = same(ours, theirs, "method", "sparsity"), [ours["mode"], theirs["mode"]]
        is_pair = not is_mask and same(ours, theirs, "sparsity", "mode")
        answers = {
            "dense": ours["method"] != "dense" == theirs["method"] and (modes == STEP or same(ours, theirs, "mode")),
            "untuned": is_mask and modes[1] == "no_finetune",
            "modes": is_mask and modes == STEP,
            "methods": is_pair and METHODS.index(ours["method"]) < METHODS.index(theirs["method"]),
            "against": is_pair and theirs["method"] == against,
        }
        for question in [name for name in [*asked, "against"] if answers[name] and same(ours, theirs, *PLACE)]:
            is_model = ours["task_mode"] or theirs["task_mode"]
            left_out = {"eval_loss": ours["metric"] == "loss", "divergence": is_model}
            for name, mine in ours["scores"].items():
                if left_out.get(name):
                    continue
                found = mine.minus(theirs["scores"][name])
                row = ours | {f"against_{key}": value for key, value in theirs.items()} | {"question": question}
                row |= {"value": ours[name], "against_value": theirs[name], "examples": len(mine.means)}
                row |= {"measure": name, "deviation": mine.deviation, "is_equal": mine.is_equal}
                row |= {"metric": name, "measure": "value"} if name.startswith("probe_") else {}
                rows.append(row | dict(zip(DIFFERENCE, found, strict=True)))
    for row in rows:
        tests = [one for one in rows if same(one, row, "question", *PLACE)]
        family = sorted(one["p_value"] for one in tests)
        is_dense, of_value = row["question"] == "dense", row["measure"] == "value"
        p = max([p * (len(family) - rank) for rank, p in enumerate(family) if p <= row["p_value"]], default=1)
        row |= {"p_holm": min(1, p), "comparisons": len(family)}
        told, tolerance = p < 0.05, options.get("tolerance", 0.02)
        row["verdict"] = "lower" if told and (not is_dense or row["measure"] != "divergence") else "not told apart"
        if row["is_equal"]:
            row["verdict"] = "equal here"
        if is_dense and of_value and row["metric"] != "loss" and row["difference_low"] > -tolerance:
            row["verdict"] = "within"
        if told and row["difference"] > 0:
            row["verdict"] = "higher"
        if is_dense and of_value and row["metric"] == row["against_metric"] and row["against_guesses"]:
            row["verdict"] = "dense guesses"
        z = norm.isf(0.025 / max(1, len(family)))
        row["rows_needed"] = ((z + norm.ppf(0.8)) * row["deviation"] / tolerance) ** 2 + z**2 / 2
        row["rows_needed"] = np.nan if row["is_equal"] else row["rows_needed"]
    return rows


def curve(cell, rows):
    own = {row["question"]: row for row in rows if same(row, cell, *KEYS) and row["measure"] == "value"}
    dense, untuned = own.get("dense", {}), own.get("untuned", {})
    point = cell | {name: dense.get(name) for name in [*DIFFERENCE, "verdict"]}
    point |= {"dense_value": dense.get("against_value"), "untuned_value": untuned.get("against_value")}
    return point


def differing(path, rows, keys):
    expected = {tuple(str(row[key]) for key in keys): row for row in rows}
    known = {"perplexity_overlap", "obstacle", "decided_by", *SELECTED, *DIVERGENCE}.union(*rows)
    for line in pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"):
        row = expected.pop(tuple(line[name] for name in keys), {})
        for name, text in line.items():
            value = row.get(name) if name in known else "a column without a definition"
            value = "" if pd.isna(value) else str(value)
            if text != value and not isclose(*pd.to_numeric([text, value], errors="coerce"), abs_tol=1e-9):
                yield f"{path.name} {'/'.join(line[key] for key in keys)} {name}: {text!r} is {value!r}"
    yield from (f"{path.name} {'/'.join(key)}: no such row" for key in expected)


def differences(results):
    config = yaml.safe_load((results / "analysis/configuration.yaml").read_text())
    runs = [read_run(path) for path in sorted((results / "runs").iterdir())]
    cells = pool(runs, ["", *config["grid"].get("trainings", [])])
    rows = compare(cells, config.get("analysis", {}))
    for run in runs:
        run["chosen"] = any(cell["chosen"] for cell in cells if same(cell, run, *KEYS))
    tables = {"summary": (runs, ["run_id"]), "settings": (runs, ["run_id"]), "grouped_summary": (cells, KEYS)}
    tables |= {"comparisons": (rows, [*KEYS, "question", "measure", "against_method", "against_mode"])}
    tables |= {"sparsity_vs_performance": ([curve(cell, rows) for cell in cells if cell["chosen"]], KEYS)}
    return [line for name in tables for line in differing(results / f"analysis/{name}.csv", *tables[name])]


if __name__ == "__main__":
    sys.exit("\n".join(differences(Path(sys.argv[1]))) or 0)
