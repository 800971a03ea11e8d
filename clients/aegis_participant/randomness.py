"""Where sampling and noise come from: the key stream of AES-256 in counter mode.

Whoever can predict the noise can subtract it, so the key is fresh and secret. In a simulation,
where the data is no secret, the key is made from the run's seed and a run can be repeated bit
for bit. Both are the same code. (Like every floating-point Gaussian, this one is open to the
attacks on low-order bits of Mironov 2012; the float32 update an outsider sees is a sum of many.)
"""

from __future__ import annotations

import hashlib
import math
import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from scipy.special import ndtri  # type: ignore[import-untyped]

_BLOCK = 1 << 15  # numbers at a time: a quarter of a megabyte stays in the cache
_ZEROS = bytes(8 * _BLOCK)


class KeyStream:
    """An endless stream of independent numbers under one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def secret(cls) -> KeyStream:
        """Returns a stream nobody can repeat."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def seeded(cls, *parts: int) -> KeyStream:
        """Returns the stream of these numbers: for simulations only."""
        text = ",".join(str(part) for part in parts)
        return cls(hashlib.sha256(b"aegis simulation\0" + text.encode()).digest())

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Returns numbers strictly between 0 and 1."""
        values = np.empty(count)
        words, memory = values.view("<u8"), values.data.cast("B")
        for start in range(0, count, _BLOCK):
            # The key's words become numbers where they are: the memory is passed once.
            stop = min(start + _BLOCK, count)
            zeros = memoryview(_ZEROS)[: 8 * (stop - start)]
            self._cipher.update_into(zeros, memory[8 * start : 8 * stop])
            words[start:stop] >>= np.uint64(12)
            np.add(words[start:stop], 0.5, out=values[start:stop])
            values[start:stop] *= 2.0**-52
        return values

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Returns standard normal numbers, by inversion."""
        values = self.uniform(math.prod(shape))
        normal: NDArray[np.float64] = ndtri(values, out=values).reshape(shape)
        return normal
