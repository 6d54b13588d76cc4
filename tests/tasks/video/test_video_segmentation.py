"""The task on videos whose every patch is known, what is scored of a video, and its settings."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regvit_lightning import settings
from regvit_lightning.data.image_sets import VideoSet
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.settings import SettingsError
from regvit_lightning.statistics import pooled
from regvit_lightning.tasks.video import video_segmentation
from regvit_lightning.tasks.video.video_segmentation import Followed, object_scores, spread

PATCH = 4


class Pixels(nn.Module):
    """Patches are the pixels of the image, from -0.5 to 0.5."""

    image_size, mean, std, any_size = 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True

    def forward(self, images):
        height, width = images.shape[-2:]
        cells = nn.functional.unfold(images - 0.5, PATCH, stride=PATCH).transpose(1, 2)
        patches = cells.unflatten(1, (height // PATCH, width // PATCH))
        return {"cls": patches.mean(dim=(1, 2)), "patches": patches}


def cell_settings(*words, task="davis2017"):
    given = ("workers=0", "short_side=32", "device_batch=3", "neighbours=1", *words)
    return settings.load_settings("tasks", task, "mini", given)[1]


def write_video(root, frames, masks, name="one"):
    for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        for folder, values in (("frames", frame), ("masks", mask)):
            if values is not None:
                (root / folder / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / folder / name / f"{number:05d}.png")
    videos = {"davis2017": VideoSet("frames", "masks"), "own": VideoSet("frames", "masks", one_object=True)}
    return DataSettings(name="planted", root=str(root), videos=videos)


def moving_square(count=6, step=PATCH, size=(32, 64), seed=0):
    """Frames of repeated patches with a square of noise that moves right by `step` pixels a frame, and its masks."""
    rng = np.random.default_rng(seed)
    tile, thing = (rng.integers(0, 256, (side, side, 3), np.uint8) for side in (PATCH, 12))
    background = np.tile(tile, (size[0] // PATCH, size[1] // PATCH, 1))
    frames, masks = [], []
    for number in range(count):
        frame, mask = background.copy(), np.zeros(size, np.uint8)
        area = slice(8, 20), slice(8 + step * number, 20 + step * number)
        frame[area], mask[area] = thing, 1
        frames.append(frame)
        masks.append(mask)
    return frames, masks


def run(data, *words, backbone=None, task="davis2017"):
    backbone = backbone or ForeignBackbone(Pixels(), "pixels")
    return video_segmentation.run(backbone, data, cell_settings(*words, task=task))


def test_a_square_that_moves_by_whole_patches_is_followed_exactly(tmp_path):
    data = write_video(tmp_path, *moving_square())
    outcome = run(data, "upsampling=nearest")
    assert {name: outcome.metrics[name] for name in ("jf", "j", "f", "jf_grid_ceiling")} == dict.fromkeys(
        ("jf", "j", "f", "jf_grid_ceiling"), 100.0
    )
    kept = [max(12 - 4 * n, 0) / (24 - max(12 - 4 * n, 0)) for n in (1, 2, 3, 4)]  # overlap of squares 4 n px apart
    assert outcome.floors["the first mask in every frame"]["j"] == pytest.approx(100 * np.mean(kept))
    assert outcome.protocol["scored"].startswith("4 frames")
    assert outcome.images == 1


def test_the_first_and_the_last_frame_are_not_scored(tmp_path):
    frames, masks = moving_square()
    masks[-1] = 1 - masks[-1]
    assert run(write_video(tmp_path, frames, masks), "upsampling=nearest").metrics["jf"] == 100
    masks[-2] = 1 - masks[-2]
    assert run(write_video(tmp_path, frames, masks), "upsampling=nearest").metrics["j"] == 75


def test_frames_without_a_mask_are_followed_but_not_scored(tmp_path):
    frames, masks = moving_square(8)
    masks[2] = masks[4] = masks[7] = None
    outcome = run(write_video(tmp_path, frames, masks), "upsampling=nearest")
    assert outcome.metrics["jf"] == 100
    assert outcome.protocol["scored"].startswith("4 frames")


def test_objects_count_the_same_whatever_the_video_and_videos_are_resampled(tmp_path):
    frames, masks = moving_square()
    write_video(tmp_path, frames, masks, "a")
    still = [np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)] * 6
    two = [
        np.where(np.indices((32, 64))[1] < 32, mask, 7).astype(np.uint8) for mask in [masks[0]] * 6
    ]  # and 7 fills a half
    wrong = [*two[:1], *[np.where(mask == 7, 0, mask).astype(np.uint8) for mask in two[1:]]]
    outcome = run(write_video(tmp_path, still, wrong, "b"), "upsampling=nearest")
    assert outcome.metrics["j"] == pytest.approx(100 * 2 / 3)  # 7 is predicted where the truth has nothing
    assert outcome.scores["j"].tolist() == [[100, 1], [100, 2]]
    assert outcome.intervals["j"] == (50, 100)
    assert list(outcome.per_class) == ["a", "b"]
    assert pooled(outcome.scores["jf"].mean(dim=0).numpy()) == outcome.metrics["jf"]


def test_all_objects_are_one_where_the_set_says_so(tmp_path):
    frames, masks = moving_square()
    many = [np.where(np.indices((32, 64))[0] < 14, mask * 255, mask * 3).astype(np.uint8) for mask in masks]
    outcome = run(write_video(tmp_path, frames, many), "upsampling=nearest", "images=own")
    assert outcome.metrics["jf"] == 100
    assert outcome.protocol["objects"].startswith("1 of 1 videos")


def test_the_picture_has_a_strip_for_each_of_three_videos(tmp_path):
    for name in "abcd":
        data = write_video(tmp_path, *moving_square(seed=ord(name)), name)
    picture = run(data).picture
    assert len(picture.axes) == 3 * 5
    assert [text.get_text().split(":")[0] for text in picture.texts][:3] == ["a", "b", "d"]


def test_a_first_mask_without_an_object_is_told_with_the_remedy(tmp_path):
    frames, masks = moving_square()
    data = write_video(tmp_path, frames, [255 * mask for mask in masks])
    with pytest.raises(DataError, match=r"00000\.png: no object to follow.*set one_object: true"):
        run(data)


def test_a_set_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SettingsError, match="no set of videos called 'cats': expected one of davis2017"):
        run(write_video(tmp_path, *moving_square()), "images=cats")


@pytest.mark.parametrize("model", ["random-vitn_reg4", "random-vitn_reg0"])
def test_the_share_of_outliers_among_keys_is_that_of_the_patches_used(tiny, model):
    from pathlib import Path

    from regvit_lightning.models import sources

    backbone = sources.load_backbone(model, Path("runs"), image_size=64)
    outcome = video_segmentation.run(
        backbone, tiny, settings.load_settings("tasks", "davis2017", "mini", ["workers=0"])[1]
    )
    assert "before the final norm" in outcome.protocol["outliers"]
    assert outcome.metrics["jf"] < outcome.metrics["jf_grid_ceiling"]
    assert outcome.metrics["jf"] > 1.02 * outcome.floors["the first mask in every frame"]["jf"] - 5
    assert outcome.scores["outlier_keys"][:, 1].tolist() == [11 * 16 * 24 * 5] * 2


def test_keys_that_are_outliers_are_counted_as_often_as_they_are_used():
    norms = torch.tensor([[[1.0, 1.1, 0.9, 1.0], [1.05, 0.95, 1.0, 50.0]]])
    uses = torch.tensor([[3, 0, 0, 1, 0, 0, 2, 4]])
    followed = Followed([1], [np.zeros((3, 2, 1))], [norms[0]], [uses[0]])
    ended = followed.end([0])
    assert (ended.keys, ended.patches) == ((4, 10), (1, 8))
    assert ended.outliers[0].tolist() == [[False] * 4, [False, False, False, True]]


def test_scores_of_objects_follow_their_ids():
    predicted = np.array([[0, 1, 2], [0, 1, 2]], np.uint8)
    truth = np.array([[0, 9, 4], [0, 9, 0]], np.uint8)
    assert object_scores(predicted, truth, [4, 9])[0].tolist() == [0, 0]
    assert object_scores(predicted, truth, [9, 4])[0].tolist() == [1, 0.5]


@pytest.mark.parametrize(
    ("task", "size", "patch", "fitted"),
    [
        ("davis2017", (480, 854), 16, (480, 832)),
        ("davis2017", (480, 854), 8, (480, 832)),
        ("davis2017", (480, 854), 14, (476, 840)),
        ("davis2017", (854, 480), 14, (840, 476)),
        ("davis2017", (480, 910), 16, (480, 896)),
        ("davis2017_dinov3", (480, 854), 16, (960, 1712)),
        ("davis2017_dinov3", (480, 854), 14, (966, 1722)),
        ("davis2017_dinov3", (1280, 720), 16, (1712, 960)),
        ("davis2017", (10, 1000), 16, (480, 48000)),
    ],
)
def test_sizes_are_those_of_the_two_protocols(task, size, patch, fitted):
    assert settings.load_settings("tasks", task)[1].input_size(size, patch) == fitted


def test_the_strip_shows_evenly_spread_frames_and_the_last():
    assert spread(list(range(1, 69))) == [17, 34, 51, 68]
    assert spread([1, 2]) == [1, 2]
    assert spread([5]) == [5]


@pytest.mark.parametrize("word", ["shape=triangle", "upsampling=cubic", "rounding=nearest", "resample=lanczos"])
def test_an_unknown_choice_is_told_with_those_there_are(word):
    with pytest.raises(SettingsError, match=f"{word}: expected .* or "):
        cell_settings(word)


def test_a_model_of_one_size_is_told(tmp_path):
    class Fixed(Pixels):
        any_size = False

    with pytest.raises(UserError, match="takes images of 32 px only, not 32 x 64"):
        run(write_video(tmp_path, *moving_square()), backbone=ForeignBackbone(Fixed(), "fixed"))


def test_records_and_tables_say_that_videos_are_counted(tmp_path):
    from benchmarks.tables import headings
    from regvit_lightning import evaluation

    data = write_video(tmp_path, *moving_square())
    backbone = ForeignBackbone(Pixels(), "pixels")
    words = ["workers=0", "short_side=32"]
    cell = evaluation.prepare("davis2017", data, "mini", words=words)
    record = cell.record(backbone, cell.run(backbone, RunOptions()), 1.0, cell.digests())
    assert headings.counted(record) == "videos"
    assert record.layout == {"davis2017": {"frames": "frames", "masks": "masks", "names": "", "one_object": False}}
    assert headings.counted(dataclasses.replace(record, protocol={})) == "test images"
    with pytest.raises(SettingsError, match="no set of videos called 'cats': expected one of davis2017"):
        evaluation.prepare("vos_cats", data, "mini").digests()
