"""What would otherwise pass as a result: a guess in the place of a tensor, a cut prompt, a proof of something else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.model_source import prepare_model
from sparseft.errors import InputError
from sparseft.evaluation.evaluate import evaluate
from sparseft.language_model.model import load_model
from sparseft.lora.adapter import read_adapter, write_adapter
from sparseft.lora.merge import merge
from sparseft.masks.mask_file import check_run, read_mask
from sparseft.masks.validation import validate
from sparseft.storage.adapter_files import adapter_digest
from sparseft.storage.atomic import atomic_folder
from sparseft.study.config import Model, Training
from sparseft.study.grid import Cell
from sparseft.tasks import BY_NAME
from tiny_models import change_json, save_tiny

from masks import compute_masks


def altered(folder, change) -> Checkpoint:
    """A tiny LLaMA whose tensors went through `change`."""
    file = save_tiny("llama", folder) / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return Checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_a_model_with_a_tensor_missing_is_not_filled_at_random(tmp_path, name):
    checkpoint = altered(tmp_path / "m", lambda weights: weights.pop(name))
    with pytest.raises(InputError, match=r"fit its config\.json"):
        load_model(checkpoint.folder, torch.device("cpu"))


def test_a_model_with_more_layers_on_disk_than_configured_is_refused(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(InputError, match=r"fit its config\.json"):
        load_model(folder, torch.device("cpu"))


def test_a_projection_with_a_bias_that_its_architecture_does_not_have_is_refused(tmp_path):
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}
    with pytest.raises(InputError, match="q_proj.bias is a bias.*LlamaForCausalLM"):
        prunable_layers(altered(tmp_path / "m", lambda weights: weights.update(bias)))


def test_a_model_is_not_computed_in_another_dtype_than_that_of_its_files(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    change_json(folder / "config.json", dtype="float16")
    with pytest.raises(InputError, match=r"m: .* is .*BF16, .*config\.json .*float16"):
        load_model(folder, torch.device("cpu"))
    change_json(folder / "config.json", dtype="bfloat16")
    mixed = altered(tmp_path / "mixed", lambda weights: weights.update({"model.norm.weight": torch.ones(32)}))
    with pytest.raises(InputError, match=r"model\.norm\.weight is .*F32, .*config\.json .*bfloat16"):
        load_model(mixed.folder, torch.device("cpu"))
    assert load_model(folder, torch.device("cpu"))[0].dtype == torch.bfloat16


def test_a_model_that_transformers_would_quantise_is_not_pruned_loaded_or_prepared(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    change_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    for use in (
        lambda: prepare_model(Model(source=f"path:{folder}"), tmp_path / "out"),
        lambda: compute_masks(Checkpoint(folder), "random", [50], seed=0),
        lambda: load_model(folder, torch.device("cpu")),
    ):
        with pytest.raises(InputError, match=r"m: config\.json has a quantization_config"):
            use()


def test_a_model_is_not_computed_as_another_class_than_the_architecture_that_it_is_pruned_as(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    change_json(folder / "config.json", model_type="mistral", sliding_window=4)
    with pytest.raises(InputError, match=r"m: config\.json names LlamaForCausalLM, .* MistralForCausalLM"):
        load_model(folder, torch.device("cpu"))


def test_a_config_json_that_transformers_refuses_is_refused_in_one_line(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    change_json(folder / "config.json", model_type="lllama")
    with pytest.raises(InputError, match=r"m: transformers refuses its config\.json \(.*lllama.*\); correct the key"):
        load_model(folder, torch.device("cpu"))


@pytest.mark.parametrize("method", ["unstructured", "structured", "semistructured", "random", "dense"])
@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"tie_word_embeddings": False},
                                    {"vocab_size": 300}, {"num_key_value_heads": 1}])  # fmt: skip
def test_no_mask_of_a_checkpoint_that_does_not_fit_its_config_json(tmp_path, method, change):
    folder = save_tiny("llama", tmp_path / "m")
    change_json(folder / "config.json", **change)
    with pytest.raises(InputError, match=r"m: .*config\.json: \d+ tensors "):
        compute_masks(Checkpoint(folder), method, [0 if method == "dense" else 50], seed=0)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize("method", ["random", "dense"])
def test_a_method_that_reads_no_weight_makes_no_mask_of_weights_that_are_no_numbers(tmp_path, method, name):
    checkpoint = altered(tmp_path / "m", lambda weights: weights[name].view(-1)[-1:].fill_(float("nan")))
    with pytest.raises(InputError, match=f"m: {name} .*NaN or infinity"):
        compute_masks(checkpoint, method, [0 if method == "dense" else 50], seed=0)


@pytest.mark.parametrize(("name", "fault"), [
    ("hellaswag_mini", r"^hellaswag_mini: validation .*choices: 2 of 4 .*512 .*number 2"),
    ("gsm8k_mini", r"^gsm8k_mini: validation .* 24 tokens .*: 2 of 4 .*512 .*number 2"),
    ("gsm8k", r"^gsm8k: .*worked examples .*256 tokens .*: 4 of 4 .*number 1"),
])  # fmt: skip
def test_prompts_longer_than_the_context_are_counted_and_refused_not_cut(tiny_llama, name, fault):
    mini = name if name.endswith("_mini") else f"{name}_mini"
    rows = {split: BY_NAME[mini].generate(split, 8 if split == "train" else 4, 0) for split in ("train", "validation")}
    long = "so " * 300  # 900 tokens for a context of 512
    for row in rows["validation"][1:3] if name == mini else ():
        if name == "hellaswag_mini":
            row["endings"][(row["label"] + 1) % 4] = long  # a wrong ending: the right one would fit
        else:
            row["question"] = long
    with pytest.raises(InputError, match=fault):
        evaluate(*load_model(tiny_llama.folder, torch.device("cpu")), BY_NAME[name], rows, 4)


def test_a_prompt_that_is_too_long_has_the_number_of_its_row_though_others_share_a_prompt(tiny_llama):
    rows = {split: BY_NAME["boolq_mini"].generate(split, 4, 0) for split in ("train", "validation")}
    first, _, _, last = rows["validation"]
    rows["validation"] = [first, first, first, {**last, "passage": "so " * 300}]
    fault = "boolq_mini: validation .*choices: 1 of 4 .*512 .*number 4"
    with pytest.raises(InputError, match=fault):
        evaluate(*load_model(tiny_llama.folder, torch.device("cpu")), BY_NAME["boolq_mini"], rows, 4)


def test_a_model_folder_with_an_adapter_in_it_is_not_opened_loaded_or_prepared(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
    fault = r"m/adapter_config\.json: .*adapter in a model folder"
    with pytest.raises(InputError, match=fault):
        Checkpoint(folder)
    with pytest.raises(InputError, match=fault):
        load_model(folder, torch.device("cpu"))
    with pytest.raises(InputError, match=fault):
        prepare_model(Model(source=f"path:{folder}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cannot_end_an_answer_is_refused(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    change_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(InputError, match="end-of-sequence.*eos_token"):
        load_model(folder, torch.device("cpu"))


def small_adapter(folder: Path) -> Path:
    """An adapter of one layer, r 2."""
    matrices = {"x": (torch.ones(2, 3), torch.ones(4, 2))}
    write_adapter(folder, matrices, Training(lora_r=2, lora_alpha=4.0), base="b", sparseft={})
    return folder


def change_config(adapter: Path, change: dict) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_an_adapter_with_another_alpha_is_another_adapter(tmp_path):
    adapter = small_adapter(tmp_path / "a")
    before = adapter_digest(adapter)
    change_config(adapter, {"lora_alpha": 40.0})
    assert adapter_digest(adapter) != before


@pytest.mark.parametrize("change", [{"r": 0}, {"r": 3}, {"lora_alpha": None}, {"lora_alpha": -1}, {"lora_alpha": True},
                                    {"fan_in_fan_out": True}, {"bias": "all"},
                                    {"init_lora_weights": "pissa"}, {"layer_replication": [[0, 1], [0, 1]]},
                                    {"alora_invocation_tokens": [3]}, {"a_later_variant": True}, {"sparseft": None}])  # fmt: skip
def test_an_adapter_whose_scale_or_form_is_unsound_is_refused(tmp_path, change):
    adapter = small_adapter(tmp_path / "a")
    change_config(adapter, change)
    with pytest.raises(InputError):
        read_adapter(adapter)


def test_a_model_file_in_the_place_of_an_adapter_is_refused(tmp_path, tiny_llama):
    adapter = small_adapter(tmp_path / "a")
    shutil.copy(tiny_llama.folder / "model.safetensors", adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match="something else than pairs"):
        read_adapter(adapter)


def test_the_same_mask_bits_from_another_base_prove_nothing(tmp_path, tiny_llama, tiny_models):
    mask = compute_masks(Checkpoint(tiny_models["mistral"]), "random", [50], seed=0)[50]
    merge(tiny_llama, mask, "m", None, tmp_path / "out")
    report = validate(Checkpoint(tmp_path / "out"), mask, base=tiny_llama)
    assert (report["passed"], report["mask_of_base"], report["violations"]) == (False, False, 0)


def test_a_mask_that_does_not_reach_what_it_says_is_refused(tmp_path, tiny_llama):
    mask = compute_masks(tiny_llama, "random", [50], seed=0)[50]
    ones = compute_masks(tiny_llama, "dense", [0], seed=0)[0]
    bits = {layer: torch.from_numpy(np.array(array)) for layer, array in ones.bits.items()}
    shape = {layer: list(shape) for layer, shape in mask.shape.items()}
    torch.save({"format_version": 1, "meta": mask.meta, "bits": bits, "shape": shape}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="damaged"):
        read_mask(tmp_path / "m.pt")


def test_a_run_takes_no_mask_of_another_method_or_sparsity(tiny_llama):
    mask = compute_masks(tiny_llama, "random", [50], seed=0)[50]
    check_run(mask, "m.pt", Cell("llama", "boolq", "random", 50, "no_finetune"))
    for method, sparsity in (("random", 70), ("unstructured", 50)):
        with pytest.raises(InputError, match="a mask of random at 0.5"):
            check_run(mask, "m.pt", Cell("llama", "boolq", method, sparsity, "no_finetune"))


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="would be lost"), atomic_folder(tmp_path, "model"):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
