"""Hold the content words of the mini tasks, and draw their rows. Every third word belongs to the validation split."""

import random
from collections.abc import Sequence

from sparseft.common.errors import InputError

# Names and things are short. Qualities start with a consonant ("a red drum"). Things can be carried, and take a plain
# -s or -es in the plural.
NAMES = """Anna Tom Lucy Peter Maria David Emma Jack Sarah Paul Julia Mark Helen Simon Laura James Nina Robert Alice
    Henry Clara Daniel Rose Martin Grace Kevin Diana Oscar Ruth George Linda Frank Karen Philip Susan Brian""".split()
QUALITIES = """red huge small green tiny strange blue pretty rare yellow dirty cheap black heavy broken white lovely
    perfect brown simple fine purple beautiful wonderful golden big modern silver curious precious""".split()
THINGS = """drum kite lamp clock basket hammer mirror ladder pencil bottle blanket guitar camera candle pillow spoon
    bucket jacket helmet trumpet wallet teapot brush button compass cushion dress flute fork glove hat jar kettle key
    magnet map mug necklace needle notebook paddle pan phone plate puppet purse puzzle racket radio ribbon ring rope
    shirt shovel skirt suitcase sweater towel toy tray vase violin watch whistle robot lantern balloon bell belt boot
    bowl box cage chain coat coin comb crown cup doll fan flag sponge mask medal ruler stamp poster cap saw""".split()


def words_of_split(words: list[str], split: str) -> list[str]:
    """Return the words of a split: two thirds for training, the other third for validation."""
    return [word for index, word in enumerate(words) if (index % 3 == 2) == (split == "validation")]


def drawn(
    name: str, split: str, number: int, seed: int, facts: Sequence, ways: int
) -> tuple[list, list[int], random.Random]:
    """Return `number` distinct facts in random order, their labels, and the generator of what else is random.

    There are `ways` labels. Their counts differ by at most one. Raises InputError if there are too few facts."""
    if number > len(facts):
        raise InputError(f"{name} cannot make {number} {split} rows", f"ask for 1 to {len(facts)}")
    rng = random.Random(f"{name}-{split}-{seed}")
    labels = [index % ways for index in range(number)]
    rng.shuffle(labels)
    return rng.sample(facts, number), labels, rng
