"""Test the choice among served candidates beside plain numpy."""

import numpy as np
import pytest
from scipy import stats
from sparseft.analysis.frontier import frontier, sentences
from sparseft.serving.engine_record import EngineUse, LoadSpeed
from sparseft.serving.settings import Wish
from sparseft.serving.ship_record import Served, ServedRecord

RUN = "m-ship-structured_obs_on_ship-sparsity{}-full_sparse_to_sparse-seed0"
DENSE = "m-ship-dense-sparsity00-full_sparse_to_sparse-seed0"
# Name and format -> mean loss, bytes, and tokens per second.
MODELS = {
    ("m", "q8_0"): (3.0, 100, 10.0),
    ("m", "q4_k_m"): (3.1, 60, 13.0),
    (DENSE, "q8_0"): (2.5, 100, 10.0),
    (DENSE, "q4_k_m"): (2.6, 60, 13.0),
    (RUN.format(20), "q8_0"): (2.7, 80, 12.0),
    (RUN.format(20), "q4_k_m"): (2.8, 50, 15.0),
    (RUN.format(40), "q8_0"): (3.4, 65, 13.0),
    (RUN.format(40), "q4_k_m"): (3.5, 40, 17.0),
}
TOKENS, WINDOWS = 50, 12


@pytest.fixture(scope="module")
def record() -> ServedRecord:
    """Return measurements in which windows differ more than models."""
    draw = np.random.default_rng(0)
    easy, models = draw.normal(0, 0.5, WINDOWS), []
    for (name, kind), (loss, size, speed) in MODELS.items():
        of_text = {
            text: (-TOKENS * (loss + easy + draw.normal(0, 0.01, WINDOWS))).tolist() for text in ("sampled", "own")
        }
        load = LoadSpeed(at_once=1, prompt_tokens_per_second=speed, decode_tokens_per_second=speed)
        uses = [
            EngineUse(tokens_per_second=speed * own, first_token_seconds=1.0, loads=[load], clock="CPU", cpu_share=1.0,
                      peak_memory_bytes=1, peak_memory_kind="resident")
            for own in draw.normal(1, 0.01, 3)
        ]  # fmt: skip
        models.append(Served(name=name, format=kind, bytes=size, digest="x", uses=uses, log_likelihoods=of_text))
    return ServedRecord(
        engine="llama_cpp", version="1", threads=1, device="CPU", models=models,
        tokens=dict.fromkeys(("sampled", "own"), [TOKENS] * WINDOWS), dense_log_p=models[0].log_likelihoods["sampled"],
    )  # fmt: skip


@pytest.mark.parametrize(("wish", "name", "kind", "begin"), [
    (Wish(speed=1.25), DENSE, "q4_k_m", "Do not prune: take dense, trained on the same texts in q4_k_m"),
    (Wish(speed=1.45), RUN.format(20), "q4_k_m", "Take the model pruned by 20 % (channels) in q4_k_m"),
    (Wish(bytes=45), RUN.format(40), "q4_k_m", "Take the model pruned by 40 % (channels) in q4_k_m"),
    (Wish(bytes=10), RUN.format(40), "q4_k_m", "No candidate reaches 10 bytes. The nearest is pruned by 40 %"),
])  # fmt: skip
def test_the_best_that_fulfils_the_wish_is_chosen_or_the_nearest(record, wish, name, kind, begin):
    table = frontier(record, wish, "m")
    assert (table.name.iloc[0], table.format.iloc[0]) == (name, kind)
    said = sentences(table, record, wish)
    assert said[0].startswith(begin)
    # If nothing reaches the wish, nothing is close to it.
    assert len(said) == (3 if table.reaches.any() else 2)


def test_a_ratio_is_paired_over_windows_and_a_speed_over_repeats(record):
    table = frontier(record, Wish(speed=1.3), "m").set_index(["name", "format"])
    row = table.loc[RUN.format(20), "q8_0"]
    by_key = {(one.name, one.format): one for one in record.models}
    ours, theirs, dense = (by_key[key] for key in ((RUN.format(20), "q8_0"), (DENSE, "q8_0"), ("m", "q8_0")))
    apart = (np.array(theirs.log_likelihoods["own"]) - ours.log_likelihoods["own"]) / TOKENS
    half = stats.t.ppf(0.975, WINDOWS - 1) * apart.std(ddof=1) / WINDOWS**0.5
    expected = np.exp([apart.mean(), apart.mean() - half, apart.mean() + half])
    assert row[["own_ratio", "own_ratio_low", "own_ratio_high"]].astype(float).to_numpy() == pytest.approx(expected)
    speeds = [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours.uses, dense.uses, strict=True)]
    assert row.speed == pytest.approx(np.mean(speeds))
    assert row.divergence == pytest.approx(
        np.mean(np.array(record.dense_log_p) - ours.log_likelihoods["sampled"]) / TOKENS
    )


def test_what_is_larger_slower_and_worse_is_not_worth_it(record):
    wish = Wish(bytes=55)
    said = sentences(frontier(record, wish, "m"), record, wish)
    assert said[2] == ("Not worth it, because larger, slower and worse: pruned by 40 % (channels) in q8_0.")


def test_a_difference_weights_each_text_equally(record):
    """One of two candidates is better on the short text, and the other one, by less, on the long text."""
    first, second = RUN.format(20), RUN.format(40)
    means = {first: {"short": 2.6, "long": 2.8}, second: {"short": 2.9, "long": 2.55}}
    windows, draw = {"short": 8, "long": 16}, np.random.default_rng(1)

    def said(name: str) -> dict[str, list[float]]:
        losses = means.get(name, {"short": 3.5, "long": 3.5})
        return {text: (-TOKENS * draw.normal(losses[text], 0.001, windows[text])).tolist() for text in windows}

    models = [
        one.model_copy(update={"bytes": 50, "log_likelihoods": said(one.name) | {"sampled": [-1.0] * WINDOWS}})
        for one in record.models
        if one.format == "q8_0"
    ]
    tokens = {"sampled": [TOKENS] * WINDOWS, **{text: [TOKENS] * number for text, number in windows.items()}}
    changed = record.model_copy(update={"models": models, "tokens": tokens})
    table = frontier(changed, Wish(bytes=60), "m")
    assert table.name.iloc[:2].tolist() == [first, second]
    # Over all windows, the second one would be better, within a wide interval.
    assert sentences(table, changed, Wish(bytes=60))[1].startswith("Nothing else that reaches 60 bytes is as good; the")
