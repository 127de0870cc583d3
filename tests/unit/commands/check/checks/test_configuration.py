"""What the check of the configuration says about a mistake, and how to fix it."""

from pathlib import Path

import pytest

from relayd.commands.check.checks.configuration import load

URL = "output.database.url"


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("line", "code", "what", "fix"),
    [
        (
            f'{URL} = "postgres://u@h/d?sslmod=x"',
            "configuration.invalid",
            (
                f"{URL}: expected sslmod to be one of libpq's options, got an unknown one, did you "
                "mean sslmode?"
            ),
            f"correct that part of {URL}",
        ),
        (
            f'{URL} = "h/d"',
            "configuration.invalid",
            (
                f'{URL}: expected a URL such as "postgres://user@host/database", got one without '
                '"postgres://" in front'
            ),
            f'set {URL} to a URL such as "postgres://user@host/database"',
        ),
        (
            "[[output.upstream]]",
            "configuration.invalid",
            "output.upstream: expected a table, got an array, did you mean [output.upstream]?",
            "write it as [output.upstream]",
        ),
        (
            "remote_run.use_sudo = True",
            "configuration.invalid",
            "line 2, column 23: Invalid value",
            "correct line 2: booleans are written true and false, in lower case",
        ),
        (
            "output_upstream.x = 1",
            "configuration.unknown_key",
            "unknown key output_upstream",
            "spell it output.upstream, or remove it",
        ),
    ],
)
def test_a_mistake_is_one_finding_with_its_fix(
    tmp_path: Path, line: str, code: str, what: str, fix: str
) -> None:
    """The check says what `-t` says, and splits it into the fault and its fix."""
    (tmp_path / "main.conf").write_text(f'general.node_id = "root"\n{line}\n')
    (tmp_path / "main.conf").chmod(0o640)
    (tmp_path / "logging.conf").touch()
    _, (finding,) = load(tmp_path)
    assert (finding.code, finding.what, finding.fix) == (code, what, fix)
