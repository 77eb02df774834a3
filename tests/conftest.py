"""One torch thread per test worker: two workers on two cores must not fight."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# In the background of a script or under nohup these are ignored, in every process that a test starts too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import torch  # noqa: E402 - reads OMP_NUM_THREADS when it is imported

torch.set_num_threads(1)
