"""The Containerfile, its steps carried out without a container engine.

Each stage is a machine of its own. Its base image is not at hand: this machine's Python takes the
place of the image's.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relayd import __version__
from tests.support.machine import Machine, open_machine
from tools.lock import REPOSITORY

CONTAINERFILE = REPOSITORY / "packaging" / "Containerfile"


@dataclass
class Stage:
    """A built stage: the machine, and what its instructions set."""

    machine: Machine
    base: str
    directory: str = "/"
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """Where files are copied from: the source tree, earlier stages by way of `exchange`."""

    tree: Path
    stages: dict[str, Stage]
    exchange: Path


def instructions() -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, lines joined."""
    text = re.sub(r"\\\n", " ", CONTAINERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def stages(
    source_tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Stage]]:
    """All stages, built in order; the last one is named `final`."""
    built: dict[str, Stage] = {}
    exchange = tmp_path_factory.mktemp("exchange")
    with ExitStack() as stack:
        for word, rest in instructions():
            if word == "FROM":
                base, _, name = rest.partition(" AS ")
                scratch = tmp_path_factory.mktemp("stage")
                machine = stack.enter_context(open_machine(scratch))
                machine.share(source_tree)
                machine.share(exchange)
                machine.shell("ln -sf python3 /usr/bin/python")
                stage = built[name or "final"] = Stage(machine, base)
            elif built:
                carry_out(word, rest, stage, Sources(source_tree, built, exchange))
        yield built


def carry_out(word: str, rest: str, stage: Stage, sources: Sources) -> None:
    """Carries out one instruction; any that is not known here is an error."""
    if word == "RUN":
        # Where packages come from is the caller's business, as it is with an engine.
        pip = [f"{key}={value}" for key, value in os.environ.items() if key.startswith("PIP_")]
        pip.append("PIP_NO_COMPILE=1")  # that takes longest, and no test needs it
        script = f"cd {stage.directory} && {rest}"
        stage.machine.run("env", *pip, "HOME=/root", "sh", "-euc", script)
    elif word == "COPY":
        copy(shlex.split(rest), stage, sources)
    elif word == "WORKDIR":
        stage.directory = rest
        stage.machine.run("mkdir", "-p", rest)
    else:
        assert word in {"ENV", "USER", "VOLUME", "STOPSIGNAL", "ENTRYPOINT"}
        stage.settings[word] = rest


def copy(words: list[str], stage: Stage, sources: Sources) -> None:
    """Copy from the source tree or another stage; a directory's content, as engines do."""
    origin = None
    if words[0].startswith("--from="):
        origin = sources.stages[words.pop(0).removeprefix("--from=")]
    *paths, target = words
    target = str(Path(stage.directory) / target) + ("/" if target.endswith("/") else "")
    for source in paths:
        if origin is not None:
            moved = Path(f"{sources.exchange}{source}")
            origin.machine.shell('mkdir -p "$2" && cp -a "$1/." "$2"', source, str(moved))
        else:
            moved = sources.tree / source
        whole = f"{moved}/." if moved.is_dir() else str(moved)
        into = target if moved.is_dir() or target.endswith("/") else f"{target}/"
        stage.machine.shell('mkdir -p "$2" && cp -a "$1" "$2"', whole, into)


def test_image_has_relayd_that_starts_as_its_user(stages: dict[str, Stage]) -> None:
    """The entry point of the image is in its path and runs as the unprivileged user."""
    final = stages["final"]
    name, _, path = final.settings["ENV"].partition("=")
    assert name == "PATH"
    command = json.loads(final.settings["ENTRYPOINT"])
    shown = final.machine.run(
        "env", f"PATH={path}", *command, "--version", user=final.settings["USER"]
    )
    assert shown.stdout == f"rudder-relayd {__version__}\n"


def test_image_runs_without_root(stages: dict[str, Stage]) -> None:
    """The image's user is a number, not 0, and it is the one that may write the spool."""
    final = stages["final"]
    user = final.settings["USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    final.machine.run("touch", "/var/rudder/reports/a.log", user=user)
    assert final.machine.run("touch", "/usr/lib/relayd/x", user=user, check=False).returncode


def test_image_checks_its_configuration(stages: dict[str, Stage]) -> None:
    """The defaults that the image carries ask for what a node needs, and for nothing else."""
    final = stages["final"]
    final.machine.shell("mkdir -p /opt/rudder/etc; echo root > /opt/rudder/etc/uuid.hive")
    shown = final.machine.run(
        "/usr/lib/relayd/bin/rudder-relayd", "--test", user=final.settings["USER"]
    )
    assert shown.stdout.splitlines()[-1] == "Syntax: OK"


def test_image_has_no_build_tools(stages: dict[str, Stage]) -> None:
    """Neither pip nor the build backend nor the sources are in the image's environment."""
    final = stages["final"]
    packages = final.machine.shell("ls /usr/lib/relayd/lib/python3*/site-packages").split()
    assert not {"pip", "hatchling", "pytest"} & set(packages)
    assert {"relayd", "trio"} <= set(packages)
    assert final.machine.run("test", "-e", "/source", check=False).returncode == 1


def test_image_is_stopped_in_order(stages: dict[str, Stage]) -> None:
    """The engine stops the container with the signal that relayd ends in order on."""
    assert stages["final"].settings["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(stages["final"].settings["VOLUME"]) == ["/var/rudder"]
