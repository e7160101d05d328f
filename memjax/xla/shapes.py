"""How many bytes XLA takes for a shape, and in which memory.

In: a `Shape`, XLA's own message. Out: its arrays with their places in it, their bytes as laid
out, and the memory that they are in.

Definitions

1. The *index* of an array is its place in a nested tuple; `()` in a shape that is one array.
2. Bytes as laid out are those of the dimensions rounded up to the tiles of the layout, where it
   has any: TPUs keep `f32[8,100]` in tiles of 8 × 128. The first tile is that of the innermost
   dimensions; the tiles after it divide it, and pad only where they do not.
3. Memory 0 is the device's own. Of a TPU core memory 1 is VMEM, on the chip; 5 is the host's,
   on all backends. `memory_analysis()` counts each apart.

Not handled: dynamic shapes, which count in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

Index = tuple[int, ...]
DEVICE_MEMORY = 0
CHIP_MEMORY = 1
_TUPLE = 13
_BITS = {
    **dict.fromkeys((1, 2, 6, 19, 20, 23, 24, 25, 28, 29, 33), 8),
    **dict.fromkeys((3, 7, 10, 16), 16),
    **dict.fromkeys((4, 8, 11), 32),
    **dict.fromkeys((5, 9, 12, 15), 64),
    18: 128,
    **dict.fromkeys((21, 22, 32), 4),
    **dict.fromkeys((26, 27), 2),
    **dict.fromkeys((30, 31), 1),
}
"""Bits of an element by XLA's number of its type (`xla_data.proto`); tokens and the like have
none. Those below 8 are stored so only where the layout says it, and take a byte otherwise."""


def arrays(shape: Any, index: Index = ()) -> Iterator[tuple[Index, Any]]:
    """The arrays of a shape with their indices."""
    if shape.element_type != _TUPLE:
        yield index, shape
        return
    for number, part in enumerate(shape.tuple_shapes):
        yield from arrays(part, (*index, number))


def part_of(shape: Any, index: Index) -> Any:
    """The part of a shape at an index."""
    for number in index:
        shape = shape.tuple_shapes[number]
    return shape


def array_bytes(shape: Any) -> int:
    """The bytes of an array as laid out; 0 for tokens."""
    bits = shape.layout.element_size_in_bits or max(8, _BITS.get(shape.element_type, 0))
    if shape.element_type not in _BITS:
        return 0
    return -(-_elements(shape) * bits // 8)


def memory_of(shape: Any) -> int:
    """The memory that an array is in."""
    return int(shape.layout.memory_space)


def _elements(shape: Any) -> int:
    """Elements with the padding of the tiles."""
    sizes = [int(shape.dimensions[d]) for d in reversed(shape.layout.minor_to_major)]
    if len(sizes) != len(shape.dimensions):
        sizes = [int(d) for d in shape.dimensions]
    if not all(sizes):
        return 0
    for tile in shape.layout.tiles:
        sizes = _tiled(sizes, [int(d) for d in tile.dimensions])
    return math.prod(sizes)


def _tiled(sizes: list[int], tile: list[int]) -> list[int]:
    """The sizes after tiling: outer dimensions, tiles along the tiled ones, and the tile's own.

    A negative size in a tile joins a dimension to the next one outwards.
    """
    missing = len(tile) - len(sizes)
    sizes = [1] * missing + sizes
    outer, inner = sizes[: len(sizes) - len(tile)], sizes[len(sizes) - len(tile) :]
    counts: list[int] = []
    joined = 1
    own: list[int] = []
    for size, along in zip(inner, tile, strict=True):
        if along < 0:
            joined *= size
            continue
        counts.append(-(-size * joined // along))
        own.append(along)
        joined = 1
    return [*outer, *counts, *own]
