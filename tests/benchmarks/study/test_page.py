"""What a study says: runs by hand, with and without artifacts."""

import pytest

from benchmarks.study import page
from benchmarks.study.runs import StudyRun, measured
from regvit_lightning.errors import UserError
from tests.benchmarks.study.runs_by_hand import rows

FACTS = {"blocks": 4, "width": 96, "patches": 64, "data": "mini", "weight_decay": 0.02}


def run(registers, *steps, seed=0, **facts):
    tag = "+x" if facts else ""
    model = f"deit3{tag}-vitn_reg{registers}"
    return StudyRun(model, "mini", seed, registers, {**FACTS, **facts}, 100, measured(rows(*steps)))


def high(share, largest=7.0):
    return {"made_max_over_median": largest, "made_factor": share, "artifacts": float(share > 0)}


def test_nothing_found_says_how_far_the_norms_went_and_where():
    shown = page.finding(
        [run(0, (0, [{}])), run(4, (0, [{}]), (50, [{}, {"made_max_over_median": 1.8}]), weight_decay=0.3)]
    )
    assert shown.startswith("**Not found up to this size and length**: in none of 2 runs does any block")
    assert (
        "The largest norm is 1.8 × the median (weight_decay 0.3, 4 registers, seed 0, step 50, after block 2)" in shown
    )


def test_what_is_found_is_listed_with_its_first_step():
    quiet, loud = run(0, (0, [{}])), run(0, (0, [{}]), (50, [{}, high(0.01)]), (100, [high(0.1, 10.0)]), depth=8)
    shown = page.finding([quiet, loud])
    assert shown.startswith("**Found in 1 of 2 runs**:")
    assert "- depth 8, 0 registers, seed 0: from step 50 (5,000 images) on, after block 2; the largest norm" in shown
    assert shown.endswith("of the run is 10 × the median.")


def cells_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_has_registers_side_by_side_and_means_over_seeds():
    runs = [
        run(0, (0, [high(0.0, 4.0)]), (50, [high(0.02, 3.0)])),
        run(0, (0, [{}]), (50, [high(0.04, 5.0)]), seed=1),
        run(4, (0, [{}]), (50, [{}])),
        run(0, (0, [{}]), weight_decay=0.3),
    ]
    heading, _, base, other = cells_of(page.table(runs))
    shown = dict(zip(heading, base, strict=True))
    assert (shown["setting"], shown["images seen"], shown["seeds"]) == ("base", "5,000", "2")
    assert shown["largest ÷ median at the end (0 / 4 registers)"] == "4.00 / 1.50"  # (3 + 5) / 2
    assert shown["its peak (0 / 4 registers)"] == "4.50 / 1.50"  # (4 + 5) / 2
    assert shown["outliers: 3 × median (0 / 4 registers)"] == "3.00 % / 0.00 %"
    assert shown["sinks per image (0 / 4 registers)"] == "0.50 / 0.50"
    missing = dict(zip(heading, other, strict=True))
    assert (missing["setting"], missing["its peak (0 / 4 registers)"]) == ("weight_decay 0.3", "1.50 / –")


def test_the_text_names_the_base_and_what_has_not_run():
    shown = page.text("emergence", [run(0, (0, [{}]))], ["deit3-vitb_reg0 on mini seed 0"])
    assert "4 blocks of width 96, 64 patches per image, data mini" in shown
    assert shown.endswith("Not run: deit3-vitb_reg0 on mini seed 0.\n")


def test_the_block_of_a_page_is_replaced_and_nothing_else(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(f"before\n{page.BEGIN}\nold \\1\n{page.END}\nafter\n")
    page.insert(file, "new \\1 text\n")
    assert file.read_text() == f"before\n{page.BEGIN}\n\nnew \\1 text\n\n{page.END}\nafter\n"
    page.insert(file, "newer")
    assert file.read_text() == f"before\n{page.BEGIN}\n\nnewer\n\n{page.END}\nafter\n"


@pytest.mark.parametrize("text", ["nothing", f"{page.END} {page.BEGIN}", f"{page.BEGIN * 2} {page.END}", page.BEGIN])
def test_a_page_without_its_markers_is_left_alone(text, tmp_path):
    file = tmp_path / "page.md"
    file.write_text(text)
    with pytest.raises(UserError, match="expected one line <!-- begin of the study --> and below it"):
        page.insert(file, "new")
    assert file.read_text() == text
    with pytest.raises(UserError, match="not readable"):
        page.insert(tmp_path / "no.md", "new")
