"""The parts of the rendered data set, in the formats of the real data sets, so that one loader reads both.

    <root>/imagenet/{train,val}/<class>/<class>_<n>.JPEG
    <root>/ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_{train,val}_<n>.{jpg,png}
    <root>/nyu/{nyu_train,nyu_test}.txt, sync/, official_splits/test/      the BTS lists, depth in millimetres
    <root>/VOCdevkit/{VOC2007,VOC2012}/{JPEGImages,Annotations,ImageSets/Main}
    <root>/coco/{images/train2014, annotations/instances_train2014.json, coco_20k_filenames.txt}
    <root>/shards/{train,val}-<n>.tar                                      webdataset: <key>.jpg, .txt, .cls
    <root>/DAVIS/{JPEGImages,Annotations}/480p/<film>/<n>.{jpg,png}, ImageSets/{2016,2017}/val.txt
    <root>/SPair-71k/{JPEGImages/<class>, PairAnnotation/test, Layout/large/test.txt}
    <root>/scans/<scan>/{color,depth,pose}/<n>.*, intrinsic/intrinsic_depth.txt      ScanNet's, depth in millimetres
    <root>/{imagenetv2-matched-frequency-format-val, imagenet-a, imagenet-r, sketch}/<class>/<class>_<n>.JPEG
    <root>/objectnet-1.0/{images/<object>, mappings}, reassessed-imagenet/real.json     see shifted.py
    <root>/roxford5k/{jpg/<image>.jpg, gnd_roxford5k.pkl}                  ROxford5k's: queries and their views

`PARTS` has a function for each, which writes a range of its images; files that exist are not rendered again.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from regvit_lightning.data.mini import shifted
from regvit_lightning.data.mini.annotations import coco_annotations, voc_xml
from regvit_lightning.data.mini.files import (
    jpeg,
    read_json,
    with_palette,
    write_bytes,
    write_jpeg,
    write_json,
    write_lines,
    write_png,
)
from regvit_lightning.data.mini.films import FRAMES, SCAN_FRAMES, film, scan
from regvit_lightning.data.mini.keypoints import keypoints_of, pair_annotations
from regvit_lightning.data.mini.landmarks import VIEWS, ground_truth, views
from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.data.mini.scenes import CLASSES, Rendering, Scene, render, sample_scene
from regvit_lightning.data.mini.shifted import SHIFTS
from regvit_lightning.data.shifted_set import MAPPINGS

VERSION = 5  # of pictures and files: increment it when either changes, so that old data sets are rewritten
FOLDER_NAMES = tuple(name.replace(" ", "_") for name in CLASSES)
NYU_FOCAL = 518.8579  # pixels, the colour camera of NYU Depth v2 as given in the BTS lists


def _rng(settings: MiniSettings, part: str, index: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, zlib.crc32(part.encode()), index])


def _with_wall(scene: Scene, settings: MiniSettings, part: str, index: int) -> Scene:
    """The scene, without texture on its wall in a share of the scenes that `settings.plain` gives."""
    # A generator of its own: the scenes themselves are the same for every share.
    plain = settings.plain > 0 and _rng(settings, f"{part} plain", index).random() < settings.plain
    return dataclasses.replace(scene, plain_wall=True) if plain else scene


def _render(scene: Scene, settings: MiniSettings, part: str, index: int) -> Rendering:
    return render(_with_wall(scene, settings, part, index))


def main_scene(settings: MiniSettings, part: str, index: int) -> Scene:
    """Scene of an image with a main object; the classes are cycled through."""
    side = settings.imagenet_side
    return _with_wall(
        sample_scene(_rng(settings, part, index), side, side, index % len(CLASSES)), settings, part, index
    )


def _main_object(settings: MiniSettings, part: str, index: int) -> Rendering:
    return render(main_scene(settings, part, index))


def _any_objects(settings: MiniSettings, part: str, index: int, side: int) -> Rendering:
    """Render an image of arbitrary objects in a common aspect ratio, its larger side 0.9 to 1.1 times `side`."""
    rng = _rng(settings, part, index)
    longer = round(side * rng.uniform(0.9, 1.1))
    shorter = round(longer * rng.choice([0.667, 0.75, 0.75, 1.0]))
    width, height = (longer, shorter) if rng.random() < 0.75 else (shorter, longer)
    return _render(sample_scene(rng, width, height), settings, part, index)


def _imagenet(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    for index in indices:
        name = FOLDER_NAMES[index % len(CLASSES)]
        path = root / "imagenet" / part.split()[1] / name / f"{name}_{index // len(CLASSES):05d}.JPEG"
        if not path.exists():
            write_jpeg(path, _main_object(settings, part, index).image)


def _ade(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    split = part.split()[1]
    folder, short = root / "ADEChallengeData2016", {"training": "train", "validation": "val"}[split]
    for index in indices:
        name = f"ADE_{short}_{index + 1:08d}"
        image = folder / "images" / split / f"{name}.jpg"
        labels = folder / "annotations" / split / f"{name}.png"
        if not (image.exists() and labels.exists()):
            rendering = _any_objects(settings, part, index, settings.ade_side)
            write_jpeg(image, rendering.image)
            write_png(labels, rendering.semantic)


def _nyu(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    for index in indices:
        image, depth = (root / "nyu" / _nyu_folder(part) / name for name in _nyu_names(index))
        if not (image.exists() and depth.exists()):
            scene = sample_scene(_rng(settings, part, index), 640, 480, focal=NYU_FOCAL)
            rendering = _render(scene, settings, part, index)
            write_jpeg(image, rendering.image)
            write_png(depth, np.round(rendering.depth * 1000).astype(np.uint16))


def _nyu_folder(part: str) -> str:
    return {"nyu train": "sync", "nyu test": "official_splits/test"}[part]


def _nyu_names(index: int) -> tuple[str, str]:
    """File names of image and depth of a frame, ten frames to a scene folder."""
    folder = f"scene_{index // 10:04d}"
    return f"{folder}/rgb_{index % 10:05d}.jpg", f"{folder}/sync_depth_{index % 10:05d}.png"


def _voc(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    folder = root / "VOCdevkit" / part
    for index in indices:
        name = _voc_name(part, index)
        image, objects = folder / "JPEGImages" / f"{name}.jpg", folder / "Annotations" / f"{name}.xml"
        if not (image.exists() and objects.exists()):
            rendering = _any_objects(settings, part, index, settings.voc_side)
            write_jpeg(image, rendering.image)
            write_bytes(objects, voc_xml(rendering, part, f"{name}.jpg", FOLDER_NAMES))


def _voc_name(part: str, index: int) -> str:
    return f"{index + 1:06d}" if part == "VOC2007" else f"2008_{index + 1:06d}"


def _coco(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    """Write all images at once, because one JSON file contains the annotations of all."""
    summary = root / "coco" / "annotations" / "instances_train2014.json"
    paths = [root / "coco" / "images" / _coco_name(index) for index in indices]
    if summary.exists() and all(path.exists() for path in paths):
        return
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, path in zip(indices, paths, strict=True):
        rendering = _any_objects(settings, part, index, settings.voc_side)
        if not path.exists():
            write_jpeg(path, rendering.image)
        height, width = rendering.semantic.shape
        images.append({"id": _coco_id(index), "file_name": path.name, "height": height, "width": width, "license": 1})
        crowd = index % 20 == 7  # rare but present, as in the real annotations
        annotations += coco_annotations(rendering, _coco_id(index), first_id=len(annotations) + 1, crowd=crowd)
    categories = [{"id": i + 1, "name": name, "supercategory": name.split()[1]} for i, name in enumerate(CLASSES)]
    info = {"description": "RegViT mini, rendered", "version": str(VERSION), "year": 2014}
    licenses = [{"id": 1, "name": "rendered", "url": ""}]
    write_json(
        summary,
        {"info": info, "licenses": licenses, "images": images, "annotations": annotations, "categories": categories},
    )


def _coco_id(index: int) -> int:
    """Image id with gaps, like the real ids."""
    return 9 + 31 * index


def _coco_name(index: int) -> str:
    return f"train2014/COCO_train2014_{_coco_id(index):012d}.jpg"


def _shards(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    """Write one shard; its members have no time and no owner, so that the bytes depend on the pairs only."""
    path = root / "shards" / f"{part.split()[1]}-{indices.start // settings.shard_pairs:06d}.tar"
    if path.exists():
        return
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in indices:
            rendering = _main_object(settings, part, index)
            pair = {
                "jpg": jpeg(rendering.image),
                "txt": rendering.caption.encode(),
                "cls": b"%d" % rendering.main_label,
            }
            for extension, content in pair.items():
                member = tarfile.TarInfo(f"{index:06d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    write_bytes(path, buffer.getvalue())


def _films(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    """Write one film: the frames of all films are counted one after the other."""
    number = indices.start // FRAMES
    images, masks = (root / "DAVIS" / kind / "480p" / _film_name(number) for kind in ("JPEGImages", "Annotations"))
    paths = [(images / f"{frame:05d}.jpg", masks / f"{frame:05d}.png") for frame in range(len(indices))]
    if all(path.exists() for pair in paths for path in pair):
        return
    for (image, mask), (pixels, ids) in zip(paths, film(_rng(settings, part, number), len(indices)), strict=True):
        write_jpeg(image, pixels)
        write_png(mask, with_palette(ids))


def _film_name(number: int) -> str:
    return f"film_{number:03d}"


def _keypoints(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    """Write the images of one class, and one annotation for each ordered pair of them."""
    label = indices.start // settings.keypoints
    images, name = root / "SPair-71k" / "JPEGImages" / FOLDER_NAMES[label], FOLDER_NAMES[label]
    scenes = {}
    for number in range(settings.keypoints):
        rng = _rng(settings, part, indices.start + number)
        scene = sample_scene(rng, settings.imagenet_side, settings.imagenet_side, label)
        rendering = _render(scene, settings, part, indices.start + number)
        scenes[f"{number:03d}.jpg"] = keypoints_of(scene, rendering)
        if not (images / f"{number:03d}.jpg").exists():
            write_jpeg(images / f"{number:03d}.jpg", rendering.image)
    for pair, annotation in pair_annotations(name, scenes).items():
        write_json(root / "SPair-71k" / "PairAnnotation" / "test" / f"{pair}.json", annotation)


def _scans(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    """Write one scan, all of it: the numbers of its camera are few."""
    number = indices.start // SCAN_FRAMES
    folder = root / "scans" / f"scan{number:04d}_00"
    for frame, (rendering, pose, camera) in enumerate(scan(_rng(settings, part, number), len(indices))):
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = camera
        write_jpeg(folder / "color" / f"{frame}.jpg", rendering.image)
        write_png(folder / "depth" / f"{frame}.png", np.round(rendering.depth * 1000).astype(np.uint16))
        write_lines(folder / "pose" / f"{frame}.txt", [" ".join(map(repr, row)) for row in pose.tolist()])
    lines = [" ".join(map(repr, row)) for row in intrinsics.tolist()]
    write_lines(folder / "intrinsic" / "intrinsic_depth.txt", lines)


def _shifted(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    shift, side = SHIFTS[part], settings.imagenet_side
    for index in indices:
        label = shift.labels[index % len(shift.labels)]
        name = f"{shifted.class_folder(label)}_{index // len(shift.labels):05d}{shift.suffix}"
        path = root / shift.folder / shift.name(label) / name
        if not path.exists():
            scene = sample_scene(_rng(settings, part, index), side, side, label)
            picture = shift.draw(_with_wall(scene, settings, part, index))
            (write_png if shift.suffix == ".png" else write_jpeg)(path, picture)


def _real(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    """Write the classes that are seen in each test image, in the order of the names of their files."""
    if (root / shifted.REAL).exists():
        return
    names = [f"{FOLDER_NAMES[index % len(CLASSES)]}_{index // len(CLASSES):05d}" for index in indices]
    seen = {
        name: shifted.visible_classes(_main_object(settings, "imagenet val", index))
        for name, index in zip(names, indices, strict=True)
    }
    write_json(root / shifted.REAL, [seen[name] for name in sorted(seen)])


def _landmarks(root: Path, settings: MiniSettings, part: str, indices: range) -> None:
    """Write the views of one landmark, and then what each of them shows, of which the ground truth is made."""
    number = indices.start // VIEWS
    images, summary = root / "roxford5k" / "jpg", root / "roxford5k" / "views" / f"{_landmark(number)}.json"
    if summary.exists() and len(list(images.glob(f"{_landmark(number)}_*.jpg"))) == len(indices):
        return
    seen: dict[str, Any] = {}
    for name, view in views(_rng(settings, part, number), number % len(CLASSES)).items():
        seen[name] = {"share": view.share, "box": view.box}
        write_jpeg(images / f"{_landmark(number)}_{name}.jpg", view.image)
    write_json(summary, seen)


def _landmark(number: int) -> str:
    return f"landmark_{number:03d}"


# part: (function that writes it, number of images, cost of an image relative to one of 96 x 96)
PARTS: dict[str, tuple[Callable[[Path, MiniSettings, str, range], None], Callable[[MiniSettings], int], int]] = {
    "imagenet train": (_imagenet, lambda s: s.imagenet_train * len(CLASSES), 1),
    "imagenet val": (_imagenet, lambda s: s.imagenet_val * len(CLASSES), 1),
    "ade training": (_ade, lambda s: s.ade_train, 2),
    "ade validation": (_ade, lambda s: s.ade_val, 2),
    "nyu train": (_nyu, lambda s: s.nyu_train, 20),
    "nyu test": (_nyu, lambda s: s.nyu_test, 20),
    "VOC2007": (_voc, lambda s: s.voc2007, 1),
    "VOC2012": (_voc, lambda s: s.voc2012, 1),
    "coco": (_coco, lambda s: s.coco, 1),
    "shards train": (_shards, lambda s: s.shards_train, 1),
    "shards val": (_shards, lambda s: s.shards_val, 1),
    "films": (_films, lambda s: s.films * FRAMES, 3),
    "keypoints": (_keypoints, lambda s: s.keypoints * len(CLASSES), 1),
    "scans": (_scans, lambda s: s.scans * SCAN_FRAMES, 3),
    "imagenet_v2": (_shifted, lambda s: s.shifted * len(SHIFTS["imagenet_v2"].labels), 1),
    "imagenet_a": (_shifted, lambda s: s.shifted * len(SHIFTS["imagenet_a"].labels), 1),
    "imagenet_r": (_shifted, lambda s: s.shifted * len(SHIFTS["imagenet_r"].labels), 1),
    "imagenet_sketch": (_shifted, lambda s: s.shifted * len(SHIFTS["imagenet_sketch"].labels), 1),
    "objectnet": (_shifted, lambda s: s.shifted * len(SHIFTS["objectnet"].labels), 1),
    "imagenet_real": (_real, lambda s: s.imagenet_val * len(CLASSES), 1),
    "landmarks": (_landmarks, lambda s: s.landmarks * VIEWS, 1),
}


def write_lists(root: Path, settings: MiniSettings) -> None:
    """Write the lists of file names; they are cheap, so they are always rewritten."""
    for part, name, lead in (("nyu train", "nyu_train.txt", "/"), ("nyu test", "nyu_test.txt", "")):
        frames = [_nyu_names(index) for index in range(PARTS[part][1](settings))]
        write_lines(root / "nyu" / name, [f"{lead}{image} {lead}{depth} {NYU_FOCAL}" for image, depth in frames])
    for part in ("VOC2007", "VOC2012"):
        names = [_voc_name(part, index) for index in range(PARTS[part][1](settings))]
        for split, chosen in (("trainval", names), ("train", names[0::2]), ("val", names[1::2])):
            write_lines(root / "VOCdevkit" / part / "ImageSets" / "Main" / f"{split}.txt", chosen)
    for year in ("2016", "2017"):
        films = [_film_name(number) for number in range(settings.films)]
        write_lines(root / "DAVIS" / "ImageSets" / year / "val.txt", films)
    pairs = sorted(path.stem for path in (root / "SPair-71k" / "PairAnnotation" / "test").glob("*.json"))
    write_lines(root / "SPair-71k" / "Layout" / "large" / "test.txt", pairs)
    *mappings, lines = shifted.mappings()
    for name, mapping in zip(MAPPINGS[:3], mappings, strict=True):
        write_json(root / shifted.MAPPINGS / name, dict(mapping))
    write_lines(root / shifted.MAPPINGS / MAPPINGS[3], lines)
    found = {_landmark(number): _seen(root, number) for number in range(settings.landmarks)}
    write_bytes(root / "roxford5k" / "gnd_roxford5k.pkl", pickle.dumps(ground_truth(found), protocol=4))
    # As in the real list, not every image of train2014 is in it.
    chosen = [_coco_name(index) for index in range(settings.coco) if index % 12 != 5]
    write_lines(root / "coco" / "coco_20k_filenames.txt", chosen)


def _seen(root: Path, number: int) -> dict[str, Any]:
    """What the views of a landmark show, as `_landmarks` has kept it."""
    return read_json(root / "roxford5k" / "views" / f"{_landmark(number)}.json") or {}
