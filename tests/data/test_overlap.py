"""Which examples and texts occur in other data: what counts as equal, what does not, and what a comparison costs."""

import random
import tracemalloc

import pytest
from sparseft.axes.tasks import instruction
from sparseft.data.overlap import Texts, find, near_copies, shares_found, texts_of

PASSAGE = (
    "Ice floats on water because it expands when it freezes, so that a lake freezes from its surface downwards and its"
    " fish live through the winter below the ice."
)
CHINESE = "冰浮在水面上、因为水结冰时会膨胀、所以湖水从表面向下结冰、鱼类可以在冰层下面度过漫长的冬天。"


def share(prompts: list[str] | str, others: list[str] | str) -> float:
    """Return the share of examples, or of a text if it is one string, that occurs in rows, or in a text."""
    sides = [
        Texts([side], is_one_text=True) if isinstance(side, str) else Texts(side, has_template=len(side) > 1)
        for side in (prompts, others)
    ]
    return shares_found({"set": sides[0]}, sides[1:])["set"]


@pytest.mark.parametrize(("one", "other"), [
    ("Is ice cold?", "is  ICE\n\tcold"),
    ("Is ice cold?", "“Is ice — cold”!"),
    ("\ufb01sh swim under the ice", "\uff26ish swim under the ice"),
    ("What is 3+4?", "what is 3 + 4"),
    (PASSAGE, PASSAGE.upper().replace(" ", "  ").replace(",", "")),
    (CHINESE, CHINESE.replace("、", "")),
])  # fmt: skip
def test_case_blanks_punctuation_and_forms_of_letters_do_not_count(one, other):
    assert share([one], [other]) == share([other], [one]) == 1
    assert share([one], [other, "Something else."]) == 1


@pytest.mark.parametrize(("one", "other"), [
    ("Is ice cold?", "Is ice cold water?"),
    ("What is 3 + 4?", "What is 3 - 4?"),
    ("(2 + 3) * 4 =", "2 + (3 * 4) ="),
    ("What is 3.5?", "What is 35?"),
    ("की", "कि"),
    # The same passage with another question.
    (f"{PASSAGE}\nQuestion: is ice lighter than water?\nAnswer:", f"{PASSAGE}\nQuestion: is a lake deep?\nAnswer:"),
    (PASSAGE, PASSAGE.replace("fish", "frogs")),
])  # fmt: skip
def test_another_word_number_sign_or_question_counts(one, other):
    assert share([one], [other]) == share([other], [one]) == 0


def test_all_windows_of_an_example_must_occur_in_one_row():
    """Rows that are filled in from the same few values share every window, and are different rows."""
    filling = " and then there are some words that are the same in every row of this table until at last "
    rows = [f"city {a}{filling}the weather is {b}" for a in "abc" for b in "xyz"]
    assert share(rows[:1], rows[1:]) == 0
    assert share([rows[0], rows[4]], [*rows[1:3], f"Once more: {rows[4]} Yes."]) == 0.5


def test_what_all_prompts_begin_or_end_with_is_left_out_of_long_ones():
    questions = [f"{PASSAGE.replace('Ice', word)} Is {word} meant?" for word in ("Glass", "Snow", "Wood", "Cork")]
    prompts = [f"Read this.\nQuestion: {question}\nAnswer:" for question in questions]
    assert share(prompts, questions[:1]) == 0.25
    assert share(prompts, "\n\n".join(questions[:2])) == 0.5
    # Short questions are compared with their template, because little would be left of them.
    short = [f"Question: Is {word} cold?\nAnswer:" for word in ("ice", "snow")]
    assert share(short, ["Is ice cold?"]) == 0
    assert share(short, [short[0].lower()]) == 0.5


@pytest.mark.parametrize(("words", "expected"), [(7, 0), (8, 1), (12, 1), (40, 1)])
def test_a_prompt_of_eight_words_or_more_is_found_inside_a_document(words, expected):
    prompt = " ".join(f"word{n}" for n in range(words))
    assert share([prompt], ["Before. " + prompt + " After."]) == expected
    assert share([prompt], [prompt]) == 1


def test_windows_of_a_text_reach_over_its_documents_and_blank_ones_add_nothing():
    words = [f"word{n}" for n in range(60)]
    documents = [" ".join(words[start : start + 5]) for start in range(0, 60, 5)]
    sides = [Texts(part, is_one_text=True) for part in ([" ".join(words)], [*documents[:6], "", " \n", *documents[6:]])]
    (found,) = find(sides[:1], sides[1:])
    assert len(found) == 60 - 12 and found.all()
    (found,) = find(sides[1:], [Texts(documents)])
    assert len(found) == 60 - 12 and not found.any()
    assert shares_found({"": Texts([""], is_one_text=True), "all": sides[0]}, sides) == {"": 0.0, "all": 1.0}


def test_of_a_conversation_the_contents_before_the_answer_are_compared():
    task = instruction.task_of("chats", {"kind": "instruction", "format": "messages"})
    rows = [
        {"messages": [{"role": "user", "content": f"Is {word} cold?"}, {"role": "assistant", "content": answer}]}
        for word, answer in (("ice", "Yes."), ("Ice", "No."), ("fire", "Yes."))
    ]
    assert texts_of(task, rows).parts == ["Is ice cold?", "Is Ice cold?", "Is fire cold?"]


def test_a_comparison_keeps_nothing_of_what_it_reads():
    words = random.Random(0).choices([f"word{n}" for n in range(200)], k=100_000)
    rows = [" ".join(words[start : start + 80]) for start in range(0, 100_000, 80)]
    # The first comparison imports what numpy needs.
    shares_found({"": Texts(rows[:20])}, [Texts(rows[:40])])
    tracemalloc.start()
    try:
        shares_found({"": Texts(rows[:20])}, [Texts((row for row in rows), is_one_text=True)])
        assert tracemalloc.get_traced_memory()[1] < sum(map(len, rows))
    finally:
        tracemalloc.stop()


STORY = "A farmer had seven red hens and gave two of them to a baker who lived behind the old mill. How many were left?"
OTHER = "When the ship came into the harbour, nobody but the cook knew that the captain had stayed on the island."


@pytest.mark.parametrize(("validation", "response", "is_near"), [
    (STORY.replace("baker", "miller"), "Five.", True),
    (OTHER, f"Here is a story. {OTHER} Do you like it?", True),
    (OTHER, "Five.", False),
])  # fmt: skip
def test_a_changed_word_and_a_prompt_in_a_response_are_near_copies(validation, response, is_near):
    task = instruction.task_of("own", {"kind": "instruction", "format": "response"})
    train = [{"prompt": prompt, "response": response} for prompt in ("What is ice?", STORY)]
    rows = {"train": train, "validation": [{"prompt": text, "response": "x"} for text in ("Say hello!", validation)]}
    place = 0 if validation == OTHER else 1
    assert near_copies(task, rows) == ({1: place} if is_near else {})


def test_the_words_of_a_template_make_no_near_copy():
    task = instruction.task_of("own", {"kind": "instruction", "format": "response"})
    asked = [f"I am a teacher. My pupil asks what the sum of {n} and {n + 1} is. What do I say?" for n in range(60)]
    rows = [{"prompt": prompt, "response": "x"} for prompt in asked]
    assert near_copies(task, {"train": rows[:30], "validation": rows[30:]}) == {}
    assert near_copies(task, {"train": rows[:30], "validation": rows[29:]}) == {0: 29}
