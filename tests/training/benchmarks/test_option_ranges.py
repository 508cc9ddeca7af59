"""Numbers, devices and folders that no benchmark can use are refused in one line that names the option."""

import pytest

from training.benchmarks.cost import converters, encoder_cache, gpu, memory, padding, speed
from training.benchmarks.real_data import __main__ as real_data


GPU = [gpu, "--shape", "tiny", "--device", "cpu", "--dtype", "float32"]
SPEED = [speed, "--text_model_name_or_path", "none"]
MEMORY = [memory, "--backbone", "glm3-6b"]
PADDING = [padding, "--text_model_name_or_path", "none"]
CACHE = [encoder_cache, "--text_model_name_or_path", "none"]
CONVERTERS = [converters, "--tokenizer", "none", "--folder"]


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (GPU, "batch_size", "1000000000000"),
        (GPU, "repeats", "-1"),
        (GPU, "words", "-5"),
        (GPU, "length", "1000000000000"),
        (GPU, "peak_tflops", "nan"),
        (SPEED, "batch_size", "0"),
        (SPEED, "batch_size", "1000000000000"),
        (SPEED, "repeats", "0"),
        (SPEED, "threads", "-1"),
        (SPEED, "device", "gpu7"),
        (MEMORY, "batch_size", "1000000000000"),
        (MEMORY, "seconds", "nan"),
        (MEMORY, "seconds", "-1.0"),
        (MEMORY, "words", "-1"),
        (PADDING, "batch_sizes", "0"),
        (PADDING, "max_samples", "-3"),
        (CACHE, "width", "33"),
        (CACHE, "width", "0"),
        (CACHE, "layers", "0"),
        (CACHE, "clips", "0"),
        (CACHE, "batch_size", "-8"),
        (CONVERTERS, "share", "inf"),
        (CONVERTERS, "share", "nan"),
        (CONVERTERS, "distinct", "0"),
        (CONVERTERS, "num_workers", "-1"),
    ],
)
def test_values_that_cannot_be_used_are_refused(command, option, value, tmp_path):
    module, *options = command
    if module is converters:
        options.append(str(tmp_path))
    with pytest.raises(SystemExit, match=rf"^error: --{option} (is )?{value}[; ]") as refusal:
        module.main([*options, f"--{option}={value}"])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("module", [speed, padding, encoder_cache])
def test_missing_language_models_are_named(module):
    with pytest.raises(SystemExit, match="missing/model"):
        module.main(["--text_model_name_or_path", "missing/model/folder"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "missing/releases"], "error: --dataset missing/releases is not a folder"),
        (["--dataset", ".", "--seeds=-1"], "error: --seeds is -1; it must be at least 0"),
    ],
)
def test_benchmarks_of_real_data_refuse(options, message):
    with pytest.raises(SystemExit, match=message):
        real_data.main(options)
