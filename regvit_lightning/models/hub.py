"""Files of the Hugging Face Hub: read from the cache, else downloaded into it; failures are reported in one line."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from regvit_lightning.errors import UserError
from regvit_lightning.models import beside, hugging_face
from regvit_lightning.models.origins import HUB

SECONDS = 10.0  # timeout of the Hub

# An exception of one of these packages while loading released weights means that they could not be fetched.
NETWORK = ("huggingface_hub", "requests", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "urllib")

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def fetch_model(name: str) -> Path:
    """Fetch the weights of `hf/<org>/<name>`, together with their JSON files.

    Raises:
        UserError: no such model, no access to it, no weights in it, or the Hub cannot be reached.
    """
    repository = name.removeprefix(HUB)
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"{name}: expected {HUB}<org>/<name>, such as {HUB}facebook/dinov2-with-registers-base")
    if repository.startswith("timm/"):
        raise UserError(f"{name}: models of timm are named {repository}")
    for file in (beside.CONFIG, beside.PROCESSOR):
        fetch(name, repository, [file])
    weights = fetch(name, repository, hugging_face.WEIGHTS)
    if weights is None:
        raise UserError(f"{name}: holds neither {' nor '.join(hugging_face.WEIGHTS)}")
    return weights


def fetch(name: str, repository: str, files: Sequence[str]) -> Path | None:
    """Fetch the first of `files` that a repository of the Hub has; None if it has none of them.

    Cached files are used without network access.

    Args:
        name: name of the model, for messages.
        repository: `<org>/<name>`.
        files: file names, in order of preference.

    Raises:
        UserError: no such repository, no access to it, or the Hub cannot be reached.
    """
    with fetching(name):
        for file in files:
            cached = huggingface_hub.try_to_load_from_cache(repository, file)
            if isinstance(cached, str):
                return Path(cached)
        for file in files:
            try:
                return Path(_download(repository, file))
            except LocalEntryNotFoundError:  # no response
                raise
            except EntryNotFoundError:
                continue
    return None


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Context manager that turns a failure to fetch the weights of the model `name` into a one-line `UserError`."""
    try:
        yield
    except GatedRepoError as error:
        raise UserError(f"{name}: accept its terms on its page of the Hub, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name}: no such model on the Hub, or a private one (`hf auth login`)") from error
    except Exception as error:
        packages = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
        if not isinstance(error, OSError) and packages.isdisjoint(NETWORK):
            raise
        raise UserError(
            f"{name}: its released weights are not in the cache and could not be fetched ({type(error).__name__}); "
            "fetch them once on a machine with network and take its HF_HOME along, or give a local file as the model"
        ) from error


def _download(repository: str, file: str) -> str:
    # A metadata request first: if the Hub is unreachable, the download itself would retry for most of a minute.
    try:
        url = huggingface_hub.hf_hub_url(repository, file)
        huggingface_hub.get_hf_file_metadata(url, timeout=SECONDS)
    except EntryNotFoundError:
        pass  # the download records in the cache that there is no such file
    return huggingface_hub.hf_hub_download(repository, file, etag_timeout=SECONDS)
