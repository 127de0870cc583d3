"""The options of `relayd demo` for a cluster."""

import click.testing
import pytest

from relayd.commands.demo import run
from relayd.commands.demo.cluster.failovers import FAILOVERS
from relayd.commands.demo.command import command


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[run.Options]:
    """Run no demo, but record its options in the list returned."""
    found: list[run.Options] = []

    def record(options: run.Options, _console: object) -> int:
        found.append(options)
        return 0

    monkeypatch.setattr(run, "run", record)
    return found


def invoke(*arguments: str) -> click.testing.Result:
    """Run the command."""
    return click.testing.CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        ([], tuple(FAILOVERS)),
        (["--no-story"], ()),
        (["--once", "9"], ()),
        (["--once", "9", "--failovers", "etcd, freeze"], ("etcd", "freeze")),
        (["--failovers", ""], ()),
    ],
)
def test_failovers_of_a_cluster(
    chosen: list[run.Options], arguments: list[str], plan: tuple[str, ...]
) -> None:
    """All kinds once, or those named; none where the demo has no story either."""
    assert invoke("--cluster", *arguments).exit_code == 0
    (options,) = chosen
    assert options.cluster == run.ClusterOptions(False, plan, 7.0)
    assert (options.writers, options.servers) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cluster", "--relays", "1"], "--cluster cannot be used with --relays"),
        (["--synchronous"], "--synchronous and --failovers need --cluster"),
        (["--failovers", "etcd"], "--synchronous and --failovers need --cluster"),
        (["--cluster", "--failovers", "etcd,fire"], "freeze, etcd, got 'fire'"),
    ],
)
def test_options_that_contradict(
    chosen: list[run.Options], arguments: list[str], text: str
) -> None:
    """What cannot be meant is refused before anything starts."""
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert text in result.output
    assert chosen == []
