"""No code depends on the words of relayd's own messages."""

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.support.project import ROOT
from tests.support.prose import messages, own_errors, parse, readers


@cache
def trees() -> dict[Path, ast.Module]:
    """Return all modules of relayd."""
    return parse(ROOT / "relayd")


@cache
def errors() -> frozenset[str]:
    """Return the names of its own errors."""
    return own_errors(trees().values())


#: A module that makes messages in each of the ways that relayd does.
MESSAGES: Final = ast.parse("""
_CAUSE = "no connection to the peer"
def make(path, name, error):
    log.warning("nodes were not loaded", detail="the list is empty")
    detail = f"unknown key {name}"
    ConfigWarning(kind="x", detail=detail, file=path)
    Refused(Reason.EMPTY, "there is no byte in it")
    what = "too old" if name else f"mode {name} is too open"
    yield warning("code", path, what, "run it again")
    raise PeerError(_CAUSE, "transient") if path else StartError(f"{path}: expected a node id")
""")


def test_no_module_reads_the_text_of_a_message() -> None:
    """No module of relayd compares a text with a message, or matches on that of an own error."""
    prose = {text for tree in trees().values() for text in messages(tree, errors())}
    assert len(prose) > 300
    found = {
        str(path.relative_to(ROOT)): lines
        for path, tree in trees().items()
        if (lines := readers(tree, prose, errors()))
    }
    assert found == {}


def test_messages_are_collected_from_everywhere() -> None:
    """Errors, log events, findings, warnings and faults of files are all messages."""
    assert messages(MESSAGES, errors()) == {
        "no connection to the peer",
        "nodes were not loaded",
        "the list is empty",
        "unknown key \0",
        "there is no byte in it",
        "too old",
        "mode \0 is too open",
        "run it again",
        "\0: expected a node id",
    }


@pytest.mark.parametrize(
    "body",
    [
        'return text == "nodes were not loaded"',
        'return text in {"a", "nodes were not loaded"}',
        'return "no connection" in text',
        'return text.startswith("mode ")',
        'return text.endswith("is too open")',
        'return text.removeprefix("unknown key ")',
        'return text.partition(" to the peer")[0]',
        'return text.startswith(("x", "no connection"))',
        'return re.fullmatch(r"(\\S+): expected a (.*)", text)',
        'return _PATTERN.match(text), re.compile("unknown key (.*)")',
        "return text == _EVENT",
        'return given.detail.startswith("x")',
        'return "certificate" in given.what',
        'return given.detail == "x"',
        'return "certificate" in str(error)',
        'return str(error).removeprefix(f"{text}: ")',
        "return _PATTERN.match(str(error))",
        'shown = str(error)\n    return shown.split(": ")',
        'shown = error.detail\n    lower = shown.lower()\n    return "pin" not in lower',
        'try:\n        pass\n    except ValueError as failure:\n        return "x" in str(failure)',
    ],
)
def test_code_that_reads_a_message_is_found(body: str) -> None:
    """Comparing, searching or cutting a message is found, through variables and constants."""
    source = (
        f'_EVENT = "nodes were not loaded"\ndef read(text, given, error: PeerError):\n    {body}\n'
    )
    assert readers(ast.parse(source), messages(MESSAGES, errors()), errors()) != []


@pytest.mark.parametrize(
    "body",
    [
        'return text == "root"',
        'return text.startswith("Content-Type: text")',
        'return error.step == "connect"',
        'return f"{error}: {text}"',
        "return str(error) != str(given.trouble)",
        "return given.detail != error.detail",
        'log.error("nodes were not loaded", detail=str(error))',
        'return " ".join(str(error).split())',
        'return re.fullmatch(r"(\\S+) has context (\\S+)", text)',
        'try:\n        pass\n    except OSError as failure:\n        return "x" in str(failure)',
    ],
)
def test_other_code_is_let_pass(body: str) -> None:
    """Attributes, texts of libraries, and showing or repeating a message are all right."""
    source = f"def read(text, given, error: PeerError):\n    {body}\n"
    assert readers(ast.parse(source), messages(MESSAGES, errors()), errors()) == []
