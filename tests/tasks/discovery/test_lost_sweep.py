"""The sweep's setting is chosen on held-out images and never on test: planted images on which the two disagree."""

import torch
from PIL import Image

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.tasks.discovery import lost_sweep
from tests.data.test_voc import write_voc
from tests.tasks.discovery.test_lost import PATCH, colour_backbone, mini_settings

SIDE = 6 * PATCH
RED, BLUE = (230, 60, 10), (10, 60, 220)
OBJECT, CORNER = (2 * PATCH, 2 * PATCH, 4 * PATCH, 4 * PATCH), (0, 0, PATCH, PATCH)


def disagreeing(root, held, count):
    """Images with a red object. Held-out images call it the object; the others the patch in the corner.

    Without a bias LOST takes the red object. With one below the largest product no patch resembles another, and it
    takes the patch in the corner.
    """
    truths = [OBJECT if index in held else CORNER for index in range(count)]
    images = {f"{n:02d}": ((SIDE, SIDE), [(x1 + 1, y1 + 1, x2, y2)]) for n, (x1, y1, x2, y2) in enumerate(truths)}
    folder = write_voc(root / "VOCdevkit" / "VOC2007", images)
    picture = Image.new("RGB", (SIDE, SIDE), BLUE)
    picture.paste(RED, OBJECT)
    for name in images:
        picture.save(folder / "JPEGImages" / f"{name}.jpg", format="PNG")
    return DataSettings(name="disagreeing", root=str(root))


def test_the_setting_is_that_of_the_held_out_images_although_another_is_best_on_test(tmp_path):
    held, rest = lost_sweep.split(12, 0.34, seed=0)
    words = ("features=[k]", "blocks=[-1]", "centred=[false]", "biases=[-2.0,0.0]", "l2_biases=[]", "held_out=0.34")
    data = disagreeing(tmp_path, held, 12)
    outcome = lost_sweep.run(colour_backbone(), data, mini_settings(*words, task="lost_sweep_voc07"))
    assert outcome.protocol["bias"] == 0.0
    # 1.96 × √(0.5 × 0.5 / 4) = 0.49
    caveat = "one of 2 settings is chosen on 4 held-out images, where CorLoc is known to ±49.0 points only"
    assert outcome.protocol["caveat"] == caveat
    assert outcome.metrics == {"corloc": 0.0, "corloc_best_on_test": 100.0}
    assert outcome.protocol["best_on_test"] == "feature=k block=-1 centred=false l2=false scaled=true bias=-2"
    assert outcome.protocol["grid"]["corloc_held_out"] == {
        "feature=k block=-1 centred=false l2=false scaled=true bias=-2": 0.0,
        "feature=k block=-1 centred=false l2=false scaled=true bias=0": 100.0,
    }
    assert outcome.images == len(rest) == 8
    assert outcome.scores["corloc"].isnan().nonzero().flatten().tolist() == held
    # None of 8: the largest share with a chance of 2.5 % of none is 1 - 0.025^(1/8).
    assert outcome.intervals["corloc"][0] == 0
    assert abs(outcome.intervals["corloc"][1] - 100 * (1 - 0.025 ** (1 / 8))) < 1e-9


def test_fallbacks_of_the_chosen_setting_are_those_of_the_scored_images(tmp_path):
    held, _ = lost_sweep.split(12, 0.34, seed=0)
    words = ("features=[k]", "blocks=[-1]", "centred=[false]", "biases=[-2.0]", "l2_biases=[]", "held_out=0.34")
    data = disagreeing(tmp_path, held, 12)
    outcome = lost_sweep.run(colour_backbone(), data, mini_settings(*words, task="lost_sweep_voc07"))
    assert (outcome.protocol["fallbacks"], outcome.protocol["constant_degree_share"]) == (8, 1.0)
    assert outcome.remarks[0].startswith("in 8 of 8 images ")


def test_of_equally_good_settings_the_first_is_taken_and_all_are_counted():
    assert lost_sweep.best(torch.tensor([50.0, 75, 25, 75, 75], dtype=torch.float64)) == (1, 3)
