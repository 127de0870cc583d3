"""The texts and attributes of relayd's own errors."""

from pathlib import Path

import pytest

from relayd.errors import (
    ConfigError,
    ConfigWarning,
    DatabaseError,
    NodesError,
    PeerError,
    PeerStep,
    RelaydError,
    SettingError,
    StartError,
)

FILE = Path("/etc/f")


@pytest.mark.parametrize(
    ("error", "text", "detail"),
    [
        (NodesError("cut off"), "cut off", "cut off"),
        (NodesError("cut off", file=FILE), "/etc/f: cut off", "cut off"),
        (ConfigError("no TOML", file=FILE, line=3), "/etc/f: no TOML", "no TOML"),
        (
            SettingError("a.b", "a table", "3", file=FILE),
            "/etc/f: a.b: expected a table, got 3",
            "a.b: expected a table, got 3",
        ),
        (
            SettingError("a.b", "a value", None),
            "a.b: expected a value, got nothing",
            "a.b: expected a value, got nothing",
        ),
        (StartError("no /etc/f", file=FILE, reason="gone"), "no /etc/f: gone", "no /etc/f: gone"),
        (PeerError("broke", "transient", PeerStep.ANSWER, file=FILE), "/etc/f: broke", "broke"),
        (DatabaseError("no", "operator", "42501"), "no", "no"),
    ],
)
def test_the_text_is_file_and_detail(error: RelaydError, text: str, detail: str) -> None:
    """The text names the file once; the detail leaves it out."""
    assert (str(error), error.detail) == (text, detail)


def test_the_text_of_a_warning_ends_with_its_suggestion() -> None:
    """The text of a configuration warning is file, detail and suggestion."""
    warning = ConfigWarning(kind="unknown_key", detail="unknown key a", suggestion="b", file=FILE)
    assert str(warning) == "/etc/f: unknown key a, did you mean b?"
    assert str(ConfigWarning(kind="unverified", detail="not verified")) == "not verified"


@pytest.mark.parametrize("step", PeerStep)
def test_only_an_identified_peer_was_reached(step: PeerStep) -> None:
    """A peer counts as reached once its certificate was accepted."""
    assert PeerError("x", "transient", step).reached == (step == "answer")
