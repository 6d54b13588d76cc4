"""What pyproject.toml cannot say: the folder `configs/` of the repository is carried inside the package."""

from setuptools import find_packages, setup

CONFIGS = "regvit_lightning.configs"

setup(
    packages=[*find_packages(include=["regvit_lightning*", "benchmarks*"]), CONFIGS],
    package_dir={CONFIGS: "configs"},
)
