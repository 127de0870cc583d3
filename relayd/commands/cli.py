"""The two commands, `relayd` and `rudder-relayd`, and their exit codes.

0   success
1   a crash, with a traceback
2   a configuration file is not valid; systemd does not restart relayd
3   anything else that prevents the start, including an unknown option or command; click's own
    code for those is 2, which would mean a configuration file that is not valid
75  what prevents the start may go away by itself: EX_TEMPFAIL of sysexits.h. Rudder's unit does
    not restart its daemon after 2 and 3

Each command imports only the modules it needs: checking a configuration loads neither Trio nor
the database driver.
"""

import errno
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from relayd import __version__
from relayd.commands.completion import complete_node
from relayd.commands.daemon import (
    DEFAULT_DIRECTORY,
    DIRECTORY_VARIABLE,
    EXIT_START,
    exit_code,
    fail,
    is_daemon,
    run_daemon,
)
from relayd.config.files import load_files
from relayd.service.signals import allow_hangup
from relayd.system.printable import shown
from relayd.system.utf8 import ensure_utf8

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console

EXIT_CRASH: Final = 1
#: The exit code that a shell reports for a command ended by SIGINT, for one that cleans up first.
EXIT_INTERRUPTED: Final = 130
#: The one for a command ended by SIGPIPE: nobody reads its results any more, as after `| head -1`.
EXIT_CLOSED: Final = 141

#: Commands in modules of their own, which are imported only when called: name → module, line in
#: the list of commands. A module with several names that of its command after a colon.
_LAZY: Final = {
    "nodes": ("relayd.commands.nodes.command", "List nodes: silent, refused, flooding."),
    "node": ("relayd.commands.nodes.command:node", "Show all about one node."),
    "pause": ("relayd.commands.pause.command", "Stop taking files; uploads go on."),
    "resume": ("relayd.commands.pause.command:resume", "Take files again after a pause."),
    "check": ("relayd.commands.check.command", "Find faults in an installation."),
    "demo": ("relayd.commands.demo.command", "Show relayd at work on a simulated fleet."),
    "failed": (
        "relayd.commands.failed.command",
        "List refused files, move them back, or remove them.",
    ),
    "status": ("relayd.commands.status.command", "Say whether relayd is well, and what waits."),
    "support": ("relayd.commands.support.command", "Write an archive for a bug report."),
    "top": ("relayd.commands.top.command", "Watch relayd live, by node and by reason."),
    "inspect": ("relayd.commands.inspect.command", "Show what relayd would do with run-log files."),
    "queue": ("relayd.commands.queue.command", "List, hold, release, retry or drop waiting files."),
}
#: Types of parameters that are names of files.
_ANY_BYTES: Final = (click.Path, click.types.UnprocessedParamType)
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


@contextmanager
def unpadded(console: "Console") -> Iterator[None]:
    """Print what the block prints without the blanks with which tables fill their lines.

    A terminal gets them: there they do no harm.
    """
    if console.is_terminal:
        yield
        return
    with console.capture() as captured:
        yield
    lines = captured.get().split("\n")
    console.out("\n".join(line.rstrip(" ") for line in lines), highlight=False, end="")


class Program(click.Command):
    """A click command with the exit codes above; each mistake of an operator is one line.

    Only a `click.Path` and what is `click.UNPROCESSED` may have bytes that are not UTF-8.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; raise `UsageError` for one that is not valid."""
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            if not isinstance(parameter.type, _ANY_BYTES):
                _require_text(ctx, parameter, ctx.params.get(parameter.name or ""))
        return rest

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit; without `standalone_mode`, run and return or raise as click does."""
        if args is None:
            ensure_utf8()
        call = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return call()
        sys.exit(_exit_code(call, self.name or "relayd"))

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the arguments; `--help` and `--version` print their text here."""
        with _ending_with_reader():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command."""
        with _ending_with_reader():
            return super().invoke(ctx)


def _require_text(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    """Refuse a value that no document in JSON can have; Python keeps such bytes as surrogates."""
    for word in value if isinstance(value, tuple) else (value,):
        if isinstance(word, str) and shown(word) != word:
            raise click.BadParameter(f"{shown(word)} is not UTF-8.", ctx, parameter)


class ProgramGroup(Program, click.Group):
    """A group whose commands share the exit codes of the program."""

    command_class = Program


class LazyGroup(ProgramGroup):
    """A group that includes the commands of `_LAZY`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Call a command; a mistake in its options is reported as one of this command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            name = ctx.invoked_subcommand
            command = self.get_command(ctx, name) if name is not None else None
            if error.ctx is None and command is not None:  # an option without its value
                error.ctx = click.Context(command, parent=ctx, info_name=name)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, without importing any."""
        return sorted({*super().list_commands(ctx), *_LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, and import its module if necessary."""
        if cmd_name not in _LAZY:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = _LAZY[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute or "command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands to the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(self._lines())

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Return the commands, or options, that begin with a text, without importing any."""
        from click.shell_completion import CompletionItem

        found = [(name, text) for name, text in self._lines() if name.startswith(incomplete)]
        return [
            *(CompletionItem(name, help=text) for name, text in found),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def _lines(self) -> list[tuple[str, str]]:
        """Return name and line of each command."""
        own = {name: command.get_short_help_str(70) for name, command in self.commands.items()}
        return sorted((own | {name: text for name, (_, text) in _LAZY.items()}).items())


_directory = partial(
    click.option,
    "-c",
    "--config",
    "directory",
    metavar="DIR",
    # The control socket is enough for most commands, so what cannot be read is seen later.
    type=click.Path(path_type=Path, readable=False),
    default=DEFAULT_DIRECTORY,
    show_default=True,
    help="The directory with main.conf and logging.conf.",
)
#: With a variable: the commands that screens recommend then work as they stand there.
directory_option = _directory(envvar=DIRECTORY_VARIABLE, show_envvar=True)


@click.group("relayd", cls=LazyGroup, no_args_is_help=False, context_settings=_SETTINGS)
@click.version_option(__version__, "-V", "--version", message="relayd %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """The relay daemon of a Rudder fleet and its tools."""
    if context.invoked_subcommand not in {daemon.name, run.name}:
        allow_hangup()


@main.command()
@directory_option
def daemon(directory: Path) -> int:
    """Run the daemon in the foreground until SIGTERM or SIGINT."""
    return run_daemon(directory)


@main.command(short_help="Start the agents of nodes and follow their runs; or run the daemon.")
@directory_option
@click.option(
    "-D",
    "--condition",
    "conditions",
    multiple=True,
    metavar="NAME",
    help="A condition to define in the agents; repeatable.",
)
@click.option("--all", "everything", is_flag=True, help="All nodes below this policy server.")
@click.option("--yes", is_flag=True, help="Do not ask before starting the agents of all nodes.")
@click.option("--json", "machine", is_flag=True, help="Print lines of JSON.")
@click.argument("nodes", metavar="[NODE]…", nargs=-1, shell_complete=complete_node)
def run(
    directory: Path,
    nodes: tuple[str, ...],
    conditions: tuple[str, ...],
    *,
    everything: bool,
    yes: bool,
    machine: bool,
) -> int:
    """Start the agents of nodes now, and follow their runs.

    A node is given by its id, its host name with or without the domain, or a part of either that
    no other node has. The running relayd starts the agents, also those below other relays; lines
    appear as the agents print them, then a table has one verdict for each node. The exit code is
    0 if all of them succeeded. Ctrl-C ends only the following: the run goes on.

    Without NODE and --all, this is the daemon in the foreground, as with `relayd daemon`.
    """
    if not (nodes or everything):
        if conditions or yes or machine:
            raise click.UsageError("choose nodes, or use --all.")
        return run_daemon(directory)
    if nodes and everything:
        raise click.UsageError("--all contradicts the choice of some.")
    allow_hangup()
    from relayd.commands.run.follow import run_agents

    return run_agents(directory, nodes, conditions, everything=everything, yes=yes, machine=machine)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"relayd {__version__}")


@click.command(cls=Program, name="rudder-relayd", context_settings=_SETTINGS)
@_directory()
@click.option("-t", "--test", is_flag=True, help="Check the configuration files and exit.")
@click.version_option(__version__, "-V", "--version", message="rudder-relayd %(version)s")
def rudder_relayd(directory: Path, *, test: bool) -> int:
    """Run the daemon of a Rudder policy server, or check its configuration."""
    return _check(directory) if test else run_daemon(directory)


def _check(directory: Path) -> int:
    allow_hangup()
    files = load_files(directory)
    for warning in [*files.warnings, *files.logging.warnings]:
        click.echo(f"warning: {warning}")
    click.echo("Syntax: OK")
    return 0


def _exit_code(call: Callable[[], object], program: str) -> int:
    """Call and return the exit code; report expected errors of a program in one line."""
    try:
        return exit_code(call)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else program
        text = error.format_message()
        end = "" if text.endswith((".", "?", "?)")) else "."
        return fail(f"{text}{end} See: {command} --help", EXIT_START)
    except click.ClickException as error:
        return fail(error.format_message(), EXIT_START)
    except click.Abort:
        return EXIT_INTERRUPTED
    except OSError as error:
        if is_daemon() or not _is_of_output(error):
            raise
        _discard_output()
        return fail(f"cannot write to standard output: {error.strerror}", EXIT_CRASH)


def _is_of_output(error: OSError) -> bool:
    """Return whether a tool could not write its results: to a full disk, for example."""
    return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@contextmanager
def _ending_with_reader() -> Iterator[None]:
    """End a tool whose output is a closed pipe as SIGPIPE would; click's own code is 1."""
    try:
        yield
    except BrokenPipeError as error:
        if is_daemon():
            raise
        _discard_output()
        raise click.exceptions.Exit(EXIT_CLOSED) from error


def _discard_output() -> None:
    """Write to nowhere what Python flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
