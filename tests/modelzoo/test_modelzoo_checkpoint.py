"""Read ModelZoo's checkpoints as Hugging Face's, and back: a real conversion by ModelZoo 2.10.0, and our own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from project import read_record
from sparseft.axes.architectures import tensor_shapes
from sparseft.axes.grid import PassFiles
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.mdl import MdlFile, mdl_writer
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.modelzoo_checkpoint import ModelZooCheckpoint, Place, open_checkpoint, places
from sparseft.models.checkpoints.settings import Model
from sparseft.pruning.mask_generator import compute_masks
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.masks.validation import validate
from sparseft.storage.bits import pack
from sparseft.storage.hashes import sha256
from sparseft.training.lora.merge import merge
from sparseft.training.trainers.modelzoo.export import CHECKPOINT, CONFIGURATION, export_modelzoo
from tiny_models import MODELS as CLASSES
from tiny_models import change_json, save_tiny

from masks import pass_of

pytestmark = pytest.mark.process
FIXTURES = Path(__file__).parents[3] / "shared/fixtures/modelzoo"
HF, CS = FIXTURES / "llama_gqa/hf", FIXTURES / "llama_gqa/cs" / CHECKPOINT
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="needs the developers' folder ../shared")
MODELS = {
    "LLaMA, multi-head": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "LLaMA, grouped, tied": ("llama", {}),
    "Mistral": ("mistral", {}),
    "Mixtral": ("mixtral", {}),
}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@pytest.fixture
def exported(tmp_path, tiny_llama) -> Path:
    export_modelzoo(tiny_llama, None, tmp_path / "cs")
    return tmp_path / "cs" / CHECKPOINT


def mask_files(checkpoint: Checkpoint, method: str, folder: Path, percents: tuple = (30, 50), **settings) -> list[Path]:
    paths = [folder / f"{percent}.pt" for percent in percents]
    files = PassFiles(paths, folder / f"report_{method}.json")
    compute_masks(pass_of(checkpoint, method, list(percents), files, Masks(**settings)))
    return paths


@needs_fixtures
def test_what_modelzoo_converted_reads_as_the_original():
    original, converted = Checkpoint(HF), open_checkpoint(Path(f"{CS}@{HF}"))
    assert converted.tensors.keys() == original.tensors.keys()
    assert len(original.tensors) == 21
    for name, tensor in original.tensors.items():
        assert (converted.tensors[name].dtype, converted.tensors[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(converted.read(name), original.read(name), name)


@pytest.mark.parametrize(
    ("model", "dtype"), [*((model, "bfloat16") for model in MODELS), ("Mistral", "float16"), ("Mixtral", "float32")]
)
def test_hugging_face_to_modelzoo_and_back_is_the_same_file(tmp_path, model, dtype):
    name, changes = MODELS[model]
    original = Checkpoint(save_tiny(name, tmp_path / "hf", DTYPES[dtype], changes))
    export_modelzoo(original, None, tmp_path / "cs")
    converted = open_checkpoint(tmp_path / "cs" / CHECKPOINT)
    assert converted.digest == original.digest
    prepare_model(Model(source=f"mdl:{tmp_path}/cs/{CHECKPOINT}", dtype=dtype), tmp_path / "back")
    assert sha256(tmp_path / "back/model.safetensors") == sha256(tmp_path / "hf/model.safetensors")
    assert Checkpoint(tmp_path / "back").digest == converted.digest
    assert Checkpoint(tmp_path / "back").config == original.config
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (tmp_path / "hf/tokenizer.json").read_bytes()


def test_an_export_records_its_model_its_mask_and_its_files_and_has_modelzoo_s_configuration(tmp_path, tiny_llama):
    path = mask_files(tiny_llama, "unstructured", tmp_path)[1]
    export_modelzoo(tiny_llama, path, tmp_path / "cs")
    report = read_record(tmp_path / "cs/export.json")
    assert report["inputs"]["model"] == tiny_llama.digest
    assert report["mask"]["reached"] == 0.5
    assert set(report["outputs"]) == {CHECKPOINT, CONFIGURATION}
    section = yaml.safe_load((tmp_path / "cs" / CONFIGURATION).read_text())["model"]
    asked = {"name": "llama", "hidden_size": 32, "num_heads": 4, "filter_size": 48, "rotary_dim": 8,
             "attention_module": "multiquery_attention", "extra_attention_params": {"num_kv_groups": 2},
             "share_embedding_weights": True, "layer_norm_epsilon": 1e-6, "rope_theta": 10000.0}  # fmt: skip
    assert asked.items() <= section.items()


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_blocks_end_where_heads_end(tmp_path, tiny_models, monkeypatch, name):
    """Blocks have 3 rows of 32, but whole heads of 8 in q and k, in both directions and in masks."""
    for module in ("training.trainers.modelzoo.export", "models.checkpoints.rewriting"):
        monkeypatch.setattr(f"sparseft.{module}.BLOCK", 100)
    original = Checkpoint(tiny_models[name])
    path = mask_files(original, "unstructured", tmp_path)[1]
    merge(original, read_mask(path), sha256(path), None, tmp_path / "pruned")
    export_modelzoo(original, path, tmp_path / "cs")
    exported, pruned = open_checkpoint(tmp_path / "cs" / CHECKPOINT), Checkpoint(tmp_path / "pruned")
    assert exported.digest == pruned.digest
    for name in exported.tensors:
        np.testing.assert_array_equal(exported.read(name), pruned.read(name), name)
    q = "model.layers.0.self_attn.q_proj.weight"
    assert [block.size for block in exported.read_blocks(q, 100)] == [8 * 32] * 4
    assert [block.size for block in exported.read_blocks(q.replace("q_proj", "v_proj"), 100)] == [3 * 32] * 5 + [32]
    place, kept = places(original.config, exported.shapes)[q], read_mask(path).kept(q.removesuffix(".weight"))
    found = exported.mdl.read(exported.mdl.tensors[f"model.model.{place.key}_mask"])
    np.testing.assert_array_equal(found, place.to_modelzoo(kept))


def test_a_masked_export_is_proved_sparse_and_a_mask_in_other_coordinates_is_found_out(tmp_path, tiny_llama):
    path = mask_files(tiny_llama, "unstructured", tmp_path)[1]
    export_modelzoo(tiny_llama, path, tmp_path / "cs")
    exported, mask = open_checkpoint(tmp_path / "cs" / CHECKPOINT), read_mask(path)
    report = validate(exported, mask, base=tiny_llama)
    assert (report["passed"], report["layers_checked"], report["tensors_outside_changed"]) == (True, 14, [])
    layer = "model.layers.1.self_attn.k_proj"
    permuted = replace(mask, bits=mask.bits | {layer: pack(Place("", head_dim=8).to_modelzoo(mask.kept(layer)))})
    found = validate(exported, permuted)
    assert not found["passed"]
    assert {row["layer"] for row in found["layers"] if row["violations"]} == {layer}


def rewritten(source: Path, path: Path, change) -> ModelZooCheckpoint:
    """Write an .mdl file again, with its tensors, key -> (dtype, values), after `change`. Return it as a checkpoint."""
    old = MdlFile(source)
    tensors = {key.removeprefix("model."): (tensor.dtype, old.read(tensor)) for key, tensor in old.tensors.items()}
    change(tensors)
    with mdl_writer(path) as writer:
        for key, (dtype, values) in tensors.items():
            writer.create(key, dtype, values.shape)
            writer.write(key, (), values)
    return ModelZooCheckpoint(source.parent, path)


def changed(key: str, change):
    """Return a change of one tensor. `change` maps its dtype and values to others."""
    return lambda tensors: tensors.update({key: change(tensors[key][0], tensors[key][1].copy())})


Q = "model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer"
FAULTS = {
    "a tensor less": (lambda t: t.pop(f"{Q}.weight"),
                      "1 tensors missing .first: transformer_decoder.layers.0.self_attn"),
    "another dtype": (changed(f"{Q}.weight", lambda d, v: ("I64", v.astype("i8"))), "is in none of BF16, F16, F32"),
    "an untied head": (changed("model.lm_head.weight", lambda d, v: (d, v + 1)),
                       r"lm_head\.weight is not embedding_layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_of_another_model_is_refused(tmp_path, exported, name):
    change, message = FAULTS[name]
    checkpoint = rewritten(exported, tmp_path / "x.mdl", change)
    with pytest.raises(InputError, match=message) as caught:
        _ = checkpoint.tensors
    assert "config.json" in str(caught.value)


def test_the_configuration_of_another_folder_can_be_named(tmp_path, exported, tiny_llama):
    # The copy stores a tied tensor twice, which is as good.
    alone = rewritten(exported, tmp_path / "alone.mdl", lambda tensors: None).file
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        _ = open_checkpoint(alone).tensors
    assert open_checkpoint(Path(f"{alone}@{tiny_llama.folder}")).digest == tiny_llama.digest


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "gelu"), ("rope_scaling", {"rope_type": "linear", "factor": 2.0})]
)
def test_a_model_without_a_counterpart_is_not_exported(tmp_path, key, value):
    folder = save_tiny("llama", tmp_path / "hf")
    change_json(folder / "config.json", **({"rope_parameters": None} if key == "rope_scaling" else {}), **{key: value})
    with pytest.raises(InputError, match="cannot be translated"):
        export_modelzoo(Checkpoint(folder), None, tmp_path / "cs")
    assert not (tmp_path / "cs").exists()


LAYER = "transformer_decoder.layers.1."
# As ModelZoo 2.10.0's own Mixtral calls its parameters, without the leading "model.". Nothing else compares them.
PLACES = {
    "self_attn.q_proj": Place(f"{LAYER}self_attn.proj_q_dense_layer.weight", head_dim=8),
    "block_sparse_moe.gate": Place(f"{LAYER}ffn.gate.weight"),
    "block_sparse_moe.experts.3.w1": Place(
        f"{LAYER}ffn.experts.fused_ffns.0.linear_layer_for_glu.expert_weights", expert=3
    ),
    "block_sparse_moe.experts.3.w3": Place(f"{LAYER}ffn.experts.fused_ffns.0.linear_layer.expert_weights", expert=3),
    "block_sparse_moe.experts.3.w2": Place(f"{LAYER}ffn.experts.fused_ffns.1.linear_layer.expert_weights", expert=3),
}


def test_a_mixture_has_the_names_that_modelzoo_gives_it():
    config = CLASSES["mixtral"][1].to_dict() | {"architectures": ["MixtralForCausalLM"]}
    found = places(config, tensor_shapes(config, "here"))
    assert {layer: found[f"model.layers.1.{layer}.weight"] for layer in PLACES} == PLACES


def test_two_heads_by_hand():
    rows = np.array([[0], [1], [2], [3], [10], [11], [12], [13]])
    place = Place("", head_dim=4)
    assert place.to_modelzoo(rows).ravel().tolist() == [0, 2, 1, 3, 10, 12, 11, 13]
    assert np.array_equal(place.to_hugging_face(place.to_modelzoo(rows)), rows)
