"""Where a data set lies: by name from `configs/data/`, or any folder in ImageNet's layout by its path."""

from dataclasses import dataclass, field
from pathlib import Path

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.settings import SettingsError


class DataError(UserError):
    """A data set that is missing, incomplete or unreadable."""


@dataclass
class DataSettings:
    """Folders of one collection of data sets; one YAML of `configs/data/` each.

    Attributes:
        name: names the folder of the results, `results/<name>/`.
        root: folder that holds the data sets.
        variant: overlay of recipes and tasks that fits this data (`mini`: `configs/tasks/<task>.mini.yaml`), or empty.
        imagenet: folder below root with `train/<class>/` and `val/<class>/` for the ImageNet evaluations.
        imagenet22k: folder below root with `train/<class>/` for supervised pretraining at large scale.
        rendered: made by `regvit_lightning/data/mini.py` on this machine.
        counts: number of images that the splits of a data set must have, [train, val], where it is known.
        get: what to do when the data is not there; ends the error message.
    """

    name: str = settings.MISSING
    root: str = settings.MISSING
    variant: str = ""
    imagenet: str = "imagenet"
    imagenet22k: str = "imagenet22k"
    rendered: bool = False
    counts: dict[str, list[int]] = field(default_factory=dict)
    get: str = ""

    def __post_init__(self) -> None:
        settings.check(bool(self.root), f"data '{self.name}': root is empty (give DATA_ROOT=<folder>)")

    def folder(self, images: str) -> str:
        """The folder below root that holds the data set `images`.

        Raises:
            SettingsError: no such data set.
        """
        folders = {"imagenet": self.imagenet, "imagenet22k": self.imagenet22k}
        settings.check(images in folders, f"images={images}: expected one of {', '.join(folders)}")
        return folders[images]


def resolve(data: str) -> DataSettings:
    """The data set called `data`, or the folder of that path, in ImageNet's layout.

    Raises:
        SettingsError: neither a name of `configs/data/` nor a folder, or `DATA_ROOT` is needed and not set.
    """
    if data in settings.names("data"):
        return settings.build(DataSettings, settings.find("data", data))
    folder = Path(data)
    if not folder.is_dir():
        hint = settings.nearest(data, settings.names("data"))
        raise SettingsError(f"data '{data}' is neither a folder nor a name of configs/data; {hint}")
    get = "a folder given by path needs train/<class>/<image> and, to evaluate, val/<class>/<image>"
    return DataSettings(name=folder.resolve().name, root=data, imagenet=".", imagenet22k=".", get=get)
