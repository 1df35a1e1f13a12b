"""The wheel, installed into an empty environment, works from another folder: migrations and data files are inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.waiting import HANGS_AFTER_S

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment_prints_its_version_and_status_and_plays_a_short_demo(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    _run([sys.executable, "-m", "build", "--wheel", "--outdir", str(wheels), str(ROOT)], tmp_path)
    [wheel] = wheels.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    bin_ = tmp_path / "empty" / "bin"
    install = [str(bin_ / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    _run([*install, f"{wheel}[embedded,demo]"], tmp_path)

    refinery = str(bin_ / "refinery")
    assert _run([refinery, "--version"], tmp_path).startswith("refinery ")
    assert json.loads(_run([refinery, "status", "--json"], tmp_path))["signals"] == 0
    summary = json.loads(_run([refinery, "demo", "--exit", "--json", "--until", "2001-09-30"], tmp_path))
    assert summary["signals"] > 100
    assert (summary["lost"], summary["duplicated"], summary["dead_letters"]) == (0, 0, 0)


def _run(command: list[str], folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", str(folder))}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS_AFTER_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
