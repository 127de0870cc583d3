"""The administrator's guide, followed: its files and its configuration make a root server work."""

import re
from dataclasses import replace

import pytest

from relayd.commands.demo.postgres import schema
from relayd.commands.demo.postgres.server import Server
from tests.support.daemon import Site, open_daemon
from tests.support.project import CONF, DOCS

TABLES = CONF / "postgresql" / "tables.sql"
GUIDE = (DOCS / "guide.md").read_text()


def steps(section: str) -> list[str]:
    """Return the numbered steps of a section."""
    text = GUIDE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.split(r"\n(?=\d+\. )", text)[1:]


def block(text: str, language: str) -> str:
    """Return the first block of code in a language."""
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_tables_are_those_of_the_tests() -> None:
    """The file that the guide names creates the tables, roles and rights of all tests."""
    text = TABLES.read_text()
    assert text.partition("\n\n")[2] == f"{schema.RUDDER_SCHEMA}\n{schema.RUDDER_RIGHTS}"


@pytest.mark.fault("F50")
@pytest.mark.site(nodes=("node0",))
async def test_guide_makes_a_root_server(site: Site, postgres_server: Server) -> None:
    """With the guide's SQL and configuration, a run log becomes rows."""
    node_id, sql, configuration, *_ = steps("Root server")
    assert "echo root > /opt/rudder/etc/uuid.hive" in node_id
    assert "conf/postgresql/tables.sql" in sql
    postgres_server.psql("CREATE DATABASE guide", database="postgres")
    postgres_server.psql(TABLES.read_text(), database="guide")
    site.database = replace(site.database, database="guide")
    toml = block(configuration, "toml").replace("…", site.database.password)
    for table, lines in re.findall(r"\[(.+)\]\n((?: *\w+ = .*\n)+)", toml):
        site.extra[table] = lines
    assert set(site.extra) == {"processing.reporting", "output.database", "remote_run"}
    site.write()
    async with open_daemon(site) as daemon:
        site.send("node0")
        await daemon.settled()
        assert await daemon.metric("rudder_relayd_reports_total", status="ok") == 1
    assert site.refused() == {}
    postgres_server.psql("DROP DATABASE guide", database="postgres")


@pytest.mark.fault("F50")
def test_each_step_comes_before_what_needs_it() -> None:
    """Rights come before the restart of the web server, and relayd runs before it is checked."""
    text = "\n".join(steps("Root server"))
    order = ["uuid.hive", "tables.sql", "helper =", "usermod", "htpasswd -c", "Until the restart"]
    order += ["systemctl enable", "relayd check", "system/status"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
