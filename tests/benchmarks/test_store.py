import json

from benchmarks import store


def test_size_speed_and_exactness(tmp_path):
    line = store.measure(12, seed=1, folder=tmp_path)
    assert line["n_blends"] == 12 and line["exact"] and line["shards_equal"] and line["fits_equal"]
    assert 0.1 < line["bytes_per_pixel"] < 4 < line["fits_bytes_per_pixel"]  # of float32, with all that goes with them
    assert all(line[name] > 0 for name in ("write_mb_per_s", "read_mb_per_s", "merge_mb_per_s", "partial_read_ms"))
    json.dumps(line)


def test_blends_are_the_same_each_time():
    assert store.make_blend(7, 1).blend.centers.tobytes() == store.make_blend(7, 1).blend.centers.tobytes()
