"""The root module: quick, lazy, and what it offers is there."""

import subprocess
import sys

import pytest

import regvit_lightning

MEASURED = """
import sys, time
begun, before = time.perf_counter(), set(sys.modules)
import regvit_lightning
seconds = time.perf_counter() - begun
print(seconds, *sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""


def test_importing_takes_no_time_and_loads_nothing_but_itself():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.split()
    assert float(seconds) < 0.3
    assert loaded == ["regvit_lightning"]


@pytest.mark.parametrize("name", regvit_lightning.__all__)
def test_every_public_name_is_there_and_is_named_so(name):
    value = getattr(regvit_lightning, name)
    assert name in dir(regvit_lightning)
    assert name == "__version__" or value.__name__ == name


def test_public_names_are_not_hidden_by_folders_of_the_same_name():
    from regvit_lightning.analysis import norms  # noqa: F401  # its folder becomes an attribute of the package

    assert callable(regvit_lightning.artifacts)
    assert callable(regvit_lightning.evaluate)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'regvit_lightning' has no attribute 'load_backbones'"):
        regvit_lightning.load_backbones  # noqa: B018
