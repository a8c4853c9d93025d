import json

import numpy as np

from benchmarks import gpu


def test_in_small_on_this_device(capsys):
    small = "--blends 5 --pool 2 --edge 24 --lanes 1 --repeat 1 --compared 2 --copied-mb 8"
    gpu.main(small.split())
    line = json.loads(capsys.readouterr().out)
    assert line["blends"] == 5 and line["blends_per_s"] > 0
    assert 0 < line["of_copy"] < 10 and np.isclose(line["step_gb_s"], line["of_copy"] * line["copy_gb_s"], rtol=0.2)
    median, largest = line["flux_difference"]
    assert median < 1e-4 and largest < 1e-2  # rounding may end a fit half a window earlier
