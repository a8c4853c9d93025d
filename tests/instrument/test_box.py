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
    assert box.contains(np.array([pixel], float)).tolist() == [pixel in pixels(box)]


@given(st.lists(boxes, max_size=4))
def test_the_union_is_the_smallest_box_that_holds_all_pixels(some):
    held = set().union(*map(pixels, some))
    union = jd.Box.union(some)
    assert held <= pixels(union)
    assert union == bounding_box(held)


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 7))))
def test_the_box_of_a_mask_is_the_smallest_that_holds_it(members):
    mask = np.zeros((7, 8), bool)
    for pixel in members:
        mask[pixel] = True
    assert jd.Box.of_mask(mask) == bounding_box(members)


def bounding_box(held):
    """The smallest box that holds some pixels, by its definition."""
    if not held:
        return jd.Box((0, 0), (0, 0))
    ys, xs = zip(*held, strict=True)
    return jd.Box((min(ys), min(xs)), (max(ys) - min(ys) + 1, max(xs) - min(xs) + 1))


@given(boxes, boxes)
def test_within_cuts_the_common_pixels_out_of_an_image_of_the_other(a, b):
    common = a.overlap(b)
    index = np.moveaxis(np.indices(b.shape), 0, -1) + np.array(b.start)
    if min(common.shape):
        cut = index[common.within(b)].reshape(-1, 2)
        assert {(int(y), int(x)) for y, x in cut} == pixels(common)


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
    positions = np.array([[1.5, 2.5], [1.49, 2.5], [5.5, 2.5], [5.49, 7.49], [np.nan, 4.0], [np.inf, 4.0]])
    assert box.contains(positions).tolist() == [True, False, False, True, False, False]


def test_slices_before_the_image_are_refused():
    with pytest.raises(ValueError, match=r"slices: Box\(start=\(-1, 0\).*begins before the image"):
        _ = jd.Box((-1, 0), (3, 3)).slices


def test_negative_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape: got \(2, -1\); both edges of a Box must be >= 0"):
        jd.Box((0, 0), (2, -1))
    with pytest.raises(ValueError, match=r"shape: got \(-2, -1\)"):
        jd.Box((0, 0), (2, 3)).grow(-2)
