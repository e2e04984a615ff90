"""Completion of the command line, in the shells, by the lines of the guide."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.guides import blocks, guide

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = "dicomweb-cors-proxy"

# Each script ends with a function that prints the completions of its arguments' last one.
SHELLS = {
    "bash": """
        complete_line() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _dicomweb_cors_proxy_completion "$1"
            printf '%s\\n' "${COMPREPLY[@]}"
        }
        compopt() { echo files; }
        complete -p dicomweb-cors-proxy >/dev/null || exit
    """,
    "zsh": """
        _describe() { print -l -- $completions_with_descriptions; }
        compadd() { print -l -- $completions; }
        _path_files() { print files; }
        complete_line() {
            words=("$@") CURRENT=$#
            $_comps[dicomweb-cors-proxy]
        }
    """,
    "fish": """
        function __fish_complete_path; echo files; end
        function complete_line; complete --do-complete (string join ' ' -- $argv); end
    """,
}
BEFORE = {"zsh": "autoload -U compinit; compinit -D"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the command."""
    program = tmp_path / "bin" / COMMAND
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        f"from dicomweb_cors_proxy.cli import main\nmain(prog_name={COMMAND!r})\n"
    )
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["se"], {"serve"}),
        (["serve", "--tls-"], {"--tls-cert", "--tls-key", "--tls-self-signed"}),
        (["serve", "--tls-cert", "fi"], {"files"}),
    ],
    ids=["a command", "an option", "a file"],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes(folder: Path, shell: str, words: list[str], expected: set[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (line,) = blocks(guide("running"), shell)
    script = folder / "script"
    call = " ".join(["complete_line", COMMAND, *words])
    script.write_text("\n".join([BEFORE.get(shell, ""), line.text, SHELLS[shell], call, ""]))
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}
    ended = subprocess.run(
        [shell, *flags[shell], script],
        env=os.environ
        | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Behind each one may be its description.
    offered = {
        each.replace("\t", ":").partition(":")[0] for each in ended.stdout.splitlines() if each
    }
    assert offered == expected, ended.stderr
