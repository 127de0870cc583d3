"""The command `relayd inspect` on real files with real signatures."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from relayd.commands.inspect import content
from relayd.commands.inspect.command import command
from relayd.errors import Retry
from relayd.pipelines.workers import job
from relayd.runlog.filename import queue_id
from tests.support.signing import SigningNode, make_key_and_cert, sign_runlog

NODE_ID = "2f6a9ec5-5f6f-4ec4-8a06-0f4a0b8a7b11"
DATE = "2024-05-06T07:08:09+00:00"
NAME = f"{DATE}@{NODE_ID}.log"
START = "2024-05-06 07:08:09+00:00"

#: Clears the screen, renames the window, reverses text, and looks like rich's markup.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\x7f[bold]x[/bold]"


def report(event_type: str, component: str, message: str, node_id: str = NODE_ID) -> str:
    fields = f"Common@@{event_type}@@rule-1@@directive-1@@report-1@@{component}@@key"
    return f"{DATE} R: @@{fields}@@{START}##{node_id}@#{message}\n"


def runlog(node_id: str = NODE_ID, message: str = "all is well") -> bytes:
    lines = [
        report("control", "start", "Start execution", node_id),
        report("result_success", "a component", message, node_id),
        report("log_info", "a component", "a detail", node_id),
        report("control", "end", "End execution", node_id),
    ]
    return "".join(lines).encode()


@dataclass
class Outcome:
    """Exit code and output of the command."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The documents that it printed with --json."""
        return [json.loads(line) for line in self.out.splitlines()]


def inspect(*arguments: str | Path) -> Outcome:
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command, texts, standalone_mode=False)
    if result.exception:
        raise result.exception
    return Outcome(result.return_value, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def node() -> SigningNode:
    return make_key_and_cert(NODE_ID)


@pytest.fixture
def certs(tmp_path: Path, node: SigningNode) -> Path:
    path = tmp_path / "certs.pem"
    path.write_bytes(node.cert_pem)
    return path


@pytest.fixture
def config(tmp_path: Path, certs: Path) -> Path:
    directory = tmp_path / "relayd"
    directory.mkdir()
    nodes_list = tmp_path / "nodeslist.json"
    entry = {"hostname": "n", "policy-server": "root"}
    nodes_list.write_text(json.dumps({"root": entry, NODE_ID: entry, "bare": entry}))
    conf = directory / "main.conf"
    conf.write_text(
        f"""
        [general]
        node_id = "root"
        nodes_list_file = "{nodes_list}"
        nodes_certs_file = "{certs}"
        [processing.reporting]
        skip_event_types = ["log_info"]
        max_size = 100000
        """
    )
    conf.chmod(0o600)
    return directory


def write(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.log", data)
    return buffer.getvalue()


def test_good_file_is_shown_completely(tmp_path: Path, config: Path, node: SigningNode) -> None:
    """A file that relayd would accept is shown with all its fields, and the exit code is 0."""
    path = write(tmp_path, NAME, sign_runlog(runlog(), node))
    outcome = inspect("-c", config, "--json", path)
    [document] = outcome.documents
    assert (outcome.code, outcome.err) == (0, "")
    reports = document.pop("reports")
    assert document == {
        "file": str(path),
        "queue_id": queue_id(NAME),
        "node_id": NODE_ID,
        "timestamp": DATE,
        "verified": True,
        "signer": f"sha256:{hashlib.sha256(node.certificate.spki).hexdigest()}",
        "error": None,
        "type": "complete",
        "config_id": "key",
        "skipped": ["not inserted: log_info, 1 times (skip_event_types)"],
    }
    assert reports[1] == {
        "start_datetime": DATE,
        "rule_id": "rule-1",
        "directive_id": "directive-1",
        "component": "a component",
        "key_value": "key",
        "event_type": "result_success",
        "msg": "all is well",
        "policy": "Common",
        "node_id": NODE_ID,
        "execution_datetime": DATE,
        "report_id": "report-1",
    }
    assert len(reports) == 4


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".zip", zipped), ("", lambda data: data)],
    ids=["gz", "zip", "plain"],
)
def test_every_archive_form_is_read(
    tmp_path: Path, certs: Path, node: SigningNode, suffix: str, pack: Any
) -> None:
    """A packed run log gives the same verdict as the plain one."""
    path = write(tmp_path, NAME + suffix, pack(sign_runlog(runlog(), node)))
    outcome = inspect("--certs", certs, "--json", path)
    assert outcome.code == 0
    assert len(outcome.documents[0]["reports"]) == 4


def test_partial_run_log_is_called_partial(tmp_path: Path, certs: Path, node: SigningNode) -> None:
    """A run log without its start is accepted, as a partial one."""
    text = report("result_success", "a component", "fine").encode()
    path = write(tmp_path, NAME, sign_runlog(text, node))
    outcome = inspect("--certs", certs, "--json", path)
    [document] = outcome.documents
    assert (outcome.code, document["type"], document["config_id"]) == (0, "partial", None)
    assert document["skipped"]


def test_output_without_json_is_a_table(tmp_path: Path, certs: Path, node: SigningNode) -> None:
    """Without --json the same facts are printed for people."""
    path = write(tmp_path, NAME, sign_runlog(runlog(message="two\nlines"), node))
    outcome = inspect("--certs", certs, path)
    assert outcome.code == 0
    for fact in (str(path), "would be accepted", NODE_ID, queue_id(NAME), "complete, 4 reports"):
        assert fact in outcome.out
    for field in ("result_success", "Common / a component / key", "two", "lines", "End execution"):
        assert field in outcome.out
    assert [line for line in outcome.out.splitlines() if line.endswith(" ")] == []


REFUSALS = {
    "unsigned": (NAME, lambda node: runlog(), "mime: not signed"),
    "tampered": (
        NAME,
        lambda node: sign_runlog(runlog(), node).replace(b"all is well", b"all is evil"),
        "signature: ",
    ),
    "other signer": (
        NAME,
        lambda node: sign_runlog(runlog(), make_key_and_cert("somebody")),
        "unknown_signer: ",
    ),
    "other extension": (
        NAME.removesuffix(".log") + ".txt",
        lambda node: sign_runlog(runlog(), node),
        "bad_name: ",
    ),
    "packed under another extension": (
        NAME.removesuffix(".log") + ".bak",
        lambda node: gzip.compress(sign_runlog(runlog(), node)),
        "bad_name: ",
    ),
    "name without node": ("report", lambda node: sign_runlog(runlog(), node), "bad_name: "),
    "report of another node": (
        NAME,
        lambda node: sign_runlog(runlog(node_id="somebody"), node),
        "node_mismatch: ",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_refused_file_is_shown_with_its_reason(
    tmp_path: Path, certs: Path, node: SigningNode, case: Any
) -> None:
    """A file that relayd would refuse is shown with the reason and all its reports."""
    name, make, reason = case
    path = write(tmp_path, name, make(node))
    outcome = inspect("--certs", certs, "--json", path)
    [document] = outcome.documents
    assert outcome.code == 1
    assert reason in document["error"]
    assert len(document["reports"]) == 4
    assert document["node_id"] == NODE_ID
    assert document["verified"] is (reason in {"bad_name: ", "node_mismatch: "})
    assert (document["signer"] is None) is not document["verified"]
    assert "would be refused" in inspect("--certs", certs, path).out


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (NAME, b"", "empty: "),
        (f"{NAME}.gz", b"not gzip", "archive: "),
        (f"{NAME}.zip", gzip.compress(b"not zip"), "archive: "),
        (f"{NAME}.gz", gzip.compress(bytes(100_001)), "too_large: "),
        (NAME, b"\0" * 100_001, "too_large: "),
        (NAME, b"no report", "no_report: "),
    ],
    ids=["empty", "gz", "zip", "bomb", "large", "no report"],
)
def test_file_without_a_run_log_has_the_reason_of_the_daemon(
    tmp_path: Path, config: Path, name: str, data: bytes, reason: str
) -> None:
    """A file without a readable run log is shown with the check of the daemon that it fails."""
    path = write(tmp_path, name, data)
    outcome = inspect("-c", config, "--json", path)
    [document] = outcome.documents
    assert outcome.code == 1
    assert reason in document["error"]
    assert (document["reports"], document["verified"], document["type"]) == ([], False, None)


@pytest.mark.parametrize(
    ("node_id", "reason"), [("stranger", "unknown_node: "), ("bare", "no_certificate: ")]
)
def test_unknown_node_and_missing_certificate_are_different_reasons(
    tmp_path: Path, config: Path, node_id: str, reason: str
) -> None:
    """Files of unknown nodes and of nodes without certificate are refused, and shown."""
    signer = make_key_and_cert(node_id)
    path = write(tmp_path, f"{DATE}@{node_id}.log", sign_runlog(runlog(node_id), signer))
    outcome = inspect("-c", config, "--json", path)
    assert outcome.code == 1
    assert outcome.documents[0]["error"].startswith(reason)
    assert len(outcome.documents[0]["reports"]) == 4


def test_certificates_of_another_node_are_not_used(tmp_path: Path, certs: Path) -> None:
    """Of the certificates given with --certs only those of the node itself are trusted."""
    path = write(
        tmp_path,
        f"{DATE}@somebody.log",
        sign_runlog(runlog("somebody"), make_key_and_cert(NODE_ID)),
    )
    outcome = inspect("--certs", certs, "--json", path)
    assert outcome.code == 1
    assert outcome.documents[0]["error"].startswith("no_certificate: ")


def test_without_any_certificates_the_file_is_shown(
    tmp_path: Path, node: SigningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without configuration and certificates reports are shown, and no signature is trusted."""
    monkeypatch.setattr("relayd.commands.inspect.command.DEFAULT_DIRECTORY", tmp_path / "nowhere")
    path = write(tmp_path, NAME, sign_runlog(runlog(), node))
    outcome = inspect("--json", path)
    [document] = outcome.documents
    assert outcome.code == 1
    assert "--certs" in document["error"]
    assert len(document["reports"]) == 4


def test_missing_file_does_not_stop_the_others(
    tmp_path: Path, certs: Path, node: SigningNode
) -> None:
    """A missing file gives an error line and exit code 1; the files after it are shown."""
    good = write(tmp_path, NAME, sign_runlog(runlog(), node))
    missing, fifo = tmp_path / "missing", tmp_path / "fifo"
    os.mkfifo(fifo)
    outcome = inspect("--certs", certs, missing, fifo, tmp_path, good)
    assert outcome.code == 1
    assert outcome.err == f"error: {missing}: cannot be read: No such file or directory\n"
    assert "would be accepted" in outcome.out
    assert outcome.out.count("not_a_file: ") == 2
    outcome = inspect("--certs", certs, "--json", missing, good)
    assert [document["error"] is None for document in outcome.documents] == [False, True]


def fail_to_open(_path: str) -> Retry:
    return Retry("cannot be opened: Permission denied")


def test_unreadable_file_is_an_error_line(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the daemon would retry is an error with the daemon's words, not a refusal."""
    monkeypatch.setattr(job, "open_file", fail_to_open)
    path = write(tmp_path, NAME, b"unreadable")
    outcome = inspect("--certs", certs, path)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"error: {path}: cannot be opened: Permission denied\n"
    [document] = inspect("--certs", certs, "--json", path).documents
    assert document["error"] == "cannot be opened: Permission denied"


def test_unreadable_file_is_refused_by_its_name(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is refused by its name need not be readable; that it is not is shown too."""
    monkeypatch.setattr(content, "open_file", fail_to_open)
    outcome = inspect("--certs", certs, "--json", write(tmp_path, "report.log", b"unreadable"))
    [document] = outcome.documents
    assert outcome.code == 1
    assert document["error"].startswith("bad_name: ")
    assert document["error"].endswith("; cannot be opened: Permission denied")


def test_read_error_while_content_is_shown_keeps_the_verdict(
    tmp_path: Path, certs: Path, node: SigningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accepted file stays accepted if it cannot be read again to show its content."""

    def fail(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(content, "read_content", fail)
    path = write(tmp_path, NAME, sign_runlog(runlog(), node))
    outcome = inspect("--certs", certs, "--json", path)
    [document] = outcome.documents
    assert (outcome.code, document["error"], document["reports"]) == (0, None, [])


@pytest.mark.parametrize("machine", [True, False])
def test_control_characters_of_a_file_do_not_reach_the_terminal(
    tmp_path: Path, certs: Path, node: SigningNode, *, machine: bool
) -> None:
    """Control characters, reversed text and markup in names and reports are escaped."""
    name = NAME.removesuffix(".log") + "\x1b[2J\udcff\u202e.log"
    text = runlog(message=HOSTILE) + f"{DATE} R: @@broken {HOSTILE}\n".encode()
    path = write(tmp_path, name, sign_runlog(text, node))
    outcome = inspect("--certs", certs, *["--json"] * machine, path, tmp_path / "\x1b[2J")
    assert outcome.code == 1
    for line in [*outcome.out.splitlines(), *outcome.err.splitlines()]:
        assert line.isprintable()
    if machine:
        assert outcome.documents[0]["reports"][1]["msg"] == HOSTILE
    else:
        assert "[bold]x[/bold]" in "".join(outcome.out.split())


def run_relayd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relayd", "inspect", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_of_the_program_ends_with_its_exit_code(
    tmp_path: Path, certs: Path, node: SigningNode
) -> None:
    """`relayd inspect` exits with 0 or 1 by its verdicts, and with 3 if it cannot start."""
    good = write(tmp_path, NAME, sign_runlog(runlog(), node))
    bad = write(tmp_path, NAME + ".gz", b"")
    assert run_relayd("--certs", certs, good).returncode == 0
    assert run_relayd("--certs", certs, good, bad).returncode == 1
    certs.write_bytes(certs.read_bytes()[:-60])
    broken = run_relayd("--certs", certs, good)
    assert (broken.returncode, broken.stdout) == (3, "")
    assert broken.stderr.startswith(f"error: {certs}: line 1: cut off")
    assert broken.stderr.count("\n") == 1
    assert run_relayd("-c", tmp_path / "nowhere", good).returncode == 3


def test_skipped_certificates_are_reported_once(
    tmp_path: Path, certs: Path, node: SigningNode
) -> None:
    """Skipped certificates are reported on standard error, once for all files."""
    good = write(tmp_path, NAME, sign_runlog(runlog(), node))
    block = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    certs.write_bytes(block % b"*" + block % b"MAA=" + certs.read_bytes())
    outcome = inspect("--certs", certs, "--json", good, good)
    assert outcome.code == 0
    assert outcome.err.count("certificate skipped") == outcome.err.count("\n") == 2
