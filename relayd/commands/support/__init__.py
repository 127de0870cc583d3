"""The command `relayd support`: one archive for a bug report, without secrets."""
