"""callbench: how many calls one core carries, how late the agent answers, and what a call costs.

One system at a time is pinned to one core and given a growing number of concurrent calls; phones and providers run on
the other core. `python -m load_tests.callbench --help`.
"""
