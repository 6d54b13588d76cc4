"""One image of a file: whatever its mode, it is decoded as RGB."""

from PIL import Image

from regvit_lightning.data.images import open_image


def test_grayscale_palette_and_alpha_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (4, 4)).save(path)
        assert open_image(str(path)).mode == "RGB"
