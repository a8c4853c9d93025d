import json

from benchmarks import stragglers


def test_one_in_twenty_is_a_straggler():
    usual = stragglers.make_items(21, shape=(24, 24), stragglers=False, seed=1)
    mixed = stragglers.make_items(21, shape=(24, 24), stragglers=True, seed=1)
    ratios = [(a.obs.weights / b.obs.weights).mean() for a, b in zip(mixed, usual, strict=True)]
    assert [round(ratio) for ratio in ratios] == [1] * 10 + [10000] + [1] * 10


def test_every_way_prints_a_line(capsys):
    stragglers.main(["--blends", "3", "--edge", "24", "--lanes", "2", "--max-steps", "10", "--repeat", "1"])
    one, refilled, together = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [way["lanes"] for way in (one, refilled, together)] == [1, 2, 2]
    assert all(way["slowdown"] > 0 and way["steps_max"] <= 10 for way in (one, refilled, together))
