"""Run logs as pure functions of bytes: names, archives, signatures, reports. No I/O, no Trio."""
