import json

from benchmarks import report

LINES = {
    "throughput": [{"set": "a", "blends_per_s": 40.5, "device": "cpu cpu"}],
    "stages": [{"set": "a", "shape": "64 × 64", "sources": 3, "step": 1.25}],
    "scaling": [{"programs": 9}, {"blends": 10, "blends_per_s": 30.0, "rss_mb": [7]}],
    "stragglers": [
        {"lanes": 1, "enter_at_a_time": 1, "blends_per_s": 9.0, "blends_per_s_with_stragglers": 8.0},
        {"lanes": 8, "enter_at_a_time": 2, "blends_per_s": 9.0, "blends_per_s_with_stragglers": 7.0},
        {"lanes": 8, "enter_at_a_time": 8, "blends_per_s": 9.0, "blends_per_s_with_stragglers": 2.0},
    ],
    "peers": [{"peer": "other 1", "ours": {"flux_error_snr20": 0.03}, "theirs": {"flux_error_snr20": 0.05}}],
}


def test_the_report_is_made_of_the_files(tmp_path):
    for name, lines in LINES.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    report.main(["--only", "nothing", "--output", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    for words in ("| a |  | 40.5 |", "| 64 × 64 | 3 | 1.25 |", "9 programs", "| 10 | 30.0 | 7 |", "0.03 / 0.05"):
        assert words in text
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_those_of_benchmarks_and_what_fails_is_said(tmp_path, capsys):
    for name in report.commands(["a"]):
        assert (report.RESULTS.parent / f"{name}.py").exists()
    report.run("stages", [["--no-such-option"]], tmp_path)
    assert "stages --no-such-option: left out; " in capsys.readouterr().out and not list(tmp_path.iterdir())
