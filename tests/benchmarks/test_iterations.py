import json

import pytest

from benchmarks import iterations


@pytest.mark.slow
def test_a_line_for_each_number_of_sources(capsys):
    iterations.main(["--edges", "24", "--sources", "2"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["edge"], line["sources"]) for line in lines] == [(24, 6), (64, 2)]
    assert all(0 < line["ms"] < 1e3 and line["slots"] >= line["sources"] for line in lines)
