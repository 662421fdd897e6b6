"""The section that says how masks are computed."""

from contextlib import suppress
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from sparseft.axes.methods import DENSE, SELF, TASK, Method
from sparseft.common.errors import InputError
from sparseft.common.section import Faults, Percent, Positive, Section, Seed, refuse
from sparseft.data.settings import DIVERGENCE, CalibrationText, TextName
from sparseft.models.checkpoints.settings import CHECKPOINT

Checkpoint = Annotated[str, Field(pattern=f"^({CHECKPOINT})$")]


class Masks(Section):
    """Set how masks are computed."""

    seed: Seed = 0
    """Seed of the method random."""
    scope: Literal["layer", "row", "global"] | None = None
    """Which weights unstructured and random rank together. Null means the scope that the importance sets
    (docs/methods.md)."""
    calibration_examples: Positive = 128
    """Training examples that the methods use which look at examples, and those that end in `_owl`."""
    calibration_seed: Seed = 0
    """Seed that chooses the calibration examples."""
    calibration: dict[TextName, CalibrationText] = Field({}, examples=[{"c4": {"text": "/data/c4.jsonl"}}])
    """Texts by a name of your own (letters a to z and digits), on which the methods that end in `_on_NAME` calibrate.
    `self` is there without an entry. The name of a mixture that has the part `task` begins with `task`."""
    imported: dict[TextName, Annotated[dict[Annotated[Percent, Field(gt=0)], Checkpoint], Field(min_length=1)]] = Field(
        {}, examples=[{"wanda": {50: "path:/data/llama-7b-wanda-50"}}]
    )
    """Checkpoints that another tool pruned, by a name that you choose (letters a to z and digits) and by their sparsity
    in percent: `path:DIR` or `hub:ORG/NAME[@REVISION]`. The method `imported_NAME` has their masks and weights. They
    are pruned from the grid's only model. If the source is that of the model itself, the model's zeros are the mask."""
    imported_pattern: dict[TextName, Annotated[str, Field(pattern="^[1-9][0-9]?:[1-9][0-9]?$")]] = Field(
        {}, examples=[{"wanda": "2:4"}]
    )
    """The pattern N:M of the checkpoints under a name of `imported`, if you know it: of every M weights in a row at
    most N are not zero. It is checked, and every zero is pruned, natural zeros too."""
    sequential: bool = True
    """True: importances that were published so, such as wanda, prune layer by layer, in one pass per sparsity. False:
    one pass serves all sparsities, with the inputs of the dense model."""
    owl_lambda: float = Field(0.08, gt=0, le=1)
    """Lambda of the methods that end in `_owl`: the sparsities of two decoder layers differ by at most 2 lambda."""
    owl_m: float = Field(5.0, gt=0, le=100)
    """M of the methods that end in `_owl`: the score of an outlier is above M times the mean of its decoder layer."""
    sparsegpt_block: Positive = 128
    """Columns that sparsegpt ranks together and updates at once. With N:M, a multiple of M."""
    obs_rounds: Positive = 16
    """Rounds of obs. Each removes its share of a layer's units, and updates the kept columns before the next one."""
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the mean of the Hessian's diagonal that sparsegpt, obs and refit add to the diagonal. A Hessian that is
    still not positive definite gets ten times as much, which the report records."""
    head_share: Annotated[float, Field(ge=0, le=10)] = 0
    """Share of the key-value heads that structured removes, with their query heads, as a multiple of the sparsity. 0:
    only channels of the MLP. 1: the share of all weights. Channels lose the rest of the sparsity."""
    renormalize_router_weights: bool = True
    """Whether reap divides the router's weights by their sum over a token's experts, if config.json has
    `norm_topk_prob: true`."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the imported checkpoints and the calibration texts, and whether it is."""
        faults: Faults = {}
        for name, pattern in self.imported_pattern.items():
            most, group = map(int, pattern.split(":"))
            faults[f"imported_pattern.{name} {pattern}: N must be less than M"] = most >= group
            faults[f"imported_pattern.{name}: imported has no checkpoint of this name"] = name not in self.imported
        for name, text in self.calibration.items():
            place = f"calibration.{name}"
            faults |= {
                f"{place}: this name is taken; choose another": name == DIVERGENCE
                or (name == SELF and text.text != SELF),
                f"{place}: the name of a mixture with the part {TASK} begins with {TASK}, and no other name does": (
                    name.startswith(TASK) != (TASK in text.parts)
                ),
            }
            for part, windows in text.windows_of_parts().items():
                source = self.texts.get(part)
                is_known = part == TASK or (source and not source.parts)
                faults[f"{place}: {part} is not a text under masks.calibration, or is itself a mixture"] = not is_known
                if source and source.text == SELF:
                    fault = f"{place} takes {windows} windows of {part}, which has {source.examples}"
                    faults[f"{fault}; raise masks.calibration.{part}.examples"] = windows > source.examples
        return faults

    def scope_of(self, method: Method, percents: list[int]) -> str:
        """Return what a method ranks together: layer, row, group or global. Raises InputError if it is impossible."""
        importance = method.importance
        fixed = method.pattern.scope or (importance.scope if importance and importance.has_fixed_scope else None)
        is_global = self.scope == "global" and not fixed
        advice = "set masks.scope to row or layer, or"
        faults = {
            f"method {method.name!r} keeps every weight; set the sparsity to 0": method.pattern is DENSE
            and any(percents),
            f"masks.scope global is impossible with {method.name}, whose allocation decides how many weights each layer"
            f" loses; {advice} leave it out of grid.methods": is_global and method.allocation,
            f"masks.scope global is impossible with masks.sequential: {method.name} prunes one layer after the other;"
            f" {advice} set masks.sequential to false": is_global and self.is_sequential(method),
        }
        refuse(faults | (self._group_faults(method, method.pattern.group, percents) if method.pattern.group else {}))
        return fixed or self.scope or (importance.scope if importance else "layer")

    def _group_faults(self, method: Method, group: int, percents: list[int]) -> Faults:
        """Return why N:M may be impossible for a sparsity, a block of columns or an allocation, and whether it is."""
        possible = [percent for percent in range(100) if percent * group % 100 == 0]
        impossible = [percent for percent in percents if percent not in possible]
        leave = f"or leave {method.name} out of grid.methods"
        return {
            f"masks.sparsegpt_block {self.sparsegpt_block}: {method.name} has groups of {group} in a block; set it to a"
            f" multiple of {group}": "sparsegpt_block" in method.settings and self.sparsegpt_block % group,
            f"{method.pattern.name}: {next(iter(impossible), 0)} % of a group of {group} (N:{group}) is not a"
            f" whole number; choose among {', '.join(map(str, possible))}, {leave}": impossible,
            # At 2 lambda M = 1 the slots of the layers with the least and with the most outliers have equal keys.
            f"masks.owl_lambda {self.owl_lambda} is too small for N:{group}: {method.name} would give every"
            f" layer the same N; set it to {(500 // group + 1) / 1000} or more, {leave}": (
                method.allocation and 2 * self.owl_lambda * group <= 1
            ),
        }

    def is_sequential(self, method: Method) -> bool:
        """Return whether a method prunes layer by layer, in one pass per sparsity."""
        return self.sequential and method.is_sequential

    def used_by(self, method: Method) -> dict:
        """Return the settings on which the masks of a method depend, by name."""
        names = method.settings
        if method.importance and method.importance.has_fixed_scope and "scope" in names:
            names.remove("scope")
        if method.is_sequential:
            names.append("sequential")
        if method.uses_task and not method.calibration:
            names += ["calibration_examples", "calibration_seed"]
        settings = {name: getattr(self, name) for name in names}
        if text := self.text_of(method):
            settings |= {"calibration_examples": text.examples} | text.chosen
        return settings

    def text_of(self, method: Method) -> CalibrationText | None:
        """Return the text on which a method calibrates; None if it needs none.

        Raises InputError if no such text is described."""
        name = method.calibration
        if name and name not in self.texts:
            raise InputError(
                f"{method.name} calibrates on {name}, which masks.calibration does not describe",
                f"write masks: {{calibration: {{{name}: {{text: FILE.jsonl}}}}}}",
            )
        return self.texts[name] if name else None

    @property
    def texts(self) -> dict[str, CalibrationText]:
        """Return the texts by name: those of `calibration`, and `self`."""
        return {SELF: CalibrationText(text=SELF), **self.calibration}

    def imported_source(self, method: Method, percent: int) -> str:
        """Return the source of a method's imported checkpoint at a sparsity. Raises InputError if none is described."""
        name = method.imported
        sources = self.imported.get(name or "", {})
        if percent not in sources:
            raise InputError(
                f"masks.imported.{name} has no checkpoint at {percent} %",
                f"write masks: {{imported: {{{name}: {{{percent}: path:DIR}}}}}}, or leave the sparsity out of"
                " grid.sparsities",
            )
        return sources[percent]

    def check(self, method: Method, percents: list[int]) -> None:
        """Raise InputError if the settings do not allow the masks of a method at these sparsities."""
        self.scope_of(method, percents)
        self.text_of(method)
        for percent in filter(None, percents if method.imported else []):
            self.imported_source(method, percent)


def whole_percent(text: str) -> int:
    """Return a fraction such as "0.5" as a percentage, exactly. Raises InputError if it is not a sparsity."""
    with suppress(ValueError, ZeroDivisionError):
        value = Fraction(text) * 100
        if value.denominator == 1 and 0 <= value < 100:
            return int(value)
    raise InputError(f"--sparsity {text}: not a sparsity", "give fractions from 0 up to 0.99 in whole percents")
