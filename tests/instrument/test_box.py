import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdeblend as jd

pairs = st.tuples(st.integers(-6, 9), st.integers(-6, 9))
boxes = st.builds(jd.Box, pairs, st.tuples(st.integers(0, 9), st.integers(0, 9)))


def pixels(box):
    return {(y, x) for y in range(box.start[0], box.stop[0]) for x in range(box.start[1], box.stop[1])}


@given(boxes, boxes)
def test_overlap_is_the_common_pixels(a, b):
    assert pixels(a.overlap(b)) == pixels(a) & pixels(b) == pixels(b.overlap(a))


@given(boxes, pairs)
def test_a_box_contains_its_pixels(box, pixel):
    assert box.contains(float(pixel[0]), float(pixel[1])) == (pixel in pixels(box))


@given(boxes, st.integers(0, 4))
def test_grow_adds_pixels_on_each_side(box, n):
    grown = box.grow(n)
    assert grown.shape == (box.shape[0] + 2 * n, box.shape[1] + 2 * n)
    assert grown.center == box.center and grown.grow(-n) == box


@given(boxes, pairs)
def test_shifted_by_moves_all_pixels(box, step):
    assert pixels(box.shifted_by(*step)) == {(y + step[0], x + step[1]) for y, x in pixels(box)}


@given(boxes)
def test_slices_cut_the_pixels_out(box):
    index = np.moveaxis(np.indices((20, 20)), 0, -1)
    if min(box.start) >= 0:
        assert {(int(y), int(x)) for y, x in index[box.slices].reshape(-1, 2)} == pixels(box)


def test_border_of_a_pixel_is_half_a_pixel_from_its_centre():
    box = jd.Box((2, 3), (4, 5))
    assert box.center == (3.5, 5.0)
    assert box.contains(1.5, 2.5) and not box.contains(1.49, 2.5)
    assert not box.contains(5.5, 2.5) and box.contains(5.49, 7.49)


def test_slices_before_the_image_are_refused():
    with pytest.raises(ValueError, match=r"slices: Box\(start=\(-1, 0\).*begins before the image"):
        _ = jd.Box((-1, 0), (3, 3)).slices


def test_negative_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape: got \(2, -1\); both edges of a Box must be >= 0"):
        jd.Box((0, 0), (2, -1))
    with pytest.raises(ValueError, match=r"shape: got \(-2, -1\)"):
        jd.Box((0, 0), (2, 3)).grow(-2)
