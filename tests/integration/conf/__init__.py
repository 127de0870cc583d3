"""The shipped files for other programs, judged by these programs."""
