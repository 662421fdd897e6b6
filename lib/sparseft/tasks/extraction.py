"""Extract a generated answer from a text, and compare it with the target.

The patterns are those of lm-eval's gsm8k.yaml, version 3. lm-eval gets them from here, and the analysis extracts every answer
again with the functions below.
"""

import re

STRICT_MATCH = r"#### (\-?[0-9\.\,]+)"
FLEXIBLE_EXTRACT = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
# Removed from both sides of an exact match, in this order.
IGNORED = [",", "\\$", "(?s).*#### ", "\\.$"]
# What lm-eval extracts if a pattern does not match.
NO_ANSWER = "[invalid]"


def strict_match(text: str) -> str:
    """Return the first number after "#### ", as lm-eval's filter strict-match does; NO_ANSWER if there is none."""
    match = re.search(STRICT_MATCH, text)
    return match[1].strip() if match else NO_ANSWER


def flexible_extract(text: str) -> str:
    """Return the last number of a text, as lm-eval's filter flexible-extract does; NO_ANSWER if there is none."""
    matches = re.findall(FLEXIBLE_EXTRACT, text)
    return next(group for group in matches[-1] if group).strip() if matches else NO_ANSWER


def exact_match(answer: str, target: str) -> bool:
    """Return whether an extracted answer is the target's, by lm-eval's metric exact_match."""
    return _normalised(answer) == _normalised(target)


def _normalised(text: str) -> str:
    """Return a text in lower case, without the parts that lm-eval ignores."""
    for pattern in IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()
