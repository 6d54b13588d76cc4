"""The program of the bench: what of it is chosen, and what stays of it when it ends early."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed.timing import Measurement


@pytest.fixture
def measured(monkeypatch):
    """Letters in the order in which they were measured; `o` is interrupted."""
    letters = []

    def rows(name):
        def measure():
            letters.append(name)
            if name == "o":
                raise KeyboardInterrupt
            yield Measurement(f"({name}) ratio", 1.234, "≤ 2", "2 s over 1 s")

        return measure

    monkeypatch.setattr(speed, "render", lambda data: None)
    monkeypatch.setattr(speed, "matrix_peak", lambda: 1e9)
    names = ["a", "b", "cd", "o", "q", "peers"]
    monkeypatch.setattr(speed, "measurements", lambda options, peak: {name: rows(name) for name in names})
    return letters


def test_an_interrupted_bench_keeps_its_rows_and_names_what_is_left(measured, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        speed.main(speed.Bench(only="oqda", results=str(tmp_path)), [])
    assert measured == ["a", "cd", "o"]
    shown = (tmp_path / "bench" / "speed-cpu-oqda.md").read_text()
    assert "Not measured yet: o, q." in shown
    assert "| (cd) ratio" in shown
    rows = json.loads((tmp_path / "bench" / "speed-cpu-oqda.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["(a) ratio", "(cd) ratio"]
    assert "bench: (cd) ratio: 1.23; 2 s over 1 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("only", "expected"), [("bq", ["b", "q"]), ("peers", ["peers"]), ("d", ["cd"]), ("abcdq", ["a", "b", "cd", "q"])]
)
def test_letters_choose_measurements_and_peers_are_asked_for_by_name(measured, tmp_path, only, expected):
    speed.main(speed.Bench(only=only, results=str(tmp_path)), [])
    assert measured == expected
    assert "Not measured yet" not in next((tmp_path / "bench").glob("*.md")).read_text()


def test_every_letter_has_a_measurement(monkeypatch):
    monkeypatch.setattr(speed.layout, "resolve", lambda name: SimpleNamespace())
    known = speed.measurements(speed.Bench(), 1e9)
    assert "".join(letters for letters in known if letters != speed.ALL_PEERS) == speed.LETTERS
    assert list(known)[-1] == speed.ALL_PEERS
