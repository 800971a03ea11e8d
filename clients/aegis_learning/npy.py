"""Arrays as Flower carries them: one NumPy file (.npy, NEP 1) each, read without an interpreter.

`numpy.load` parses the file's header as Python. In CPython 3.11 that parser is not safe for threads
(cpython issue 106905): sites that train side by side lost an update every few thousand rounds. The
header of an array of numbers is one line of a fixed form, which a pattern reads.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

_MAGIC = re.compile(rb"\x93NUMPY\x01\x00(..)", re.DOTALL)
_HEADER = re.compile(
    rb"\{'descr': '(<[fiu][1248]|\|[iu]1)', 'fortran_order': (True|False),"
    rb" 'shape': \(((?:\d{1,12}, )*\d{1,12},?)?\), \} *\n"
)


def read(data: bytes) -> NDArray[np.generic]:
    """Returns the array, which cannot be written to; ValueError when the bytes are none."""
    magic = _MAGIC.match(data)
    if magic is None:
        raise ValueError("not a NumPy file")
    begins = magic.end() + int.from_bytes(magic[1], "little")
    header = _HEADER.fullmatch(data, magic.end(), begins)
    if header is None:
        raise ValueError("not a NumPy file of numbers")
    kind = np.dtype(header[1].decode())
    shape = tuple(int(size) for size in (header[3] or b"").split(b",") if size.strip())
    if len(data) - begins != math.prod(shape) * kind.itemsize:
        raise ValueError("a NumPy file of another size than its header says")
    values = np.frombuffer(data, kind, offset=begins)
    return values.reshape(shape, order="F" if header[2] == b"True" else "C")
