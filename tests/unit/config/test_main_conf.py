"""`main.conf` and `logging.conf`: defaults, errors, warnings, and hidden passwords."""

import os
import re
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.durations import EXPECTED
from relayd.config.files import load_files
from relayd.config.log_filter import COMPONENTS
from relayd.config.logging_conf import LoggingSettings
from relayd.config.main_conf import (
    Listen,
    Secret,
    Settings,
    changed_keys,
    database_parameters,
    load_logging,
    load_settings,
)
from relayd.config.toml import MAX_BYTES, build, leaves
from relayd.errors import (
    ConfigError,
    RelaydError,
    SettingError,
    StartError,
    TransientStartError,
)
from tests.support.project import CONF

ROOT = 'general.node_id = "root"\n'
CANARY = "c4nary-p4ssword"
#: Keys whose default cannot be written in a file: unset, or derived from the machine.
NO_DEFAULT = {
    "general.node_id",
    "general.core_threads",
    "general.blocking_threads",
    "general.ca_path",
    "general.https_proxy",
    "output.database.password",
    "output.upstream.password",
    "remote_run.helper",
}


def write(directory: Path, text: str | bytes, name: str = "main.conf", mode: int = 0o640) -> Path:
    """Puts a configuration file into `directory` and returns the directory."""
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return directory


def load(directory: Path, text: str) -> Settings:
    """Loads a `main.conf` with this text, which gives no warning."""
    settings, warnings = load_settings(write(directory, text))
    assert warnings == []
    return settings


def refusal(directory: Path, text: str | bytes) -> str:
    """The error for a `main.conf` with this text, without the path of the file."""
    with pytest.raises(ConfigError) as caught:
        load_settings(write(directory, text))
    prefix = f"{directory / 'main.conf'}: "
    message = str(caught.value)
    assert message.startswith(prefix)
    assert "\n" not in message
    return message.removeprefix(prefix)


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def uncommented(path: Path) -> str:
    """The text of a shipped file with every `# key = value` uncommented."""
    return re.sub(r"^# (?=[a-z0-9_]+ = )", "", path.read_text(), flags=re.MULTILINE)


def test_root_needs_nothing_but_its_id(tmp_path: Path) -> None:
    """A file with only the node id loads and keeps every default."""
    settings = load(tmp_path, ROOT)
    assert changed_keys(Settings(), settings) == ["general.node_id"]


def test_shipped_main_conf_changes_nothing(tmp_path: Path) -> None:
    """The shipped main.conf sets no key."""
    assert flat(tomllib.loads((CONF / "main.conf").read_text())) == {}


def test_shipped_main_conf_shows_the_defaults(tmp_path: Path) -> None:
    """The shipped main.conf has every key, with the default of the code."""
    text = uncommented(CONF / "main.conf")
    settings, _ = load_settings(write(tmp_path, text))
    defaults = dict(leaves(Settings()))
    assert set(flat(tomllib.loads(text))) == set(defaults)
    different = {key for key, value in leaves(settings) if value != defaults[key]}
    assert different <= NO_DEFAULT
    assert {key for key, value in defaults.items() if value is None} <= NO_DEFAULT


def test_shipped_logging_conf_names_the_components() -> None:
    """The shipped logging.conf lists the components of the code."""
    listed = re.search(r"The components are ([^:]+):", (CONF / "logging.conf").read_text())
    assert listed is not None
    sources = (CONF.parent / "relayd").rglob("*.py")
    used = {
        name for path in sources for name in re.findall(r'get_logger\("(\w+)"', path.read_text())
    }
    assert set(re.findall(r"\w+", listed[1])) == used == set(COMPONENTS)


def test_shipped_logging_conf_shows_the_defaults(tmp_path: Path) -> None:
    """The shipped logging.conf has every key, with the default of the code."""
    text = uncommented(CONF / "logging.conf")
    assert set(tomllib.loads(text)["general"]) == {"level", "filter", "format", "file_lines"}
    assert load_logging(write(tmp_path, text, "logging.conf")) == LoggingSettings()


def test_documentation_lists_every_key() -> None:
    """docs/configuration.md has a row for each key of both files."""
    text = (CONF.parent / "docs" / "configuration.md").read_text()
    keys = [key for key, _ in leaves(Settings())]
    missing = [key for key in [*keys, "general.level", "general.filter"] if f"`{key}`" not in text]
    assert missing == []


def test_values_reach_their_places(tmp_path: Path) -> None:
    """Tables nest as in the file; durations become seconds, arrays become tuples."""
    settings = load(
        tmp_path,
        """
        [general]
        node_id = "root"
        listen = "[::1]:3030"
        peer_authentication = "cert_validation"
        [processing.reporting]
        directory = "/tmp/reports"
        output = "database"
        skip_event_types = ["log_info", "log_debug"]
        [processing.reporting.catchup]
        frequency = "1min 30s"
        limit = 0
        [processing.inventory]
        cleanup.retention = 10
        [output.database]
        password = "p"
        """,
    )
    reporting = settings.processing.reporting
    assert settings.general.listen == Listen(host="::1", port=3030)
    assert reporting.directory == Path("/tmp/reports")
    assert reporting.skip_event_types == ("log_info", "log_debug")
    assert (reporting.catchup.frequency, reporting.catchup.limit) == (90.0, 0)
    assert settings.processing.inventory.cleanup.retention == 10.0
    assert settings.output.database.password == Secret("p")


SOCKET = "expected the absolute path of a socket, at most 107 bytes"
PORT = "expected an integer from 1 to 65535"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('general.https_port = "x"', f'general.https_port: {PORT}, got "x"'),
        ("general.https_port = 0", f"general.https_port: {PORT}, got 0"),
        ("general.https_port = 65536", f"general.https_port: {PORT}, got 65536"),
        ("general.https_port = true", f"general.https_port: {PORT}, got true"),
        ("general.https_port = 4.5", f"general.https_port: {PORT}, got 4.5"),
        ("general.https_port = 1979-05-27", f"general.https_port: {PORT}, got a date or time"),
        (
            "general.https_port = [1]",
            f"general.https_port: {PORT}, got an array, did you mean 1?",
        ),
        ("general = 3", "general: expected a table, got 3"),
        (
            "general.core_threads = 0",
            "general.core_threads: expected an integer of at least 1, got 0",
        ),
        (
            "output.database.max_pool_size = 0",
            "output.database.max_pool_size: expected an integer of at least 1, got 0",
        ),
        (
            "processing.reporting.catchup.limit = -1",
            "processing.reporting.catchup.limit: expected an integer of at least 0, got -1",
        ),
        (
            "shared_files.max_body_size = -1",
            "shared_files.max_body_size: expected an integer of at least 0 (bytes), got -1",
        ),
        (
            'processing.inventory.output = "upstraem"',
            (
                'processing.inventory.output: expected "disabled" or "upstream", got "upstraem", '
                'did you mean "upstream"?'
            ),
        ),
        (
            'remote_run.timeout = "0s"',
            f'remote_run.timeout: expected {EXPECTED}, more than 0, got "0s"',
        ),
        (
            'remote_run.enabled = "yes"',
            'remote_run.enabled: expected true or false, got "yes", did you mean true?',
        ),
        ('shared_folder.path = ""', 'shared_folder.path: expected a path, got ""'),
        (
            "processing.reporting.skip_event_types = [1]",
            "processing.reporting.skip_event_types: expected an array of strings, got an array",
        ),
        (
            f'remote_run.use_sudo = "{"y" * 80}"',
            f'remote_run.use_sudo: expected true or false, got "{"y" * 60}…"',
        ),
        (
            'remote_run.use_sudo = "a\\nb\\u001b"',
            'remote_run.use_sudo: expected true or false, got "a\\nb\\x1b"',
        ),
        (
            'remote_run.helper = "helper.sock"',
            f'remote_run.helper: {SOCKET}, got "helper.sock"',
        ),
    ],
)
def test_error_names_key_expectation_and_value(tmp_path: Path, text: str, expected: str) -> None:
    """An invalid value gives one line, in which the value is shortened and escaped."""
    assert refusal(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[general]\nlisten = \n", r"line 2, column 10: Invalid value; a value is missing.+"),
        ("[general]\nlisten = ", r"line 2, end of the file: Invalid value; a value is.+"),
        ('\na = "\\q"', r"line 2, column \d+: .+"),
        ("a = 1\na = 2\n", "line 2, .+: Cannot overwrite a value; .+"),
        ("\n#\xff".encode("latin-1"), "line 2: byte 2 is not UTF-8"),
        (ROOT.encode("utf-16"), "UTF-16, expected UTF-8"),
    ],
)
def test_syntax_error_names_the_place(tmp_path: Path, text: str | bytes, expected: str) -> None:
    """The error for a file that is not TOML has the line and the column."""
    assert re.fullmatch(expected, refusal(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line"),
    [("[general]\nlisten = 1 2\n", 2), ("\n\nlisten = ", 3), (f"a = 1\n{'b.' * 4096}c = 1", 2)],
)
def test_syntax_error_has_its_line_as_attribute(tmp_path: Path, text: str, line: int) -> None:
    """The line of a syntax error is an attribute, so that no code needs to read the message."""
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert (caught.value.file, caught.value.line) == (tmp_path / "main.conf", line)


@pytest.mark.parametrize(
    ("text", "key", "expected", "got"),
    [
        ("general.https_port = 0", "general.https_port", "an integer from 1 to 65535", "0"),
        ("general = 3", "general", "a table", "3"),
        ('general.node_id = "x"', "output.upstream.host", "a value on every node but root", None),
    ],
)
def test_invalid_value_has_attributes(
    tmp_path: Path, text: str, key: str, expected: str, got: str | None
) -> None:
    """File, key, expectation and value of an error are attributes; a missing value is None."""
    with pytest.raises(SettingError) as caught:
        load_settings(write(tmp_path, text))
    error = caught.value
    assert (error.file, error.line) == (tmp_path / "main.conf", None)
    assert (error.key, error.expected, error.got) == (key, expected, got)


def test_warnings_have_attributes(tmp_path: Path) -> None:
    """Kind, key and suggestion of a warning are attributes."""
    text = ROOT + 'general.https_prot = 1\noutput.database.url = "postgres://a:b@h/d?krbsrvname=x"'
    _, warnings = load_settings(write(tmp_path, text, mode=0o644))
    assert [(warning.kind, warning.key, warning.suggestion) for warning in warnings] == [
        ("unknown_key", "general.https_prot", "general.https_port"),
        ("database_url", "output.database.url", None),
        ("database_url", "output.database.url", None),
        ("mode", None, None),
    ]
    assert {warning.file for warning in warnings} == {tmp_path / "main.conf"}


@pytest.mark.fault("P12", "D.5.5")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("general.https_port = " + "9" * 5000, id="5000 digits"),
        pytest.param(f"general.https_port = {'9' * 4000}", id="4000 digits"),
        pytest.param("a = [" + "[\n" * 200_000, id="deep array"),
        pytest.param("a." * 200_000 + "b = 1", id="deep key"),
        pytest.param("a = " + "{a = " * 800 + "1" + "}" * 800 + "x", id="deep table"),
        pytest.param("[general]\n[general]\n", id="table twice"),
        pytest.param('general.listen = "a:1"\ngeneral.listen = "b:2"', id="key twice"),
        pytest.param("#" * (MAX_BYTES + 1), id="huge file"),
        pytest.param("general.https_port = 1e999", id="infinity"),
    ],
)
def test_hostile_toml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """Absurd numbers, nesting, duplicates and sizes give one line, never a crash."""
    assert len(refusal(tmp_path, text)) < 400


@pytest.mark.fault("G6")
def test_misspelt_key_is_a_warning_that_names_it(tmp_path: Path) -> None:
    """Unknown keys are accepted with a warning that suggests a similar key."""
    text = ROOT + "general.https_prot = 1\noutput.databas.url = 1\nzzz = 1\n"
    settings, warnings = load_settings(write(tmp_path, text))
    path = tmp_path / "main.conf"
    assert settings.general.https_port == 443
    assert [str(warning) for warning in warnings] == [
        f"{path}: unknown key general.https_prot, did you mean general.https_port?",
        f"{path}: unknown key output.databas, did you mean output.database?",
        f"{path}: unknown key zzz",
    ]


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ('processing.reporting.output = "postgres"', '"database"'),
        ('processing.reporting.output = "Database"', '"database"'),
        ('processing.reporting.output = "relay"', '"upstream"'),
        ('processing.reporting.output = "none"', '"disabled"'),
        ('processing.inventory.output = "postgres"', None),
        ('processing.inventory.output = "kafka"', None),
        ('general.peer_authentication = "cert-pinning"', '"cert_pinning"'),
        ('general.peer_authentication = "none"', None),
        ('general.https_port = "443"', "443"),
        ('remote_run.enabled = "True"', "true"),
        ('processing.reporting.skip_event_types = "a, b"', '["a", "b"]'),
        ("remote_run.use_sudo = 0", "false"),
        ('remote_run.use_sudo = "y"', None),
        ('shared_files.max_size = "10GB"', "10737418240"),
        ('shared_files.max_size = "big"', None),
        ("general.https_idle_timeout = 1.5", '"1.5s"'),
        ('general.https_idle_timeout = "2S"', '"2s"'),
        ('general.https_idle_timeout = "2"', "2"),
        ('general.https_idle_timeout = "-2s"', None),
        ("general.listen = 3030", '"127.0.0.1:3030"'),
        ("general.listen = true", None),
        ('general.listen = ":3030"', '"127.0.0.1:3030"'),
        ('general.listen = "*:3030"', '"0.0.0.0:3030"'),
        ('general.listen = "http://a:3030/"', '"a:3030"'),
        ('general.listen = "::1:3030"', '"[::1]:3030"'),
        ('general.listen = "localhost"', '"localhost:3030"'),
        ('general.listen = "/run/x"', '"unix:/run/x"'),
        ('general.listen = "a:99999"', None),
        (f'output.database = "postgres://u:{CANARY}@h/d"', "output.database.url"),
        ('output.upstream = "above"', "output.upstream.host"),
        (f'output.upstream = "{CANARY} {CANARY}"', None),
        ('general = "above"', None),
        ("output.database.max_pool_size = 99999999999", None),
        ("general.node_id = 5", '"5"'),
        ("[[output.upstream]]", "[output.upstream]"),
        ("[[general]]", "[general]"),
    ],
)
def test_what_was_probably_meant_by_a_value(
    tmp_path: Path, text: str, suggestion: str | None
) -> None:
    """A value, or header of a table, is one error: with what was meant if that is likely."""
    text = text if re.search(r"node_id|\[general|general =", text) else ROOT + text
    with pytest.raises(SettingError) as caught:
        load_settings(write(tmp_path, text))
    error = caught.value
    assert (error.others, error.suggestion) == ((), suggestion)
    assert CANARY not in str(error)


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("output_upstream.x = 1", "output.upstream"),
        ("output-upstream.x = 1", "output.upstream"),
        ('output.upstream.pwd = "x"', "output.upstream.password"),
        ('output.upstream_password = "x"', "output.upstream.password"),
        ('output_database_url = "x"', "output.database.url"),
        ("output.postgresql.x = 1", "output.database"),
        ("output.upstream.port = 443", "general.https_port"),
        ('output.upstream.url = "x"', "output.upstream.host"),
        ("output.upstream.verify_certificates = true", "general.peer_authentication"),
        ("Output.x = 1", "output"),
        ("processing.reporting.limit = 1", "processing.reporting.catchup.limit"),
        ("reports.x = 1", "processing.reporting"),
        ("processing.reporting.cleanup.max_age = 1", "processing.reporting.cleanup.retention"),
        ('processing.reporting.ouput = "database"', "processing.reporting.output"),
        ('level = "debug"', "general.level of logging.conf"),
        ('logging.level = "debug"', "general of logging.conf"),
        ('password = "x"', None),
        ("something.x = 1", None),
    ],
)
def test_what_was_probably_meant_by_a_key(tmp_path: Path, text: str, meant: str | None) -> None:
    """An unknown key or table is a warning with the full name of the one that was meant."""
    _, (warning,) = load_settings(write(tmp_path, ROOT + text))
    assert (warning.kind, warning.suggestion) == ("unknown_key", meant)


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("general.x = True", "booleans are written"),
        ("general.x = yes", "booleans are written"),
        ("general.x = /var", "strings are written in double quotes"),
        ("general.x = 127.0.0.1", "strings are written in double quotes"),
        ("general.x = \u201ca\u201d", "quotes are written"),
        ("general.x = 10s", "numbers have no"),
        ("general.x = 0640", "numbers have no"),
        ("general.x =", "a value is missing"),
        ("general.x == 1", "a line is written as key = value"),
        ("general.x: 1", "a line is written as key = value"),
        ("<<<<<<< HEAD", "a line is written as key = value"),
        ("export X=1", "a key consists of"),
        ("a..b = 1", "a key consists of"),
        ("// no", "comments begin with #"),
        ("; no", "comments begin with #"),
        ('general.x = "a" // no', "something follows the value; comments"),
        ("[output", "close what is opened"),
        ('general.x = "', "close what is opened"),
        ("general.x = [\n1", "close what is opened"),
        ('general.x = "a\nb"', "close what is opened"),
        ("[output] x = 1", "the header of a table"),
        ("general.x = {\na = 1\n}", "a table in braces is on one line"),
        ('general.x = "\\d"', "write each backslash twice"),
        ("general.node_id = 1", "a key or a table stands in the file once"),
    ],
)
def test_syntax_error_says_what_to_write(tmp_path: Path, line: str, advice: str) -> None:
    """Each kind of broken line is one error, whose text ends with how it is written."""
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, f"{ROOT}\n{line}\n"))
    error = caught.value
    assert (error.advice or "").startswith(advice)
    assert str(error).endswith(f"; {error.advice}")
    assert (error.others, error.warnings) == ((), ())


@pytest.mark.fault("F38")
@pytest.mark.parametrize("host", ["", 'output.upstream.host = "above"\n'])
def test_a_missing_node_id_is_an_error_of_every_node(tmp_path: Path, host: str) -> None:
    """The file with the node id is read whatever else is set, and its error names the keys."""
    write(tmp_path, f'{host}general.node_id_file = "{tmp_path / "uuid"}"')
    with pytest.raises(TransientStartError, match=r"general\.node_id_file, as general\.node_id "):
        load_settings(tmp_path)
    (tmp_path / "uuid").write_text("\n")
    with pytest.raises(TransientStartError, match=r"an empty file .*general"):
        load_settings(tmp_path)
    (tmp_path / "uuid").write_text("root\n" if not host else "some-id\n")
    assert load_settings(tmp_path)[1] == []


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ('remote_run.helper = "/run/h"\nremote_run.use_sudo = true\n', True),
        ('remote_run.helper = "/run/h"\nremote_run.use_sudo = false\n', False),
        ('remote_run.helper = "/run/h"\n', False),
        ("remote_run.use_sudo = true\n", False),
    ],
)
def test_helper_and_explicit_sudo_contradict(tmp_path: Path, text: str, warned: bool) -> None:
    """A root helper makes sudo pointless, so setting both gives a warning."""
    settings, warnings = load_settings(write(tmp_path, ROOT + text))
    assert settings.remote_run.helper == (Path("/run/h") if "helper" in text else None)
    path = tmp_path / "main.conf"
    expected = [f"{path}: remote_run.use_sudo: no effect, remote_run.helper is used"]
    assert [str(warning) for warning in warnings] == (expected if warned else [])


def test_unknown_keys_make_a_bounded_number_of_warnings(tmp_path: Path) -> None:
    """Thousands of unknown keys give some fifty warnings, with control characters escaped."""
    text = ROOT + "".join(f'"k\\n{number}" = 1\n' for number in range(5000))
    _, warnings = load_settings(write(tmp_path, text))
    assert len(warnings) == 51
    assert str(warnings[0]).endswith("unknown key k\\n0")
    assert str(warnings[-1]).endswith("4950 more unknown keys")


@pytest.mark.fault("G7")
@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o600, False), (0o640, False), (0o440, False), (0o644, True), (0o660, True), (0o642, True)],
)
def test_configuration_that_others_can_read_is_a_warning(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    """Permissions beyond 0640 give a warning with the mode."""
    _, warnings = load_settings(write(tmp_path, ROOT, mode=mode))
    assert bool(warnings) == warned
    assert all(f"mode {mode:04o}" in str(warning) for warning in warnings)


def test_disabled_verification_is_a_warning(tmp_path: Path) -> None:
    """`dangerous_none` loads, with a warning."""
    text = ROOT + 'general.peer_authentication = "dangerous_none"'
    _, warnings = load_settings(write(tmp_path, text))
    assert [str(warning) for warning in warnings] == ["Certificate verification is disabled"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('general.node_id = "relay"', "output.upstream.host"),
        (ROOT + 'processing.inventory.output = "upstream"', "output.upstream.password"),
        (ROOT + 'processing.reporting.output = "upstream"', "output.upstream.password"),
        (ROOT + 'processing.reporting.output = "database"', "output.database.password"),
    ],
)
def test_missing_key_of_an_output_is_refused(tmp_path: Path, text: str, key: str) -> None:
    """The error for a missing host or password of an output in use names its key."""
    assert refusal(tmp_path, text).startswith(f"{key}: expected a value")


@pytest.mark.fault("F13")
@pytest.mark.parametrize("output", ["database", "upstream"])
def test_empty_password_is_one(tmp_path: Path, output: str) -> None:
    """A key that is there and empty is set: packages start relayd before passwords are known."""
    text = f'processing.reporting.output = "{output}"\noutput.{output}.password = ""'
    settings, warnings = load_settings(write(tmp_path, ROOT + text))
    assert getattr(settings.output, output).password == Secret("")
    assert warnings == []


@pytest.mark.fault("F13")
def test_text_that_is_not_shown_is_refused_with_its_cause(tmp_path: Path) -> None:
    """A password with a NUL character is a string, so the error says what is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, ROOT + r'output.database.password = "secret\u0000"')
    assert str(caught.value).endswith(
        "output.database.password: expected a string, got a string with a NUL character"
    )


def test_missing_main_conf_is_a_start_error(tmp_path: Path) -> None:
    """Without main.conf the start error has the path and the reason."""
    with pytest.raises(StartError) as caught:
        load_settings(tmp_path)
    path = tmp_path / "main.conf"
    assert str(caught.value) == (
        f"Could not read main configuration file from {path}: No such file or directory"
    )
    assert (caught.value.file, caught.value.reason) == (path, "No such file or directory")


def test_node_id_comes_from_its_file(tmp_path: Path) -> None:
    """The node id is the stripped content of the file; `node_id` takes precedence."""
    (tmp_path / "uuid.hive").write_text("  root\n\n", encoding="utf-8-sig")
    text = f'general.node_id_file = "{tmp_path / "uuid.hive"}"\n'
    assert load(tmp_path, text).node_id() == "root"
    assert load(tmp_path, "\ufeff" + text).node_id() == "root"
    both = text + 'general.node_id = "other"\noutput.upstream.host = "h"'
    assert load(tmp_path, both).node_id() == "other"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"a\nb", b"a\x00"])
def test_node_id_file_without_an_id_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A node id file that is missing, empty or invalid is a start error with its path."""
    path = tmp_path / "uuid.hive"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match=re.escape(str(path))):
        load_settings(write(tmp_path, f'general.node_id_file = "{path}"'))


@pytest.mark.history(64)
@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:3030", Listen(host="127.0.0.1", port=3030)),
        ("localhost:1", Listen(host="localhost", port=1)),
        ("relay-1.example.com:65535", Listen(host="relay-1.example.com", port=65535)),
        ("[::1]:3030", Listen(host="::1", port=3030)),
        ("[fe80::1%eth0]:3030", Listen(host="fe80::1%eth0", port=3030)),
        ("unix:/run/relayd/api.sock", Listen(path="/run/relayd/api.sock")),
    ],
)
def test_listen_takes_names_addresses_and_sockets(
    tmp_path: Path, text: str, listen: Listen
) -> None:
    """Each form of `listen` is read, and its text is the same again."""
    settings = load(tmp_path, ROOT + f'general.listen = "{text}"')
    assert settings.general.listen == listen
    assert str(listen) == text


@pytest.mark.fault("A24")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "3030",
        ":3030",
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:x",
        "localhost:-1",
        "localhost:3030 ",
        "localhost:3030\\n",
        "localhost:٣٠٣٠",
        "::1:3030",
        "[::1]",
        "[::g]:3030",
        "[localhost]:3030",
        "http://localhost:3030",
        "a b:3030",
        "-x:1",
        "unix:",
        "unix:relative",
        "unix:/" + "x" * 107,
    ],
)
def test_invalid_listen_is_refused(tmp_path: Path, text: str) -> None:
    """An address that cannot be listened on is an error that lists the valid forms."""
    message = refusal(tmp_path, ROOT + f'general.listen = "{text}"')
    assert message.startswith('general.listen: expected "host:port"')


def test_changed_keys_are_named_without_values(tmp_path: Path) -> None:
    """The keys that need a restart are listed in the order of the settings."""
    old = load(tmp_path, ROOT)
    new = load(
        tmp_path,
        ROOT
        + 'output.upstream.host = "above"\nprocessing.reporting.catchup.limit = 0\n'
        + 'general.listen = "unix:/x"',
    )
    assert changed_keys(old, old) == []
    assert changed_keys(old, new) == [
        "general.listen",
        "processing.reporting.catchup.limit",
        "output.upstream.host",
    ]


def test_credentials_for_the_upstream_need_no_restart(tmp_path: Path) -> None:
    """A new user or password for uploads is not among the keys that need a restart."""
    old = load(tmp_path, ROOT + 'output.upstream.password = "one"')
    upstream = 'output.upstream = { user = "u", password = "two", default_password = "three" }'
    assert changed_keys(old, load(tmp_path, ROOT + upstream)) == []


def test_address_of_the_database_needs_no_restart(tmp_path: Path) -> None:
    """A new address or password of the database is not among the keys that need a restart."""
    old = load(tmp_path, ROOT + 'output.database.password = "one"')
    database = 'output.database = { password = "two", url = "postgres://a@b/c" }'
    assert changed_keys(old, load(tmp_path, ROOT + database)) == []


@pytest.mark.history(65)
@pytest.mark.fault("D.4.2")
def test_settings_never_show_a_password(tmp_path: Path) -> None:
    """No repr, str or format of the settings holds a password, not even one in the URL."""
    text = f"""
        general.node_id = "root"
        [output.database]
        url = "postgres://u:{CANARY}@h/d?application_name=x"
        password = "{CANARY}"
        [output.upstream]
        password = "{CANARY}"
        default_password = "{CANARY}"
    """
    settings, warnings = load_settings(write(tmp_path, text))
    database = settings.output.database
    shown = [repr(settings), str(settings), f"{database.password}", f"{database.password:>20}"]
    shown += map(str, warnings)
    assert not any(CANARY in text for text in shown)
    assert database.url == "postgres://u@h/d?application_name=x"
    assert str(warnings[0]).endswith(
        "the password in it is ignored, output.database.password is used"
    )
    assert settings.output.upstream.default_password.reveal() == CANARY


@pytest.mark.history(65)
@pytest.mark.fault("D.4.2")
@pytest.mark.parametrize(
    "text",
    [
        f'output.database.password = ["{CANARY}"]',
        f'output.database.password = "{CANARY}\\u0000"',
        f"output.upstream.password = {{a = '{CANARY}'}}",
        f'output.upstream = "{CANARY}"'.replace("upstream =", "upstream.default_password.x ="),
        f'output.database.url = "mysql://u:{CANARY}@h/d"',
        f'output.database.url = "postgres://u:{CANARY}@h:99999/d"',
        f'output.database.url = "postgres://h/d?password={CANARY}&sslmode=no"',
        f'output.database.url = "postgres://u:{CANARY}@[h/d"',
        f'output.database.url = "postgres://u:{CANARY}/x@h/d"',
        f'output.database.url = "postgres://u:1/x?{CANARY}=1@h/d"',
        f'output.database.url = "postgres://u:1?{CANARY}=1/x"',
        f'output.database.url = ["postgres://u:{CANARY}@h/d"]',
        f"output.database.password = {CANARY}",
        f'output.database.password = "{CANARY}',
        f'general.node_id = "x"\noutput.upstream.password = "{CANARY}"',
    ],
)
def test_refused_configuration_never_shows_a_password(tmp_path: Path, text: str) -> None:
    """No error about a password key, nor the traceback of one, holds the password."""
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert CANARY not in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.fault("F13")
def test_an_empty_password_of_the_database_is_a_value(tmp_path: Path) -> None:
    """A server may trust the connection, so only the key is required, as for the original."""
    text = ROOT + 'processing.reporting.output = "database"\noutput.database.password = ""'
    assert "password" not in database_parameters(load(tmp_path, text))


@pytest.mark.fault("D.4.2")
def test_database_parameters_keep_the_password_out_of_the_url(tmp_path: Path) -> None:
    """The driver gets the password as a separate argument, exactly as the operator wrote it."""
    password = "p@ss/w?rd#%41: +"
    text = ROOT + f'output.database.password = "{password}"'
    parameters = database_parameters(load(tmp_path, text))
    place = {"user": "rudder", "host": "127.0.0.1", "dbname": "rudder"}
    assert parameters == {**place, "password": password}


@pytest.mark.history(63)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty file"),
        pytest.param(b"[general]\n", id="empty table"),
        pytest.param(b'[general]\nlevel = "info"\n', id="no filter"),
        pytest.param(b'[general]\nfilter = ""\n', id="no level"),
        pytest.param(b'\xef\xbb\xbf[general]\nlevel = "info"', id="byte order mark"),
    ],
)
def test_logging_conf_has_a_default_for_everything(tmp_path: Path, text: bytes) -> None:
    """A logging.conf may leave out any key, its table, or everything."""
    assert load_logging(write(tmp_path, text, "logging.conf")) == LoggingSettings()


@pytest.mark.history(63)
def test_missing_logging_conf_is_a_warning(tmp_path: Path) -> None:
    """Without logging.conf the defaults apply, and a warning names the file."""
    settings = load_logging(tmp_path)
    assert settings.general == LoggingSettings().general
    (warning,) = settings.warnings
    assert (warning.kind, warning.file) == ("unreadable", tmp_path / "logging.conf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('general.level = "loud"', 'general.level: expected "off", .+ or "trace", got "loud"'),
        ('general.level = "WARN"', 'general.level: .+, did you mean "warn"[?]'),
        ('general.level = "warning"', 'general.level: .+, did you mean "warn"[?]'),
        ('general.level = "crit"', 'general.level: .+, did you mean "error"[?]'),
        ('general.level = "none"', 'general.level: .+, did you mean "off"[?]'),
        ("general.filter = 3", "general.filter: expected a string, got 3, .+"),
        ("[general]\nlevel", "line 2, end of the file: .+"),
    ],
)
def test_bad_logging_conf_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """An invalid level or directive of logging.conf gives one line that shows it."""
    with pytest.raises(ConfigError) as caught:
        load_logging(write(tmp_path, text, "logging.conf"))
    prefix = f"{tmp_path / 'logging.conf'}: "
    assert re.fullmatch(re.escape(prefix) + expected, str(caught.value))


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("database=warning", "did you mean warn?"),
        ("database=verbose", "did you mean trace?"),
        ("WARNING", "did you mean warn?"),
        ("databse=debug", "did you mean database?"),
        ("database:debug", "did you mean database?"),
        ("database=loud", "the levels off, error, warn, info, debug, trace"),
        ("hyper=info", "node, report, inventory"),
    ],
)
def test_a_directive_without_effect_names_what_was_meant(
    tmp_path: Path, text: str, hint: str
) -> None:
    """Levels are suggested in a filter as for `level`, and so are components."""
    file = write(tmp_path, f'general.filter = "{text},main=debug"', "logging.conf")
    settings = load_logging(file)
    (warning,) = settings.warnings
    assert warning.kind == "log_filter"
    assert str(warning).endswith(hint)
    assert [directive.component for directive in settings.directives()] == ["", "main"]


@pytest.mark.fault("G6")
def test_unknown_key_in_logging_conf_is_a_warning(tmp_path: Path) -> None:
    """A misspelt key of logging.conf is a warning, too."""
    settings = load_logging(write(tmp_path, 'general.levle = "trace"', "logging.conf"))
    (warning,) = settings.warnings
    assert str(warning) == (
        f"{tmp_path / 'logging.conf'}: unknown key general.levle, did you mean general.level?"
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["10s", "postgres://a@[::1", "unix:/x", "[::1]:1", "a:1", "?&=", "database"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.mark.fault("P12", "D.5.5")
@given(st.sampled_from([key for key, _ in leaves(Settings())]), VALUES)
def test_any_value_of_any_key_is_accepted_or_refused(key: str, value: object) -> None:
    """Whatever a key is set to, loading succeeds or gives one printable line with the key."""
    table: Any = value
    for name in reversed(key.split(".")):
        table = {name: table}
    message = refusal_of(table)
    assert message is None or message.startswith(f"main.conf: {key}: expected ")
    assert message is None or message.isprintable()


def refusal_of(table: dict[str, Any]) -> str | None:
    """The error for a table, None when it is accepted."""
    try:
        build(Path("main.conf"), table, Settings)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.fault("F38")
@pytest.mark.parametrize("name", ["main.conf", "logging.conf", "node-id"])
def test_fifo_in_the_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    """Reading it would wait for a writer, and relayd would neither start nor say why."""
    write(tmp_path, f'general.node_id_file = "{tmp_path / "node-id"}"')
    write(tmp_path, "root", "node-id")
    write(tmp_path, "", "logging.conf")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    try:
        faults = [str(one) for one in load_files(tmp_path).logging.warnings]
    except RelaydError as error:
        faults = [str(error)]
    assert len(faults) == 1
    assert "not a regular file" in faults[0]
    assert str(tmp_path / name) in faults[0]
