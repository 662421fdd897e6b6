import os

# These must be set before `datasets` or `transformers` is imported. With them nothing is looked up on the hub, and
# lm-eval's bootstrap, which takes a second, starts no copies of this process.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DISABLE_MULTIPROC", "1")
