"""The floor: what a call costs in Python without features. One process, raw libraries, a write per frame.

It passes the callee's audio on to the transcriber, asks the model once per turn and plays the answer with a lead of
220 ms; a callee who speaks clears it. No SDKs, journal, recording, limits, deadlines, retries or metrics: it is a
yardstick beside which callbench puts real systems, not a server for anybody.
"""
