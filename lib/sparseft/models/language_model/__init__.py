"""Load a language model and its batches, and compute its loss on the hardware of the machine."""
