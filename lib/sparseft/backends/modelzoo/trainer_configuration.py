"""The configuration that ModelZoo's Trainer gets for a run, from the settings of the study and the model's config.json.

The Trainer refuses other keys: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/trainer/. The callbacks
MaskedLora, FrozenBaseSparsity and LastCheckpoint are this project's (callbacks.py). `cszoo` does not know them, but
workflow/scripts/run_modelzoo.py does.
"""

from pathlib import Path

from transformers import AutoConfig

from sparseft.architectures import find_architecture
from sparseft.errors import InputError
from sparseft.study.backends.cerebras import CerebrasJob
from sparseft.training.job import TrainingJob

# Of AdamW. ModelZoo adds it before the bias of the second moment is corrected, and torch adds it after that.
EPS = 1e-8
# The keys of the section `model:` that are the same for every model.
FIXED = {
    "position_embedding_type": "rotary",
    "nonlinearity": "swiglu",
    "norm_type": "rmsnorm",
    "attention_type": "scaled_dot_product",
    "use_bias_in_output": False,
    "use_ffn_bias": False,
    "use_ffn_bias_in_attention": False,
    "use_projection_bias_in_attention": False,
    "embedding_dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "dropout_rate": 0.0,
    "loss_scaling": "num_tokens",
}


def model_section(folder: Path) -> dict:
    """Return the `model:` section of a trainer configuration, for the model in a Hugging Face folder.

    The keys are those of src/cerebras/modelzoo/models/nlp/gpt2/gpt2_model.py, which is also the model of LLaMA, Mistral and
    Mixtral. Earlier releases know these keys too. Release 2.6 refuses two more that the converter writes: norm_first and
    use_ff_layer1_dropout.

    Raises InputError for an activation or a scaling of the rotary embedding that ModelZoo does not have."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    rope = config.rope_parameters
    for name, value, known in (("hidden_act", config.hidden_act, "silu"), ("rope_type", rope["rope_type"], "default")):
        if value != known:
            raise InputError(
                f"{folder / 'config.json'}: {name} {value} cannot be translated", f"use a model with {name} {known}"
            )
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    section = {
        "name": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "filter_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "layer_norm_epsilon": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "rope_theta": rope["rope_theta"],
        "share_embedding_weights": config.tie_word_embeddings,
        "rotary_dim": head_dim,
        "attention_module": "aiayn_attention",
        **FIXED,
    }
    if head_dim * config.num_attention_heads != config.hidden_size:
        section["attention_inner_dim"] = head_dim * config.num_attention_heads
    if config.num_key_value_heads != config.num_attention_heads:
        section["attention_module"] = "multiquery_attention"
        section["extra_attention_params"] = {"num_kv_groups": config.num_key_value_heads}
    if window := getattr(config, "sliding_window", None):
        section["attention_sliding_window_length"] = window
    if find_architecture(config.architectures, config.name_or_path).experts:
        section["moe"] = {
            "num_experts": config.num_local_experts,
            "top_k": config.num_experts_per_tok,
            # transformers adds this loss only if the router's logits are part of the output.
            "load_balancing_loss_coef": config.router_aux_loss_coef if config.output_router_logits else 0.0,
            # The implementation with stacked experts, as in checkpoints/modelzoo_checkpoint.py. Some releases have another default.
            "moe_implementation": "optimized",
        }
    return section


def trainer_configuration(
    job: TrainingJob, cerebras: CerebrasJob, checkpoint: Path, start: Path, model_dir: Path
) -> dict:
    """Return the configuration of a run. Raises InputError as `model_section` does.

    checkpoint: the masked .mdl file
    start: the checkpoint that the Trainer starts from
    model_dir: the Trainer's own folder, with the batches in data/"""
    settings = job.settings
    warmup = settings.steps_to_peak
    # As transformers' get_cosine_schedule_with_warmup: a line from 0, then a cosine to 0.
    rate = {"initial_learning_rate": settings.learning_rate, "end_learning_rate": 0.0}
    cosine = {"CosineDecayLR": {**rate, "total_iters": settings.steps - warmup}}
    line = {"initial_learning_rate": 0.0, "end_learning_rate": settings.learning_rate, "total_iters": warmup}
    # A CS-3 computes in cbfloat16, for which ModelZoo needs dynamic loss scaling. The CPU backend computes in fp32.
    precision = {"fp16_type": "bfloat16"}
    backend = {"backend_type": "CPU"}
    if cerebras.on_csx:
        precision = {"fp16_type": "cbfloat16", "loss_scaling_factor": "dynamic"}
        cluster = cerebras.model_dump(include=cerebras.CLUSTER)
        backend = {"backend_type": "CSX", "compile_dir": cerebras.compile_dir, "cluster_config": cluster}
    adamw = {"betas": [0.9, 0.999], "eps": EPS, "weight_decay": settings.weight_decay, "correct_bias": True}
    micro_batch = {"csx.performance.micro_batch_size": cerebras.csx_micro_batch_size}
    lora = {
        "r": settings.lora_r,
        "alpha": settings.lora_alpha,
        "dropout": settings.lora_dropout,
        "merge_weights": False,
        "target_modules": ["TransformerDecoderLayer", "Linear"],
    }
    masked_lora = {
        "checkpoint": str(checkpoint.resolve()),
        "mode": job.mode,
        "seed": job.seed,
        "targets": settings.lora_targets,
        "gradient": settings.gradient,
    }
    init = {
        "backend": backend,
        "model_dir": str(model_dir.resolve()),
        "seed": job.seed,
        "model": model_section(job.checkpoint.folder) | {"compute_eval_metrics": False},
        "optimizer": {"AdamW": adamw},
        "schedulers": [{"SequentialLR": {"schedulers": [{"LinearLR": line}, cosine]}} if warmup else cosine],
        "precision": {"enabled": cerebras.on_csx, "max_gradient_norm": settings.max_grad_norm, **precision},
        "loop": {"max_steps": settings.steps},
        "checkpoint": {"steps": settings.save_every or settings.steps},
        "logging": {"log_steps": 1},
        # In the order in which they run.
        "callbacks": [
            {"ScopedTrainFlags": micro_batch},
            {"ScopedValidateFlags": dict(micro_batch)},
            {"Lora": {"lora_params": lora}},
            {"MaskedLora": masked_lora},
            {"FrozenBaseSparsity": {"checkpoint": str(checkpoint.resolve())}},
            {"LastCheckpoint": {}},
        ],
    }
    train = _loader(model_dir / "data/train", settings.batch_size)
    validation = _loader(model_dir / "data/validation", job.evaluation_batch_size)
    return {
        "trainer": {
            "init": init,
            "fit": {"ckpt_path": str(start.resolve()), "train_dataloader": train},
            "validate": {"ckpt_path": str(start.resolve()), "val_dataloader": validation},
        }
    }


def _loader(folder: Path, batch_size: int) -> dict:
    """Return the loader of a file of batches. It reads them in order, because they were shuffled before they were written."""
    return {
        "data_processor": "GptHDF5MapDataProcessor",
        "data_dir": str(folder.resolve()),
        "batch_size": batch_size,
        "shuffle": False,
        "num_workers": 0,
    }
