"""Data sets from their archives, small ones of the same make: downloaded, unpacked, sorted into classes, counted."""

import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from benchmarks.data import __main__ as programme
from benchmarks.data import checks, obtain
from benchmarks.data.obtain import DataSource, File, obtain_one
from regvit_lightning import settings
from regvit_lightning.data import nyu
from regvit_lightning.data.depth_pairs import FRAME
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import UserError
from tests.data.test_nyu import write_mat


def jpeg(shade, size=(8, 8)):
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def tar_of(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def tar_bytes(tmp_path, files):
    tar_of(tmp_path / "inner", files)
    content = (tmp_path / "inner").read_bytes()
    (tmp_path / "inner").unlink()
    return content


CHECKS = checks.checks_of(DataSettings(name="any", root="."))


def data_of(tmp_path, **counts):
    return DataSettings(name="small", root=str(tmp_path / "root"), counts=counts, get="see README")


def get(name, tmp_path, data):
    """Obtain a data set as its own file says, but for the checksums, which are those of the real archives."""
    recipe = obtain.read_data_source(name)
    for file in recipe.files:
        file.md5 = file.sha256 = ""
        file.bytes = 0
    obtain_one(name, recipe, data, tmp_path / "archives", CHECKS)


@pytest.mark.parametrize("name", settings.names("downloads"))
def test_every_file_of_configs_downloads_is_complete(name):
    recipe = obtain.read_data_source(name)
    assert recipe.checks
    counts = settings.read_yaml(settings.CONFIGS / f"data/{recipe.data}.yaml")["counts"]
    assert {check for check in recipe.checks if check not in CHECKS} <= {f"{name} trainval" for name in counts}
    assert all(check.split()[0] in counts for check in recipe.checks)
    for file in recipe.files:
        assert bool(file.urls) != bool(file.get)
        name = re.escape(file.name)
        if file.trees:  # an archive that the server makes of a commit, whose hash ends its own name, too
            name = rf"{re.escape(file.name.rpartition('-')[2].removesuffix('.tar.gz'))}(\.tar\.gz)?"
            assert all(re.fullmatch("[0-9a-f]{40}", digest) for digest in file.trees.values())
            assert file.source
            assert file.licence
        assert all(re.fullmatch(rf"https?://[a-z0-9.]+/.*{name}", url) for url in file.urls)
        assert re.fullmatch(r"([0-9a-f]{32})?", file.md5)
        assert re.fullmatch(r"([0-9a-f]{64})?", file.sha256)
        assert file.keep or file.into or recipe.prepare


def test_checksums_are_those_that_torchvision_knows():
    from torchvision.datasets import imagenet, voc

    known = {facts["url"].rpartition("/")[2]: facts["md5"] for facts in voc.DATASET_YEAR_DICT.values()}
    known |= dict(imagenet.ARCHIVE_META.values())
    ours = {file.name: file.md5 for name in settings.names("downloads") for file in obtain.read_data_source(name).files}
    shared = ours.keys() & known.keys()
    assert len(shared) == 5
    assert {name: ours[name] for name in shared} == {name: known[name] for name in shared}


# -------------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def served(tmp_path):
    """A folder and the address under which it is served; nothing is served once `stop` is called."""
    folder = tmp_path / "served"
    folder.mkdir()
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def voc_archive(path):
    folder = "VOCdevkit/VOC2007"
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    annotation = f"<annotation><object>{box}</object></annotation>".encode()
    names = [f"00000{number}" for number in range(3)]
    files = {f"{folder}/ImageSets/Main/trainval.txt": "\n".join(names).encode()}
    for number, name in enumerate(names):
        files[f"{folder}/JPEGImages/{name}.jpg"] = jpeg(number)
        files[f"{folder}/Annotations/{name}.xml"] = annotation
    tar_of(path, files)


def voc_recipe(folder, url, checksum=""):
    file = folder / "voc.tar"
    checksum = checksum or hashlib.md5(file.read_bytes()).hexdigest()
    return DataSource([File("voc.tar", [f"{url}/voc.tar"], md5=checksum, into=".")], checks=["voc07 trainval"])


def test_a_data_set_is_downloaded_unpacked_and_counted_once(served, tmp_path, capsys):
    folder, url = served
    voc_archive(folder / "voc.tar")
    data, run = data_of(tmp_path, voc07=[3]), voc_recipe(folder, url)
    obtain_one("voc07", run, data, tmp_path / "archives", CHECKS)
    printed = capsys.readouterr().out
    assert "voc07 in" in printed
    assert "is whole: 3 images (voc07 trainval)" in printed
    assert f"no longer needed: {tmp_path / 'archives' / 'voc.tar'}" in printed
    shutil.rmtree(folder)  # a second call asks nobody
    (tmp_path / "archives" / "voc.tar").unlink()
    obtain_one("voc07", run, data, tmp_path / "archives", CHECKS)
    assert "is whole already" in capsys.readouterr().out


def test_a_corrupted_archive_is_neither_kept_nor_unpacked(served, tmp_path):
    folder, url = served
    voc_archive(folder / "voc.tar")
    run = voc_recipe(folder, url, checksum="0" * 32)
    with pytest.raises(DataError, match="its md5 is not the published 0000"):
        obtain_one("voc07", run, data_of(tmp_path, voc07=[3]), tmp_path / "archives", CHECKS)
    assert not list((tmp_path / "archives").iterdir())
    assert not (tmp_path / "root").exists()
    (tmp_path / "archives" / "voc.tar").write_bytes(b"put there by hand")
    with pytest.raises(DataError, match=r"archives/voc\.tar: its md5 is not the published 0000.*remove it"):
        obtain_one("voc07", run, data_of(tmp_path, voc07=[3]), tmp_path / "archives", CHECKS)


def test_a_hostile_archive_is_refused(served, tmp_path):
    folder, url = served
    tar_of(folder / "voc.tar", {"VOCdevkit/a.jpg": b"", "../../.ssh/authorized_keys": b"evil"})
    with pytest.raises(DataError, match=r"its member '\.\./\.\./\.ssh/authorized_keys' does not lie below the folder"):
        obtain_one("voc", voc_recipe(folder, url), data_of(tmp_path, voc07=[3]), tmp_path / "a", CHECKS)
    assert not (tmp_path / "root").exists()


def test_a_wrong_count_is_told(served, tmp_path):
    folder, url = served
    voc_archive(folder / "voc.tar")
    run, data = voc_recipe(folder, url), data_of(tmp_path, voc07=[5011])
    with pytest.raises(DataError, match="3 images, expected 5,011"):
        obtain_one("voc07", run, data, tmp_path / "archives", CHECKS)


def test_what_cannot_be_counted_is_not_begun(tmp_path):
    with pytest.raises(UserError, match="data 'small' does not say how many images it has: get it with data=full"):
        get("voc07", tmp_path, data_of(tmp_path))


def test_the_program_says_where_to_get_what_only_people_may(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=r"get=voc7: nearest: voc07.*, or all"):
        programme.main(programme.Data("full", get="voc7"), [])
    with pytest.raises(UserError) as error:
        programme.main(programme.Data("full", get="imagenet_val, nyu_train"), [])
    first, second = str(error.value).splitlines()[1:]
    assert re.search(rf"imagenet_val: .*{tmp_path}/archives/ILSVRC2012_img_val\.tar \(from image-net\.org", first)
    assert "ILSVRC2012_devkit_t12.tar.gz" in first
    assert re.search(r"nyu_train: .*sync\.zip \(from https://drive\.google\.com", second)


# -------------------------------------------------------------------------------------------------------- prepared


def test_imagenet_train_from_a_tar_of_tars(tmp_path):
    archive = tmp_path / "archives" / "ILSVRC2012_img_train.tar"
    archive.parent.mkdir()
    classes = {
        wnid: {f"{wnid}_{number}.JPEG": jpeg(number) for number in range(images)}
        for wnid, images in {"n01440764": 2, "n01443537": 3}.items()
    }
    tar_of(archive, {f"{wnid}.tar": tar_bytes(tmp_path, files) for wnid, files in classes.items()})
    data = data_of(tmp_path, imagenet=[5, 0])
    get("imagenet_train", tmp_path, data)
    train = tmp_path / "root" / "imagenet" / "train"
    found = {folder.name: {file.name: file.read_bytes() for file in folder.iterdir()} for folder in train.iterdir()}
    assert found == classes
    lost, kept = train / "n01440764" / "n01440764_1.JPEG", train / "n01443537" / "n01443537_0.JPEG"
    lost.unlink()  # as after an interruption
    before = os.stat(kept)
    get("imagenet_train", tmp_path, data)
    assert lost.read_bytes() == jpeg(1)
    assert os.stat(kept) == before


def devkit(path, ids, truth):
    """The devkit's two tables: synsets as MATLAB structs, of which only the first 1,000 are leaves."""
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array([(number, wnid, "a thing", 0) for wnid, number in ids.items()], dtype=kind)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets[:, None]})
    lines = "".join(f"{number}\n" for number in truth).encode()
    folder = "ILSVRC2012_devkit_t12/data"
    files = {f"{folder}/meta.mat": meta.getvalue(), f"{folder}/ILSVRC2012_validation_ground_truth.txt": lines}
    tar_of(path, {"ILSVRC2012_devkit_t12/readme.txt": b"", **files}, "w:gz")


def val_archives(tmp_path, truth, images=4):
    folder = tmp_path / "archives"
    folder.mkdir()
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, images + 1)]
    shuffled = [names[place] for place in (2, 0, 3, 1)]
    tar_of(folder / "ILSVRC2012_img_val.tar", {name: jpeg(int(name[-6])) for name in shuffled})
    devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", {"n02119789": 1, "n02100735": 2, "n00001740": 3}, truth)


def test_imagenet_val_by_the_devkits_classes(tmp_path):
    val_archives(tmp_path, truth=[2, 1, 1, 2])
    get("imagenet_val", tmp_path, data_of(tmp_path, imagenet=[0, 4]))
    val = tmp_path / "root" / "imagenet" / "val"
    found = {folder.name: sorted(file.name[-6] for file in folder.iterdir()) for folder in val.iterdir()}
    assert found == {"n02119789": ["2", "3"], "n02100735": ["1", "4"]}
    assert (val / "n02119789" / "ILSVRC2012_val_00000003.JPEG").read_bytes() == jpeg(3)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([2, 1, 1], r"ILSVRC2012_img_val\.tar has 4 images, .* names the classes of 3"),
        ([2, 1, 1, 9], r"is not the devkit of ILSVRC 2012: 9"),
        ([], r"is not the devkit of ILSVRC 2012"),
    ],
)
def test_a_devkit_that_does_not_fit_is_told(tmp_path, truth, message):
    val_archives(tmp_path, truth)
    with pytest.raises(DataError, match=message):
        get("imagenet_val", tmp_path, data_of(tmp_path, imagenet=[0, 4]))
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("first", ["sync/", ""])
def test_nyu_train_from_sync_zip(tmp_path, first):
    rng = np.random.default_rng(0)
    root = tmp_path / "root" / "nyu"
    root.mkdir(parents=True)
    (tmp_path / "archives").mkdir()
    lines = []
    with zipfile.ZipFile(tmp_path / "archives" / "sync.zip", "w") as pack:
        for number in range(2):
            depth = io.BytesIO()
            Image.fromarray(rng.integers(1000, 9000, FRAME).astype(np.uint16)).save(depth, "PNG")
            pack.writestr(f"{first}kitchen_1/rgb_{number}.jpg", jpeg(number, FRAME[::-1]))
            pack.writestr(f"{first}kitchen_1/sync_depth_{number}.png", depth.getvalue())
            lines.append(f"/kitchen_1/rgb_{number}.jpg /kitchen_1/sync_depth_{number}.png 518.8579")
    (root / "nyu_train.txt").write_text("\n".join(lines))
    get("nyu_train", tmp_path, data_of(tmp_path, depth=[2, 0]))
    assert (root / "sync" / "kitchen_1" / "rgb_1.jpg").read_bytes() == jpeg(1, FRAME[::-1])


def test_nyu_test_images_are_those_of_the_mat(tmp_path):
    rows, columns = np.indices(FRAME)
    smooth = np.stack([rows // 2, columns // 3, (rows + columns) // 5], axis=-1).astype(np.uint8)
    scenes = [(np.roll(smooth, 40 * number, axis=1), (1000 + rows + number).astype(np.uint16)) for number in range(4)]
    root = tmp_path / "root"
    root.mkdir()
    official = write_mat(root, scenes, train=[1, 3], test=[4, 2])
    with h5py.File(root / "nyu" / "nyu_depth_v2_labeled.mat", "a") as mat:
        names = ["kitchen", "office_kitchen", "kitchen", "study"]
        texts = [np.array([[ord(letter)] for letter in name]) for name in names]
        stored = [mat.create_dataset(f"#refs#/{number}", data=text) for number, text in enumerate(texts)]
        mat.create_dataset("sceneTypes", data=np.array([[one.ref for one in stored]], dtype=h5py.ref_dtype))
    data = data_of(tmp_path, depth=[0, 2])
    get("nyu_test", tmp_path, data)
    assert (root / "nyu" / "nyu_test.txt").read_text().splitlines() == [
        "office_kitchen/rgb_00001.jpg office_kitchen/sync_depth_00001.png 518.8579",
        "study/rgb_00003.jpg study/sync_depth_00003.png 518.8579",
    ]
    listed = nyu.test_pairs(data)
    original = nyu.test_pairs(official)
    for place, other in ((0, 1), (1, 0)):
        ours, theirs = listed[place], original[other]
        assert np.abs(ours.depth - theirs.depth).max() <= 0.001  # BTS cuts off below a millimetre
        assert np.abs(ours.image.astype(int) - theirs.image).mean() < 2  # JPEG; swapped channels would be 30 off
        assert ours.image[:4].max() < 16  # the black frame, but for JPEG's rounding
    once = Path(root, "nyu/official_splits/test/study/rgb_00003.jpg").stat()
    Path(root, "nyu/nyu_test.txt").unlink()
    get("nyu_test", tmp_path, data)
    assert Path(root, "nyu/official_splits/test/study/rgb_00003.jpg").stat() == once
