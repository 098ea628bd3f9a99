"""Stands in for a run's process where only its end matters, and starts in 20 ms: `standin.py FOLDER ENDS [--halved]`.

It leaves signs of life and results as a run does, and then ends in the way it is told to, one word per try.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

folder, ends, *rest = sys.argv[1:]
tries = os.path.join(os.path.dirname(folder), os.path.basename(folder) + ".tries")
with open(tries, "a") as file:
    file.write(" ".join(rest) + "\n")
with open(tries) as file:
    number = len(file.readlines())
with open(os.path.join(folder, "state.json"), "w") as file:
    json.dump({"pid": os.getpid(), "phase": "training", "step": 1, "steps": 2, "beats": number}, file)
print(f"try {number}", flush=True)


def write_result() -> None:
    shutil.copyfile(os.path.join(os.path.dirname(folder), "result.template"), os.path.join(folder, "result.json"))


words = ends.split(",")
match words[min(number, len(words)) - 1]:
    case "done":
        write_result()
    case "killed-after-result":
        write_result()
        os.kill(os.getpid(), signal.SIGKILL)
    case "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    case "killed-by-kernel":  # which counts it
        with open(os.environ["KERNEL_COUNTERS"], "w") as file:
            file.write(f"pgfault 7\noom_kill {number}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    case "exceeds":  # more memory than its group may have, so that the kernel itself kills it
        with open(os.path.join(os.environ["MEMORY_GROUP"], "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))
        bytearray(200_000_000)
    case "raises":
        raise ValueError("the arm is broken")
    case "out-of-memory":
        sys.exit(3)
    case "no-room":
        print("error: disk full: needs 2 MB, free 0 B")
        sys.exit(4)
    case "returns":
        pass
    case "hangs":  # with a child, and deaf to requests
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(os.path.join(os.path.dirname(folder), "child"), "w") as file:
            file.write(str(child.pid))
        time.sleep(600)
