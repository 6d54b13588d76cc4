"""The program: the images it takes, the files it writes, its page, and its mistakes in one line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from benchmarks.look import __main__ as program
from benchmarks.look import files
from benchmarks.look import images as image_files
from regvit_lightning.errors import UserError
from tests.models.test_hub import client, served  # noqa: F401

ROOT = Path(__file__).parents[3]


def photograph(file, width=48, height=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def options(tmp_path, **given):
    return program.LookAt(**{"model": "random-vitn_reg4", "size": 32, "results": str(tmp_path / "r"), **given})


def test_without_images_the_photographs_of_scikit_learn():
    from sklearn.datasets import load_sample_images

    shipped = load_sample_images()
    found, left_out = image_files.chosen("", 4)
    assert [file.name for file in found] == [Path(name).name for name in sorted(shipped.filenames)]
    assert left_out == 0
    np.testing.assert_array_equal(np.asarray(Image.open(found[0])), shipped.images[0])


def test_files_folders_and_patterns(tmp_path):
    names = [f"{number}.png" for number in range(6)]
    for name in [*names, ".hidden/x.png", "sub/deep.jpg"]:
        photograph(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    found, left_out = image_files.chosen(str(tmp_path), 3)
    assert ([file.name for file in found], left_out) == (["0.png", "2.png", "4.png"], 4)
    both, _ = image_files.chosen(f"{tmp_path / '5.png'}, {tmp_path / 'sub'}", 3)
    assert [file.name for file in both] == ["5.png", "deep.jpg"]
    some, _ = image_files.chosen(f"{tmp_path}/[01].png", 3)
    assert [file.name for file in some] == names[:2]
    comma = photograph(tmp_path / "a,b.png")
    assert image_files.chosen(str(comma), 1) == ([comma], 0)


def test_no_image_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="no image in this folder"):
        image_files.chosen(str(tmp_path), 1)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        image_files.chosen("nowhere", 1)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b , timm/c", ["a", "b", "timm/c"]),
        ("x.pth:mean=0.5,0.4,0.3:std=0.2,0.2,0.2,b", ["x.pth:mean=0.5,0.4,0.3:std=0.2,0.2,0.2", "b"]),
        ("x.pth:heads=6,random-vitn_reg4", ["x.pth:heads=6", "random-vitn_reg4"]),
        ("x.pth:mean=0.5,0.4,0.3+ttr,a+bias", ["x.pth:mean=0.5,0.4,0.3+ttr", "a+bias"]),
    ],
)
def test_models_in_a_list(text, names):
    assert program.models_of(text) == names


def test_patches_and_pixels():
    assert program.patch_of("") == (None, None)
    assert program.patch_of("12, 20") == ((12, 20), None)
    assert program.patch_of("130px,200px") == (None, (130, 200))
    for text in ("12", "12px,20", "-1,2", "a,b"):
        with pytest.raises(UserError, match=re.escape(f"patch={text}: expected row,column")):
            program.patch_of(text)
    for text in ("", ","):
        with pytest.raises(UserError, match="model=: expected"):
            program.models_of(text)
    with pytest.raises(UserError, match="formats=gif: expected some of png,pdf,svg"):
        program.formats_of("gif")
    assert program.formats_of("svg") == ["png", "svg"]


def test_the_files_and_the_page(tmp_path, capsys):
    photo = photograph(tmp_path / "a photo.png")
    program.main(options(tmp_path, model="random-vitn_reg1,random-vitn_reg0", images=str(photo)), [])
    (folder,) = (tmp_path / "r" / "mini" / "look").iterdir()
    assert folder.name == "random-vitn_reg1+random-vitn_reg0"
    own = folder / "maps" / "00-a_photo" / "random-vitn_reg1"
    names = ["cls", "similarity", "norms", "components", "lost", "reg_0", "head_0", "head_1", "head_2"]
    for stem in [folder / "figure", *(own / name for name in names)]:
        starts = {kind: stem.with_suffix(f".{kind}").read_bytes()[:5] for kind in ("png", "pdf", "svg")}
        assert starts == {"png": b"\x89PNG\r", "pdf": b"%PDF-", "svg": b"<?xml"}
    arrays = np.load(own / "maps.npz")
    assert arrays["heads"].shape == (3, 4, 6)
    assert arrays["registers"].shape == (1, 4, 6)
    page = (folder / "index.html").read_text()
    linked = re.findall(r'(?:href|src|data-sprite)="([^"#]+)"', page)
    assert len(linked) > 30
    assert [link for link in linked if not (folder / link.replace("%20", " ")).is_file()] == []
    assert page.count('class="similarity" data-sprite') == 2
    assert '<p class="missing">registers: none</p>' in page
    told = capsys.readouterr().out
    assert "look: figure.png, figure.pdf, figure.svg, index.html, maps/ in" in told
    assert re.search(r"look: random-vitn_reg0: \d+ of 24 patches beyond 3 × median = ", told)
    sentence = (
        r"in the images shown: [01] of 1 images ha.* Sinks per image \(n = 1 images, 12 heads\): NOP 0, .* The cosine"
    )
    assert len(re.findall(sentence, told)) == len(re.findall(f"<li>{sentence}", page)) == 2
    assert (
        "look: random-vitn_reg0: on many images, and whether patches are local: make artifacts MODEL=random-vitn_reg0 "
        in told
    )


def test_a_model_by_its_name_in_timm(tmp_path, served):  # noqa: F811
    model = timm.create_model("test_vit")
    (served.folder / "timm" / "test_vit.r160_in1k").mkdir(parents=True)
    save_file(model.state_dict(), served.folder / "timm" / "test_vit.r160_in1k" / "model.safetensors")
    photo = photograph(tmp_path / "a.png")
    program.main(options(tmp_path, model="timm/test_vit", images=str(photo), formats="png"), [])
    (folder,) = (tmp_path / "r" / "mini" / "look").iterdir()
    assert folder.name == "timm-test_vit"
    assert np.load(folder / "maps" / "00-a" / folder.name / "maps.npz")["norms"].shape == (2, 3)


def test_the_figure_only(tmp_path):
    photo = photograph(tmp_path / "a.png")
    program.main(options(tmp_path, images=str(photo), alone=False, formats="png"), [])
    (folder,) = (tmp_path / "r" / "mini" / "look").iterdir()
    assert [file.name for file in folder.iterdir()] == ["figure.png"]


def test_the_sprite_has_the_map_of_each_patch_as_a_tile():
    random = np.random.default_rng(0)
    similarities = 2 * random.random((2, 3, 2, 3)) - 1
    similarities[1, 2, 0, 1] = 1
    picture = files.sprite(similarities)
    assert picture.size == (9, 4)
    levels = np.asarray(picture)
    expected = np.round((similarities[1, 2] + 1) * 127.5)
    np.testing.assert_array_equal(levels[2:4, 6:9], expected)
    assert levels[2, 7] == 255


def test_names_of_folders():
    assert files.folder_name(["a", "b/c d", "e", "f"]) == "a+b_c_d+2"
    assert files.slug("../x y") == "_x_y"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"images": "text.jpg"}, "unreadable image text.jpg: not an image"),
        ({"model": "random-vitz_reg4"}, "unknown model 'vitz_reg4'"),
        ({"block": 7}, "no block 7: it has 4"),
        ({"patch": "9,9"}, "no patch 9,9"),
        ({"patch": "900px,9px"}, "no pixel 900,9"),
        ({"rule": "none"}, "rule=none: expected one of cutoff"),
        ({"size": 8}, "from 2 × 2 to 20,000 patches"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("no picture")
    photograph(tmp_path / "a.png")
    with pytest.raises(UserError, match=re.escape(line)) as error:
        program.main(options(tmp_path, **{"images": "a.png", **words}), [])
    assert "\n" not in str(error.value)
    assert not [file for file in (tmp_path / "r").rglob("*") if file.is_file()]


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / "r").write_text("a file")
    with pytest.raises(UserError, match="cannot write") as error:
        program.main(options(tmp_path, model="no-such-model"), [])
    assert "\n" not in str(error.value)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['look', '--help']\n"
        "from benchmarks.look.__main__ import cli; cli()\n"
        "print([name for name in ('torch', 'matplotlib', 'sklearn', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
    assert "images=<str>" in done.stdout
