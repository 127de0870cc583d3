"""The SELinux policy: linked with the distribution's own policy, then asked what it allows."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.config.main_conf import Settings
from tests.support.selinux import Policy, link_policy
from tools.lock import REPOSITORY

OWN = {"relayd_runtime_t", "relayd_spool_t", "relayd_var_lib_t"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Return the reference policy with relayd's module in it."""
    return link_policy(REPOSITORY / "selinux", tmp_path_factory.mktemp("selinux"))


@pytest.mark.fault("D.6.4")
@pytest.mark.parametrize("permission", ["execmem", "execstack", "execheap", "ptrace"])
def test_daemon_memory_is_never_both_written_and_run(policy: Policy, permission: str) -> None:
    """The daemon may neither run what it has written to memory, nor touch another process's."""
    assert policy.allowed("relayd_t", "process", permission) == {}


@pytest.mark.fault("D.6.4")
def test_daemon_writes_to_its_own_files_only(policy: Policy) -> None:
    """Files can be opened for writing, made, renamed and removed in its own directories only."""
    for permission in ("create", "rename", "unlink", "setattr", "link"):
        assert set(policy.allowed("relayd_t", "file", permission)) <= OWN, permission
    both = policy.allowed("relayd_t", "file", "write").keys() & policy.allowed(
        "relayd_t", "file", "open"
    )
    assert both == {"relayd_spool_t", "relayd_t", "relayd_var_lib_t"}
    assert set(policy.allowed("relayd_t", "dir", "add_name")) == OWN


@pytest.mark.fault("D.6.4")
def test_daemon_has_no_privileges(policy: Policy) -> None:
    """No capability but that for low ports, no change of a label, no other identity."""
    assert policy.allowed("relayd_t", "capability", "net_bind_service") == {
        "relayd_t": "relayd_front_door"
    }
    assert policy.allowed("relayd_t", "capability") == {"relayd_t": "relayd_front_door"}
    for kind in ("capability2", "cap_userns"):
        assert policy.allowed("relayd_t", kind) == {}
    assert policy.allowed("relayd_t", "process", "setexec") == {}
    assert policy.allowed("relayd_t", "file", "relabelto") == {}


@pytest.mark.fault("D.6.4")
def test_daemon_network_is_its_port_the_database_and_https(policy: Policy) -> None:
    """The daemon listens on its own port, and connects to PostgreSQL, HTTPS and name servers.

    The ports of web servers need a boolean.
    """
    bound = policy.allowed("relayd_t", "tcp_socket", "name_bind")
    assert bound == {"relayd_port_t": "", "http_port_t": "relayd_front_door"}
    ports = {"dns_port_t", "http_port_t", "postgresql_port_t"}
    assert set(policy.allowed("relayd_t", "tcp_socket", "name_connect")) == ports
    for kind in ("packet_socket", "rawip_socket"):
        assert policy.allowed("relayd_t", kind, "create") == {}


@pytest.mark.parametrize("secret", ["shadow_t", "user_home_t", "ssh_home_t", "sshd_key_t"])
def test_daemon_reads_no_secrets_of_others(policy: Policy, secret: str) -> None:
    """Passwords, keys and homes are not readable."""
    assert secret not in policy.allowed("relayd_t", "file", "read")


@pytest.mark.fault("D.6.4")
def test_remote_run_needs_its_boolean(policy: Policy) -> None:
    """All booleans are off as shipped, and without them nothing is started as another domain."""
    assert policy.booleans("relayd_") == {
        "relayd_front_door": False,
        "relayd_remote_run_helper": False,
        "relayd_remote_run_sudo": False,
    }
    assert policy.allowed("relayd_t", "process", "transition") == {
        "relayd_remote_run_t": "relayd_remote_run_sudo"
    }
    assert policy.allowed("relayd_t", "file", "execute")["sudo_exec_t"] == "relayd_remote_run_sudo"
    sockets = policy.allowed("relayd_t", "sock_file", "write")
    assert sockets["relayd_helper_runtime_t"] == "relayd_remote_run_helper"
    listeners = policy.allowed("relayd_t", "unix_stream_socket", "connectto")
    assert listeners["init_t"] == "relayd_remote_run_helper"


def test_web_server_reaches_spool_and_api_but_no_passwords(policy: Policy) -> None:
    """The web server writes uploads and speaks to the API; it does not read main.conf."""
    assert "relayd_spool_t" in policy.allowed("httpd_t", "file", "create")
    assert "relayd_port_t" in policy.allowed("httpd_t", "tcp_socket", "name_connect")
    assert "relayd_t" in policy.allowed("httpd_t", "unix_stream_socket", "connectto")
    readable = policy.allowed("httpd_t", "file", "open")
    assert readable.get("relayd_conf_t", "a boolean") != ""


def test_daemon_can_do_its_work(policy: Policy) -> None:
    """Policy covers what relayd needs: configuration, nodes, spool, inotify, its interpreter."""
    readable = policy.allowed("relayd_t", "file", "open")
    assert {"relayd_conf_t", "relayd_data_t", "relayd_spool_t", "lib_t"} <= readable.keys()
    assert {"bin_t", "relayd_exec_t"} <= policy.allowed("relayd_t", "file", "execute").keys()
    assert "relayd_spool_t" in policy.allowed("relayd_t", "dir", "watch")
    assert "init_t" in policy.allowed("relayd_t", "unix_dgram_socket", "sendto")


def default_paths() -> Iterator[tuple[str, str]]:
    """Paths of the default configuration and of the package → type."""
    settings = Settings()
    yield str(settings.processing.reporting.directory / "incoming" / "a.log"), "relayd_spool_t"
    yield str(settings.processing.inventory.directory / "failed"), "relayd_spool_t"
    yield str(settings.shared_files.path / "node"), "relayd_spool_t"
    yield str(settings.shared_folder.path / "file"), "relayd_data_t"
    yield str(settings.general.nodes_list_file), "relayd_data_t"
    yield str(settings.general.nodes_certs_file), "relayd_data_t"
    yield str(settings.output.upstream.server_certificate_file), "relayd_data_t"
    yield "/opt/rudder/etc/relayd/main.conf", "relayd_conf_t"
    yield "/usr/lib/relayd/bin/rudder-relayd", "relayd_exec_t"
    yield "/usr/lib/relayd/bin/rudder-relayd-helper", "relayd_helper_exec_t"
    yield "/usr/lib/relayd/lib/python3.11/site-packages/relayd/commands/cli.py", "lib_t"
    yield "/usr/lib/systemd/system/relayd.service", "relayd_unit_t"
    yield "/run/rudder-relayd/api.sock", "relayd_runtime_t"
    yield str(settings.general.control_socket), "relayd_runtime_t"
    yield str(settings.general.state_directory / "paused.json"), "relayd_var_lib_t"
    yield "/run/rudder-relayd-helper.sock", "relayd_helper_runtime_t"


@pytest.mark.parametrize(("path", "label"), list(default_paths()))
def test_path_is_labelled(policy: Policy, path: str, label: str) -> None:
    """Every path of the default configuration and of the package gets its label."""
    assert policy.label(path) == label


def test_interfaces_can_be_called(tmp_path: Path) -> None:
    """A module of someone else that calls each interface compiles."""
    shutil.copytree(REPOSITORY / "selinux", tmp_path, dirs_exist_ok=True)
    interfaces = ["domtrans", "manage_spool", "connect_api", "read_config"]
    calls = "".join(f"relayd_{name}(other_t)\n" for name in interfaces)
    (tmp_path / "other.te").write_text(
        "policy_module(other, 1.0.0)\ntype other_t;\ndomain_type(other_t)\n"
        f"role system_r types other_t;\n{calls}relayd_admin(other_t, system_r)\n"
    )
    makefile = "/usr/share/selinux/devel/Makefile"
    if not Path(makefile).exists():
        pytest.skip("selinux-policy-dev is not installed")
    subprocess.run(["make", "-f", makefile, "other.pp"], cwd=tmp_path, check=True)
    assert (tmp_path / "other.pp").exists()
