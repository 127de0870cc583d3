"""The directories of shared files and of the shared folder."""

from relayd.commands.check.model import Finding, Level, Site, warning
from relayd.commands.check.service_user.permissions import check_directory
from relayd.commands.check.settings.places import judge_openness
from relayd.system.threads import in_thread


async def check(site: Site) -> list[Finding]:
    """Check that relayd can write shared files and read the shared folder."""
    folder = site.settings.shared_folder.path
    found = check_directory(site, site.settings.shared_files.path, "files.permissions", write=True)
    found += check_directory(site, folder, "files.permissions", write=False)
    found += await in_thread(
        judge_openness,
        site,
        "files.writable",
        folder,
        "what nodes download",
        Level.WARNING,
        abandon_on_cancel=True,
    )
    access = None if site.access is None else site.access[folder]
    if access is not None and access.kind is None and not (access.blocked or access.link):
        what = "does not exist; nodes get no files of the shared folder"
        fix = "create the directory, or set shared_folder.path to the one that the server fills"
        found.append(warning("files.missing", folder, what, fix))
    return found
