"""The backend torch: a Hugging Face model on the CPU or the GPUs of this machine. It trains every schedule."""

from sparseft.training.trainers.backends.backend import Backend

TORCH = Backend("torch")
