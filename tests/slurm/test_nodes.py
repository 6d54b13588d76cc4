"""Pretraining on two nodes of a Slurm, one device each: stopped, queued again, and with the bits of one machine."""

import torch
from safetensors.torch import load_file

from tests.slurm.conftest import wait
from tests.slurm.test_pretrain import Place, pretrain, submitted


def test_two_nodes_train_as_two_devices_of_one(cluster, tiny, tmp_path):
    place = Place(tmp_path / "nodes")
    words = ["launcher=slurm", "partition=pair", "nodes=2", "devices=1"]
    job = submitted(pretrain(cluster, tiny, tmp_path / "nodes", *words))
    wait(lambda: place.rows() >= 3, 200, place.log)
    shown = cluster.run("scontrol", "show", "job", "--oneliner", job)
    assert "NumNodes=2" in shown
    assert "NodeList=pair[0-1]" in shown

    cluster.run("scancel", "--signal=USR2", job)  # as before its time limit
    wait(lambda: f"job {job} is queued again and continues from there" in place.log(), 100, place.log)
    kept = place.step()
    assert kept < 90
    wait(lambda: cluster.state(job)[0] == "COMPLETED", 400, place.log)
    assert cluster.state(job) == ("COMPLETED", 1)
    assert "Traceback" not in place.log()

    pretrain(cluster, tiny, tmp_path / "one", "devices=2")
    ours, theirs = (load_file(Place(tmp_path / name).folder / "backbone.safetensors") for name in ("nodes", "one"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert place.curve.read_text() == Place(tmp_path / "one").curve.read_text()
