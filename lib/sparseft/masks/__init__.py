"""Read and write mask files, and prove that a model obeys its mask.

mask_file     the format, and its reader
mask_writer   its writer
torch_file    files of `torch.save`, without torch
mask_kernels  compiled loops over the bits of weights and masks
validation    the proof
"""
