"""Select exactly the weights to prune, and write their masks.

ranking   single weights: by layer, by row, by group of N:M, or by model
units     coupled channels
kernels   the compiled loops

A scope is what is ranked together: a layer, a row, a group of N:M, or all layers. Of the n weights of a scope, a
sparsity s prunes round(s * n): those with the lowest scores, and among equal scores those with the lowest flat index.
So the counts are exact and the masks are nested: what 50 % prunes, 60 % prunes too. An allocation
(pruning/allocation.py) may give each layer a count of its own, which is divided evenly among the scopes of the layer.
"""
