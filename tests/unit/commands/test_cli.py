"""The commands: their output and exit codes."""

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import click
import pytest

from relayd import __version__
from relayd.commands.cli import main, rudder_relayd
from tests.support.project import ROOT

DROP_IN = "from relayd.commands.cli import rudder_relayd; rudder_relayd()"
CANARY = "c4nary-p4ssword"
Done = subprocess.CompletedProcess[str]


def python(*arguments: str | Path) -> Done:
    """Runs Python in the source tree."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )


def relayd(*arguments: str | Path) -> Done:
    """Runs `relayd`."""
    return python("-m", "relayd", *arguments)


def relayd_into(output: int, *arguments: str | Path) -> Done:
    """Run `relayd` with a file descriptor as its standard output."""
    return subprocess.run(
        [sys.executable, "-m", "relayd", *arguments],
        cwd=ROOT,
        check=False,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    )


def drop_in(*arguments: str | Path) -> Done:
    """Run `rudder-relayd` in this process."""
    return in_process(rudder_relayd, *arguments)


def in_process(program: click.Command, *arguments: str | Path) -> Done:
    """Run a program in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        program.main([str(argument) for argument in arguments])
    code = ended.value.code or 0
    assert isinstance(code, int)
    return Done(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A configuration directory that gives no warnings."""
    main = tmp_path / "main.conf"
    main.write_text('general.node_id = "root"\n')
    main.chmod(0o640)
    (tmp_path / "logging.conf").write_text("")
    return tmp_path


def one_line(done: Done) -> str:
    """The only line that a command printed, on stderr."""
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removesuffix("\n")


MY_ID = 'general.node_id = "root"\n'


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("queue", "hold", "--node", "BYTES"), "'--node'"),
        (("queue", "list", "--match", "BYTES"), "'--match'"),
        (("failed", "list", "--node", "BYTES"), "'--node'"),
        (("nodes", "--relay", "BYTES"), "'--relay'"),
        (("node", "BYTES"), "'NODE'"),
        (("run", "BYTES"), "'[NODE]…'"),
        (("run", "-D", "BYTES", "web-1"), "'--condition'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_a_value_that_is_not_utf8_is_named(
    directory: Path, words: tuple[str, ...], named: str
) -> None:
    """What cannot be sent as JSON is an error that names the option or argument."""
    values = [os.fsdecode(b"a\xff") if word == "BYTES" else word for word in words]
    said = one_line(in_process(main, *values, "-c", directory))
    assert named in said
    assert r"a\xff is not UTF-8. See: " in said


def test_names_of_files_may_be_any_bytes(tmp_path: Path) -> None:
    """A path, and a file to choose, are taken as they are."""
    strange = tmp_path / os.fsdecode(b"\xff")
    strange.mkdir()
    (strange / "main.conf").write_text(
        f'general.node_id = "root"\nprocessing.reporting.directory = "{tmp_path}"\n'
        f'processing.inventory.directory = "{tmp_path}"\n[general]\ncontrol_socket = ""\n'
    )
    done = in_process(main, "queue", "list", os.fsdecode(b"a\xff"), "-c", strange)
    assert "UTF-8" not in done.stderr


@pytest.mark.parametrize("flags", [("-t",), ("--test",)])
@pytest.mark.parametrize("place", ["-c", "--config"])
def test_good_configuration_is_ok(directory: Path, flags: tuple[str], place: str) -> None:
    """`rudder-relayd -t` on a valid configuration prints that and ends with 0."""
    done = drop_in(place, directory, *flags)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Syntax: OK\n", "")


@pytest.mark.fault("G6", "G7")
def test_test_mode_prints_warnings_first(directory: Path) -> None:
    """The test mode prints each warning of both files, then that the syntax is valid."""
    (directory / "main.conf").write_text('general.node_id = "root"\ngeneral.lisen = "a:1"\n')
    (directory / "main.conf").chmod(0o644)
    (directory / "logging.conf").write_text("general.levl = 1")
    main, logging = directory / "main.conf", directory / "logging.conf"
    expected = [
        f"warning: {main}: unknown key general.lisen, did you mean general.listen?",
        f"warning: {main}: mode 0644 exposes the passwords, expected 0640",
        f"warning: {logging}: unknown key general.levl, did you mean general.level?",
        "Syntax: OK",
    ]
    done = drop_in("-t", "-c", directory)
    assert done.returncode == 0
    assert done.stdout.splitlines() == expected


@pytest.mark.history(62)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("main.conf", f"{MY_ID}general.https_port = ", id="syntax"),
        pytest.param("main.conf", f'{MY_ID}general.https_port = "x"', id="type"),
        pytest.param("main.conf", f"{MY_ID}general.https_port = 0", id="value"),
        pytest.param(
            "main.conf",
            f'{MY_ID}general.listen = "nowhere"',
            id="listen",
            marks=pytest.mark.fault("A24"),
        ),
        pytest.param("main.conf", 'general.node_id = "relay"', id="no upstream"),
        pytest.param("logging.conf", 'general.level = "loud"', id="level"),
    ],
)
def test_invalid_file_ends_with_2(directory: Path, name: str, text: str) -> None:
    """An invalid configuration file is exit code 2 and one line with its path."""
    (directory / name).write_text(text)
    done = drop_in("-t", "-c", directory)
    assert done.returncode == 2
    assert f"{directory / name}: " in one_line(done)


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("text", "code", "lines"),
    [
        pytest.param(
            f"""{MY_ID}procesing.x = 1
            general.https_port = 0
            general.listen = "a..b:1"
            remote_run.use_sudo = True
            [processing.reporting]
            output = "databse"
            """,
            2,
            [
                "warning: MAIN: unknown key procesing, did you mean processing?",
                (
                    "error: MAIN: line 5, column 35: Invalid value; booleans are written true and "
                    "false, in lower case"
                ),
                "error: MAIN: general.https_port: expected an integer from 1 to 65535, got 0",
                (
                    'error: MAIN: general.listen: expected "host:port", "[IPv6 address]:port" or '
                    '"unix:/path", got "a..b:1"'
                ),
                (
                    'error: MAIN: processing.reporting.output: expected "disabled", "database" or '
                    '"upstream", got "databse", did you mean "database"?'
                ),
                (
                    'error: LOGGING: general.level: expected "off", "error", "warn", "info", '
                    '"debug" or "trace", got "inof", did you mean "info"?'
                ),
            ],
            id="all errors at once",
        ),
        pytest.param(
            f"""{MY_ID}processing.reporting.output = "database"
            [output.databse]
            password = "x"
            """,
            2,
            [
                "warning: MAIN: unknown key output.databse, did you mean output.database?",
                (
                    "error: MAIN: output.database.password: expected a value for an output to "
                    '"database", got nothing but the unknown key output.databse'
                ),
                "error: LOGGING: …",
            ],
            id="section",
        ),
        pytest.param(
            f"""{MY_ID}processing.inventory.output = "upstream"
            output.upstream = {{ host = "h", pasword = "x" }}
            """,
            2,
            [
                (
                    "warning: MAIN: unknown key output.upstream.pasword, did you mean "
                    "output.upstream.password?"
                ),
                (
                    "error: MAIN: output.upstream.password: expected a value for an output to "
                    '"upstream", got nothing but the unknown key output.upstream.pasword'
                ),
                "error: LOGGING: …",
            ],
            id="key",
        ),
        pytest.param(
            """general.node-id = "root"
            general.node_id_file = "/does/not/exist"
            """,
            75,
            [
                "warning: MAIN: unknown key general.node-id, did you mean general.node_id?",
                (
                    "error: Could not read the node id from /does/not/exist "
                    "(general.node_id_file, as general.node_id is not set): "
                    "No such file or directory"
                ),
                "error: LOGGING: …",
            ],
            id="cause of another error",
        ),
        pytest.param(
            'general.node_id = "Root"',
            2,
            [
                (
                    'error: MAIN: general.node_id: expected "root", the id of the root server, got '
                    '"Root"'
                ),
                "error: LOGGING: …",
            ],
            id="node id",
        ),
        pytest.param(
            f"""{MY_ID}output.upstream.host = "h:443"
            [database]
            [reporting]
            [shared_folder]
            URL = "x"
            """,
            2,
            [
                "warning: MAIN: unknown key database, did you mean output.database?",
                "warning: MAIN: unknown key reporting, did you mean processing.reporting?",
                "warning: MAIN: unknown key shared_folder.URL, did you mean output.database.url?",
                (
                    "error: MAIN: output.upstream.host: expected a host name only; the port is "
                    'general.https_port, got "h:443"'
                ),
                "error: LOGGING: …",
            ],
            id="place and word",
        ),
    ],
)
def test_all_faults_are_reported_in_one_run(
    directory: Path, text: str, code: int, lines: list[str]
) -> None:
    """Warnings, which may name the cause, and all errors of both files are reported together."""
    main, logging = directory / "main.conf", directory / "logging.conf"
    main.write_text(text)
    logging.write_text('general.level = "inof"')
    done = drop_in("-t", "-c", directory)
    assert (done.returncode, done.stdout) == (code, "")
    said = done.stderr.replace(str(main), "MAIN").replace(str(logging), "LOGGING").splitlines()
    assert [line if "…" not in full else full for line, full in zip(said, lines, strict=True)] == (
        lines
    )


@pytest.mark.history(62)
def test_missing_main_conf_ends_with_3(tmp_path: Path) -> None:
    """Without main.conf the start error names the path and the system's reason."""
    done = drop_in("-t", "-c", tmp_path)
    assert done.returncode == 3
    assert one_line(done) == (
        "error: Could not read main configuration file from"
        f" {tmp_path / 'main.conf'}: No such file or directory"
    )


@pytest.mark.parametrize("command", [("status",), ("run",), ("run", "web-1"), ("failed", "list")])
def test_a_variable_names_the_configuration_but_not_to_the_drop_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """What a screen recommends works as it stands, for an installation in another place too."""
    monkeypatch.setenv("RELAYD_CONFIG", str(tmp_path))
    assert str(tmp_path / "main.conf") in one_line(relayd(*command))
    assert str(tmp_path / "main.conf") in one_line(relayd(*command, "-c", tmp_path))
    assert str(tmp_path) not in drop_in("-t").stderr


@pytest.mark.history(62)
@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        (),
        ("check", "--nonsense"),
        ("check", "more"),
        ("a\nb",),
        ("check", "-c"),
        ("failed",),
        ("queue",),
    ],
)
def test_wrong_command_line_ends_with_3(arguments: tuple[str, ...]) -> None:
    """A wrong command line is one line that names the help of its command, never code 2."""
    done = relayd(*arguments)
    assert done.returncode == 3
    command = arguments[0] if arguments and arguments[0] in {"check", "failed", "queue"} else ""
    assert "\\n\\n" not in done.stderr
    assert one_line(done).endswith(f". See: python -m relayd {command} --help".replace("  ", " "))


@pytest.mark.parametrize("arguments", [("-c",), ("-x",), ("more",)])
def test_wrong_command_line_of_the_drop_in_names_its_help(arguments: tuple[str, ...]) -> None:
    """Each mistake on the command line of `rudder-relayd` is one line with the name of its help."""
    done = python("-c", f"import sys; sys.argv[0] = 'rudder-relayd'; {DROP_IN}", *arguments)
    assert done.returncode == 3
    assert one_line(done).endswith(". See: rudder-relayd --help")


@pytest.mark.history(62)
@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("raise ConfigError('main.conf: bad')", 2, "error: main.conf: bad\n"),
        ("raise StartError('no way')", 3, "error: no way\n"),
        pytest.param(
            "raise TransientStartError('later')",
            75,
            "error: later\n",
            marks=pytest.mark.fault("F60"),
        ),
    ],
)
@pytest.mark.parametrize("command", ["main", "rudder_relayd"])
def test_daemon_decides_the_exit_code(command: str, body: str, code: int, stderr: str) -> None:
    """The result or error of the daemon becomes the exit code of either command."""
    done = run_with(command, body)
    assert (done.returncode, done.stderr) == (code, stderr)


@pytest.mark.history(62)
@pytest.mark.parametrize("body", ["raise KeyError('bug')", "raise OSError(5, 'later')"])
@pytest.mark.parametrize("command", ["main", "rudder_relayd"])
def test_crash_ends_with_1_and_a_traceback(command: str, body: str) -> None:
    """An unexpected exception is exit code 1 with its traceback, never 2 or 3."""
    done = run_with(command, body)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


@pytest.mark.parametrize("arguments", [("check",), ("version",), ("--help",), ("inspect", "/")])
def test_results_that_cannot_be_written_are_one_line(
    directory: Path, arguments: tuple[str, ...]
) -> None:
    """A tool whose standard output is on a full disk says so, and does not end with success."""
    place = ("-c", directory) if arguments[0] in {"check", "inspect"} else ()
    with Path("/dev/full").open("w") as full:
        done = relayd_into(full.fileno(), *arguments, *place)
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line == "error: cannot write to standard output: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("queue", "list", "--json"), ("version",), ("--help",)])
def test_a_closed_pipe_is_no_negative_answer(directory: Path, arguments: tuple[str, ...]) -> None:
    """A tool whose reader has gone, as `head`, ends as SIGPIPE ends one: without a word, 141."""
    (directory / "main.conf").write_text(
        f'{MY_ID}[processing.reporting]\noutput = "disabled"\n'
        f'directory = "{directory / "reports"}"\n'
    )
    incoming = directory / "reports" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "2026-11-29T10:00:00+00:00@node.log").write_text("")
    reading, writing = os.pipe()
    os.close(reading)
    place = ("-c", directory) if arguments[0] == "queue" else ()
    done = relayd_into(writing, *arguments, *place)
    os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
@pytest.mark.parametrize("command", ["queue drop --all", "queue list --json"])
def test_a_standard_stream_that_is_closed_is_as_one_on_nothing(
    directory: Path, command: str, closed: str
) -> None:
    """A script that closes a stream gets the same answer and exit code, never a traceback."""
    (directory / "main.conf").write_text(
        f'{MY_ID}[processing.reporting]\noutput = "database"\n'
        f'directory = "{directory / "reports"}"\n'
    )
    (directory / "reports" / "incoming").mkdir(parents=True)
    words = f"exec {sys.executable} -m relayd {command} -c {directory}"
    on_nothing = closed.replace("<&-", "</dev/null").replace(">&-", ">/dev/null")
    answers = [
        subprocess.run(
            ["/bin/sh", "-c", f"{words} {redirected}"],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        for redirected in (closed, on_nothing)
    ]
    assert answers[0].stderr == answers[1].stderr
    assert answers[0].returncode == answers[1].returncode
    assert "Traceback" not in answers[0].stderr


@pytest.mark.fault("F31")
@pytest.mark.parametrize("missing", ["main.conf", "nothing"])
def test_exit_code_counts_where_its_reason_cannot_be_written(directory: Path, missing: str) -> None:
    """Without a working standard error the exit code is the same: it decides about a restart."""
    (directory / "main.conf").write_text(f"{MY_ID}general.https_port = 0")
    (directory / missing).unlink(missing_ok=True)
    code = 3 if missing == "main.conf" else 2
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "relayd", "run", "-c", directory],
            cwd=ROOT,
            check=False,
            stderr=full,
        )
    assert done.returncode == code


def run_with(command: str, body: str) -> Done:
    """Runs the daemon command on a daemon that executes `body`."""
    program = f"""
import sys, types
from relayd.commands import cli
from relayd.errors import ConfigError, StartError, TransientStartError
def run(directory):
    {body}
sys.modules["relayd.service.tree"] = types.SimpleNamespace(run=run)
cli.{command}(["run"] if {command!r} == "main" else [])
"""
    return python("-c", program)


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag: str) -> None:
    """Both commands print their version."""
    assert python("-c", DROP_IN, flag).stdout == f"rudder-relayd {__version__}\n"
    assert relayd(flag).stdout == f"relayd {__version__}\n"
    assert relayd("version").stdout == f"relayd {__version__}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_shows_all_options_and_commands(flag: str) -> None:
    """Help lists the options of the drop-in and the commands, and ends with 0."""
    done = drop_in(flag)
    assert done.returncode == 0
    assert "/opt/rudder/etc/relayd" in done.stdout
    assert all(text in done.stdout for text in ("-c, --config", "-t, --test", "-V, --version"))
    done = relayd(flag)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("check", "demo", "inspect", "run", "version"))


def test_test_mode_loads_no_heavy_library(directory: Path) -> None:
    """Checking a configuration imports neither the event loop nor the database driver."""
    program = f"""
import sys
from relayd.commands import cli
try:
    cli.rudder_relayd(["-t", "-c", {str(directory)!r}])
except SystemExit as end:
    heavy = {{"trio", "asyncio", "asyncpg", "quart", "hypercorn", "cryptography", "structlog"}}
    print(end.code, sorted(heavy & sys.modules.keys()))
"""
    assert python("-c", program).stdout == "Syntax: OK\n0 []\n"


@pytest.mark.history(65)
@pytest.mark.parametrize(
    "text",
    [
        f'output.database.password = ["{CANARY}"]',
        f'output.database.url = "mysql://u:{CANARY}@h/d"',
        f'output.database.url = "postgres://u:{CANARY}@h/d"',
        f"output.upstream.password = {CANARY}",
        f'[output.upstream]\npassword = "{CANARY}"\nuser = 3',
    ],
)
def test_test_mode_prints_no_password(directory: Path, text: str) -> None:
    """The output of a check, valid or not, never contains a password."""
    (directory / "main.conf").write_text(f'general.node_id = "root"\n{text}\n')
    done = drop_in("-t", "-c", directory)
    assert CANARY not in done.stdout + done.stderr
    assert done.stdout + done.stderr != ""
