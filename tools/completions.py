"""Write the scripts with which shells complete relayd's commands.

    python -m tools.completions DIR     write all scripts below DIR, as below /usr/share

Each script asks the program itself, so it completes the commands and options of the installed
version. Without a package one line does the same; see docs/operate.md.
"""

import sys
from pathlib import Path
from typing import Final

from click.shell_completion import get_completion_class

from relayd.commands import cli

_COMMANDS: Final = {"relayd": cli.main, "rudder-relayd": cli.rudder_relayd}
#: Shell → the file that it loads for a command, below /usr/share.
PLACES: Final = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/vendor-completions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}


def scripts() -> dict[str, str]:
    """Return the text of each script by its path below /usr/share."""
    return {
        place.format(program): script(program, shell)
        for program in _COMMANDS
        for shell, place in PLACES.items()
    }


def script(program: str, shell: str) -> str:
    """Return the script of a shell for a program."""
    kind = get_completion_class(shell)
    assert kind is not None
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    return kind(_COMMANDS[program], {}, program, variable).source().rstrip("\n") + "\n"


def write(directory: Path) -> list[Path]:
    """Write all scripts below a directory and return their paths."""
    written = []
    for name, text in scripts().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]))
