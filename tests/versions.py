"""Runs the unit tests at both ends of the version ranges in pyproject.toml.

    python tests/versions.py oldest    every direct dependency at its lower bound
    python tests/versions.py newest    whatever is installed without constraints.txt

Each end gets its own environment, `.venv-oldest` or `.venv-newest`, which a later call reuses. The packages that our
dependencies need in turn are always the newest that fit. Exit status 1 if the versions cannot be installed together or
a test fails; further arguments are pytest's. `make test-versions` runs both ends: a download of gigabytes each. With
`uv` on the PATH, an environment takes a minute or two, with pip up to an hour.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path


ROOT = Path(__file__).parents[1]
UNIT_TESTS = ["-m", "not integration and not slow and not gpu", "-p", "no:cacheprovider"]


def lower_bounds(project: dict) -> list[str]:
    """`name==version` for the lower bound of every direct dependency, those of all extras included.

    Args:
        project: the table `project` of pyproject.toml.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    requirements = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        requirements += extra
    pins = []
    for requirement in requirements:
        if requirement.startswith(f"{project['name']}["):
            continue  # an extra that contains another one
        bound = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
        if bound is None:
            raise ValueError(f"The dependency {requirement!r} has no lower bound. Write it as NAME>=VERSION.")
        pins.append(f"{bound[1]}=={bound[2]}")
    return pins


def install(environment: Path, end: str) -> Path:
    """Make an environment with this checkout and all that its tests need. Returns its Python."""
    python = environment / "bin/python"
    installed = environment / "installed"
    if installed.is_file():
        return python
    venv.create(environment, clear=True, with_pip=True)
    installer = [python, "-m", "pip", "--disable-pip-version-check", "install"]
    if shutil.which("uv") is not None:
        installer = ["uv", "pip", "install", "--python", python]
    command = [*installer, "--quiet", "--editable", ".[dev]"]
    if end == "oldest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        constraints = environment / "constraints.txt"
        constraints.write_text("\n".join(lower_bounds(project)) + "\n", encoding="utf-8")
        command += ["--constraint", constraints]
    subprocess.run(command, cwd=ROOT, check=True)
    installed.touch()
    return python


def main() -> None:
    end, *pytest_arguments = sys.argv[1:] or [""]
    if end not in ("oldest", "newest"):
        sys.exit(f"Got {end!r}. Call it with oldest or newest: python tests/versions.py oldest")
    python = install(ROOT / f".venv-{end}", end)
    subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], cwd=ROOT, check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", "-q", *UNIT_TESTS, *pytest_arguments]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
