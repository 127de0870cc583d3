"""Build the Debian package: `python -m tools.deb DIR` writes relayd_VERSION_ARCH.deb to DIR.

The package contains a virtual environment in /usr/lib/relayd, built from requirements.lock with all
hashes checked, so installation needs no network and dpkg knows every file. It works with the Python
and the architecture it was built for. The build is reproducible: the same sources, lock and
SOURCE_DATE_EPOCH give the same bytes.

A PEP 405 environment needs an interpreter link, pyvenv.cfg and site-packages. It is laid out here
and not by `venv`, which would write the path of the build into its files. For the format of the
package see deb-control(5) and Debian Policy, chapters 3 and 6.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from tools import completions, manpages
from tools.lock import REPOSITORY, runtime_lock
from tools.sbom import SBOM, installed_licences

HOME: Final = Path("usr/lib/relayd")
DOCUMENTS: Final = Path("usr/share/doc/relayd")
RECIPE: Final = REPOSITORY / "packaging" / "debian"
REVISION: Final = "1"
MAINTAINER: Final = "The relayd authors <root@localhost>"

#: Files of the repository → where they are installed; directories with their contents.
FILES: Final[Mapping[str | Path, str | Path]] = {
    "conf/main.conf": "usr/share/relayd/main.conf",
    "conf/logging.conf": "usr/share/relayd/logging.conf",
    "conf/sysusers.d/relayd.conf": "usr/lib/sysusers.d/relayd.conf",
    "conf/tmpfiles.d/relayd.conf": "usr/lib/tmpfiles.d/relayd.conf",
    "conf/apache": DOCUMENTS / "examples" / "apache",
    "conf/nginx": DOCUMENTS / "examples" / "nginx",
    "conf/postgresql": DOCUMENTS / "examples" / "postgresql",
    "conf/ha": DOCUMENTS / "examples" / "ha",
    "conf/sudoers": DOCUMENTS / "examples" / "sudoers",
    "conf/prometheus": DOCUMENTS / "examples" / "prometheus",
    "selinux": DOCUMENTS / "examples" / "selinux",
    "conf/grafana": DOCUMENTS / "examples" / "grafana",
    "packaging/debian/README.Debian": DOCUMENTS / "README.Debian",
    SBOM: DOCUMENTS / SBOM.name,
    # In the places that their links to each other expect.
    "README.md": DOCUMENTS / "README.md",
    "CHANGELOG.md": DOCUMENTS / "CHANGELOG.md",
    "docs": DOCUMENTS / "docs",
    "benchmarks/README.md": DOCUMENTS / "benchmarks" / "README.md",
}
SCRIPT: Final = """\
#!/{home}/bin/python -IXutf8
import sys

from {module} import {function}

sys.exit({function}())
"""
CONFIG: Final = "home = {home}\ninclude-system-site-packages = false\nversion = {version}\n"


@dataclass(frozen=True, slots=True)
class Python:
    """The interpreter that the package is built for.

    Attributes:
        path: absolute path on the machine where the package is installed.
        version: for example "3.11".
    """

    path: Path
    version: str

    @classmethod
    def find(cls, path: Path = Path("/usr/bin/python3")) -> "Python":
        """Return the system's interpreter, with its versioned name."""
        show = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = _output(str(path), "-I", "-c", show)
        return cls(path.with_name(f"python{version}"), version)


def build(directory: Path) -> Path:
    """Build the package into a directory and return its path.

    Raises:
        subprocess.CalledProcessError: pip or dpkg-deb failed, after printing why.
    """
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = Python.find()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        install_packages(root, python, project["version"])
        install_scripts(root, python, project["scripts"])
        version = f"{project['version']}-{REVISION}"
        install_files(root)
        install_changelog(root, version)
        install_units(root)
        install_pages(root)
        install_completions(root)
        install_copyright(root)
        normalise_modes(root)
        write_control(root, python, version)
        package = directory / f"relayd_{version}_{_architecture()}.deb"
        _run("dpkg-deb", "-Zzstd", "--root-owner-group", "--build", str(root), str(package))
    return package


def install_packages(root: Path, python: Python, version: str) -> None:
    """Install relayd and its dependencies, hashes checked, into the environment."""
    environment = root / HOME
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(python.path)
    text = CONFIG.format(home=python.path.parent, version=python.version)
    (environment / "pyvenv.cfg").write_text(text, encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        wheels = Path(name)
        lock = wheels / "runtime.txt"
        lock.write_text("".join(package.text for package in runtime_lock().values()))
        options = ["--no-deps", "--no-build-isolation", "--wheel-dir", name]
        _pip("wheel", *options, str(REPOSITORY))
        into = ["--python", str(environment / "bin" / "python")]
        locked = ["--require-hashes", "--only-binary", ":all:", "-r", str(lock)]
        _pip(*into, "install", "--no-compile", "--no-deps", *locked)
        # By name, not by path: pip would record the path of the wheel in the installation.
        own = ["--no-index", "--find-links", name, f"relayd=={version}"]
        _pip(*into, "install", "--no-compile", "--no-deps", *own)
    _strip(environment)
    compile_modules(root, python)


def _strip(environment: Path) -> None:
    """Remove the dependencies' commands and C headers, and pip's records with build paths."""
    for script in (environment / "bin").iterdir():
        if script.name != "python":
            script.unlink()
    shutil.rmtree(environment / "include", ignore_errors=True)
    for name in ("RECORD", "INSTALLER", "REQUESTED"):
        for path in environment.rglob(f"*.dist-info/{name}"):
            path.unlink()


def compile_modules(root: Path, python: Python) -> None:
    """Compile all modules in advance, as the daemon may not write there.

    This includes modules that are compiled already: some releases of pip import packages that they
    have just installed, and leave files that depend on the modification times of the sources,
    which change later.
    """
    site = HOME / "lib" / f"python{python.version}"
    prefixes = ["-s", str(root), "-p", "/"]
    mode = ["--invalidation-mode", "unchecked-hash"]
    command = [str(python.path), "-I", "-m", "compileall", "-f", "-q", *prefixes, *mode]
    command.append(str(root / site))
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "0"})


def install_scripts(root: Path, python: Python, scripts: Mapping[str, str]) -> None:
    """Write the commands, isolated from PYTHON* variables, user site-packages and the locale."""
    (root / "usr" / "bin").mkdir(parents=True)
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        script = root / HOME / "bin" / name
        script.write_text(SCRIPT.format(home=HOME, module=module, function=function))
        (root / "usr" / "bin" / name).symlink_to(f"../{HOME.relative_to('usr')}/bin/{name}")


def install_files(root: Path) -> None:
    """Copy the files that are installed unchanged."""
    for source, target in FILES.items():
        path = root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, path)
        else:
            shutil.copyfile(REPOSITORY / source, path)


def install_changelog(root: Path, version: str) -> None:
    """Write dpkg's own changelog, which refers to the real one; see deb-changelog(5)."""
    moment = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC)
    text = (
        f"relayd ({version}) stable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
        f" -- {MAINTAINER}  {format_datetime(moment)}\n"
    )
    _compress(text.encode(), root / DOCUMENTS / "changelog.Debian.gz")


def install_units(root: Path) -> None:
    """Install the units; the daemon's gets the name of Rudder's own as an alias.

    A file rudder-relayd.service would conflict with that of Rudder's package. An alias is a link
    below /etc that exists while the unit is enabled, and takes precedence.
    """
    target = root / "usr" / "lib" / "systemd" / "system"
    target.mkdir(parents=True)
    for unit in sorted((REPOSITORY / "systemd").iterdir()):
        if unit.is_dir():
            shutil.copytree(unit, root / DOCUMENTS / "examples" / "systemd" / unit.name)
            continue
        text = unit.read_text(encoding="utf-8")
        name = unit.name
        if name == "rudder-relayd.service":
            name = "relayd.service"
            text = text.replace("[Install]\n", "[Install]\nAlias=rudder-relayd.service\n")
        (target / name).write_text(text, encoding="utf-8")


def install_pages(root: Path) -> None:
    """Write the man pages, compressed."""
    with tempfile.TemporaryDirectory() as name:
        for page in manpages.write(Path(name)):
            section = root / "usr" / "share" / "man" / f"man{page.suffix[1:]}"
            section.mkdir(parents=True, exist_ok=True)
            _compress(page.read_bytes(), section / f"{page.name}.gz")


def install_completions(root: Path) -> None:
    """Write the scripts with which shells complete the commands, where each looks for them."""
    for name, text in completions.scripts().items():
        path = root / "usr" / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def install_copyright(root: Path) -> None:
    """Write the copyright file: the licences of relayd and of the bundled packages."""
    packages = runtime_lock()
    lines = [
        f" {name} {packages[name].version}: {text}"
        for name, text in installed_licences(packages).items()
    ]
    text = (RECIPE / "copyright.in").read_text(encoding="utf-8")
    (root / DOCUMENTS / "copyright").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def normalise_modes(root: Path) -> None:
    """Set the modes of all files, independently of the builder's umask."""
    for path in root.rglob("*"):
        if not path.is_symlink():
            script = path.parent == root / HOME / "bin"
            path.chmod(0o755 if path.is_dir() or script else 0o644)


def write_control(root: Path, python: Python, version: str) -> None:
    """Write DEBIAN/: control file, checksums, maintainer scripts."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    control = root / "DEBIAN"
    control.mkdir()
    control.chmod(0o755)
    sums = [f"{_digest('md5', path)}  {path.relative_to(root)}\n" for path in files]
    (control / "md5sums").write_text("".join(sums), encoding="utf-8")
    values = {
        "ARCHITECTURE": _architecture(),
        "DIRECTORIES": " ".join(reversed(list(_spool(root)))),
        "GLIBC": _glibc(root),
        "LOGGING_CONF": f"{_digest('sha256', root / 'usr/share/relayd/logging.conf')}  -",
        "MAINTAINER": MAINTAINER,
        "MAIN_CONF": f"{_digest('sha256', root / 'usr/share/relayd/main.conf')}  -",
        "PYTHON": f"python{python.version}",
        "SIZE": str(sum(path.stat().st_size for path in files) // 1024),
        "VERSION": version,
    }
    for name in ("control.in", "postinst", "prerm", "postrm"):
        text = (RECIPE / name).read_text(encoding="utf-8")
        path = control / name.removesuffix(".in")
        path.write_text(re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text))
        path.chmod(0o644 if name == "control.in" else 0o755)
    (control / "md5sums").chmod(0o644)


def _spool(root: Path) -> Iterator[str]:
    """Yield the directories that systemd-tmpfiles creates."""
    text = (root / "usr/lib/tmpfiles.d/relayd.conf").read_text(encoding="utf-8")
    yield from re.findall(r"^d (\S+)", text, re.MULTILINE)


def _glibc(root: Path) -> str:
    """Return the oldest glibc that all bundled binaries work with (PEP 600)."""
    found = [(2, 17)]
    for path in (root / HOME).rglob("*.dist-info/WHEEL"):
        tags = re.findall(r"^Tag: .*manylinux_(\d+)_(\d+)_", path.read_text(), re.MULTILINE)
        # A wheel with several tags works with the oldest of them.
        found += [min((int(major), int(minor)) for major, minor in tags)] if tags else []
    return "{}.{}".format(*max(found))


def _compress(data: bytes, target: Path) -> None:
    target.write_bytes(gzip.compress(data, 9, mtime=0))


def _digest(algorithm: str, path: Path) -> str:
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def _architecture() -> str:
    return _output("dpkg", "--print-architecture")


def _pip(*arguments: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    _run(sys.executable, "-m", "pip", *quiet, *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(sys.argv[1]))}\n")
