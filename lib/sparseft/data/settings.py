"""The sections that say where the data of tasks and texts come from."""

from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field

from sparseft.axes.methods import SELF, TEXT_NAME
from sparseft.common.section import IN_WORDS, SEEDS, Faults, Length, Positive, Section, Seed

HUB_DATA = r"^[^\s/@]+/[^\s/@]+(/[^\s/@]+)?(@\S+)?$"
# The beginning of a place on the hub, among the sources of a text.
HUB = "hub:"
# The place of the perplexity's text, which is its split `test`.
WIKITEXT2_PLACE = "Salesforce/wikitext/wikitext-2-raw-v1@b08601e04326c79dfdd32d625aee71d232d685c3"
# How the windows of a text are chosen, and the default.
Choice = Literal["shuffled", "get_c4"]
SHUFFLED: Choice = "shuffled"
# A number of tokens that every model has for itself.
OWN_CONTEXT = "model"
# A part of the user's texts, for `snakemake ship` (models/language_model/windows.py).
SHIP = "ship"
TEXT = rf"^({SELF}|{SHIP}|{HUB}[^\s/@]+/[^\s/@]+(/[^\s@]+)?(@\S+)?|(?!{HUB}).+\.(jsonl|txt))$"
IN_WORDS[TEXT] = 'write a .jsonl file with {"text": ...} on each line, a .txt file, hub:ORG/NAME or self'


# Also of what is imported.
TextName = Annotated[str, Field(pattern=f"^{TEXT_NAME}$")]
# The default number of windows of documents, and of `self` and a mixture; and their tokens.
EXAMPLES, OWN_EXAMPLES = 128, 64
LENGTH, OWN_LENGTH = 2048, 512
# The name of the text on which the divergence is measured.
DIVERGENCE = "divergence"
# Windows that a model samples together. Another number gives other windows.
TOGETHER = 16


class TaskData(Section):
    """Set the data of a task, and the keys of its schedule that differ from `training:`.

    A task that is not built in needs lm_eval or kind. Give local or hub, or neither."""

    lm_eval: str | None = Field(None, examples=["my_task.yaml"])
    """A task of lm-eval: its name, or a YAML file of your own."""
    kind: Literal["instruction", "text"] | None = None
    """What your own rows are. `instruction`: prompts and responses, or conversations; the loss is on the response.
    `text`: documents, packed into sequences; the loss is on every token but the first."""
    metric: str | None = Field(None, examples=["acc_norm"])
    """Headline metric of an lm-eval task. Null means the first one that it lists."""
    answer: str | None = Field(None, examples=["{{solution}}"])
    """What training learns in an lm-eval task: a field or a Jinja template. Null means the correct choice, or the
    target."""
    length: Length | None = None
    """Tokens per sequence of a task of kind text. Null means 512."""
    text: TextName | None = Field(None, examples=["self"])
    """A text under `masks.calibration` that the dense model samples, or `self`: its windows are the training rows of a
    task of kind text, for each model its own. The validation rows are the windows of the divergence."""
    local: str | None = Field(None, examples=["/data/boolq"])
    """Folder with train.jsonl and validation.jsonl in the original fields, or, of kind text, train.txt and
    validation.txt."""
    hub: str | None = Field(None, pattern=HUB_DATA, examples=["google/boolq"])
    """`ORG/NAME[/CONFIGURATION][@REVISION]` on the Hugging Face hub. If neither local nor hub is set, a real task uses
    lm-eval's data set at a fixed revision, and a mini task is generated."""
    train_examples: Positive | None = None
    """Number of training examples. Null means all; a mini task needs a number."""
    validation_examples: Positive | None = None
    """Number of validation examples. Null means all; a mini task needs a number."""
    selection_examples: Positive | None = None
    """Number of examples on which the trainings of `grid.trainings` are compared. Null means the whole split
    `selection` of the data. Without such a split, they come from the training rows that are left, as many as there are
    validation examples."""
    seed: Seed = 0
    """Seed that chooses the examples, or generates those of a mini task."""
    training: dict[str, Any] = Field({}, examples=[{"steps": 100, "learning_rate": 0.0005}])
    """Keys of `training:` for this task only. They replace `training:` and the task's own suggestion."""

    def contradictions(self) -> Faults:
        """Return what may be wrong, and whether it is. A key of another kind of task would have no effect."""
        has_rows = self.local or (self.kind == "text" and (self.hub or self.text))
        return {
            "give one of local and hub, and one of lm_eval and kind": (
                (self.local and self.hub) or (self.lm_eval and self.kind)
            ),
            "text belongs to a task of kind text without local, hub and length": (
                self.text and (self.kind != "text" or self.local or self.hub or self.length)
            ),
            f"a task of kind {self.kind} needs rows: give local, or for text hub or text": self.kind and not has_rows,
            "metric and answer belong to a task with lm_eval": (self.metric or self.answer) and not self.lm_eval,
            "length belongs to a task with kind: text": self.length and self.kind != "text",
        }

    @property
    def numbers(self) -> dict[str, int | None]:
        """Return the number of examples by split; None means all."""
        return {"train": self.train_examples, "validation": self.validation_examples}

    @property
    def lm_eval_file(self) -> str | None:
        """Return the user's YAML file that defines an lm-eval task; None if `lm_eval` is a name."""
        return self.lm_eval if self.lm_eval and self.lm_eval.endswith((".yaml", ".yml")) else None

    @property
    def task_kind(self) -> str | None:
        """Return the kind of a task that is not built in: lm_eval, instruction or text; None for a built-in task."""
        return "lm_eval" if self.lm_eval else self.kind


class Perplexity(Section):
    """Set how the token perplexity of every merged model is measured, beside its task.

    The column is wikitext2_ppl_{context} on the test split of WikiText-2, and local_text_ppl_{context} on any other
    text."""

    local: str | None = Field(None, examples=["/data/wikitext2.jsonl"])
    """A .jsonl file with one row per line of the text, blank lines included, in the field `text`."""
    hub: str | None = Field(None, pattern=HUB_DATA, examples=["Salesforce/wikitext/wikitext-2-raw-v1"])
    """`ORG/NAME[/CONFIGURATION][@REVISION]` on the Hugging Face hub, with a split `test`. If neither local nor hub is
    set, Salesforce's WikiText-2 at a fixed revision."""
    context: Length | Literal["model"] = 2048
    """Tokens per window, without overlap. `model`: the model's own context, max_position_embeddings, as in wanda."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the source, and whether it is."""
        return {"local and hub are two sources: give one": self.local and self.hub}

    @property
    def text(self) -> str:
        """Return the file of the text, or hub:PLACE."""
        return self.local or f"{HUB}{self.hub or WIKITEXT2_PLACE}"


def _has_documents(text: object) -> bool:
    """Return whether a text is in a file or on the hub."""
    return isinstance(text, str) and text not in (SELF, SHIP)


def _default(of_documents: int, own: int) -> Any:
    """Return a key of a text with its default if the text has documents, and if it has not."""
    return Field(
        default_factory=lambda keys: of_documents if _has_documents(keys.get("text")) else own,
        json_schema_extra={"default": of_documents},
    )


class CalibrationText(Section):
    """Set a text on which importances calibrate, and the windows that are read from it."""

    text: Annotated[str, Field(pattern=TEXT)] | Annotated[list[TextName], Field(min_length=2)] = Field(
        examples=["/data/c4.jsonl"]
    )
    """A .jsonl file with one document per row in the field `text`, a .txt file, or
    `hub:ORG/NAME[/CONFIGURATION or /FILE][@REVISION]` on the Hugging Face hub, with a split `train`. `self` is a text
    that the dense model samples, and `ship` a part of `ship.texts`. A list is a mixture of texts by their names here,
    of `self`, and of `task`: the training examples of the run's task."""
    shares: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """How the windows of a mixture are divided among its parts, in their order. Equally, if it is empty."""
    examples: Positive = _default(EXAMPLES, OWN_EXAMPLES)
    """Number of windows. For `self` and a mixture, the default is 64."""
    length: Length = _default(LENGTH, OWN_LENGTH)
    """Tokens per window. At most the model's context. For `self` and a mixture, the default is 512."""
    seed: Seed = 0
    """Seed that chooses the windows, or samples them."""
    temperature: float = Field(1.0, gt=0, le=100)
    """What the logits are divided by when the model samples a text. At 1, the text has the model's own distribution."""
    together: Positive = TOGETHER
    """Windows that the model samples together. More of them are faster and need more memory, and are other windows."""
    choice: Choice = SHUFFLED
    """`shuffled`: the documents come in random order, and each gives at most one window. `get_c4`: the windows of
    wanda's function of this name, which draws each document anew, for the same documents, tokens and seed."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the keys of a sampled text or of a mixture, and whether it is."""
        return {
            f"temperature and together belong to text: {SELF}": self.text != SELF
            and (self.temperature != 1 or self.together != TOGETHER),
            f"choice belongs to documents, and text: {SELF} has none": self.choice != SHUFFLED and self.text == SELF,
            "shares needs a number per part of the text": self.shares and len(self.shares) != len(self.parts),
            f"examples {self.examples} are too few: a part gets no window": 0 in self.windows_of_parts().values(),
        }

    @property
    def hub(self) -> str | None:
        """Return the place on the hub; None if the text is elsewhere."""
        return self.text.removeprefix(HUB) if isinstance(self.text, str) and self.text.startswith(HUB) else None

    @property
    def local(self) -> str | None:
        """Return the file of the text; None if the text is elsewhere."""
        return str(self.text) if _has_documents(self.text) and not self.hub else None

    @property
    def parts(self) -> list[str]:
        """Return the names of the parts of a mixture; nothing for any other text."""
        return self.text if isinstance(self.text, list) else []

    @property
    def has_own_windows(self) -> bool:
        """Return whether the prepared file holds the windows, as token ids of one model, and not documents."""
        return not _has_documents(self.text)

    @property
    def sampled(self) -> dict[str, Any]:
        """Return the keys that decide a text that the model samples. The default of `together` is not among them."""
        together = {"together"} if self.together != TOGETHER else set()
        return self.model_dump(include={"examples", "length", "seed", "temperature"} | together)

    @property
    def chosen(self) -> dict[str, Any]:
        """Return how windows of documents are chosen, by the names of the flags; nothing for the default choice.

        Windows that the prepared file holds are not chosen: the first ones are taken."""
        if self.has_own_windows:
            return {}
        choice = {} if self.choice == SHUFFLED else {"calibration_choice": self.choice}
        return {"calibration_length": self.length, "calibration_seed": self.seed, **choice}

    def windows_of_parts(self) -> dict[str, int]:
        """Return the number of windows by part of a mixture. Together they are `examples`."""
        shares = self.shares or [1] * len(self.parts)
        ends = [round(self.examples * total / sum(shares)) for total in accumulate(shares)]
        return {part: end - start for part, start, end in zip(self.parts, [0, *ends], ends, strict=False)}


def held_out(windows: int, length: int) -> dict[str, CalibrationText]:
    """Return by its name the text on which the divergence is measured, unless it has no window.

    It has the last seed, so that nothing calibrates on the same windows by accident."""
    return {DIVERGENCE: CalibrationText(text=SELF, examples=windows, length=length, seed=SEEDS - 1)} if windows else {}
