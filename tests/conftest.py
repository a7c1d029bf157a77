"Tests run on one thread, without a network and without a display."
import os

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")

import torch

torch.set_num_threads(1)
