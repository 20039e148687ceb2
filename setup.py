"Package metadata, all of it read from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
parser = ConfigParser(delimiters="=")
parser.read(HERE / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

extras = {name: cfg[f"{name}_requirements"].split()
          for name in ("data", "eval", "track", "video", "dev")}
extras["all"] = sorted({requirement for extra in extras.values() for requirement in extra})
readme = HERE / "README.md"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"].split(),
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Natural Language :: English",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12)),
    ],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["tld", "tld.*"]),
    package_data={"tld": ["assets/*", "assets/**/*"]},
    include_package_data=False,
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
