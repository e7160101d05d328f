"""Bytes of shapes as XLA lays them out; sizes of TPU layouts are those of its own buffers."""

from __future__ import annotations

import pytest

from memjax.xla import buffers_pb2 as pb
from memjax.xla.shapes import array_bytes, arrays, memory_of, part_of

F32, BF16, PRED, S4, TOKEN, TUPLE = 11, 16, 1, 21, 17, 13


def array(kind, dimensions, *tiles, memory=0, bits=0):
    layout = pb.Layout(
        minor_to_major=reversed(range(len(dimensions))),
        tiles=[pb.Tile(dimensions=tile) for tile in tiles],
        memory_space=memory,
        element_size_in_bits=bits,
    )
    return pb.Shape(element_type=kind, dimensions=dimensions, layout=layout)


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        (array(F32, (8, 100)), 3200),
        (array(F32, (8, 100), (8, 128)), 8 * 128 * 4),
        (array(F32, (3, 9, 100), (8, 128)), 3 * 16 * 128 * 4),
        (array(BF16, (10, 200), (8, 128), (2, 1)), 16 * 256 * 2),
        (array(PRED, (8, 256), (8, 128), (4, 1)), 8 * 256),
        (array(F32, (256,), (256,)), 1024),
        (array(F32, (5,), (8, 128)), 8 * 128 * 4),
        (array(F32, ()), 4),
        (array(F32, (0, 7), (8, 128)), 0),
        (array(S4, (8, 100)), 800),
        (array(S4, (8, 100), bits=4), 400),
        (array(TOKEN, ()), 0),
    ],
)
def test_bytes_as_laid_out(shape, count):
    assert array_bytes(shape) == count


def test_a_layout_tiles_its_innermost_dimensions():
    turned = pb.Shape(
        element_type=F32,
        dimensions=(100, 8),
        layout=pb.Layout(minor_to_major=(0, 1), tiles=[pb.Tile(dimensions=(8, 128))]),
    )
    assert array_bytes(turned) == 8 * 128 * 4


def test_arrays_of_nested_tuples():
    """((a, b), c)"""
    a, b, c = array(F32, (1,)), array(F32, (2,), memory=1), array(F32, (3,))
    inner = pb.Shape(element_type=TUPLE, tuple_shapes=[a, b])
    outer = pb.Shape(element_type=TUPLE, tuple_shapes=[inner, c])
    assert list(arrays(outer)) == [((0, 0), a), ((0, 1), b), ((1,), c)]
    assert list(arrays(a)) == [((), a)]
    assert part_of(outer, (0, 1)) == b
    assert memory_of(part_of(outer, (0, 1))) == 1
