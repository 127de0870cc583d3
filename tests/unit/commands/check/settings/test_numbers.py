"""Numbers without sense: every key with a number has a range."""

from typing import Final

import pytest

from relayd.commands.check.settings.numbers import RANGES
from relayd.config.main_conf import Settings
from relayd.config.toml import leaves

#: Judged by the machine, or bounded by what a port is.
_OTHERS: Final = {"general.core_threads", "general.https_port"}


@pytest.mark.fault("F35")
def test_every_number_has_a_range_and_its_default_lies_within() -> None:
    """Each key with a number or a duration is judged, and no default is reported."""
    for key, value in leaves(Settings()):
        if isinstance(value, bool) or not isinstance(value, int | float) or key in _OTHERS:
            continue
        (one,) = [one for one in RANGES if key.endswith(one.key)]
        assert one.low <= value <= one.high or value == one.off
        assert one.below or one.low <= 1
