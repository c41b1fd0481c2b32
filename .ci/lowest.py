"""Print the lowest version that pyproject.toml declares of each runtime, training and export dependency.

The lines are constraints for pip: ``make test-oldest`` runs the tests with these versions.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

EXTRAS = ("cpu", "score", "serve", "train", "export", "peft")

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]:
    if ">=" in requirement:
        print(requirement.replace(">=", "=="))
