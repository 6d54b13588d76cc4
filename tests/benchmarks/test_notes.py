"""Small JSON files between two starts, of any shape: an answer or none, never a traceback."""

import json

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.data import download
from benchmarks.grid import cluster, outcomes
from regvit_lightning.runtime import loggers

URL = "https://example.org/file.tar"
KEYS = ["url", "version", "number", "log", "at", "name", "error", "seconds", "ended", "id"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(URL),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=10),
    max_leaves=12,
)
FULL = [["url", "version"], ["number", "log", "at"], ["name", "error", "log", "seconds", "ended"], ["id"]]
SHAPED = st.sampled_from(FULL).flatmap(lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, VALUES)))
CONTENT = st.binary(max_size=20) | (VALUES | SHAPED).map(lambda value: json.dumps(value).encode())


@given(CONTENT)
def test_notes_of_any_shape(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("notes")
    for name in ("file.tar.part.json", "cell.json", "cell.job", "wandb.json"):
        (folder / name).write_bytes(content)
    (folder / "file.tar.part").write_bytes(b"half")
    headers = download._going_on(URL, folder / "file.tar.part", download.ExpectedFile(sha256="0" * 64))
    assert all(isinstance(value, str) and "\n" not in value for value in headers.values())
    outcome = outcomes.read_outcome(folder / "cell.json")
    assert outcome is None or isinstance(outcome.ended > 0.0, bool)
    job = cluster.submitted(folder / "cell")
    assert job is None or isinstance(job.number, str)
    identity = loggers._identity(folder / "wandb.json")
    assert identity == loggers._identity(folder / "wandb.json") != ""
