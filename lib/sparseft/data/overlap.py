"""Find which examples, and which parts of a text, also occur in other data, such as what a model was trained on.

Words are compared. Case, punctuation, the number of blanks and Unicode's compatibility forms (NFKC) do not count. Each
Chinese character and each kana is a word, because such texts have no blanks.

    text     It occurs in other data as far as its windows of 13 words do.
    example  It occurs in a row or a document that has all windows of 8 words of its prompt. The words with which all
             prompts of its set begin or end are a template, and are left out if 13 words or more remain. A prompt of
             fewer than 8 words must be the whole row or document.
    near     An example that is not a copy has half of its windows of 5 words in the prompt and the answer of one row.
             Windows that more than a twentieth of the examples have, and more than 5, are a template. It gives a
             warning only.

So a passage with another question is another example, because no other row has the windows over both. GPT-3's data were
compared in windows of 13 words (arXiv:2005.14165, appendix C), PaLM's in windows of 8 (arXiv:2204.02311, section 8).
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, takewhile

import numpy as np

from sparseft.axes.tasks.task import Row, SplitRows, Task

# Words per window of a text, and of a prompt.
TEXT_WINDOW = 13
PROMPT_WINDOW = 8
# Words per window of a near copy, and the windows that a prompt needs at least.
NEAR_WINDOW, NEAR_WINDOWS = 5, 4
# Rows are refused if a larger share of them occurs in the training rows.
MOST = 0.5
# The hash of a window is the sum of its words' numbers, each times a power of an odd number, modulo 2^64.
_POWERS = np.uint64(0x9E3779B97F4A7C15) ** np.arange(TEXT_WINDOW, dtype=np.uint64)
# In a short prompt with a digit these count, because "3 + 4" is not "3 - 4".
_ARITHMETIC = re.compile(r"[-+*/^%<>=()\u00d7\u00f7\u2212]")


@dataclass(frozen=True)
class Texts:
    """Hold what is compared of a set: the prompts of its examples, or the documents of one text.

    `has_template` says whether the words with which all prompts begin or end are left out."""

    parts: Iterable[str]
    is_one_text: bool = False
    has_template: bool = True


class _Characters(dict):
    """Map a character for str.translate: to itself, to itself between blanks, to a blank, or to nothing."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        mapped = "" if category == "Cf" else " "
        if unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA")):
            mapped = f" {character} "
        elif category[0] in "LMN":
            mapped = character
        self[code] = mapped
        return mapped


_CHARACTERS = _Characters()


def texts_of(task: Task, rows: list[Row]) -> Texts:
    """Return what is compared of a task's rows. Of a conversation it is all but the last message."""
    if task.messages:
        return Texts(["\n".join(turn["content"] for turn in task.messages(row)[:-1]) for row in rows])
    return Texts([task.prompt(row) for row in rows], is_one_text=task.sequence_length > 0)


def normal_form(text: str) -> str:
    """Return a text without what does not count. Prompts are equal if their normal forms are."""
    signs = _ARITHMETIC.findall(text) if re.search(r"\d", text) else []
    # A text without a word, such as an emoji, is its own form.
    return " ".join([*_words(text), *signs]) or text.strip()


def in_words(share: float, task: Task, split: str) -> str:
    """Return a share of a split in words, such as "25 % of the validation examples"."""
    unit = f"windows of {TEXT_WINDOW} words of the {split} text" if task.sequence_length else f"{split} examples"
    return f"{100 * share:.3g} % of the {unit}"


def shares_found(sets: Mapping[str, Texts], others: Iterable[Texts]) -> dict[str, float]:
    """Return by name which share of a set occurs in the others: of its examples, or of the windows of a text."""
    found = find(list(sets.values()), others)
    return {name: float(of_set.mean()) if len(of_set) else 0.0 for name, of_set in zip(sets, found, strict=True)}


def find(sets: list[Texts], others: Iterable[Texts]) -> list[np.ndarray]:
    """Return for each set which of its examples, or of the windows of a text, occur in the others, bool (n,).

    The others are read once, in parts. Nothing is kept of them but what occurs in the sets."""
    searches = list(map(_Search, sets))
    for texts in others:
        before = np.empty(0, np.uint64)
        for part in texts.parts:
            row = _numbered(part)
            form = normal_form(part) if len(row) < PROMPT_WINDOW else ""
            words = np.concatenate([before, row])
            for search in searches:
                search.read(words, form)
            # The windows of a text reach over the borders of its documents.
            before = words[1 - TEXT_WINDOW :] if texts.is_one_text else before
    return [search.found for search in searches]


def near_copies(task: Task, rows: SplitRows) -> dict[int, int]:
    """Return validation row -> the first training row that has half of its windows of 5 words, by their numbers from
    0."""
    found = defaultdict(list)
    for number, prompt in enumerate(texts_of(task, rows["validation"]).parts):
        for window in _windows(_numbered(prompt), NEAR_WINDOW):
            found[window].append(number)
    # The others are a template's.
    most = max(5, len(rows["validation"]) // 20)
    holders = {window: numbers for window, numbers in found.items() if len(numbers) <= most}
    sizes = Counter(chain.from_iterable(holders.values()))
    copies: dict[int, int] = {}
    for other, (row, prompt) in enumerate(zip(rows["train"], texts_of(task, rows["train"]).parts, strict=True)):
        windows = _windows(_numbered(f"{prompt}\n{task.answer(row)}"), NEAR_WINDOW)
        shared = Counter(number for window in windows & holders.keys() for number in holders[window])
        near = [number for number, count in shared.items() if 2 * count >= sizes[number] >= NEAR_WINDOWS]
        # The first row counts.
        copies = dict.fromkeys(near, other) | copies
    return copies


class _Search:
    """Search the examples of a set, or the windows of a text, in other words. Each is found where all of its hashes
    are."""

    def __init__(self, texts: Texts) -> None:
        self.width = TEXT_WINDOW if texts.is_one_text else PROMPT_WINDOW
        self.examples = _examples(texts)
        self.found = np.zeros(len(self.examples), bool)
        # The examples by their rarest window, so that few are compared with each row.
        self.by_rarest = defaultdict(list)
        counts = Counter(chain.from_iterable(self.examples))
        for number, example in enumerate(self.examples):
            if example:
                self.by_rarest[min(example, key=counts.__getitem__)].append(number)

    def read(self, words: np.ndarray, form: str) -> None:
        """Find what is in a part: in its words, or, of examples, in its normal form if it is short."""
        hashes = _windows(words, self.width)
        if form:
            hashes.add(_number(form))
        for window in self.by_rarest.keys() & hashes:
            self.found[[number for number in self.by_rarest[window] if self.examples[number] <= hashes]] = True


def _examples(texts: Texts) -> list[set[int]]:
    """Return the hashes of the windows of each prompt, or the hash of a short prompt. The examples of a text are its
    windows, one hash each."""
    prompts = list(texts.parts)
    rows = [_numbered(prompt) for prompt in prompts]
    if texts.is_one_text:
        return [{number} for number in _hashes(np.concatenate([np.empty(0, np.uint64), *rows]), TEXT_WINDOW).tolist()]
    start = end = 0
    if texts.has_template:
        start, end = _number_of_common_words(rows), _number_of_common_words([row[::-1] for row in rows])
    examples = []
    for prompt, row in zip(prompts, rows, strict=True):
        content = row[start : len(row) - end]
        if len(row) < PROMPT_WINDOW:
            form = normal_form(prompt)
            examples.append({_number(form)} if form else set())
        else:
            examples.append(_windows(content if len(content) >= TEXT_WINDOW else row, PROMPT_WINDOW))
    return examples


def _number_of_common_words(rows: list[np.ndarray]) -> int:
    """Return with how many equal words all rows begin."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*rows, strict=False)))


def _hashes(words: np.ndarray, width: int) -> np.ndarray:
    """Return the hash of each window of `width` words, uint64 (n - width + 1,), from the numbers of the words."""
    return np.convolve(words, _POWERS[:width], "valid") if len(words) >= width else words[:0]


def _windows(words: np.ndarray, width: int) -> set[int]:
    """Return the distinct hashes of the windows of `width` words, from the numbers of the words."""
    return set(_hashes(words, width).tolist())


@lru_cache(1 << 20)
def _number(text: str) -> int:
    """Return a number of 64 bits for a text, which is the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _numbered(text: str) -> np.ndarray:
    """Return the numbers of the words of a text, uint64 (n,)."""
    return np.fromiter(map(_number, _words(text)), np.uint64)


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text one by one, because a list of those of a large text would fill the memory."""
    content = unicodedata.normalize("NFKC", text).casefold().translate(_CHARACTERS)
    return (word[0] for word in re.finditer(r"\S+", content))
