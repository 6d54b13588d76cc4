"""A new set of images with boxes is one YAML: it is read, checked, counted, evaluated and recorded under its name."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.data import __main__ as data_program
from regvit_lightning import evaluation, settings
from regvit_lightning.data import discovery, layout
from regvit_lightning.data.image_sets import BoxedSet
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.settings import SettingsError
from tests.benchmarks.test_chain import program
from tests.data.test_voc import write_voc

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PUBLISHED = {  # as records have always told it
    "voc07": "VOCdevkit/VOC2007",
    "voc12": "VOCdevkit/VOC2012",
    "coco20k": ["coco/images", "coco/annotations/instances_train2014.json", "coco/coco_20k_filenames.txt"],
}


def declare(configs, root, sets, more=""):
    text = f"name: animals\nroot: {root}\nvariant: mini\ndiscovery:\n{sets}{more}"
    (configs / "data" / "animals.yaml").write_text(text)


def photographs(folder, names, size=(64, 48)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = Image.new("RGB", size, (20, 90, 40))
        image.paste((230, 60, 10 * number), (8, 8, 40, 40))
        image.save(folder / name)


def write_coco_file(file, images):
    """`images`: file name -> list of bbox; without `iscrowd`, as many exporters write it."""
    entries = [{"id": number, "file_name": name} for number, name in enumerate(images)]
    objects = [{"image_id": number, "bbox": box} for number, boxes in enumerate(images.values()) for box in boxes]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": entries, "annotations": objects}))


# -------------------------------------------------------------------------------------------------------- records


def test_what_records_say_of_the_published_sets_is_what_they_have_always_said(tmp_path):
    for name in PUBLISHED:
        assert DataSettings(name="own", root=str(tmp_path)).section(name) == PUBLISHED
    for file in (settings.CONFIGS.parent / "results").glob("*/cells/*/lost_*.json"):
        record = json.loads(file.read_text())
        assert (
            layout.resolve(record["data"]).section(record["task"].removeprefix("lost_").removeprefix("sweep_"))
            == record["layout"]
        )


def test_a_further_set_changes_no_record_of_the_others(configs, tmp_path):
    declare(configs, tmp_path, "  raccoon: {layout: voc, folder: pictures}\n")
    data = layout.resolve("animals")
    assert data.section("voc07") == PUBLISHED
    assert data.section("raccoon") == {"raccoon": "pictures"}


def test_all_that_decides_which_images_are_read_is_recorded():
    usual = BoxedSet("voc", "a")
    changed = [
        BoxedSet("voc", "b"),
        BoxedSet("voc", "a", images="pictures"),
        BoxedSet("voc", "a", annotations="xml"),
        BoxedSet("voc", "a", names="val.txt"),
        BoxedSet("voc", "a", names="all"),
        BoxedSet("voc", "a", image_suffix=".png"),
        BoxedSet("coco", "a", annotations="JPEGImages"),
    ]
    said = [json.dumps(one.recorded()) for one in (usual, *changed)]
    assert len(set(said)) == len(said)


# --------------------------------------------------------------------------------------------------------- readers


def test_voc_with_folders_of_its_own_and_without_a_list(configs, tmp_path):
    folder = write_voc(tmp_path / "made", {"b": ((64, 48), [(9, 9, 40, 40)]), "a": ((64, 48), [(1, 1, 64, 48)])})
    (folder / "JPEGImages").rename(folder / "pictures")
    (folder / "Annotations").rename(folder / "xml")
    for file in (folder / "pictures").iterdir():
        file.rename(file.with_suffix(".png"))
    facts = "{layout: voc, folder: made, images: pictures, annotations: xml, names: all, image_suffix: .png}"
    declare(configs, tmp_path, f"  raccoon: {facts}\n")
    found = discovery.boxed_images(layout.resolve("animals"), "raccoon")
    assert [Path(found.path(place)).name for place in range(len(found))] == ["a.png", "b.png"]
    assert [box.tolist() for box in found.boxes] == [[[0, 0, 64, 48]], [[8, 8, 40, 40]]]


def test_coco_without_a_list_takes_the_annotated_images_in_the_order_of_the_file(configs, tmp_path):
    photographs(tmp_path / "made" / "images" / "b", ["2.jpg", "1.jpg", "0.jpg"])
    boxes = {"b/2.jpg": [[8, 8, 32, 32]], "b/0.jpg": [], "b/1.jpg": [[0, 0, 10, 10], [1, 1, 5, 5]]}
    write_coco_file(tmp_path / "made" / "boxes.json", boxes)
    declare(configs, tmp_path, "  raccoon: {layout: coco, folder: made, images: images, annotations: boxes.json}\n")
    found = discovery.boxed_images(layout.resolve("animals"), "raccoon")
    assert [Path(found.path(place)).name for place in range(len(found))] == ["2.jpg", "1.jpg"]
    assert [box.tolist() for box in found.boxes] == [[[8, 8, 40, 40]], [[0, 0, 10, 10], [1, 1, 6, 6]]]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("  raccoon: {layout: yolo}\n", "data 'animals': discovery.raccoon: layout=yolo: expected voc or coco"),
        ("  raccoon: {folder: a}\n", "discovery.raccoon: layout=: expected voc or coco"),
        ("  raccoon: {layout: coco, folder: a}\n", "discovery.raccoon: annotations is not set"),
        (
            "  raccoon: {layout: voc, foldr: a}\n",
            "unknown key 'discovery.raccoon.foldr'; nearest: discovery",
        ),
        ("  raccoon: VOCdevkit\n", "configs/data/animals.yaml: discovery="),
        ("  a/b: {layout: voc}\n", "discovery.a/b: expected letters, digits"),
        ("  depth: {layout: voc}\n", "discovery.depth: expected letters, digits, _ and - for a name, and none of"),
        ("  - raccoon\n", "configs/data/animals.yaml: discovery="),
    ],
)
def test_a_set_that_cannot_be_is_told_in_a_line(configs, tmp_path, sets, message):
    declare(configs, tmp_path, sets)
    with pytest.raises(SettingsError) as error:
        layout.resolve("animals")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_data_does_not_have_the_set(configs, tmp_path):
    declare(configs, tmp_path, "  raccoon: {layout: voc}\n")
    other = DataSettings(name="own", root=str(tmp_path))
    for task in ("lost_raccoon", "artifact_report"):
        words = ["source=raccoon"] if task == "artifact_report" else []
        cell = evaluation.prepare(task, other, "mini", words=words)
        message = "data 'own' has no set with boxes called 'raccoon': expected one of voc07, voc12, coco20k"
        with pytest.raises(UserError, match=message):
            cell.layout  # noqa: B018 (what it says is asked for)


def test_a_set_in_a_yaml_given_by_path_has_its_tasks(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"root: {tmp_path}\ndiscovery:\n  cats: {{layout: voc, folder: pictures}}\n")
    data = layout.resolve(str(file))
    for task in ("lost_cats", "lost_sweep_cats", "tokencut_cats"):
        assert evaluation.prepare(task, data).layout == {"cats": "pictures"}
    cell = evaluation.prepare("lost_dogs", data)
    with pytest.raises(UserError, match="data 'mine' has no set with boxes called 'dogs': expected one of voc07"):
        cell.layout  # noqa: B018 (what it says is asked for)
    other_kinds = {
        "saliency_dogs": "no set of salient objects called 'dogs': expected one of ecssd, duts, dut_omron",
        "hummingbird_dogs": "no set with masks called 'dogs': expected one of ade20k, voc2012, cityscapes",
        "lost_ecssd": "no set with boxes called 'ecssd': expected one of voc07, voc12, coco20k, cats",
        "saliency_cats": "no set of salient objects called 'cats'",
    }
    for task, message in other_kinds.items():
        with pytest.raises(UserError, match=f"data 'mine' has {message}"):
            evaluation.prepare(task, data).layout  # noqa: B018 (what it says is asked for)
    with pytest.raises(SettingsError, match="unknown task 'lostcats'"):
        evaluation.prepare("lostcats", data)


# ------------------------------------------------------------------------------------------------- the whole chain


@pytest.fixture
def animals(configs, tmp_path):
    """A set of six images with one object each, and the data that declares it."""
    images = {f"{number}": ((64, 48), [(9, 9, 40, 40)]) for number in range(6)}
    folder = write_voc(tmp_path / "root" / "pictures", images)
    photographs(folder / "JPEGImages", [f"{number}.jpg" for number in range(6)])
    declare(configs, tmp_path / "root", "  raccoon: {layout: voc, folder: pictures}\n")
    return tmp_path


def test_every_method_runs_on_a_new_set_and_is_done_then(animals):
    backbone = ["model=random-vitn_reg4", "data=animals", f"runs={animals}/runs", f"results={animals}/results"]
    for task, words in (("lost_raccoon", []), ("lost_sweep_raccoon", ["held_out=0.5"]), ("tokencut_raccoon", [])):
        assert "record in" in program("evaluate", *backbone, f"task={task}", "workers=0", *words)
        assert "is done" in program("evaluate", *backbone, f"task={task}", "workers=0", *words)
        file = animals / "results" / "animals" / "cells" / "random-vitn_reg4" / f"{task}.seed0.json"
        record = json.loads(file.read_text())
        assert (record["task"], record["settings"]["images"]) == (task, "raccoon")
        assert record["layout"] == {"raccoon": "pictures"}
    assert "lost_raccoon" in program("tables", "data=animals", f"results={animals}/results")


def test_the_artifact_report_takes_a_new_set(animals):
    words = ["source=raccoon", "images=3", "detailed=2", "shown=1", "workers=0"]
    cell = evaluation.prepare("artifact_report", layout.resolve("animals"), words=words)
    assert cell.layout == {"raccoon": "pictures"}
    from regvit_lightning.frozen.contract import RunOptions

    found = cell.run(load_backbone("random-vitn_reg0", animals, image_size=64), RunOptions())
    assert (found.images, found.protocol["train_images"], found.protocol["images_of"]) == (3, 3, "raccoon")


def test_make_data_counts_a_new_set(animals, configs):
    assert "raccoon" in program("data", "data=animals")
    assert "6 images" in program("data", "data=animals")
    declare(configs, animals / "root", "  raccoon: {layout: voc, folder: pictures}\n", "counts: {raccoon: [7]}\n")
    with pytest.raises(UserError, match=r"raccoon trainval: raccoon in .* has 6 images, expected 7"):
        data_program.main(data_program.Data("animals"), [])


def test_a_plan_counts_a_new_set(animals):
    grid = animals / "grid.yaml"
    grid.write_text("models: [random-vitn_reg4]\ntasks: [lost_raccoon]\nseeds: [0]\n")
    said = program("plan", f"grid={grid}", "data=animals", f"runs={animals}/runs", f"results={animals}/results")
    assert "random-vitn_reg4 lost_raccoon seed 0" in said


def test_real_photographs_with_boxes(configs, monkeypatch):
    if not (SHARED / "raccoon").is_dir():
        pytest.skip("the real photographs are not here")
    facts = "{layout: voc, folder: VOCdevkit/VOC2007, names: all}"
    declare(configs, SHARED / "raccoon", f"  raccoon: {facts}\n", "counts: {raccoon: [60]}\n")
    found = discovery.boxed_images(layout.resolve("animals"), "raccoon")
    assert len(found) == 60
    assert data_program._first_of(layout.resolve("animals").discovery["raccoon"]).name == "Annotations"
