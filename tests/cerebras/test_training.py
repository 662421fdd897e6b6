"""Twenty steps on the package's CPU backend, beside the torch backend's."""

import json

import pytest
from runs import in_default_environment, trained
from tiny_models import PRUNABLE_LAYERS, TYPICAL

CASES = [
    f"{model}-{run}"
    for model in TYPICAL
    for run in ("dense-00-sparse_to_dense", "unstructured-50-sparse_to_dense", "unstructured-50-sparse_to_sparse")
]


@pytest.mark.parametrize("run", [*CASES, "llama-structured-50-sparse_to_sparse"])
def test_the_losses_are_the_torch_backend_s_and_the_adapter_merges_to_the_same_model(inputs, tmp_path, run):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    record = trained(inputs.train(ours, run, target="CPU"), ours)
    in_default_environment("train", *inputs.flags(theirs, run)[:-2])
    reference = json.loads((theirs / "train.json").read_text())
    for curve, loss, length in (("loss_curve", "loss", 20), ("eval_curve", "eval_loss", 2)):
        pairs = list(zip(record[curve], reference[curve], strict=True))
        assert len(pairs) == length
        assert max(abs(a[loss] - b[loss]) for a, b in pairs) < 1e-4
    rates = [[point["learning_rate"] for point in curve["loss_curve"]] for curve in (record, reference)]
    assert rates[0] == pytest.approx(rates[1], abs=1e-8)
    assert max(rates[0]) == pytest.approx(0.01)  # out of the warm-up
    assert record["updates"] == reference["updates"] == 19
    assert record["eval_loss"] == pytest.approx(reference["eval_loss"], abs=1e-4)
    assert (record["device"], record["dtype"]) == ("CSX software backend on CPU", "float32")
    assert record["cerebras"] == {
        "target": "CPU",
        "sequence_length": 256,
        "csx_micro_batch_size": "auto",
        "num_csx": 1,
    }
    for counted in ("trainable_parameters", "tokens"):
        assert record[counted] == reference[counted]
    assert not list(ours.glob("*.mdl"))
    fate = in_default_environment("follow", inputs.folder, ours, run, theirs)
    assert (fate["passed"], fate["violations"], fate["zero_factors"]) == (True, 0, 0)
    assert fate["layers_checked"] == PRUNABLE_LAYERS[run.split("-")[0]]
    assert fate["apart"] < 1e-2 < fate["moved"]
