"""Foreign and damaged records: every program that reads results answers, or says in one line what is wrong."""

import contextlib
import copy
import importlib
import io
import json
import random
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks.tables.scored_records import parse_files
from tests.by_hand import cell, report, save

SOUND = cell("deit3-vitn_reg0", per_image=[0.0, 100.0, 100.0])
VALUES = [asdict(cell("deit3-vitn_reg4", top1=60.0).record), asdict(report("deit3-vitn_reg4").record)]
NAMES = ["imagenet_knn.seed0.json", "artifact_report.seed0.json"]

WRONG = [
    None,
    True,
    0,
    -1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\n# x",
    "\ud800",
    [],
    {},
    [[]],
    {"a": {}},
]
WRONG += ["x" * 100_000, [None], [[1.0]] * 3, {"top1": None}, {"": ""}, -1e-320, 2.5, "../..", "/etc", "\x1b[2J"]


def places(tree, path=()):
    """Keys that lead to every value inside a tree of JSON."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(inside)[: 6 if isinstance(tree, list) else None]:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = [list(places(values)) for values in VALUES]


def malformed(rng):
    """Index of a valid record, and the bytes of a malformation of it."""
    index = rng.randrange(len(VALUES))
    values = copy.deepcopy(VALUES[index])
    for _ in range(rng.choice((1, 1, 2))):
        *path, last = rng.choice(PLACES[index])
        with contextlib.suppress(LookupError, TypeError):  # what an earlier change removed
            inside = values
            for key in path:
                inside = inside[key]
            change(inside, last, rng)
    content = json.dumps(values).encode()
    how = {
        "torn": content[: rng.randrange(len(content))],
        "utf-16": content.decode().encode("utf-16"),
        "latin": content.replace(b"vitn", b"vit\xe9"),
        "list": b"[" + content + b"]",
        "twice": content * 2,
        "deep": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    }
    return index, content if rng.random() < 0.8 else how[rng.choice(sorted(how))]


def change(inside, key, rng):
    """Put something else in place of a value, or remove it."""
    kind = rng.random()
    if kind < 0.6:
        inside[key] = rng.choice(WRONG)
    elif kind < 0.8:
        del inside[key]
    elif kind < 0.9:
        inside[key] = {"more": inside[key]}
    else:
        inside[key] = json.loads("[" * 200 + "]" * 200)


def run(program, *words):
    """Exit status and error output of a program; any exception but its own exit is passed on."""
    module, output, errors = importlib.import_module(f"benchmarks.{program}"), io.StringIO(), io.StringIO()
    with (
        mock.patch("sys.argv", [program, *words]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            module.cli()
        except SystemExit as stop:
            return stop.code, errors.getvalue(), output.getvalue()
    return 0, errors.getvalue(), output.getvalue()


def files_of(malformations):
    """Files by their paths below the folder of the cells, each of a model of its own."""
    files = {}
    for number, (index, content) in enumerate(malformations):
        model = f"random-vitn_reg{number}"
        files[f"{model}/{NAMES[index]}"] = content.replace(b"deit3-vitn_reg4", model.encode())
    return files


def files_by(seed, count):
    rng = random.Random(seed)
    return files_of([malformed(rng) for _ in range(count)])


SEEDS = st.integers(0, 2**32)


@settings(max_examples=10)
@given(SEEDS)
def test_a_file_is_a_record_or_one_line_says_why_not(seed):
    files = files_by(seed, 60)
    read = parse_files(files, "mini", "x", Path("cells"))
    named = [next(path for path in files if path in line) for line in read.skipped]
    assert all(len(line.splitlines()) == 1 and len(line) < 600 for line in read.skipped)
    assert {str(one.file.relative_to("cells")) for one in read.cells} | set(named) == set(files)
    assert 0 < len(read.cells) < len(files)  # some changes do no harm


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Results with one sound record."""
    folder = tmp_path_factory.mktemp("base")
    save(folder, SOUND)
    return folder


@settings(max_examples=2, phases=[Phase.generate])
@given(SEEDS)
def test_every_program_answers_or_gives_one_line(tmp_path_factory, base, seed):
    files, place = files_by(seed, 120), tmp_path_factory.mktemp("malformed")
    save(place / "results", SOUND)
    for path, content in files.items():
        file = place / "results/mini/cells" / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    models = ", ".join(path.partition("/")[0] for path in files)
    (place / "grid.yaml").write_text(f"models: [{models}]\ntasks: [imagenet_knn, artifact_report]\nseeds: [0]\n")
    programs = {
        "tables.__main__": [],
        "compare.__main__": [f"base={base}"],
        "status": [f"grid={place / 'grid.yaml'}", f"runs={place}"],
        "report.__main__": [f"runs={place}"],
    }
    for program, words in programs.items():
        status, errors, output = run(program, f"results={place / 'results'}", "data=mini", *words)
        assert status == 0 or (status == 2 and len(errors.strip().splitlines()) == 1), (program, errors)
        assert not {"\x1b", "\ud800"} & set(output)
        assert "Traceback" not in errors + output
