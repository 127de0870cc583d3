"""Where a command gets its answer: from the running relayd, or from the files of a stopped one."""

from collections.abc import Callable
from typing import TypeVar

from relayd.config.main_conf import Settings
from relayd.control.client import Control, ControlError, NotPermittedError, NotRunningError
from relayd.errors import StartError
from relayd.overview.server import running_process

T = TypeVar("T")


def ask(settings: Settings, online: Callable[[Control], T], offline: Callable[[], T]) -> T:
    """Ask relayd, or do it here if none runs.

    Raises:
        StartError: relayd runs but cannot be asked, or says that it is not possible.
    """
    try:
        return online(Control(settings.general.control_socket))
    except NotRunningError as error:
        process = running_process(settings)
        if process is not None:
            problem = f"relayd runs as process {process}, but cannot be asked: {error}"
            raise StartError(problem) from None
    except (NotPermittedError, ControlError) as error:
        raise StartError(str(error)) from None
    return offline()
