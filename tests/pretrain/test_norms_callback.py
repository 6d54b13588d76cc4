"""Measuring during pretraining: it changes no weight, survives interruptions, and finds a neuron as it grows."""

import csv
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regvit_lightning.analysis.norms import measure
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.data.imagenet import index
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import UserError
from regvit_lightning.figures.training import BINS, EDGES, histogram, norms_during_training
from regvit_lightning.models import vit
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.pretrain import fit, norms_callback
from regvit_lightning.pretrain.norms_callback import NormsDuringTraining, describe, fixed_images, read
from regvit_lightning.pretrain.preserved import preserved
from regvit_lightning.settings import SettingsError
from tests.analysis.planted import planted
from tests.pretrain.test_fit import StopAt, die_at, prepare, same_bits

IMAGES = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def watch(run, every=2):
    return NormsDuringTraining(IMAGES, run.folder, every, Rules())


def measured(folder):
    return [(row["step"], row["block"]) for row in read(folder / norms_callback.FILE)]


@pytest.fixture(scope="module")
def watched(tiny, tmp_path_factory):
    """A run of 6 steps, measured at every second one, and the same run without."""
    folder = tmp_path_factory.mktemp("runs")
    alone, run = (prepare(tiny, folder / name, "epochs=1") for name in ("alone", "watched"))
    fit.fit(alone)
    fit.fit(run, [watch(run)])
    return alone.folder, run.folder


def test_weights_are_the_same_with_and_without(watched):
    alone, run = watched
    assert same_bits(run, alone)
    assert same_bits(run, alone, "backbone_ema")


def test_a_row_for_each_measured_step_and_block(watched):
    assert measured(watched[1]) == [(step, block) for step in (0, 2, 4, 6) for block in (1, 2, 3, 4)]
    with (watched[1] / "norms.csv").open() as file:
        row = next(csv.DictReader(file))
    of_norms = [*norms_callback.QUANTILES, *Rules().masks(torch.ones(1, 1, 1)), *BINS]
    of_tokens = ["mean_cosine", "cls_cosine", "sinks", "nop_sinks", "broadcast_sinks"]
    assert list(row)[2:] == [*of_norms, *of_tokens, "made_factor", "made_log_mads", "made_max_over_median", "artifacts"]
    assert sum(float(row[name]) for name in BINS) == pytest.approx(1)
    assert float(row["min"]) < float(row["median"]) < float(row["max"])


def test_the_log_has_pictures_that_grow_and_no_curve_for_each_block(watched):
    events = EventAccumulator(str(watched[1] / "log")).Reload()
    assert not [tag for tag in events.Tags()["scalars"] if "block" in tag]
    assert set(events.Tags()["images"]) >= {"norms", "sinks", "locality"}
    pictures = events.Images("norms")
    assert [picture.step for picture in pictures] == [0, 2, 4, 6]
    shown = Image.open(io.BytesIO(pictures[-1].encoded_image_string)).convert("RGB")
    with Image.open(watched[1] / "norms.png") as kept:  # which the figure of all rows is drawn into
        smaller = kept.convert("RGB").resize(shown.size, Image.Resampling.BOX)
        apart = np.abs(np.asarray(shown, float) - np.asarray(smaller, float))
    assert apart.mean() < 5


def test_the_last_row_is_that_of_the_last_weights(tiny, watched):
    state = torch.load(watched[1] / "last.ckpt", weights_only=True)
    assert state["global_step"] == 6
    # Not the export: it holds the moving average.
    recipe = prepare(tiny, watched[1])
    model = vit.build(recipe.model, image_size=64, layer_scale=recipe.settings.layer_scale)
    weights = {name.removeprefix("backbone."): value for name, value in state["state_dict"].items()}
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = (IMAGES.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    found = measure(ViTBackbone(model, "last", 64, mean, std), x).raw
    rows = [row for row in read(watched[1] / "norms.csv") if row["step"] == 6]
    for row in rows:
        assert row["median"] == pytest.approx(float(found[:, row["block"] - 1].quantile(0.5)), rel=1e-4)
    patches = ViTBackbone(model, "last", 64, mean, std)(x, [1], norm=False)[0].patches.flatten(1, 2)
    cosine = torch.nn.functional.cosine_similarity(patches, patches.mean(dim=1, keepdim=True), dim=2).mean().item()
    assert rows[1]["mean_cosine"] == pytest.approx(cosine, rel=1e-4)
    assert -1 <= rows[1]["cls_cosine"] <= 1
    assert [row["sinks"] for row in rows] == [0, 0, 0, 0]


@pytest.mark.parametrize("step", [2, 3, 5])
def test_an_interrupted_run_has_every_row_once(tiny, watched, tmp_path, step):
    run = prepare(tiny, tmp_path / "run", "epochs=1")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit.fit(run, [watch(run), StopAt(step)])
    fit.fit(run, [watch(run)])
    assert (run.folder / "norms.csv").read_text() == (watched[1] / "norms.csv").read_text()
    assert same_bits(run.folder, watched[1])


def test_a_picture_that_a_killed_process_did_not_draw_is_drawn_when_the_run_goes_on(tiny, watched, tmp_path):
    shutil.copytree(watched[1], tmp_path / "run")
    assert norms_callback.is_drawn(tmp_path / "run")
    for name in ("sinks.png", "backbone.safetensors"):  # killed after the last step
        (tmp_path / "run" / name).unlink()
    assert not norms_callback.is_drawn(tmp_path / "run")
    run = prepare(tiny, tmp_path / "run", "epochs=1")
    fit.fit(run, [watch(run)])
    for name in ("norms", "sinks", "locality"):
        assert (run.folder / f"{name}.png").read_bytes() == (watched[1] / f"{name}.png").read_bytes()
    assert (run.folder / "backbone.safetensors").exists()


def test_rows_after_the_checkpoint_are_dropped_and_missing_ones_measured(tiny, watched, tmp_path):
    run = prepare(tiny, tmp_path / "run", "epochs=1", "checkpoint_every=4")
    die_at(run, 5)  # the checkpoint is that of step 4, and nothing was measured
    shutil.copy(watched[1] / "norms.csv", run.folder / "norms.csv")
    rows = (run.folder / "norms.csv").read_text().splitlines()
    (run.folder / "norms.csv").write_text("\n".join(rows[:9] + rows[13:]) + "\n")  # without step 4, with step 6
    fit.fit(run, [watch(run)])
    assert (run.folder / "norms.csv").read_text() == (watched[1] / "norms.csv").read_text()


def test_modes_and_gradients_are_put_back():
    model = planted().clean.model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.blocks[0].eval()
    model.cls_token.requires_grad_(False)
    state = torch.get_rng_state()
    with preserved(model):
        backbone = ViTBackbone(model, "m", 64, (0.5,) * 3, (0.5,) * 3)
        assert not any(module.training for module in backbone.modules())
        measure(backbone, torch.zeros(1, 3, 64, 64))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.blocks[0].mlp.training
    assert model.blocks[1].mlp.training
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["cls_token"]


def test_planted_shares_in_the_rows():
    case = planted()
    rows = describe(measure(case.backbone, case.normalised()), Rules(), step=7)
    assert [row["factor"] for row in rows] == [0, 0, 1 / 32, 1 / 32]
    assert [row["max"] > 100 for row in rows] == [False, False, True, True]
    assert {row["step"] for row in rows} == {7}
    # Planted by the third block: none was an outlier at the patch embedding, and a gap lies below them.
    assert [row["made_factor"] for row in rows] == [0, 0, 1 / 32, 1 / 32]
    assert [row["artifacts"] for row in rows] == [0, 0, 1, 1]
    assert [row["made_max_over_median"] > 3 for row in rows] == [False, False, True, True]


def test_a_file_that_is_something_else(tmp_path):
    header = ",".join(norms_callback.COLUMNS)
    for text in ("a,b\n1,2\n", f"{header}\n{'x,' * 15}x\n", f"{header}\n1,2\n"):
        (tmp_path / "norms.csv").write_text(text)
        with pytest.raises(UserError, match=r"norms\.csv is not a table of norms.*move it away"):
            read(tmp_path / "norms.csv")
    assert read(tmp_path / "none.csv") == []
    with pytest.raises(SettingsError, match="every=0"):
        NormsDuringTraining(IMAGES, tmp_path, 0, Rules())


def test_the_measured_images_are_spread_and_readable(tmp_path):
    for name, shade in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        for place in range(24):
            Image.new("RGB", (40, 30), (shade, shade, shade)).save(tmp_path / name / f"{place:02d}.png")
    (tmp_path / "a" / "00.png").write_bytes(b"broken")
    images = fixed_images(index(tmp_path), 16)
    assert images.shape == (31, 3, 16, 16)
    assert images[:, 0, 0, 0].tolist() == [10] * 15 + [200] * 16
    for file in tmp_path.glob("*/*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="unreadable image"):
        fixed_images(index(tmp_path), 16)


def test_the_picture_at_the_end_shows_the_last_block(watched):
    figure = norms_during_training(read(watched[1] / "norms.csv"))
    rows = [row for row in read(watched[1] / "norms.csv") if row["block"] == 4]
    line = next(line for line in figure.axes[0].lines if line.get_label() == "median")
    assert line.get_xydata().tolist() == [[row["step"], row["median"]] for row in rows]
    assert len(figure.axes[1].lines) == 4
    assert (watched[1] / "norms.png").stat().st_size > 1000


def test_a_histogram_counts_every_norm_once():
    found = histogram(np.array([[1e-9, 1.0], [1.3, 1e9]]))
    assert sum(found.values()) == 1
    assert (found[BINS[0]], found[BINS[-1]]) == (0.25, 0.25)
    assert found[BINS[int(np.searchsorted(EDGES, 1.1)) - 1]] == 0.25


def rows_of(shares, factor):
    """Rows of one block at as many steps as `shares` has columns (bins, steps)."""
    quantiles = dict.fromkeys(norms_callback.QUANTILES, 2.0)
    facts = {"block": 1, "factor": factor, **quantiles, "min": 1.0, "max": 300.0}
    return [{"step": 10 * k, **facts, **dict(zip(BINS, column, strict=True))} for k, column in enumerate(shares.T)]


def test_the_heat_map_shows_the_share_in_each_bin_and_shares_start_at_0():
    shares = np.zeros((len(BINS), 3))
    shares[24], shares[40, 1:] = 0.98, 0.02
    figure = norms_during_training(rows_of(shares, 0.02))
    heat, below = figure.axes[0], figure.axes[1]
    shown = heat.collections[0].get_array()
    np.testing.assert_array_equal(shown.filled(0).reshape(shares.shape), shares)
    assert below.get_ylim()[0] == 0
    nothing = norms_during_training(rows_of(shares, 0.0)).axes[1]
    assert [text.get_text() for text in nothing.texts] == ["none, in any block at any step"]
    assert nothing.get_ylim()[0] == 0


def test_a_table_without_histograms_is_read_and_drawn(tmp_path):
    rows = rows_of(np.zeros((len(BINS), 2)), 0.0)
    columns = norms_callback.WITHOUT_BINS
    lines = [",".join(columns), *(",".join(f"{row.get(name, 0)}" for name in columns) for row in rows)]
    (tmp_path / "norms.csv").write_text("\n".join(lines) + "\n")
    found = read(tmp_path / "norms.csv")
    assert np.isnan([row[name] for row in found for name in BINS]).all()
    assert norms_during_training(found).axes[0].lines
