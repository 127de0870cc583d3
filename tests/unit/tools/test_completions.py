"""The completion of each shell, run by that shell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.completions import PLACES, write

#: Options of each shell to check the syntax of a file without running it.
CHECK = {"bash": "-n", "zsh": "-n", "fish": "--no-execute"}

#: Sources the script $1, completes the line $2, and prints one candidate on each line.
COMPLETE = {
    "bash": """
        . "$1"; COMP_WORDS=($2); [[ $2 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _relayd_completion relayd
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    # What zsh's completion system would be given: values of _describe end at their colon.
    "zsh": """
        compdef() { : }
        compadd() { print -rl -- ${(P)@[-1]} }
        _describe() { print -rl -- ${${(P)3}%%:*} }
        . "$1"; words=(${(z)2}); [[ $2 == *" " ]] && words+=("")
        CURRENT=$#words; _relayd_completion
    """,
    "fish": 'source $argv[1]; complete --do-complete $argv[2] | string replace -r "\\t.*" ""',
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the scripts of all shells."""
    directory = tmp_path_factory.mktemp("share")
    assert len(write(directory)) == 2 * len(PLACES)
    return directory


def completed(scripts: Path, shell: str, line: str) -> set[str]:
    """Return what a shell offers for a line."""
    script = scripts / PLACES[shell].format("relayd")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # bash's compopt works only while a line is edited; it is not called for plain words.
    name = [] if shell == "fish" else [shell]
    command = [shell, "-c", COMPLETE[shell], *name, str(script), line]
    env = os.environ | {"PATH": path, "HOME": str(scripts)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return set(filter(None, done.stdout.splitlines()))


@pytest.mark.parametrize("shell", list(PLACES))
def test_each_shell_accepts_its_scripts(scripts: Path, shell: str) -> None:
    """The scripts of both programs are valid."""
    for program in ("relayd", "rudder-relayd"):
        path = scripts / PLACES[shell].format(program)
        subprocess.run([shell, CHECK[shell], str(path)], check=True)


@pytest.mark.parametrize("shell", list(PLACES))
def test_commands_options_reasons_and_nodes_are_completed(
    scripts: Path, tmp_path: Path, shell: str
) -> None:
    """Each shell completes all four, and node names come from the configured nodes list."""
    names = {f"{number}-id": {"hostname": f"web-{number}.test"} for number in (12, 13)}
    listed = tmp_path / "nodeslist.json"
    listed.write_text(json.dumps(names | {"x-id": {"hostname": "db.test"}}))
    general = f'general = {{ node_id = "root", nodes_list_file = "{listed}" }}'
    (tmp_path / "main.conf").write_text(general)
    assert completed(scripts, shell, "relayd fa") == {"failed"}
    assert completed(scripts, shell, "relayd run --con") == {"--config", "--condition"}
    assert completed(scripts, shell, "relayd failed list --reason unknown_n") == {"unknown_node"}
    run = f"relayd run -c {tmp_path} web"
    assert completed(scripts, shell, run) == {"web-12.test", "web-13.test"}
    assert completed(scripts, shell, f"relayd run -c {tmp_path / 'nothing'} web") == set()
