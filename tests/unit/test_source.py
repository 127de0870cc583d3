"""Constructs that the source must not contain, found in its syntax trees and compiled patterns."""

import ast
import hmac
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import relayd
from relayd.config.secret import Secret

# The parser of regular expressions has no public name.
sre: Any = importlib.import_module("re._constants")
sre_parser: Any = importlib.import_module("re._parser")

PACKAGE: Final = Path(relayd.__file__).parent
SOURCES: Final = sorted(PACKAGE.rglob("*.py"))

#: Calls and modules that execute data, or write to paths taken from an archive.
CALLS: Final = {"eval", "exec", "compile", "__import__", "system", "popen", "mktemp", "extractall"}
MODULES: Final = {"pickle", "marshal", "shelve", "yaml", "tarfile", "dill", "joblib"}
STATEMENT: Final = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|COPY|LOCK|ALTER|DROP|CREATE|TRUNCATE|WITH|SET)\b"
)
#: Shows statements to operators, but executes none.
ADVICE: Final = "commands/check"
#: Not part of the daemon.
SIMULATION: Final = "commands/demo"
#: May skip the verification of a server's certificate, in one line each: for `dangerous_none`, for
#: a database whose sslmode demands none, and to find out which program has relayd's own port.
UNVERIFIED: Final = (
    "fleet/peers/tls.py",
    "outputs/postgres/connecting/tls.py",
    "commands/check/checks/server.py",
)
#: Packages that use paths from requests, or names chosen by others.
UNTRUSTED: Final = ("spool", "shared", "pipelines/workers", "api")
#: Writes an archive, and reads none.
ARCHIVER: Final = "commands/support/archive.py"
#: Read a file of the package, or files that only the configuration names.
OWN_DATA: Final = ("api/openapi.py", "api/door/tls.py", "api/door/watched.py")


def named(path: Path) -> str:
    """Return the path of a source file within the package."""
    return path.relative_to(PACKAGE).as_posix()


def faults(tree: ast.AST, name: str = "") -> Iterator[str]:
    """Yield the banned constructs in a tree, one line each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _faults_of_call(node, name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            allowed = {"tarfile"} if name == ARCHIVER else set()
            found = {str(one).partition(".")[0] for one in names} & (MODULES - allowed)
            yield from (f"{node.lineno}: import of {one}" for one in found)
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{node.lineno}: bare except"
        elif isinstance(node, ast.JoinedStr) and _is_composed_sql(node, name):
            yield f"{node.lineno}: SQL from a format"
        elif (
            isinstance(node, ast.Attribute) and node.attr == "CERT_NONE" and name not in UNVERIFIED
        ):
            yield f"{node.lineno}: no verification"


def _faults_of_call(node: ast.Call, name: str) -> Iterator[str]:
    called = _name(node.func)
    if called in CALLS and not isinstance(node.func, ast.Attribute):
        yield f"{node.lineno}: {called}()"
    if isinstance(node.func, ast.Attribute):
        owner = _name(node.func.value)
        joined = (owner, called) == ("path", "join") and not name.startswith(SIMULATION)
        if called in CALLS - {"compile"} or joined:
            yield f"{node.lineno}: {owner}.{called}()"
        if called == "format" and _is_statement(node.func.value):
            yield f"{node.lineno}: SQL from a format"
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if (keyword.arg, value) in {("shell", True), ("verify", False)}:
            yield f"{node.lineno}: {keyword.arg}={value!r}"
    if called in {"match", "search", "compile"} and node.args and _ends_before_newline(node):
        yield f"{node.lineno}: a pattern that ends with $"


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _ends_before_newline(node: ast.Call) -> bool:
    """Return whether a pattern ends with `$`, which also matches before a final newline.

    That is only intended with MULTILINE.
    """
    pattern = node.args[0]
    text = getattr(pattern, "value", None)
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    by_line = any(_name(arg) == "MULTILINE" for arg in node.args)
    return isinstance(text, str) and text.endswith("$") and not by_line


def _is_statement(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and bool(STATEMENT.match(str(node.value)))


def _is_composed_sql(node: ast.JoinedStr, name: str) -> bool:
    """Return whether a statement is formatted from anything but constants (in capitals)."""
    if name.startswith(ADVICE) or not _is_statement(node.values[0]):
        return False
    parts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
    inner = [each for part in parts for each in ast.walk(part)]
    owners = {each.value for each in inner if isinstance(each, ast.Attribute)}
    names = {_name(each) for each in inner if each not in owners} - {"", "join"}
    return any(not name.isupper() for name in names)


BANNED: Final = [
    "eval(data)",
    "exec(data)",
    "os.system(data)",
    "import pickle",
    "from yaml import load",
    "archive.extractall()",
    "subprocess.run(data, shell=True)",
    "get(url, verify=False)",
    "context.verify_mode = ssl.CERT_NONE",
    "os.path.join(root, data)",
    "re.match('[a-z]+$', data)",
    "re.compile(rb'[a-z]+$')",
    "f'SELECT id FROM t WHERE id = {data}'",
    "'DELETE FROM t WHERE id = {}'.format(data)",
    "try:\n    pass\nexcept:\n    pass",
]


@pytest.mark.fault("D.3.4")
@pytest.mark.parametrize("code", BANNED)
def test_banned_code_is_found(code: str) -> None:
    """Each kind of banned code is found once."""
    assert len(list(faults(ast.parse(code)))) == 1


@pytest.mark.fault("D.3.4", "P14")
@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_source_has_no_banned_code(path: Path) -> None:
    """No data is executed, no shell started, no SQL formatted, no pattern ignores a newline."""
    found = faults(ast.parse(path.read_bytes()), named(path))
    assert list(found) == []


def plain_comparisons(tree: ast.AST) -> list[int]:
    """Return the lines that compare a revealed secret by `==`, whose time depends on the secret."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        if any(
            isinstance(part, ast.Call) and _name(part.func) == "reveal" for part in ast.walk(node)
        )
    ]


@pytest.mark.fault("D.4.3")
def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret is revealed for a comparison; secrets are compared by `hmac.compare_digest`."""
    assert plain_comparisons(ast.parse("given == secret.reveal()")) == [1]
    trees = {named(path): ast.parse(path.read_bytes()) for path in SOURCES}
    assert {name: lines for name, tree in trees.items() if (lines := plain_comparisons(tree))} == {}
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert Secret("one") != Secret("other")
    assert compared == [(b"one", b"other")]


def openings(tree: ast.Module) -> Iterator[str]:
    """Yield the calls that would follow a link or block on a FIFO, one line each."""
    constants = {
        _name(node.target): node.value for node in tree.body if isinstance(node, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, plain = _name(node.func), isinstance(node.func, ast.Name)
        owner = _name(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if called in {"read_bytes", "read_text", "write_bytes", "write_text"}:
            yield f"{node.lineno}: {called}()"
        elif called == "open" and plain and not _is_descriptor(node.args[0]):
            yield f"{node.lineno}: open()"
        elif called == "open" and owner == "os" and not _is_careful(node.args[1], constants):
            yield f"{node.lineno}: os.open()"
        elif called == "open" and not plain and owner != "os" and not _creates(node):
            yield f"{node.lineno}: {owner}.open()"


def _is_descriptor(node: ast.expr) -> bool:
    return _name(node) == "fd" or (isinstance(node, ast.Call) and _name(node.func) == "open")


def _creates(node: ast.Call) -> bool:
    return bool(node.args) and str(getattr(node.args[0], "value", "")).startswith("x")


def _is_careful(flags: ast.expr, constants: dict[str, Any]) -> bool:
    """Return whether the flags follow no link or open only directories.

    A local variable `flags` counts as careful: it is not traced.
    """
    flags = constants.get(_name(flags), flags)
    names = {_name(node) for node in ast.walk(flags)}
    return bool(names & {"O_NOFOLLOW", "O_DIRECTORY", "_DIRECTORY", "flags"})


@pytest.mark.fault("D.3.2")
@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("os.open(path, os.O_RDONLY)", 1),
        ("os.open(path, os.O_RDONLY | os.O_NOFOLLOW)", 0),
        ("FLAGS: Final = os.O_RDONLY\nos.open(path, FLAGS)", 1),
        ("open(path)", 1),
        ("open(fd)", 0),
        ("path.open()", 1),
        ("path.open('x')", 0),
        ("path.read_text()", 1),
    ],
)
def test_careless_openings_are_found(code: str, found: int) -> None:
    """Calls that follow links are found; calls that do not are not."""
    assert len(list(openings(ast.parse(code)))) == found


@pytest.mark.fault("D.3.2")
@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if named(path).startswith(UNTRUSTED) and named(path) not in OWN_DATA],
    ids=named,
)
def test_paths_of_others_are_opened_with_care(path: Path) -> None:
    """Code that opens names chosen by others follows no links, or opens only directories."""
    assert list(openings(ast.parse(path.read_bytes()))) == []


@pytest.mark.fault("D.3.4")
@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if named(path).startswith("api/") and named(path) not in OWN_DATA],
    ids=named,
)
def test_routes_build_no_paths(path: Path) -> None:
    """No route builds a path: names from requests only go through `relayd.shared.paths`."""
    tree = ast.parse(path.read_bytes())
    divided = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    ]
    assert not [node.lineno for node in divided if not _name(node.right).isupper()]  # a number
    assert not [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _name(node.func) == "joinpath"
    ]


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Yield every compiled pattern of the package with its module and name."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "relayd."):
        if not module.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, re.Pattern):
                    yield f"{module.name}.{name}", value


def nested(parsed: Any, depth: int = 0) -> bool:
    """Return whether an unbounded repetition contains another, which can take exponential time."""
    for code, argument in parsed:
        inner = depth
        if code in (sre.MAX_REPEAT, sre.MIN_REPEAT) and argument[1] == sre.MAXREPEAT:
            inner += 1
        if inner > 1 or any(nested(part, inner) for part in _parts(argument)):
            return True
    return False


def _parts(argument: object) -> Iterator[Any]:
    """Yield the patterns within one element of a pattern."""
    if isinstance(argument, sre_parser.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _parts(each)


@pytest.mark.fault("D.5.3")
@pytest.mark.parametrize("pattern", ["(a+)+", "(?:a|b*)*c", "(x(?:a+b?)*)*", "(?:(?:a*))+?"])
def test_nested_repetition_is_found(pattern: str) -> None:
    """Patterns that can take exponential time are found; others are not."""
    assert nested(sre_parser.parse(pattern))
    assert not nested(sre_parser.parse("(a|b{1,9})*c+"))


@pytest.mark.fault("D.5.3")
def test_no_pattern_takes_exponential_time() -> None:
    """No pattern contains an unbounded repetition within another."""
    found = dict(patterns())
    assert len(found) > 30
    assert [name for name, one in found.items() if nested(_parse(one))] == []


def _parse(pattern: re.Pattern[Any]) -> Any:
    text = pattern.pattern
    flags = pattern.flags & ~re.UNICODE if isinstance(text, bytes) else pattern.flags
    return sre_parser.parse(text, flags)


#: A path of the source tree, as opposed to one of the system or of the API.
_SOURCE_PATH = re.compile(
    r"(?<![\w/.-])(conf|docs|man|packaging|selinux|systemd|tests|tools)/[\w-]+\.[a-z]+|\w\.md\b"
)


@pytest.mark.fault("F41")
def test_no_message_names_a_path_of_the_source_tree() -> None:
    """An operator has installed a package: messages name only what is installed."""
    found = [
        f"{path.name}: {node.value}"
        for path in SOURCES
        for node in _messages(ast.parse(path.read_text()))
        if _SOURCE_PATH.search(node.value)
    ]
    assert found == []


def _messages(tree: ast.Module) -> Iterator[Any]:
    """Yield the texts of a module that are not documentation."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node


def test_no_benchmark_uses_the_directories_of_the_machines_own_relayd() -> None:
    """Each configuration has a state directory of its own, and its own control socket or none."""
    texts = {path.name: path.read_text() for path in Path("benchmarks").glob("*.py")}
    found = {name: text for name, text in texts.items() if 'node_id = "' in text}
    assert found
    for key in ("state_directory = ", "control_socket = "):
        assert [name for name, text in found.items() if key not in text] == []
