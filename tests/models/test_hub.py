"""Downloads from a Hub of our own on this machine, through the real client, and every way in which they fail."""

import json
import re
import socket
import time
from threading import Thread

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from regvit_lightning.errors import UserError
from regvit_lightning.models import hub, weights
from regvit_lightning.models.sources import load_backbone
from tests.models.fake_hub import serving
from tests.models.test_hugging_face import assert_same, named, reference, write

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Points the client of the Hub at a URL, with an empty cache, without what this machine's environment says."""
    for name in (*PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)

    def at(url: str) -> None:
        for key, value in {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, key, value)
        huggingface_hub.close_session()

    yield at
    huggingface_hub.close_session()


@pytest.fixture
def served(tmp_path, client):
    with serving(tmp_path / "hub") as fake:
        client(fake.url)
        yield fake


def publish(fake, repository="org/dinov2-tiny"):
    """DINOv2 of transformers on the Hub, with the statistics of its images."""
    model = reference("dinov2")
    path = write(fake.folder / repository, "dinov2", named("dinov2", model))
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], "size": 64, "crop_size": 56}
    path.with_name("preprocessor_config.json").write_text(json.dumps(processor))
    return model, path


def test_a_model_is_downloaded_once(served):
    model, _ = publish(served)
    assert_same("hf/org/dinov2-tiny", model, 56)
    asked = len(served.asked)
    assert {path.rpartition("/")[2] for method, _, path in served.asked if method == "GET"} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    backbone = load_backbone("hf/org/dinov2-tiny")
    assert len(served.asked) == asked  # all of it comes from the cache, without a question
    assert (backbone.name, backbone.mean, backbone.transform.resize) == ("hf-org-dinov2-tiny", (0.5, 0.4, 0.3), 64)
    assert backbone.source.name == "model.safetensors"


def test_a_model_without_a_processor_and_in_a_pickle(served):
    model, path = publish(served)
    path.with_name("preprocessor_config.json").unlink()
    path.unlink()
    torch.save(named("dinov2", model), path.with_name("pytorch_model.bin"))
    assert_same("hf/org/dinov2-tiny", model, 56)
    served.server.shutdown()  # that there is no such file is known from now on, too
    assert_same("hf/org/dinov2-tiny", model, 56)


def test_through_a_proxy_to_a_host_that_no_name_server_knows(served, client, monkeypatch):
    model, _ = publish(served)
    with pytest.raises(OSError, match=r"."):
        socket.getaddrinfo("hub.invalid", 80)
    monkeypatch.setenv("HTTP_PROXY", served.url)
    client("http://hub.invalid")
    assert_same("hf/org/dinov2-tiny", model, 56)
    assert {host for _, host, _ in served.asked} == {"hub.invalid"}


@pytest.mark.parametrize("name", ["hf/org/dinov2-tiny", "timm/test_vit.r160_in1k"])
def test_a_machine_with_an_https_proxy_only_asks_the_proxy(client, monkeypatch, name):
    """The host is known to no name server: only the proxy can reach it, and it must be asked to."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse():
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(4096).split(b"\r\n")[0].decode())
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = Thread(target=refuse, daemon=True)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        client("https://hub.invalid")
        with pytest.raises(UserError, match="could not be fetched"):
            load_backbone(name)
        proxy.shutdown(socket.SHUT_RDWR)
    assert set(asked) == {"CONNECT hub.invalid:443 HTTP/1.1"}


def test_timm_reads_what_has_been_fetched(served):
    model = timm.create_model("test_vit")
    (served.folder / "timm" / "test_vit.r160_in1k").mkdir(parents=True)
    save_file(model.state_dict(), served.folder / "timm" / "test_vit.r160_in1k" / "model.safetensors")
    backbone = load_backbone("timm/test_vit")
    assert backbone.fingerprint == weights.fingerprint(model.state_dict())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf/org/absent", "hf/org/absent: no such model on the Hub, or a private one"),
        ("hf/org/gated", "hf/org/gated: accept its terms on its page of the Hub, then `hf auth login`"),
        ("hf/org/empty", r"hf/org/empty: holds neither model\.safetensors nor pytorch_model\.bin"),
        ("hf/org", r"hf/org: expected hf/<org>/<name>, such as hf/facebook/dinov2-with-registers-base"),
        ("hf/org/a/b", r"expected hf/<org>/<name>"),
        ("hf/timm/vit_base_patch16_224", "models of timm are named timm/vit_base_patch16_224"),
        ("timm/test_vit.r160_in1k", "timm/test_vit.r160_in1k: no such model on the Hub"),
    ],
)
def test_what_the_hub_refuses(served, name, message):
    (served.folder / "org" / "empty").mkdir(parents=True)
    (served.folder / "org" / "gated").mkdir()
    (served.folder / "org" / "gated" / "GATED").touch()
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://hub.invalid"])
@pytest.mark.parametrize("name", ["hf/org/dinov2-tiny", "timm/test_vit.r160_in1k"])
def test_nobody_answers(client, url, name):
    client(url)
    begun = time.monotonic()
    with pytest.raises(UserError, match=rf"{re.escape(name)}: its released weights .* HF_HOME along") as caught:
        load_backbone(name)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 10  # the client alone would ask again for most of a minute


def test_a_server_that_never_answers(client, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match=r"could not be fetched \(\w*Timeout\w*\)"):
            load_backbone("hf/org/dinov2-tiny")


def test_settings_of_the_client_stay_as_they_are(client):
    constants = {key: value for key, value in vars(huggingface_hub.constants).items() if key.isupper()}
    client("http://127.0.0.1:9")
    before = {key: vars(huggingface_hub.constants)[key] for key in constants}
    with pytest.raises(UserError):
        load_backbone("timm/test_vit")
    assert {key: vars(huggingface_hub.constants)[key] for key in constants} == before


def test_a_failure_that_is_not_the_network_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), hub.fetching("timm/x"):
        raise ZeroDivisionError


def test_a_network_that_goes_away_between_question_and_download(served, monkeypatch):
    publish(served)

    def gone(*_, **__):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    with pytest.raises(UserError, match=r"could not be fetched \(LocalEntryNotFoundError\)"):
        load_backbone("hf/org/dinov2-tiny")
