"""Define what an architecture is: its tensors, which of them are prunable, and all that depends on it.

An architecture is a decoder as Hugging Face stores it. Two words have a fixed meaning in this project:

    decoder layer   a block of the model, such as `model.layers.0`
    layer           a prunable matrix on disk, named without ".weight", such as `model.layers.0.mlp.up_proj`

Masks prune matrices only. Biases and norms keep their bytes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sparseft.common.errors import InputError

# A tensor's shape, in words: "queries", "keys", or the key of config.json that holds the number.
Words = tuple[str, ...]
# The name of a tensor -> its shape.
Shapes = dict[str, tuple[int, ...]]

# The types of decoder layers with a window, and without one.
SLIDING, FULL = "sliding_attention", "full_attention"
# The unit of an attention: a key-value head with its query heads.
KEY_VALUE_HEADS = "num_key_value_heads"
# A model with tied embeddings stores no output head.
HEAD = "lm_head.weight"
# The tensors outside the decoder layers -> shape.
OUTER: dict[str, Words] = {
    "model.embed_tokens.weight": ("vocab_size", "hidden_size"),
    "model.norm.weight": ("hidden_size",),
    HEAD: ("vocab_size", "hidden_size"),
}
# A key of config.json -> the name that it has in files of other releases of transformers.
_EXPERTS = "num_local_experts"
_OTHER_NAMES = {_EXPERTS: "num_experts"}
_OPTIONAL_SIZES = (KEY_VALUE_HEADS, "head_dim", "max_position_embeddings")
# No published model has as many. Those of DeepSeek-V3 are about 45,000: 58 layers have 256 experts of 3 matrices each.
_MOST_TENSORS = 250_000


class AttentionHeads(NamedTuple):
    """Count the query heads and the key-value heads of a layer. `size` is the number of rows of one head."""

    query: int
    key_value: int
    size: int


@dataclass(frozen=True)
class Coupled:
    """Name the prunable matrices of one block whose channels are removed together.

    Such a channel is called a unit. It consists of some rows of each matrix in `rows`, and some columns of each matrix
    in `columns`. A matrix in `rows` may have a bias, whose numbers belong to its rows.

    block     the common start of the matrices' names within a decoder layer
    unit      the key of config.json with the number of units
    title     the units in words, for messages
    multiple  a smaller model keeps a multiple of this number of units"""

    block: str
    unit: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    title: str
    multiple: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the matrices within a decoder layer."""
        return tuple(f"{self.block}.{name}" for name in (*self.rows, *self.columns))


@dataclass(frozen=True)
class Part:
    """Locate the coupled units in a layer: unit u is the `width` rows (axis 0) or columns (axis 1) from u * width on.

    `unit` is the key of config.json with the number of units."""

    layer: str
    axis: int
    width: int
    unit: str


@dataclass(frozen=True)
class ExpertBlock:
    """Name the module of a decoder layer that holds the experts, and the matrices of an expert on disk.

    transformers 5 calls the module `in_memory` and fuses its experts. transformers 4 calls it `on_disk`, as checkpoints
    do. An expert computes down(act(gate x) * up x)."""

    on_disk: str
    in_memory: str
    gate: str
    up: str
    down: str


@dataclass(frozen=True, eq=False)
class Architecture:
    """Describe one architecture of Hugging Face. `{expert}` in a name stands for the number of an expert.

    class_name        the name of the model's class, which config.json has under "architectures"
    models            the models of this class, in words
    differences       what its decoder has and LLaMA's does not have, in words
    more_sizes        the keys of config.json that must be positive integers, beside those of the shapes
    layer_tensors     the tensors of one decoder layer, named within the layer -> shape, as names of sizes
    coupled           all prunable matrices, in groups whose channels are removed together
    windows           config -> by decoder layer, how many tokens back a token sees, itself included; None if all
    smaller_config    (config, unit -> number of units left) -> the keys of config.json that a model with fewer channels
                      and heads changes
    layer_lists       the keys of config.json that hold a list with an entry per decoder layer
    is_tied           whether the output head is the embeddings where config.json does not say
    fixed             keys of config.json -> the one value that is computed here; a missing key has it
    attention         how transformers computes it: "sdpa" keeps no scores; "eager" keeps those of all pairs of tokens.
                      A class without sdpa cannot be loaded with it
    experts           the module of the experts; None without experts
    modelzoo_names    tensor -> its parameter in Cerebras ModelZoo (decoder.py); None if ModelZoo has no such model"""

    class_name: str
    models: str
    differences: str
    layer_tensors: dict[str, Words]
    coupled: tuple[Coupled, ...]
    windows: Callable[[dict], list[int | None]]
    smaller_config: Callable[[dict, dict[str, int]], dict]
    more_sizes: tuple[str, ...] = ()
    layer_lists: tuple[str, ...] = ("layer_types",)
    is_tied: bool = False
    fixed: dict[str, object] = field(default_factory=dict)
    attention: str = "sdpa"
    experts: ExpertBlock | None = None
    modelzoo_names: dict[str, str] | None = None
    # Raise it when what is computed with it changes.
    version: int = 1

    @property
    def name(self) -> str:
        """Return the name of its file, such as llama or qwen3_moe."""
        return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", self.class_name.removesuffix("ForCausalLM")).lower()

    @property
    def sizes(self) -> tuple[str, ...]:
        """Return the keys of config.json that must be positive integers: those that the shapes need, and some more."""
        words = {word for shape in (OUTER | self.layer_tensors).values() for word in shape}
        return ("num_hidden_layers", "num_attention_heads", *sorted(words - {"queries", "keys"}), *self.more_sizes)

    @property
    def projections(self) -> tuple[str, ...]:
        """Return the last names of the prunable layers, such as "q_proj", in the order of `layer_tensors`."""
        prunable = {f"{name}.weight" for group in self.coupled for name in group.names}
        return tuple(name.split(".")[-2] for name in self.layer_tensors if name in prunable)

    def prunable(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are prunable layers, in the order of their decoder layers."""
        pattern = _pattern(name for group in self.coupled for name in group.names)
        # layers.10 comes after layers.9.
        return sorted(
            filter(pattern.fullmatch, names),
            key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
        )

    def rows_of(self, name: str) -> str | None:
        """Return in words what the rows of a tensor of a decoder layer are; None for any other tensor."""
        shapes = (shape for known, shape in self.layer_tensors.items() if _pattern([known]).fullmatch(name))
        return next(shapes, (None,))[0]

    def coupled_parts(self, config: dict, layers: Iterable[str]) -> list[list[Part]]:
        """Return the groups of `layers` whose channels are removed together, in the order of their first layers."""

        def parts(coupled: Coupled, prefix: str) -> Iterator[Part]:
            for name in (*coupled.rows, *coupled.columns):
                axis = int(name in coupled.columns)
                words = self.layer_tensors[f"{coupled.block}.{name}.weight"]
                width = size_of(words[axis], config) // size_of(coupled.unit, config)
                yield Part(f"{prefix}.{name}", axis, width, coupled.unit)

        # A group is listed where its first layer is.
        firsts = [(coupled, _pattern([coupled.names[0]])) for coupled in self.coupled]
        pairs = ((layer, coupled) for layer in layers for coupled, first in firsts if first.fullmatch(layer))
        return [list(parts(coupled, layer.rpartition(".")[0])) for layer, coupled in pairs]

    def config_of_part(self, config: dict, key: str, kept: Sequence[int]) -> dict:
        """Return the keys of config.json that a model with fewer experts or decoder layers changes, and their new
        values.

        key: what is fewer, as `sizes` names it: num_local_experts or num_hidden_layers
        kept: the numbers of those that are left; experts may have other numbers in each decoder layer"""
        if key == _EXPERTS:
            # A file may have both names.
            names = [name for name in (_EXPERTS, _OTHER_NAMES[_EXPERTS]) if name in config]
            top_k = min(len(kept), config["num_experts_per_tok"])
            return {**dict.fromkeys(names, len(kept)), "num_experts_per_tok": top_k}
        lists = {name: config[name] for name in self.layer_lists if config.get(name)}
        windows = self.windows(config)
        if len(set(windows)) > 1:
            # A rule such as "every sixth layer" would name other layers now.
            lists.setdefault("layer_types", [FULL if window is None else SLIDING for window in windows])
        changes: dict[str, Any] = {name: [values[number] for number in kept] for name, values in lists.items()}
        if "max_window_layers" in config:
            changes["max_window_layers"] = sum(number < config["max_window_layers"] for number in kept)
        return {**changes, "num_hidden_layers": len(kept)}

    def activation_bytes(self, config: dict, width: int) -> int:
        """Return the bytes that one decoder layer keeps per token for its backward under LoRA. It is an estimate.

        A weight has `width` bytes. Attention keeps the inputs of its projections, q, k, v and its output. An MLP keeps
        the outputs of gate and up, the activation, and their product. Each expert of a token also keeps its own copy of
        the token, and its output before the router's weight. Norms keep their inputs in fp32."""
        hidden = config["hidden_size"]
        heads = attention_heads(config)
        attention = 2 * hidden + (3 * heads.query + 2 * heads.key_value) * heads.size
        # The last group is that of the MLP, or of an expert.
        mlp = 4 * size_of(self.coupled[-1].unit, config)
        if self.experts:
            mlp = config["num_experts_per_tok"] * (mlp + 2 * hidden)
        norms = hidden * sum(shape == ("hidden_size",) for shape in self.layer_tensors.values())
        if "self_attn.q_norm.weight" in self.layer_tensors:
            norms += (heads.query + heads.key_value) * heads.size
        return width * (attention + mlp) + 4 * norms

    def tensor_shapes(self, config: dict, place: Path | str) -> Shapes:
        """Return the shape of each tensor of the model that `config` describes.

        Raises InputError, naming `place`, if a size is missing or is not a positive integer, or if a key of `fixed` has
        another value. Raises it too, before any shape is built, if no model has so many tensors."""
        self._check(config, place)
        words = dict(OUTER)
        if config.get("tie_word_embeddings", self.is_tied):
            del words[HEAD]
        experts = range(size_of(_EXPERTS, config) if self.experts else 1)
        layer = {name.format(expert=expert): shape for expert in experts for name, shape in self.layer_tensors.items()}
        for number in range(config["num_hidden_layers"]):
            words |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        sizes = {word: size_of(word, config) for shape in words.values() for word in shape}
        return {name: tuple(sizes[word] for word in shape) for name, shape in words.items()}

    def _check(self, config: dict, place: Path | str) -> None:
        """Raise InputError as `tensor_shapes` does. For a key of `fixed`, null, false and [] are the same."""
        optional = [name for name in _OPTIONAL_SIZES if config.get(name) is not None]
        for name in (*self.sizes, *optional):
            size = stated(name, config)
            if type(size) is not int or size < 1:
                what = f"{name} is {size!r}" if name in config else f"it lacks {name}"
                raise InputError(f"{place}: config.json is damaged: {what}", "give the model's own config.json")
        experts = size_of(_EXPERTS, config) if self.experts else 1
        number = config["num_hidden_layers"] * sum(experts if "{expert}" in name else 1 for name in self.layer_tensors)
        if number > _MOST_TENSORS:
            raise InputError(f"{place}: config.json describes {number} tensors", "give the model's own config.json")
        for name, value in self.fixed.items():
            if (config.get(name, value) or None) != (value or None):
                raise InputError(
                    f"{place}: {name} is {config[name]!r} in config.json, which is not supported",
                    f"use a {self.class_name} with {name} {value!r}",
                )


def attention_heads(config: dict) -> AttentionHeads:
    """Return the attention heads that a config.json describes. It may leave out their size and the key-value heads."""
    query = config["num_attention_heads"]
    key_value = config.get("num_key_value_heads") or query
    return AttentionHeads(query, key_value, config.get("head_dim") or config["hidden_size"] // query)


def size_of(word: str, config: dict) -> int:
    """Return the number that a word of a shape stands for, in the model that `config` describes."""
    heads = attention_heads(config)
    derived = {
        "queries": heads.query * heads.size,
        "keys": heads.key_value * heads.size,
        KEY_VALUE_HEADS: heads.key_value,
    }
    return derived[word] if word in derived else stated(word, config)


def stated(key: str, config: dict) -> Any:
    """Return the value of a key of config.json, which may have another name there; None if it is missing."""
    return config.get(key, config.get(_OTHER_NAMES.get(key)))


def _pattern(names: Iterable[str]) -> re.Pattern:
    """Return the pattern of names within any decoder layer."""
    alternatives = "|".join(re.escape(name).replace(r"\{expert\}", r"\d+") for name in names)
    return re.compile(rf"model\.layers\.\d+\.(?:{alternatives})")
