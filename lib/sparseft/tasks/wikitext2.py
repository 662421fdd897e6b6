"""WikiText-2's test split: where it is, how its text is recognised, and what a perplexity on a text is called.

Only WikiText-2 gives its name to a number, because papers print that number. The sha256 is of the 4358 rows of
wikitext-2-raw-v1's test split joined by blank lines: 1,296,370 bytes of UTF-8, and 287,644 tokens of GPT-2's tokenizer.
"""

PLACE = "Salesforce/wikitext/wikitext-2-raw-v1@b08601e04326c79dfdd32d625aee71d232d685c3"
TEXT_SHA256 = "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83"
# Of the metrics that are no fractions; the context length follows.
WIKITEXT2, LOCAL_TEXT = PREFIXES = ("wikitext2_ppl_", "local_text_ppl_")


def metric_name(text_sha256: str, context: int) -> str:
    """Return the name of a text's perplexity in windows of `context` tokens."""
    return f"{WIKITEXT2 if text_sha256 == TEXT_SHA256 else LOCAL_TEXT}{context}"
