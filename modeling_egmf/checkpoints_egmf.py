"""Adapter and standalone checkpoints of EGMF.

    adapter:     config.text_model_id names the language model; model.safetensors holds fusion and trained encoders
    standalone:  config.text_model_id is None; model.safetensors holds everything but PEFT adapters that are not merged

Both load with `EGMFForConditionalGeneration.from_pretrained`, which takes the same keywords for both and checks every
weight, so that none silently keeps its random initialization.

    from_pretrained ─┬─► load_adapter_checkpoint ─┬─ load_text_model        the language model that it names
                     │                            ├─ load_backbone          frozen pretrained encoders that it names
                     │                            └─ load_weights           its own files
                     ├─► load_standalone_checkpoint   as any model of `transformers`, then checked
                     └─► load_adapters                PEFT adapters of the language model, each from its own folder

Next: parts_egmf.py for what it names, loading_egmf.py for the keywords, weights_egmf.py for the files and their
checks, adapters_egmf.py for LoRA.
"""

import copy
import json
import os
import re
from collections.abc import Callable
from typing import Any, Self

from huggingface_hub import file_exists, save_torch_state_dict
from torch import Tensor, nn
from transformers import AutoProcessor, PreTrainedModel
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.utils import PushToHubMixin, cached_file

from .adapters_egmf import adapter_configs, import_peft
from .backbones_egmf import set_attention
from .configuration_egmf import IS_REMOTE_CODE, EGMFConfig
from .decoders_egmf import check_decoder, check_keywords, shared_config
from .fields_egmf import attention_of_parts, ties_word_embeddings
from .loading_egmf import (
    HUB_ARGUMENTS,
    check_device_names,
    file_arguments,
    full_device_map,
    load_config,
    load_new_text_model,
    place_with_language_model,
    text_model_arguments,
)
from .parts_egmf import (
    fingerprint,
    is_local,
    load_backbone,
    load_text_model,
    named_parts,
    text_model_checksum,
    with_located_parts,
    with_relative_parts,
)
from .settings_egmf import settings_checksum, settings_checksums
from .weights_egmf import (
    check_weights,
    checksum,
    explain_loading_errors,
    find_weights,
    load_weights,
    stored_weights,
    weights_name,
    wrong_types,
)


# Fields that name a part, and where it is in the model.
PARTS = {
    "text_model_id": "language_model",
    "audio_config.backbone_id": "egmf.audio_visual_encoder.audio.stem.backbone",
    "video_config.backbone_id": "egmf.audio_visual_encoder.video.stem.backbone",
}

# Parts of the names of weights inside peft's layers, and inside the modules that it trains whole.
PEFT_WRAPPERS = re.compile(r"\b(base_layer|original_module|token_adapter)\.")


# ---- contents of a checkpoint ---------------------------------------------------------------------------------------


def keys_stored_elsewhere(model: PreTrainedModel) -> set[str]:
    """State-dict keys that an adapter checkpoint omits, because the configuration says where to load them from."""
    prefixes = tuple(PARTS[name] for _, _, name in named_parts(model.config))
    keys = {key for key in model.state_dict() if key.startswith(prefixes)}
    for adapter_keys in model.adapter_keys().values():
        keys -= set(adapter_keys.values())
    return keys


def split_weights(
    model: PreTrainedModel, state_dict: dict[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The weights of model.safetensors, and those of each PEFT adapter's file, by their names in the file.

    Args:
        model: to be saved.
        state_dict: its weights, if they are not to be taken from the model itself.
    """
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    adapters = {}
    for name, keys in model.adapter_keys().items():
        adapters[name] = {stored: loaded(model, key, weights.pop(key)) for stored, key in keys.items()}
    for key in keys_stored_elsewhere(model) & weights.keys():
        del weights[key]
    own_weights = {}
    for key, weight in weights.items():
        # Of an output layer that is tied to the embeddings, which have it too.
        if "trainable_tokens_delta" in key:
            continue
        # As without adapters.
        plain_key = PEFT_WRAPPERS.sub("", key)
        # With a device map, the library loads those that it knows by name, one shard at a time.
        if plain_key != key or "hf_device_map" not in vars(model):
            weight = loaded(model, key, weight)
        own_weights[plain_key] = weight
    return own_weights, adapters


def loaded(model: PreTrainedModel, key: str, weight: Tensor) -> Tensor:
    """A weight of the model, which accelerate may have offloaded."""
    return load_offloaded_parameter(model, key) if weight.is_meta else weight


def save_adapters(
    folder: str | os.PathLike,
    model: PreTrainedModel,
    weights: dict[str, dict[str, Tensor]],
    variant: str | None = None,
) -> None:
    """Write the PEFT adapters into a checkpoint's folder; record them, all checksums and the parts in its config.json.

    Args:
        weights: name of the adapter -> its weights, from `split_weights`.
    """
    config = with_relative_parts(model.config, folder)
    own_checksum = checksum(stored_weights(find_weights(folder, variant)))
    config.weights_checksum = {weights_name(variant): own_checksum}
    model.adapter_folders[own_checksum] = os.path.abspath(folder)
    # From now on, adapter_config.json says it.
    config.lora = None
    config.adapters = {}
    for name, peft_config in adapter_configs(model.language_model).items():
        peft_config = copy.copy(peft_config)
        peft_config.base_model_name_or_path = config.text_model_id
        peft_config.revision = config.text_model_revision
        if isinstance(peft_config.target_modules, set):
            peft_config.target_modules = sorted(peft_config.target_modules)
        path = os.path.join(folder, name)
        peft_config.save_pretrained(path)
        file_name = f"{name}/{weights_name(variant, 'adapter_model')}"
        save_torch_state_dict(
            weights[name],
            path,
            filename_pattern=weights_name(variant, "adapter_model{suffix}"),
            # peft reads a single file.
            max_shard_size="1000TB",
        )
        config.weights_checksum[file_name] = checksum(weights[name].items())
        fields = peft_config.from_json_file(os.path.join(path, "adapter_config.json"))
        config.weights_checksum[f"{name}/adapter_config.json"] = settings_checksum(fields)
        config.adapters[name] = name in model.active_adapters()
    config.config_checksum = settings_checksums(json.loads(config.to_json_string()))
    config.to_json_file(os.path.join(folder, "config.json"))


def compare_checksum(
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    file_name: str,
    compute: Callable[[Any], str],
    content: Any,
) -> None:
    """Reject a file that changed after it was saved, if the configuration has its checksum; else nothing is read.

    Args:
        compute: `checksum` or `settings_checksum`, of the content.

    Raises:
        ValueError: it was damaged, or edited without saving the model.
    """
    expected = (config.weights_checksum or {}).get(file_name)
    if expected is not None and compute(content) != expected:
        raise ValueError(
            f"{file_name} of {checkpoint} has changed. Download or save it again. "
            "To keep the edit, delete `weights_checksum` from config.json."
        )


# ---- loading --------------------------------------------------------------------------------------------------------


def load_adapter_checkpoint(
    model_class: type[PreTrainedModel],
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    **kwargs: Any,
) -> tuple[PreTrainedModel, dict]:
    """Build the model around the language model that the configuration names, and load the trained weights.

    Args:
        model_class: `EGMFForConditionalGeneration`.
        checkpoint: folder or Hub id.
        config: its configuration, with a `text_model_id`.
        kwargs: those of `from_pretrained`.

    Returns:
        The model in evaluation mode, and the loading info.
    """
    hub_kwargs = file_arguments(kwargs, HUB_ARGUMENTS)
    paths = find_weights(checkpoint, kwargs.get("variant"), **file_arguments(kwargs))
    weights = dict(stored_weights(paths))
    language_model = load_text_model(checkpoint, config, **hub_kwargs, **text_model_arguments(kwargs))
    audio_backbone = load_backbone(checkpoint, config, "audio", **hub_kwargs)
    video_backbone = load_backbone(checkpoint, config, "video", **hub_kwargs)
    with explain_loading_errors(str(checkpoint)):
        model = model_class(config, language_model, audio_backbone, video_backbone)
    keys = model.state_dict().keys() - keys_stored_elsewhere(model)
    load_weights(checkpoint, model, {key: key for key in keys}, weights)
    file_name = weights_name(kwargs.get("variant"))
    compare_checksum(checkpoint, config, file_name, checksum, weights.items())

    place_with_language_model(model)
    model.name_or_path = str(checkpoint)
    model.eval()
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    # Anything else has raised an error.
    return model, {kind: [] for kind in kinds}


def load_standalone_checkpoint(
    load: Callable[..., tuple[PreTrainedModel, dict]],
    checkpoint: str | os.PathLike,
    config: EGMFConfig,
    **kwargs: Any,
) -> tuple[PreTrainedModel, dict]:
    """Load a checkpoint that holds everything.

    Args:
        load: `PreTrainedModel.from_pretrained` of the model class.
        checkpoint: folder or Hub id.
        config: its configuration, without a `text_model_id`.
        kwargs: those of `from_pretrained`.

    Returns:
        The model in evaluation mode, and the loading info.
    """
    if "gguf_file" in kwargs:
        raise ValueError(f"{checkpoint} has no GGUF file.")
    paths = []
    if "state_dict" not in kwargs:
        paths = find_weights(checkpoint, kwargs.get("variant"), **file_arguments(kwargs))
    kwargs["device_map"] = full_device_map(kwargs.get("device_map"))
    kwargs["output_loading_info"] = True
    # check_weights reports them with all other mismatches.
    kwargs["ignore_mismatched_sizes"] = True
    with explain_loading_errors(str(checkpoint)):
        model, info = load(checkpoint, config=config, **kwargs)
    # The library keeps it in float32 only from 16 bits.
    model.egmf.float()
    weights = model.state_dict()
    mistakes = dict(info)
    if "quantization_config" not in vars(model.config):
        mistakes["wrong types"] = wrong_types(stored_weights(paths), weights)
    check_weights(checkpoint, mistakes, weights)
    file_name = weights_name(kwargs.get("variant"))
    compare_checksum(checkpoint, config, file_name, checksum, stored_weights(paths))
    offloaded = [name for name, weight in weights.items() if weight.is_meta and name.startswith("egmf.")]
    if offloaded:
        raise ValueError(
            f"`device_map` offloads {offloaded[0]}; only the language model can be offloaded. "
            'Map "egmf" to a device, or raise `max_memory`.'
        )
    return model, info


def load_adapters(
    checkpoint: str | os.PathLike,
    model: PreTrainedModel,
    config: EGMFConfig,
    **kwargs: Any,
) -> None:
    """Add the checkpoint's PEFT adapters to the language model, and activate those that were active.

    Afterwards the model's configuration has neither their names nor checksums, which belong to the files.

    Args:
        checkpoint: folder or Hub id.
        config: its configuration.
        kwargs: those of `from_pretrained`.

    Raises:
        OSError, ValueError: files of an adapter are missing, damaged or changed; by name.
    """
    adapters = config.adapters or {}
    variant = kwargs.get("variant")
    hub_kwargs = file_arguments(kwargs)
    for name in adapters:
        hub_kwargs["subfolder"] = os.path.join(kwargs.get("subfolder", ""), name)
        path = cached_file(checkpoint, "adapter_config.json", **hub_kwargs)
        with explain_loading_errors(path):
            fields = import_peft().PeftConfig.from_json_file(path)
        compare_checksum(checkpoint, config, f"{name}/adapter_config.json", settings_checksum, fields)
        weights = model.load_adapter(checkpoint, name, variant, **hub_kwargs)
        file_name = f"{name}/{weights_name(variant, 'adapter_model')}"
        compare_checksum(checkpoint, config, file_name, checksum, weights.items())
    own_checksum = (config.weights_checksum or {}).get(weights_name(variant))
    if own_checksum is not None and os.path.isdir(checkpoint):
        model.adapter_folders[own_checksum] = os.path.join(checkpoint, kwargs.get("subfolder", ""))
    if adapters:
        model.set_adapter([name for name, is_active in adapters.items() if is_active])
    model.config.adapters = None
    model.config.weights_checksum = None


# ---- the same as methods of the model -------------------------------------------------------------------------------


class EGMFCheckpointMixin:
    """Building, loading, saving and pushing of `EGMFForConditionalGeneration`."""

    config: EGMFConfig
    language_model: PreTrainedModel

    @classmethod
    def from_language_model(
        cls,
        language_model: PreTrainedModel | str | os.PathLike,
        config: EGMFConfig,
        audio_backbone: PreTrainedModel | None = None,
        video_backbone: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build a new model around a language model: encoders, fusion, experts and LoRA have yet to be trained.

        Args:
            language_model: Hub id or folder, or the model itself.
            config: without the language model's fields, which are filled in; it is not changed. With a
                `text_model_id`, that is where checkpoints look for a language model that is passed as a model.
            audio_backbone, video_backbone: pretrained encoders, already loaded. None loads those that are frozen and
                have a `backbone_id`.
            kwargs: passed to `AutoModelForCausalLM.from_pretrained`: `dtype`, `device_map` and the like, and
                `attn_implementation` as in `from_pretrained`; none with a model that is loaded.

        Raises:
            TypeError: an unknown argument.
            OSError, ValueError: the language model cannot be found or used, or its weights are incomplete.
        """
        config = copy.copy(config)
        attention = attention_of_parts(kwargs.get("attn_implementation"), config)
        if not isinstance(language_model, PreTrainedModel):
            kwargs["attn_implementation"] = attention["text_config"] or None
            config.text_model_id = os.fspath(language_model)
            config.text_model_revision = kwargs.get("revision", config.text_model_revision)
            kwargs["revision"] = config.text_model_revision or "main"
            language_model = load_new_text_model(config.text_model_id, **kwargs)
        elif kwargs:
            raise TypeError(f"{', '.join(kwargs)}: only for a language model that is to be loaded.")
        if config.text_model_id is None:
            config.text_model_id = language_model.config.name_or_path or None
        if config.text_model_id is not None:
            config.text_model_fingerprint = fingerprint(language_model)
            config.text_model_checksum = text_model_checksum(language_model)
        config.text_config = shared_config(language_model)
        config.tie_word_embeddings = ties_word_embeddings(config.text_config)
        config = with_located_parts(config, os.curdir)
        config._attn_implementation = {**attention, "text_config": {}}
        audio_backbone = audio_backbone or load_backbone("A new model", config, "audio")
        video_backbone = video_backbone or load_backbone("A new model", config, "video")
        model = cls(config, language_model, audio_backbone, video_backbone)
        place_with_language_model(model)
        model.calibrate_pseudo_tokens()
        return model

    @classmethod
    def _from_config(cls, config: EGMFConfig, **kwargs: Any) -> Self:
        """What `AutoModel.from_config` calls. On the meta device, where there are no weights, nothing is refused.

        Raises:
            ValueError: the language model would have random weights.
        """
        if not nn.Linear(1, 1).weight.is_meta:
            raise ValueError(
                "from_config() would give random weights. Use from_pretrained(), or "
                f"{cls.__name__}.from_language_model('ORG/LLM', config) for a new model. "
                f"If you want random weights: {cls.__name__}(config)."
            )
        return super()._from_config(config, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *,
        config: EGMFConfig | str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load an adapter checkpoint or a standalone checkpoint.

        Args:
            kwargs: as for any `from_pretrained`, fields of the configuration included: `text_model_id` says where an
                adapter checkpoint's language model is. `dtype`, `device_map`, `quantization_config` and
                `attn_implementation` apply to the language model, which may be offloaded to CPU or disk.

        Returns:
            The model in evaluation mode; with `output_loading_info`, also the loading info.

        Raises:
            TypeError: an unknown argument.
            OSError, ValueError: a part is absent or damaged, or its weights do not match the model; by name.
        """
        checkpoint = pretrained_model_name_or_path
        config, kwargs = load_config(config, checkpoint, kwargs)
        config = with_located_parts(config, checkpoint, kwargs.get("subfolder", ""))
        check_decoder(config.text_config)
        if config.text_model_id is not None:
            model, info = load_adapter_checkpoint(cls, checkpoint, config, **kwargs)
        else:
            model, info = load_standalone_checkpoint(super().from_pretrained, checkpoint, config, **kwargs)
        check_device_names(full_device_map(kwargs.get("device_map")), model)
        load_adapters(checkpoint, model, config, **kwargs)
        model.freeze()
        return (model, info) if kwargs.get("output_loading_info") else model

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs: Any) -> None:
        """As in `transformers`, by part of the model; as in `from_pretrained`, a name alone is for the language model.

        Raises:
            TypeError: there is no such part.
        """
        attention = attention_of_parts(attn_implementation, self.config)
        # One by one: not every version of `transformers` finds nested models.
        self.language_model.set_attn_implementation(attention["text_config"], **kwargs)
        set_attention(self.egmf.audio_visual_encoder, attention, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save an adapter checkpoint if `config.text_model_id` names a language model, else a standalone one.

        Each PEFT adapter of the language model is saved in a folder of its name, as peft saves it.

        Args:
            kwargs: as for any `save_pretrained`. With `push_to_hub=True`, `push_to_hub` is called afterwards, because
                the checksum of the weights is recorded when they are saved.

        Raises:
            ValueError: `push_to_hub=True` with a `variant`, which is not uploaded; or `safe_serialization=False`.
        """
        hub_arguments = ("repo_id", "commit_message", "private", "create_pr")
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("Weights are saved as safetensors: leave out safe_serialization=False.")
        check_keywords(self.save_pretrained, kwargs, super().save_pretrained, hub_arguments)
        pushes = kwargs.pop("push_to_hub", False)
        hub_kwargs = {name: kwargs.pop(name) for name in hub_arguments if name in kwargs}
        if pushes and kwargs.get("variant") is not None:
            raise ValueError("`push_to_hub=True` does not upload a `variant`.")
        if self.config.text_model_id is not None:
            # An adapter checkpoint keeps our key names.
            kwargs.setdefault("save_original_format", False)
        weights, adapters = split_weights(self, kwargs.pop("state_dict", None))
        super().save_pretrained(save_directory, state_dict=weights, **kwargs)
        if kwargs.get("is_main_process", True) and not kwargs.get("distributed_checkpoint"):
            save_adapters(save_directory, self, adapters, kwargs.get("variant"))
        if pushes and kwargs.get("is_main_process", True):
            hub_kwargs.setdefault("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(**hub_kwargs, token=kwargs.get("token"))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the model with its code, and the processor of the folder it was loaded from.

        Args:
            repo_id: of the Hub.
            kwargs: as for any `push_to_hub`.

        Returns:
            The address of the commit.

        Raises:
            ValueError: the checkpoint names a local folder, or there is no processor, neither in the folder nor in
                the repo.
        """
        check_keywords(self.push_to_hub, kwargs, PushToHubMixin.push_to_hub)
        for owner, field, name in named_parts(self.config):
            part = getattr(owner, field)
            if is_local(part):
                raise ValueError(
                    f"The checkpoint names {part}, a folder that no one else has. Name a repo with the "
                    f"same weights first: model.config.{name} = 'ORG/NAME'. "
                    "Or use `python -m training.push_to_hub`, which can upload them."
                )
        if os.path.isfile(os.path.join(self.name_or_path, "processor_config.json")):
            # The model's code came from the same folder.
            processor = AutoProcessor.from_pretrained(self.name_or_path, trust_remote_code=IS_REMOTE_CODE)
            processor.push_to_hub(repo_id, **kwargs)
        elif not file_exists(
            repo_id, "processor_config.json", token=kwargs.get("token"), revision=kwargs.get("revision")
        ):
            raise ValueError(f"Push the processor first: processor.push_to_hub({repo_id!r}).")
        return super().push_to_hub(repo_id, **kwargs)
