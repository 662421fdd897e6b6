"""Read and write mask files, and prove that a model obeys its mask.

mask_file   the format, its reader and its writer
validation  the proof
"""
