"""Hold values and masks as bits: the words of floats, and masks of one bit per weight."""

import numpy as np

# The dtypes of weights, as safetensors calls them -> the unsigned word that holds a value's bits.
BITS: dict[str, np.dtype] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<u2"), "F32": np.dtype("<u4")}


def to_float32(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Return the values of BF16, F16 or F32 bits, in fp32 and the same shape."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    return bits.view(np.float32)


def infinity(dtype: str) -> int:
    """Return the bits of infinity in BF16, F16 or F32. Larger bits of a magnitude are those of NaN."""
    return {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}[dtype]


def is_finite(bits: np.ndarray, dtype: str) -> bool:
    """Return whether no value is NaN or infinity. `bits` are unsigned words that hold values of `dtype`."""
    # The shift removes the sign.
    return bool((bits << 1).max(initial=0) < infinity(dtype) << 1)


def pack(kept: np.ndarray) -> np.ndarray:
    """Pack bool (rows, cols) into uint8 (rows, ceil(cols / 8))."""
    return np.packbits(kept, axis=-1, bitorder="little")


def unpack(bits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Unpack uint8 (rows, ceil(cols / 8)) into bool (rows, cols)."""
    return np.unpackbits(bits, axis=-1, count=shape[1], bitorder="little").view(bool)


def row_bytes(cols: int) -> int:
    """Return the size of a packed row in bytes, ceil(cols / 8)."""
    return (cols + 7) // 8
