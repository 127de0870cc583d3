"""Runs a program as a systemd unit would confine it, where no systemd runs.

`python -m tests.support.confined UNIT [WRITABLE …] -- PROGRAM …` reads the restrictions from the
unit file itself and puts equivalents in force: its system-call filter and what else systemd makes
of seccomp (systemd.exec(5)), no new privileges, an empty set of capabilities, and a file system
that is read-only but for the WRITABLE directories, which stand for the unit's own.

Where systemd answers a forbidden call with an error, this kills the process instead: a violation
must show. The process keeps its user, for the interpreter of the tests may be that user's only.
"""

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

#: seccomp.h of libseccomp.
KILL: Final = 0x80000000
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
MASKED_EQUAL: Final = 7
NOT_EQUAL: Final = 1
#: prctl(2), clone(2), mmap(2), shmop(2), stat(2), mount(2), personality(2).
PR_SET_NO_NEW_PRIVS: Final = 38
NAMESPACES: Final = 0x7E020080
PROT_WRITE_EXEC: Final = 2 | 4
PROT_EXEC: Final = 4
SHM_EXEC: Final = 0o100000
SUID_SGID: Final = (0o4000, 0o2000)
CLONE_NEWNS: Final = 0x00020000
MS_RDONLY: Final = 1
MS_REMOUNT_BIND: Final = 32 | 4096
MS_BIND: Final = 4096
PR_CAPBSET_DROP: Final = 24
CAP_SETPCAP: Final = 8
CAP_SYS_ADMIN: Final = 21
#: Those that our units keep: capabilities(7).
CAPABILITIES: Final = {"CAP_DAC_OVERRIDE": 1}
MS_PRIVATE_REC: Final = (1 << 18) | 16384
#: Of ProtectSystem=strict: these stay as they are.
_API_FILESYSTEMS: Final = ("/dev", "/proc", "/sys")


class Compare(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class Unit:
    """The [Service] section of a unit file; later lines of a key add to it, empty ones clear it."""

    def __init__(self, path: Path) -> None:
        self.values: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith(("#", ";")):
                self.values.setdefault(key, []).append(value)

    def is_on(self, key: str) -> bool:
        """Whether a switch is on."""
        return self.values.get(key) == ["yes"]

    def words(self, key: str) -> list[str]:
        """All words of a key."""
        return " ".join(self.values.get(key, [])).split()


def allowed_calls(unit: Unit) -> set[str]:
    """Names of the system calls that `SystemCallFilter=` leaves."""
    groups = read_groups()
    # What every filter of systemd allows, to get as far as the program.
    calls = members(groups, "@default")
    for line in unit.values["SystemCallFilter"]:
        for word in line.removeprefix("~").split():
            named = members(groups, word)
            calls = calls - named if line.startswith("~") else calls | named
    return calls


def read_groups() -> dict[str, list[str]]:
    """Return the groups of system calls that systemd knows: their members, groups among them."""
    command = ["systemd-analyze", "syscall-filter", "--no-pager"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    groups: dict[str, list[str]] = {}
    for line in listing.splitlines():
        name = line.strip()
        if line.startswith("@"):
            groups[name] = []
        elif line.startswith(" ") and name and not name.startswith("#"):
            groups[next(reversed(groups))].append(name)
    return groups


def members(groups: dict[str, list[str]], word: str) -> set[str]:
    """Return the system calls of a group, or the call itself."""
    if not word.startswith("@"):
        return {word}
    return set().union(*(members(groups, member) for member in groups[word]))


class Filter:
    """A seccomp filter of libseccomp."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))
        assert self._context.value is not None

    def add(self, action: int, call: str, *compare: tuple[int, int, int, int]) -> None:
        """Add a rule; a call that this architecture does not have needs none.

        Args:
            action: what the kernel does.
            call: name of the system call.
            compare: argument, operator and one or two values, for each that has to hold.
        """
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        array = (Compare * len(compare))(*(Compare(*one) for one in compare))
        code = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(compare), array
        )
        assert code in (0, -errno.EFAULT), (call, code)

    def load(self) -> None:
        """Put it in force, for this process and whatever it starts."""
        code = self._library.seccomp_load(self._context)
        assert code == 0, os.strerror(-code)


def filter_calls(unit: Unit) -> None:
    """`SystemCallFilter=` and `SystemCallArchitectures=native`, which is libseccomp's default."""
    rules = Filter(KILL)
    for call in allowed_calls(unit):
        rules.add(ALLOW, call)
    rules.load()


def filter_arguments(unit: Unit) -> None:
    """Return the restrictions that depend on arguments."""
    rules = Filter(ALLOW)
    if unit.is_on("MemoryDenyWriteExecute"):
        rules.add(KILL, "mmap", (2, MASKED_EQUAL, PROT_WRITE_EXEC, PROT_WRITE_EXEC))
        rules.add(KILL, "mprotect", (2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        rules.add(KILL, "pkey_mprotect", (2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        rules.add(KILL, "shmat", (2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    if unit.is_on("RestrictNamespaces"):
        for bit in (1 << n for n in range(32) if NAMESPACES >> n & 1):
            rules.add(KILL, "clone", (0, MASKED_EQUAL, bit, bit))
            rules.add(KILL, "unshare", (0, MASKED_EQUAL, bit, bit))
        # Its flags are in memory, which no filter can read: callers fall back to clone.
        rules.add(ERRNO | errno.ENOSYS, "clone3")
        rules.add(KILL, "setns")
    if unit.is_on("RestrictSUIDSGID"):
        for bit in SUID_SGID:
            for call, argument in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mkdir", 1)):
                rules.add(KILL, call, (argument, MASKED_EQUAL, bit, bit))
    if unit.is_on("LockPersonality"):
        rules.add(KILL, "personality", (0, NOT_EQUAL, 0xFFFFFFFF, 0))
    if unit.is_on("RestrictRealtime"):
        rules.add(KILL, "sched_setscheduler", (1, NOT_EQUAL, 0, 0))
    restrict_families(unit, rules)
    rules.load()


def restrict_families(unit: Unit, rules: Filter) -> None:
    """`RestrictAddressFamilies=`; the error is systemd's, for the C library asks and goes on."""
    allowed = {getattr(socket, name) for name in unit.words("RestrictAddressFamilies")}
    for family in set(range(64)) - allowed if allowed else ():
        rules.add(ERRNO | errno.EAFNOSUPPORT, "socket", (0, MASKED_EQUAL, 0xFFFFFFFF, family))


def may(capability: int) -> bool:
    """Whether this process has a capability; root may lack some in a container."""
    status = Path("/proc/self/status").read_text()
    effective = status.partition("CapEff:")[2].split()[0]
    return bool(int(effective, 16) >> capability & 1)


def protect_system(writable: list[str]) -> None:
    """`ProtectSystem=strict` with `ReadWritePaths=`."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, flags: int) -> None:
        code = libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)
        assert code == 0, (target, os.strerror(ctypes.get_errno()))

    assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    mount("none", "/", MS_PRIVATE_REC)
    for path in writable:
        mount(path, path, MS_BIND)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4]
        if target not in writable and not target.startswith(_API_FILESYSTEMS):
            mount("none", target, MS_REMOUNT_BIND | MS_RDONLY)


def confine(unit: Unit, writable: list[str]) -> None:
    """Put everything in force that this process may."""
    if may(CAP_SYS_ADMIN) and unit.values.get("ProtectSystem") == ["strict"]:
        protect_system(writable)
    if may(CAP_SETPCAP):
        drop_capabilities(unit)
    if unit.is_on("NoNewPrivileges"):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    os.umask(int(unit.values.get("UMask", ["0022"])[-1], 8))
    # In this order, since the second filter has to be put in force under the first.
    filter_arguments(unit)
    filter_calls(unit)


def drop_capabilities(unit: Unit) -> None:
    """`CapabilityBoundingSet=`: what is not in it is gone with the next program."""
    kept = {CAPABILITIES[name] for name in unit.words("CapabilityBoundingSet")}
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    libc = ctypes.CDLL(None, use_errno=True)
    for number in set(range(last + 1)) - kept:
        assert libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0


def confined(unit: Path, *writable: Path) -> tuple[str, ...]:
    """Return a command that runs another one under the restrictions of a unit."""
    return (sys.executable, "-m", "tests.support.confined", str(unit), *map(str, writable), "--")


def main() -> None:
    """Confine this process, then become the program."""
    split = sys.argv.index("--")
    path, *writable = sys.argv[1:split]
    program = sys.argv[split + 1 :]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    confine(Unit(Path(path)), writable)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
