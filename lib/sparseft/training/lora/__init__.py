"""Masked LoRA: the layers, the effective weight W' = (W + s B A) * M, PEFT's adapter files, and the sparse merge.

Everywhere in this folder:

    W   (out, in)   the frozen, pruned weight
    M   (out, in)   the mask, 1 = kept
    A   (r, in)     the trained factors, fp32
    B   (out, r)
    s               alpha / r
"""
