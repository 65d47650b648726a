"""The attack on exactness: `python -m bench.chaos --seed N --minutes M` (docs/exactness.md).

`plan` the faults of a seed, `traffic` the events, `stores` a Redis that can lose its last second and a broker that can
be killed, `workers` real worker processes, `attack` carries the plan out, `verify` compares what is left with the
recount of the log (tests/recount).
"""
