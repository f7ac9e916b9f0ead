"""The commands of the README, run as written in a fresh copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Setting up is what `make` does anyway, and the copy shares this checkout's environment.
SKIPPED = ("git clone", "make test")


def _commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    return [command for command in commands if not command.startswith(SKIPPED)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, or would track, with this checkout's environment."""
    target = tmp_path_factory.mktemp("readme") / "clv"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(ROOT / ".venv")
    return target


@pytest.mark.slow
def test_readme_commands_run_as_written(copy: Path) -> None:
    commands = _commands()
    assert len(commands) >= 5
    environment = os.environ | {"PATH": f"{copy / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    # Make must take the environment as set up: the copied files are newer than its mark.
    (ROOT / ".venv" / ".ready").touch()
    for command in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    shown = (copy / "data" / "demo.duckdb").exists() and (copy / "data" / "cdnow.duckdb").exists()
    assert shown, "the README must grade both companies"
