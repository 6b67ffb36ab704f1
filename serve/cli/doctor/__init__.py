"""`retouch doctor`: what a start would refuse, and what an operator should know, without starting anything.

A file holds the checks of one subject: functions that take the settings and yield findings. `examine` puts them in
their order; a new check is a function there. They load what takes long when they run, so that a check which needs no
torch also works where torch is broken.
"""
