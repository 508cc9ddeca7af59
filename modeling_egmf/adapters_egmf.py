"""PEFT adapters of the language model: LoRA, or any other method of peft that adapts linear layers.

    checkpoint ─┬─ config.json                              names its adapters, and says which are active
                ├─ default/ ─┬─ adapter_config.json         each as peft stores it, in a folder of its name, so that
                │            └─ adapter_model.safetensors   PeftModel.from_pretrained(language_model, folder) loads it
                └─ german/ ...

Not beside config.json: `transformers` takes an adapter there for one of the whole model, and from the Hub its Auto
classes then load the language model that adapter_config.json names, instead of EGMF.

The methods of `PeftAdapterMixin` add and switch adapters. Its `load_adapter` is not used: that of transformers 5.23
leaves out DoRA's magnitudes, rounds to the language model's precision, and leaves offloaded weights empty.

An adapter's weights are in float32, and never offloaded: they stay on the device that their layer computes on. peft
ignores a target or a layer that the model does not have as long as another one matches; here each must match.
"""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file, cached_files

from .decoders_egmf import check_keywords
from .fields_egmf import NAMES, check_adapter_fields, unknown_fields
from .weights_egmf import (
    checksum,
    explain_loading_errors,
    in_memory,
    load_weights,
    stored_weights,
    weights_name,
)


# Quantized linear layers are subclasses of nn.Linear.
LINEAR_LAYERS = (nn.Linear, Conv1D)
# For an architecture without an entry in peft's table: query and value, or the layer that computes them together.
DEFAULT_TARGETS = (["q_proj", "v_proj"], ["qkv_proj"], ["query_key_value"], ["c_attn"], ["Wqkv"])
# Methods of peft that adapt linear layers, have no effect at first, and survive saving and loading; not BOFT, which
# compiles code for the GPU when it is built.
METHODS = ("LORA", "ADALORA", "DELORA", "GRALORA", "HRA", "IA3", "LOHA", "LOKR", "MISS", "OFT", "ROAD")
# Initial values of LoRA that leave the frozen weights as they are; others subtract a part of them.
KEEPING_INITS = (True, False, "gaussian", "orthogonal")
# Other fields that are refused, and why.
REFUSED_FIELDS = {
    "layer_replication": "changes the language model's layers",
    "alora_invocation_tokens": "needs token ids, which pseudo tokens lack",
    "bias": "trains the frozen language model",
}
# peft's warnings about fields that name nothing in the language model, or are not read.
NO_EFFECT = r"The following (rank|alpha)_pattern|target_parameters=|You have passed exclude|.*ignored when"
# Its warnings about several adapters and GPT-2's layers, which are no problems.
EXPECTED = "Already found|fan_in_fan_out is set"


def import_peft() -> ModuleType:
    """peft, which only models with adapters need.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import peft.functional
    except ImportError as error:
        raise ImportError("Adapters need: pip install peft") from error
    return peft


# ---- the layers of an adapter -----------------------------------------------------------------------------------


def linear_layer_names(language_model: PreTrainedModel) -> list[str]:
    """Full names of a language model's own linear layers, such as `model.layers.0.mlp.up_proj`."""
    modules = language_model.named_modules()
    names = [name for name, module in modules if isinstance(module, LINEAR_LAYERS)]
    adapted = [name.replace(".base_layer", "") for name in names if name.endswith(".base_layer")]
    inside = tuple(f"{name}." for name in adapted)
    return adapted + [name for name in names if not name.startswith(inside)]


def short_names(layer_names: list[str]) -> list[str]:
    """The last parts of the names, each once: `q_proj`."""
    return sorted({name.rpartition(".")[2] for name in layer_names})


def default_lora_targets(language_model: PreTrainedModel) -> list[str] | str:
    """The layers that usually get LoRA in this architecture, from peft's table or else `DEFAULT_TARGETS`.

    Raises:
        ValueError: peft does not know the architecture, and it has no such layers.
    """
    known = short_names(linear_layer_names(language_model))
    model_type = language_model.config.model_type
    targets = import_peft().utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    for candidates in (targets, *DEFAULT_TARGETS):
        if isinstance(candidates, list) and set(candidates) <= set(known):
            return list(candidates)
    raise ValueError(
        f"LoRA has no default layers for a {model_type!r} language model. Choose `target_modules` "
        f"(--lora_target_modules) out of its linear layers: {', '.join(known)}."
    )


def check_lora_targets(language_model: PreTrainedModel, targets: list[str] | str, linear_only: bool = True) -> None:
    """Refuse targets that are not linear layers of the language model, which may be on the meta device.

    Args:
        targets: names of layers, short or full; or a string that peft reads as a regular expression.
        linear_only: whether others are refused.

    Raises:
        ValueError: a target is missing or not a linear layer; the message names the linear layers.
    """
    if isinstance(targets, str):
        # peft itself refuses a pattern that matches nothing.
        return
    layer_names = linear_layer_names(language_model)
    known = layer_names
    if not linear_only:
        known = [*dict(language_model.named_modules())]
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in known)]
    if missing or not targets:
        raise ValueError(
            f"LoRA's `target_modules` (--lora_target_modules) are {list(targets)}, but this "
            f"{language_model.config.model_type!r} language model has no linear layer {', '.join(missing)}. "
            f"Its linear layers: {', '.join(short_names(layer_names))}."
        )


# ---- adding an adapter ------------------------------------------------------------------------------------------


def check_method(peft_type: str) -> None:
    """Refuse a new adapter of a method that is none of `METHODS`."""
    method = str(peft_type).rpartition(".")[2]
    if method not in METHODS:
        raise ValueError(f"`peft_type` is {method!r}; use one of {', '.join(METHODS)}.")


def new_adapter_config(language_model: PreTrainedModel, lora: dict[str, Any]) -> Any:
    """The configuration of a new adapter.

    Args:
        lora: `EGMFConfig.lora`; without `target_modules`, the architecture's default.

    Raises:
        TypeError: peft's method has no such field.
        ValueError: the language model does not have the layers, or peft does not have the method.
    """
    peft = import_peft()
    fields = {"peft_type": "LORA", **lora}
    check_method(fields["peft_type"])
    config_class = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[fields["peft_type"]]
    known = [field.name for field in dataclasses.fields(config_class)]
    unknown = fields.keys() - {*known}
    if unknown:
        error = unknown_fields(config_class.__name__, unknown, known)
        raise TypeError(f"{error} Its fields: {', '.join(known)}.")
    check_adapter_fields(config_class, fields)
    if fields["peft_type"] == "IA3":
        # peft's default names layers that are no targets.
        fields.setdefault("feedforward_modules", [])
    if fields.get("target_modules") is None:
        fields["target_modules"] = default_lora_targets(language_model)
    check_lora_targets(language_model, fields["target_modules"])
    with refuse_no_effect("the new adapter"):
        return peft.get_peft_config(fields)


@contextmanager
def refuse_no_effect(adapter: str) -> Iterator[None]:
    """Turn what peft only warns of, and its bare errors, into an error that names the adapter."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=NO_EFFECT)
            warnings.filterwarnings("ignore", EXPECTED)
            yield
    except (Warning, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"peft refuses {adapter}: {error}") from error


def trained_modules(peft_config: Any) -> tuple[set, Any]:
    """Names of the modules that an adapter replaces by trained ones, and of those of which it trains some tokens."""
    modules = vars(peft_config).get("modules_to_save") or ()
    tokens = vars(peft_config).get("trainable_token_indices")
    return {*modules}, {*tokens} if isinstance(tokens, dict) else bool(tokens)


def check_adapter(language_model: PreTrainedModel, peft_config: Any) -> None:
    """Refuse an adapter that would change the frozen weights, or names what the language model does not have.

    Raises:
        TypeError, ValueError: the message names the field.
    """
    fields = vars(peft_config)
    check_adapter_fields(type(peft_config), fields)
    init = fields.get("init_lora_weights", True)
    if init not in KEEPING_INITS:
        raise ValueError(
            f"init_lora_weights={init!r} changes the weights of the language model. "
            "Use True, 'gaussian' or 'orthogonal'."
        )
    for field, reason in REFUSED_FIELDS.items():
        if fields.get(field) not in (None, "none", []):
            raise ValueError(f"`{field}` {reason}: leave it out.")
    tokens = fields.get("trainable_token_indices") or []
    vocab_size = language_model.config.get_text_config().vocab_size
    for indices in tokens.values() if isinstance(tokens, dict) else [tokens]:
        if not all(index in range(vocab_size) for index in indices):
            raise ValueError(f"`trainable_token_indices` is {tokens}; give token ids below {vocab_size}.")
    layers = fields.get("layers_to_transform") or []
    layers = {layers} if isinstance(layers, int) else {*layers}
    depth = language_model.config.get_text_config().num_hidden_layers
    if not layers <= {*range(depth)}:
        raise ValueError(
            f"LoRA's `layers_to_transform` is {sorted(layers)}; the language model has layers 0 to {depth - 1}."
        )
    modules = list(dict(language_model.named_modules()))
    for trained in fields.get("modules_to_save") or ():
        if not any(module.endswith(trained) for module in modules):
            raise ValueError(f"`modules_to_save` has {trained!r}, which the model lacks.")
    for other, other_config in adapter_configs(language_model).items():
        if trained_modules(other_config) != trained_modules(peft_config):
            raise ValueError(f"{other!r} has other `modules_to_save` or trained tokens: delete it.")


def add_adapter(language_model: PreTrainedModel, peft_config: Any, name: str) -> None:
    """Add an adapter to the language model, with no effect yet, and make it the active one.

    Args:
        language_model: of any dtype, its layers offloaded or not; the adapter's weights are in float32.
        peft_config: from `new_adapter_config`, or any other of peft.
        name: of the adapter.

    Raises:
        TypeError, ValueError: as `check_adapter`; peft refuses the layers; or the method cannot be combined with
            `device_map`.
    """
    check_adapter(language_model, peft_config)
    layers = ", ".join(short_names(linear_layer_names(language_model)))
    with refuse_no_effect(f"adapter {name!r} (linear layers: {layers})"):
        language_model.add_adapter(peft_config, name)
    # A local path, which is not to be published.
    peft_config.base_model_name_or_path = None
    place_adapter_of_offloaded_layers(language_model, name)
    import_peft().functional.cast_adapter_dtype(language_model, name)
    language_model.train(language_model.training)


def place_adapter_of_offloaded_layers(language_model: PreTrainedModel, name: str) -> None:
    """Create the weights for offloaded layers, which peft leaves on the meta device, where their layer computes.

    Raises:
        ValueError: this method reads the layer's own weights, which are not in memory.
    """
    tuners = import_peft().tuners
    for layer in language_model.modules():
        adapted = isinstance(layer, tuners.tuners_utils.BaseTunerLayer)
        if not adapted or name not in layer._get_available_adapters():
            continue
        base_layer = layer.get_base_layer()
        if not base_layer.weight.is_meta:
            continue
        with in_memory(base_layer):
            device = base_layer.weight.device
        # The whole model is without weights.
        if device.type == "meta":
            return
        if not isinstance(layer, tuners.lora.LoraLayer) or name in layer.lora_variant:
            raise ValueError(
                f"Adapter {name!r} is not plain LoRA, the only method for layers that "
                "`device_map` offloads. Load the model without offloading."
            )
        layer.lora_A[name].to_empty(device=device)
        layer.lora_B[name].to_empty(device=device)
        layer.reset_lora_parameters(name, init_lora_weights=True)


def adapter_configs(language_model: PreTrainedModel) -> dict[str, Any]:
    """The configuration of each adapter, by name."""
    # peft sets it with the first adapter.
    return vars(language_model).get("peft_config", {})


@contextmanager
def undone_on_error(language_model: PreTrainedModel, name: str) -> Iterator[None]:
    """If adding an adapter fails, even midway, the language model gets its layers and active adapters back.

    Raises:
        ValueError: it has an adapter of this name already, or the name could not be that of a folder.
    """
    configs = dict(adapter_configs(language_model))
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"An adapter's name is {name!r}; use letters, digits, '_' and '-'.")
    if name in configs:
        raise ValueError(f"There is an adapter {name!r}; delete_adapter({name!r}) removes it.")
    active = language_model.active_adapters() if configs else []
    children = [(parent, *named) for parent in language_model.modules() for named in parent.named_children()]
    try:
        yield
    except Exception:
        for parent, child_name, child in children:
            setattr(parent, child_name, child)
        if active:
            language_model.set_adapter(active)
        import_peft().functional.delete_adapter(language_model, name, "lora_")
        language_model.peft_config = configs
        language_model._hf_peft_config_loaded = bool(configs)
        raise


# ---- the same on the whole model --------------------------------------------------------------------------------


class EGMFAdapterMixin:
    """The methods of `PeftAdapterMixin`, which act on the language model."""

    language_model: PreTrainedModel
    adapter_folders: dict[str, str]

    def adapter_keys(self) -> dict[str, dict[str, str]]:
        """For each adapter, by name: the name of a weight in its file -> its name in the model's state dict."""
        names = {name: f"language_model.{name}" for name in self.language_model.state_dict()}
        select = import_peft().get_peft_model_state_dict
        adapters = {}
        for adapter in adapter_configs(self.language_model):
            # Given names instead of weights, peft selects the adapter's, by their names in its file.
            keys = select(self.language_model, names, adapter, save_embedding_layers=False)
            # Without the layer that another method wraps around this adapter's.
            adapters[adapter] = {f"base_model.model.{k.replace('base_layer.', '')}": v for k, v in keys.items()}
        return adapters

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        assign: bool = False,
    ) -> Any:
        """As of any module. The weights of a checkpoint's model.safetensors, as `Trainer` passes them to resume or for
        the best checkpoint, are loaded together with the adapters in the checkpoint's folder.

        Raises:
            ValueError: with `strict=False`, weights of an adapter are missing, and this model was neither saved in
                the checkpoint's folder nor loaded from it.
        """
        adapters = self.adapter_keys()
        missing = [name for name, keys in adapters.items() if not state_dict.keys() >= set(keys.values())]
        if strict or not missing:
            return super().load_state_dict(state_dict, strict, assign)
        folder = self.adapter_folders.get(checksum(state_dict.items()))
        if folder is None:
            raise ValueError(
                f"The weights of the adapter {missing[0]!r} are missing: they have a file of their own. "
                "Load the model from the checkpoint that you resume from, or resume with `EGMFTrainer`."
            )
        for name in missing:
            path = os.path.join(folder, name, weights_name(stem="adapter_model"))
            load_weights(path, self, adapters[name], dict(stored_weights([path])))
        return super().load_state_dict(state_dict, strict, assign)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """As of any model. The language model of an adapter is tied before, and peft's own layers must not be."""
        if not adapter_configs(self.language_model):
            super().tie_weights(*args, **kwargs)

    def add_adapter(self, adapter_config: Any, adapter_name: str = "default") -> None:
        """Add a new adapter and make it the active one, and the only one that is trained.

        Args:
            adapter_config: a configuration of peft, or fields as in `EGMFConfig.lora`.

        Raises:
            TypeError, ValueError: the adapter cannot be added; the model is as before.
        """
        if isinstance(adapter_config, dict):
            adapter_config = new_adapter_config(self.language_model, adapter_config)
        elif not isinstance(adapter_config, import_peft().PeftConfig):
            raise TypeError(f"{adapter_config!r} should be an instance of PeftConfig, or a dict.")
        check_method(adapter_config.peft_type)
        targets = vars(adapter_config).get("target_modules")
        check_lora_targets(self.language_model, targets or "", linear_only=False)
        with undone_on_error(self.language_model, adapter_name):
            add_adapter(self.language_model, adapter_config, adapter_name)
        self.enable_adapters()

    def load_adapter(
        self,
        peft_model_id: str | os.PathLike,
        adapter_name: str = "default",
        variant: str | None = None,
        **hub_kwargs: Any,
    ) -> dict[str, Tensor]:
        """Add an adapter that peft has stored, and make it the active one.

        Args:
            peft_model_id: folder or Hub id.
            variant: as in `from_pretrained`.
            hub_kwargs: `subfolder`, `revision`, `token` and the like.

        Returns:
            Its weights, by their names in the file.

        Raises:
            ImportError: peft is not installed.
            OSError: a file is missing or damaged, or the language model does not have the adapter's layers.
            ValueError: the weights are not exactly those of the adapter, or the model has one of this name. After any
                error, the model is as before.
        """
        peft = import_peft()
        check_keywords(self.load_adapter, hub_kwargs, cached_files)
        path = cached_file(peft_model_id, weights_name(variant, "adapter_model"), **hub_kwargs)
        config_path = cached_file(peft_model_id, "adapter_config.json", **hub_kwargs)
        with undone_on_error(self.language_model, adapter_name):
            with explain_loading_errors(config_path), warnings.catch_warnings():
                # peft would ignore them.
                warnings.filterwarnings("error", message="Unexpected keyword arguments")
                peft_config = peft.PeftConfig.from_pretrained(os.path.dirname(config_path))
                peft_config.inference_mode = False
                add_adapter(self.language_model, peft_config, adapter_name)
            weights = dict(stored_weights([path]))
            load_weights(path, self, self.adapter_keys()[adapter_name], weights)
        self.enable_adapters()
        return weights

    def known_adapters(self, names: str | Iterable[str]) -> list[str]:
        """The name or names of adapters as a list, each once.

        Raises:
            ValueError: there is no such adapter, or it is no name.
        """
        known = list(adapter_configs(self.language_model))
        chosen = list(names) if isinstance(names, NAMES) else [names]
        for name in chosen:
            if name not in known:
                raise ValueError(f"There is no adapter {name!r}; the model has {', '.join(known) or 'none'}.")
        return list(dict.fromkeys(chosen))

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Make these adapters the active ones, and the only ones that are trained; an empty list makes none active.

        Raises:
            ValueError: there is no such adapter, or they cannot be active together; the model is as before.
        """
        # peft would add one that is named twice twice.
        names = self.known_adapters(adapter_name)
        configs = adapter_configs(self.language_model)
        if len(names) > 1 and any(any(trained_modules(configs[name])) for name in names):
            raise ValueError(f"{names} have `modules_to_save` or trained tokens: set one of them.")
        if names:
            self.enable_adapters()
        self.language_model.set_adapter(names)

    def active_adapters(self) -> list[str]:
        """Names of the adapters that have an effect now: none after `disable_adapters`."""
        if not adapter_configs(self.language_model):
            return []
        status = import_peft().get_model_status(self.language_model)
        return self.language_model.active_adapters() if status.enabled else []

    def disable_adapters(self) -> None:
        self.language_model.disable_adapters()

    def enable_adapters(self) -> None:
        """Undo `disable_adapters`, also for modules that adapters replace, which `transformers` leaves disabled."""
        self.language_model.enable_adapters()
        for module in self.language_model.modules():
            if isinstance(module, import_peft().utils.ModulesToSaveWrapper):
                module.enable_adapters(True)

    def enable_peft_hotswap(self, *args: Any, **kwargs: Any) -> None:
        """Refused: `load_adapter` does not write over an adapter of the same name."""
        raise ValueError("Adapters are not swapped: use delete_adapter(), then load_adapter().")

    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        self.language_model.delete_adapter(self.known_adapters(adapter_names))

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict | None = None
    ) -> dict[str, Tensor]:
        """The weights of one adapter, by default of the first active one."""
        (name,) = self.known_adapters(adapter_name or self.active_adapters()[:1] or "default")
        return self.language_model.get_adapter_state_dict(name, state_dict)
