"""An SELinux policy that can be asked, without a kernel that enforces it."""

import bz2
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

#: The distribution's policy, as modules.
MODULES: Final = Path("/usr/share/selinux/default")
#: Reads a compiled module and writes its source in CIL.
TO_CIL: Final = Path("/usr/libexec/selinux/hll/pp")
MAKEFILE: Final = Path("/usr/share/selinux/devel/Makefile")
_PROGRAMS: Final = ("checkmodule", "make", "matchpathcon", "secilc", "seinfo", "sesearch")
#: Of binary policies: one that all tools of the last years read.
_VERSION: Final = "33"

_RULE: Final = re.compile(
    r"allow \S+ (?P<target>\S+):(?P<kind>\S+) (?:\{ )?(?P<permissions>[^};]+?)(?: \})?;"
    r"(?: \[ (?P<condition>.+) \]:\w+)?"
)


@dataclass(frozen=True)
class Policy:
    """A linked policy.

    Attributes:
        binary: as the kernel would load it.
        contexts: the labels of paths.
    """

    binary: Path
    contexts: Path

    def allowed(self, source: str, kind: str, permission: str | None = None) -> dict[str, str]:
        """Type → the condition that the rule hangs on, empty for none, of what a domain may do.

        Args:
            source: the domain, with what it may do as a member of a group of domains.
            kind: object class.
            permission: one of them; otherwise any.
        """
        found: dict[str, str] = {}
        for rule in _rules(self.binary, source):
            if rule["kind"] == kind and (
                not permission or permission in rule["permissions"].split()
            ):
                target = source if rule["target"] == "self" else rule["target"]
                condition = rule["condition"] or ""
                found[target] = condition if found.get(target, condition) else ""
        return found

    def booleans(self, prefix: str) -> dict[str, bool]:
        """Name → state as shipped, of the booleans whose names begin so."""
        shown = _output("seinfo", "--bool", "--expand", str(self.binary))
        pairs = re.findall(rf"bool ({prefix}\w+) (\w+);", shown)
        return {name: state == "true" for name, state in pairs}

    def label(self, path: str) -> str:
        """Return the type that a path gets."""
        return _output("matchpathcon", "-n", "-f", str(self.contexts), path).split(":")[2]


@cache
def _rules(binary: Path, source: str) -> Sequence[re.Match[str]]:
    shown = _output("sesearch", "--allow", "--source", source, str(binary))
    rules = [_RULE.fullmatch(line) for line in shown.splitlines()]
    assert None not in rules, "a rule that is not understood"
    return [rule for rule in rules if rule]


def link_policy(sources: Path, directory: Path) -> Policy:
    """Return the distribution's policy together with the module `relayd` of a directory.

    Skips the test where the tools or that policy are not installed.
    """
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    missing += [str(path) for path in (MODULES, TO_CIL, MAKEFILE) if not path.exists()]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    work = directory / "module"
    shutil.copytree(sources, work)
    shown = subprocess.run(
        ["make", "-f", str(MAKEFILE), "relayd.pp"],
        cwd=work, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout
    assert "warning" not in shown.stdout.lower(), shown.stdout
    modules = {path.name.split(".")[0]: path.read_bytes() for path in MODULES.glob("*.pp.bz2")}
    modules = {name: bz2.decompress(data) for name, data in modules.items()}
    modules["relayd"] = (work / "relayd.pp").read_bytes()
    for name, data in modules.items():
        cil = subprocess.run([TO_CIL], input=data, check=True, capture_output=True).stdout
        (directory / f"{name}.cil").write_bytes(cil)
    policy = Policy(directory / "policy", directory / "contexts")
    options = ["-M", "1", "-c", _VERSION, "-o", str(policy.binary), "-f", str(policy.contexts)]
    # Neverallow rules of the reference policy are checked as well: without -N.
    _output("secilc", *options, *sorted(str(path) for path in directory.glob("*.cil")))
    return policy


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert result.returncode == 0, f"{command[0]}: {result.stdout}{result.stderr}"
    return result.stdout
