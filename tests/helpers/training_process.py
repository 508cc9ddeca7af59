"""Training in one of several processes, which a launcher starts; each writes a record of what it did.

    accelerate launch ... tests/helpers/training_process.py NOTES [options of training.train]

`NOTES/process-N.json` holds its number and pid, how many there are, the examples of each of its training batches with
the modalities that were kept, the number of vectors and the bias of the projection after each correction of the pseudo
tokens, and the log. `FSDP2_ON_CPU=1` splits the weights, as accelerate does only on GPUs.
"""

import faulthandler
import gc
import json
import os
import sys
from pathlib import Path

from accelerate import state
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from training.arguments import parse_arguments
from training.data.collator import SampleCollator
from training.trainer import alignment
from training.trainer.run import train


def split_on_cpu():
    """Make accelerate's FSDP2 accept processes on a CPU."""
    plain = state.AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        first = not state.AcceleratorState._shared_state
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if first and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin or FullyShardedDataParallelPlugin()

    state.AcceleratorState.__init__ = init


def local_size(parameter):
    """Numbers of a parameter that this process holds."""
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return local.numel()


def main(notes, *options):
    batches, corrections = [], []
    correct = alignment.correct_projection

    def recording_correct(model, answered, *arguments):
        correct(model, answered, *arguments)
        bias = model.egmf.pseudo_tokens.projection.bias.tolist()
        corrections.append({"vectors": sum(len(part.fused) for part in answered.values()), "bias": bias})

    alignment.correct_projection = recording_correct
    collate = SampleCollator.__call__

    def recording_collate(self, samples):
        batch = collate(self, samples)
        if "labels" in batch:
            batches.append(
                {
                    "examples": [sample["id"] for sample in samples],
                    "modalities": batch["modality_mask"].int().tolist(),
                    "weight": samples[0]["loss_weight"],
                }
            )
        return batch

    SampleCollator.__call__ = recording_collate
    if os.environ.get("FSDP2_ON_CPU"):
        split_on_cpu()
    trainer = train(*parse_arguments([*options, "--use_cpu"]))
    parameters = list(trainer.model.parameters())
    split = sum(isinstance(parameter, DTensor) for parameter in parameters)
    record = {
        "process": trainer.args.process_index,
        "processes": trainer.args.world_size,
        "pid": os.getpid(),
        "split": split,
        "held": sum(local_size(parameter) for parameter in parameters),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "projection": trainer.model.egmf.pseudo_tokens.projection.bias.detach().tolist() if not split else None,
        "corrections": corrections,
        "batches": batches,
        "log": trainer.state.log_history,
    }
    Path(notes).mkdir(parents=True, exist_ok=True)
    Path(notes, f"process-{record['process']}.json").write_text(json.dumps(record))
    trainer.end_training()
    assert not any(type(thing) is DistributedDataParallel for thing in gc.get_objects())


if __name__ == "__main__":
    faulthandler.dump_traceback_later(400, exit=True)  # a process that hangs prints where, and exits
    main(*sys.argv[1:])
