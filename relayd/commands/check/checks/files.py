"""The directories of the file exchange."""

from relayd.commands.check.model import Finding, Site, warning
from relayd.commands.check.service_user.permissions import check_directory


async def check(site: Site) -> list[Finding]:
    """Check the shared files' directory, which is written, and the shared folder, which is read."""
    folder = site.settings.shared_folder.path
    found = check_directory(site, site.settings.shared_files.path, "files.permissions", write=True)
    found += check_directory(site, folder, "files.permissions", write=False)
    access = None if site.access is None else site.access[folder]
    if access is not None and access.kind is None and access.blocked is None:
        what = "is not there: nodes get no file of the shared folder"
        mend = "make the directory, or set shared_folder.path to the one that the server fills"
        found.append(warning("files.missing", folder, what, mend))
    return found
