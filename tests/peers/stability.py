#!/usr/bin/env python3
"""stability.py TRACE FUA FLUSHES: checks a trace made by strace -f -ttt -y.

Replays it in the order of time: a command that arrives at a socket which is answered by a send must have, if it
made anything stable, that call's return before the send. As the client has one command open at a time, the trace
is a sequence of (receive, work, send); the works that hold a RWF_DSYNC write or an fdatasync are counted, and none
may be open when a send starts.
"""
import re
import sys

CALL = re.compile(r"^(\d+)\s+([\d.]+) (.*)$")


def main():
    trace, want_fua, want_flush = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    opened = {}          # tid -> kind of a stable-making call that has not returned
    fua = flush = sends = wrong = 0
    stable_since_send = 0
    sends_after_stable = 0
    for line in open(trace, errors="replace"):
        m = CALL.match(line.rstrip("\n"))
        if not m:
            continue
        tid, _, text = m.groups()
        called = re.match(r"(?:<\.\.\. )?(\w+)", text)
        if not called:  # "+++ exited", "--- SIGTERM": not a call
            continue
        name = called.group(1)
        finished = "<unfinished" not in text
        resumed = text.startswith("<... ")
        kind = None
        if name == "pwritev2" and (resumed and opened.get(tid) == "fua" or "RWF_DSYNC" in text):
            kind = "fua"
        elif name in ("fdatasync", "fsync"):
            kind = "flush"
        if kind:
            if not finished:
                opened[tid] = kind
                continue
            opened.pop(tid, None)
            if not re.search(r"= (0|[1-9]\d*)\b", text):
                print("a call failed:", text)
                wrong += 1
            fua += kind == "fua"
            flush += kind == "flush"
            stable_since_send += 1
        elif name in ("write", "writev", "sendmsg", "sendto") and not resumed and ("socket:" in text or "TCP" in text):
            sends += 1
            if opened:
                print("answered while still being made stable:", text)
                wrong += 1
            sends_after_stable += stable_since_send > 0
            stable_since_send = 0
    print(f"{fua} FUA writes, {flush} flushes, {sends} sends, {sends_after_stable} of them right after one")
    ok = wrong == 0 and fua >= want_fua and flush >= want_flush and sends_after_stable >= want_fua + want_flush
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
