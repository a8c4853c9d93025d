import json

from benchmarks import single_band_batch


def test_a_second_catalog_compiles_nothing(capsys, monkeypatch):
    few = single_band_batch.catalog(1, seed=1)
    monkeypatch.setattr(single_band_batch, "catalog", lambda n, **_: n * few)
    single_band_batch.main(["--batch", "2"])
    report = json.loads(capsys.readouterr().out)
    assert report["blends"] == 2 and report["each_in_order"] and report["conservation"] < 1e-6
    assert report["programs"][0] == report["programs"][1] and report["compilations"] == 0
