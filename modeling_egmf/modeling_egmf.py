"""EGMF: encoders, fusion and experts in front of a frozen language model with LoRA.

    audio, video ─► EGMFAudioVisualEncoder ─► 2 tokens ─┐
    transcript ─► the LLM's own embeddings ─────────────┴─► EGMFFusion ─► f_fusion ─► EGMFExperts ─► f_enhanced
                                                                                                         │
    [prefix ; <|egmf|> x P ; suffix ; transcript ; task prompt] ◄── T_pseudo = Repeat(Linear(f_enhanced)) ┘
                             │
                             └─► LLM ─► `forward` loss, `score_answers` distribution, `generate` free text

Paper: arXiv 2601.07565. Light and full checkpoints load by the same `from_pretrained`: see `checkpoints_egmf.py`.
"""

# B batch  S prompt tokens  P pseudo tokens  A answers  E experts  M modalities (text, audio, video)
# H fusion width  D LLM width  V vocabulary

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput

from .answers_egmf import NORMALIZATIONS, answer_sets_of, batch_nodes
from .checkpoints_egmf import check_weights, inject_lora, keys_stored_elsewhere, load_adapter_checkpoint, loading
from .configuration_egmf import EGMFConfig
from .encoders_egmf import EGMFAudioVisualEncoder, EGMFPretrainedStem
from .experts_egmf import EGMFExperts
from .fusion_egmf import EGMFFusion


if TYPE_CHECKING:
    from transformers import Cache

Part = PreTrainedModel | None  # built and loaded before; None: built here from the configuration
Mask = torch.Tensor | None
MEDIA = ("audio_values", "audio_mask", "video_values", "video_mask", "modality_mask")


@dataclass
class EGMFFusionOutput(ModelOutput):
    """What stands before the language model; part of every output below."""

    pseudo_tokens: torch.Tensor | None = None  # (B, P, D) soft tokens for the prompt
    fused: torch.Tensor | None = None  # (B, H) f_enhanced, after the experts
    expert_weights: torch.Tensor | None = None  # (B, E) alpha, the second stage of the gate
    gate_weights: torch.Tensor | None = None  # (B, E) w, the first stage of the gate
    residual_weight: torch.Tensor | None = None  # (B,) beta
    modality_mask: torch.Tensor | None = None  # (B, M) bool, which of text, audio and video took part


@dataclass
class EGMFCausalLMOutput(EGMFFusionOutput, CausalLMOutputWithPast):
    """Output of `forward`: `loss`, see `answer_loss`; `logits` (B, K, V) of all S or the last K positions, as `labels`
    and `logits_to_keep` say; with `output_experts=True` the fields of `EGMFFusionOutput`."""


@dataclass
class EGMFAnswerOutput(EGMFFusionOutput):
    """Output of `score_answers`; `processor.post_process_answers` turns it into labels and scores."""

    probabilities: torch.Tensor | None = None  # (B, A) answers in the order of the task; 0 beyond a smaller set
    log_probs: torch.Tensor | None = None  # (B, A) their logarithms, -inf beyond a smaller set
    task_ids: torch.Tensor | None = None  # (B,) which task of the processor each sample belongs to, as it was given
    expert_names: tuple[str, ...] | None = None  # of the E experts


class EGMFPseudoTokens(nn.Module):
    """T_pseudo = Repeat(Linear(f_enhanced), P), or one projection a token. Scaled to the size of the LLM's own
    embeddings by a learned factor, because a soft token ten times as long as a word drowns the sentence."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        self.num_tokens = config.num_pseudo_tokens
        self.width = config.text_config.get_text_config().hidden_size
        self.repeat = config.pseudo_token_projection == "repeat"
        self.norm = nn.LayerNorm(config.fusion_hidden_size)
        self.projection = nn.Linear(config.fusion_hidden_size, self.width * (1 if self.repeat else self.num_tokens))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, enhanced: torch.Tensor) -> torch.Tensor:
        """enhanced (B, H) -> (B, P, D)."""
        tokens = self.scale * self.projection(self.norm(enhanced))
        if self.repeat:
            return tokens[:, None].expand(-1, self.num_tokens, -1)
        return tokens.view(-1, self.num_tokens, self.width)


def answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """logits (B, K, V), labels (B, K), -100 where nothing is asked -> mean over samples of negative log-likelihoods
    over tokens: with a mean over all tokens, a score of four would outweigh a label of one."""
    targets, predicted = labels[:, 1:], logits[:, :-1].float().transpose(1, 2)
    losses = nn.functional.cross_entropy(predicted, targets, ignore_index=-100, reduction="none")  # (B, K - 1)
    asked = (targets != -100).sum(dim=1)
    return (losses.sum(dim=1) / asked.clamp(min=1)).sum() / (asked > 0).sum()


class EGMFPreTrainedModel(PreTrainedModel):
    config_class = EGMFConfig
    config: EGMFConfig
    base_model_prefix = "egmf"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["egmf", "lora_A", "lora_B"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # Ours is shallow and narrow: at a language model's 0.02 the gate would start, and stay, near uniform.
            init.xavier_uniform_(module.weight)
        elif isinstance(module, EGMFFusion):
            init.normal_(module.no_text_query, std=self.config.initializer_range)
        elif isinstance(module, EGMFAudioVisualEncoder):
            init.normal_(module.modality_embeds, std=self.config.initializer_range)
        elif isinstance(module, EGMFPseudoTokens):
            init.normal_(module.projection.weight, std=self.config.fusion_hidden_size**-0.5)
            init.ones_(module.scale)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            init.zeros_(module.bias)


class EGMFModel(EGMFPreTrainedModel):
    """Everything in front of the language model: media and transcript embeddings in, pseudo tokens out."""

    def __init__(self, config: EGMFConfig, audio_backbone: Part = None, video_backbone: Part = None):
        super().__init__(config)
        self.audio_visual_encoder = EGMFAudioVisualEncoder(config, audio_backbone, video_backbone)
        self.fusion = EGMFFusion(config)
        self.experts = EGMFExperts(config)
        self.pseudo_tokens = EGMFPseudoTokens(config)
        self.post_init()

    def forward(
        self, text_embeds: torch.Tensor, utterance_mask: torch.Tensor, modality_mask: Mask = None, **media: Mask
    ) -> EGMFFusionOutput:
        """Encode, fuse, mix the experts, and project.

        Args:
            text_embeds: (B, L, D) embeddings of the prompt or of the transcript alone.
            utterance_mask: (B, L), 1 on the transcript's tokens; a row of zeros is a sample without text.
            modality_mask: (B, 3) switches text, audio and video off where 0, on top of what the masks say.
            media: `audio_values`, (B, S) samples in [-1, 1] or (B, T, F) features; `audio_mask`, (B, S) or (B, T), 1
                on what is real, real steps first, a row of zeros is a sample without; `video_values`, (B, T, 3, y, x)
                normalized frames or (B, T, F) features; `video_mask`, (B, T), as `audio_mask`.
        """
        if modality_mask is None:
            modality_mask = utterance_mask.new_ones(len(utterance_mask), 3)
        text_mask, wanted = utterance_mask.bool() & modality_mask[:, :1].bool(), modality_mask[:, 1:].bool()
        media_tokens, media_mask = self.audio_visual_encoder(wanted, **media)
        present = torch.cat([text_mask.any(dim=1, keepdim=True), media_mask], dim=1)  # (B, M)
        if empty := torch.where(~present.any(dim=1))[0].tolist():
            raise ValueError(f"Sample {empty} of the batch has neither text nor audio nor video; give at least one.")
        fused = self.fusion(text_embeds.to(self.fusion.no_text_query.dtype), text_mask, media_tokens, media_mask)
        mixture = self.experts(fused)
        pseudo_tokens = self.pseudo_tokens(mixture.fused)
        return EGMFFusionOutput(**mixture._asdict(), pseudo_tokens=pseudo_tokens, modality_mask=present)


class EGMFForConditionalGeneration(EGMFPreTrainedModel, GenerationMixin):
    """EGMF with its language model: answers a task's question about a person from any of text, audio and video."""

    _auto_class = "AutoModel"
    accepts_loss_kwargs = False  # the loss is a mean over samples: Trainer divides by its accumulation steps

    def __init__(
        self, config: EGMFConfig, language_model: Part = None, audio_backbone: Part = None, video_backbone: Part = None
    ):
        super().__init__(config)
        # The language model comes first: `model.dtype` is that of the first parameter.
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        if config.lora is not None:
            inject_lora(self.language_model, config.lora)
        self.egmf = EGMFModel(config, audio_backbone, video_backbone)
        self.generation_config = self.language_model.generation_config
        self.post_init()
        self.freeze()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, text_model_id=None, **kwargs):
        """Load a light or a full checkpoint.

        Args:
            text_model_id: where the language model of a light checkpoint lies, if not where its configuration says.
            kwargs: as for any `from_pretrained`; `dtype`, `device_map`, `quantization_config` and
                `attn_implementation` are handed to the language model.

        Raises:
            OSError: the checkpoint, or the language model that it names, cannot be found.
            ValueError: weights are missing, unexpected, damaged, not finite or of another shape.
        """
        if not isinstance(config, PreTrainedConfig):
            hub = {k: kwargs[k] for k in ("revision", "token", "cache_dir", "local_files_only") if k in kwargs}
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **hub)
        if text_model_id is not None:
            config.text_model_id = str(text_model_id)
        if config.text_model_id is not None:
            return load_adapter_checkpoint(cls, pretrained_model_name_or_path, config, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.update(ignore_mismatched_sizes=True, output_loading_info=True)  # so that all is listed below
        with loading(f"{pretrained_model_name_or_path}"):
            model, info = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        check_weights(pretrained_model_name_or_path, info, model.state_dict())
        model.freeze()
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory, **kwargs):
        """Save what `config.text_model_id` makes it: light if it names a language model, else full."""
        self._keys_to_ignore_on_save = keys_stored_elsewhere(self)
        if self.config.text_model_id is not None:
            kwargs.setdefault("save_original_format", False)  # a light checkpoint has the names of our state dict
        return super().save_pretrained(save_directory, **kwargs)

    def freeze(self) -> None:
        """Train the fusion, our encoders and LoRA; freeze the language model and frozen backbones."""
        self.egmf.requires_grad_(True)
        for module in self.egmf.modules():
            if isinstance(module, EGMFPretrainedStem):
                module.backbone.requires_grad_(module.trainable)
        for name, parameter in self.language_model.named_parameters():
            parameter.requires_grad_("lora_" in name)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def get_placeholder_mask(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, S) -> (B, S) bool, true on the placeholders; each sample must hold exactly P."""
        if self.config.placeholder_token_id is None:
            raise ValueError("`config.placeholder_token_id` is not set; it is the processor's `placeholder_token_id`.")
        mask = input_ids == self.config.placeholder_token_id
        needed, found = self.config.num_pseudo_tokens, mask.sum(dim=1)
        wrong = torch.where(found != needed)[0]
        if len(wrong):
            said = f"Sample {wrong.tolist()} of the batch holds {found[wrong].tolist()} pseudo-token slots"
            raise ValueError(f"{said}, not {needed}. Build the processor with num_pseudo_tokens={needed}.")
        return mask

    def embed_prompt(
        self, input_ids: torch.Tensor, utterance_mask: torch.Tensor, **media: torch.Tensor | None
    ) -> tuple[torch.Tensor, EGMFFusionOutput]:
        """Embeddings of the prompt with the pseudo tokens in their slots: (B, S, D), and what made them."""
        slots = self.get_placeholder_mask(input_ids)
        embeds = self.get_input_embeddings()(input_ids.masked_fill(slots, 0))  # (B, S, D)
        spoken = utterance_mask.bool()
        columns = torch.where(spoken.any(dim=0))[0]  # fusion reads the transcript only: cut the rest of the prompt
        first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)
        fusion = self.egmf(embeds[:, first:last], spoken[:, first:last], **media)
        return embeds.masked_scatter(slots[..., None], fusion.pseudo_tokens.to(embeds.dtype)), fusion

    @staticmethod
    def hide_switched_off_text(attention_mask: Mask, utterance_mask: Mask, modality_mask: Mask) -> Mask:
        """attention_mask (B, S), 0 also on the transcripts that modality_mask (B, 3) switches off; a 4D one stays."""
        if attention_mask is None or utterance_mask is None or modality_mask is None or attention_mask.ndim != 2:
            return attention_mask
        hidden = utterance_mask.bool() & ~modality_mask[:, :1].bool()
        return attention_mask * ~nn.functional.pad(hidden, (0, attention_mask.shape[1] - hidden.shape[1]))

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("attention_mask") is not None:
            masks = (kwargs.get(name) for name in ("attention_mask", "utterance_mask", "modality_mask"))
            kwargs["attention_mask"] = self.hide_switched_off_text(*masks)
        return super().generate(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        utterance_mask: torch.Tensor | None = None,
        audio_values: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        video_values: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        modality_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: "Cache | None" = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor | None = None,
        output_experts: bool = False,
        answer_ids: torch.LongTensor | None = None,
        task_ids: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> EGMFCausalLMOutput:
        """Next-token logits and, with `labels`, their loss.

        Args:
            input_ids: (B, S) prompt with placeholders, left padded; after the first step of generation, new tokens.
            attention_mask: (B, S), 0 on padding.
            utterance_mask: (B, S), 1 on the transcript's tokens: the query of the fusion.
            audio_values, audio_mask, video_values, video_mask, modality_mask: see `EGMFModel.forward`.
            labels: (B, S), -100 everywhere but on the answer's tokens. Then only the logits that the answers need
                are computed, unless `logits_to_keep` says otherwise (0 for all).
            output_experts: fill the fusion's fields of the output.
            answer_ids, task_ids: accepted so that the processor's output fits, and not used here.

        Raises:
            ValueError: too few or too many placeholders, a sample without any modality, media that do not fit.
        """
        fusion = None
        if inputs_embeds is None:
            if past_key_values is None or past_key_values.get_seq_length() == 0:
                if utterance_mask is None:
                    raise ValueError("`utterance_mask` is missing; the processor returns it beside `input_ids`.")
                attention_mask = self.hide_switched_off_text(attention_mask, utterance_mask, modality_mask)
                media = zip(MEDIA, (audio_values, audio_mask, video_values, video_mask, modality_mask), strict=True)
                inputs_embeds, fusion = self.embed_prompt(input_ids, utterance_mask, **dict(media))
            else:
                inputs_embeds = self.get_input_embeddings()(input_ids)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        if logits_to_keep is None and labels is not None:
            answered = torch.where((labels != -100).any(dim=0))[0]
            if not len(answered):
                raise ValueError("`labels` holds nothing but -100; give the processor an `answer`.")
            logits_to_keep = labels.shape[1] - max(int(answered[0]) - 1, 0)
        if isinstance(logits_to_keep, int) and logits_to_keep > 0:
            # As a slice it would leave strided states, for which the CPU copies the whole output matrix a sample.
            length = inputs_embeds.shape[1]
            logits_to_keep = torch.arange(max(length - logits_to_keep, 0), length, device=inputs_embeds.device)
        output = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,
            logits_to_keep=0 if logits_to_keep is None else logits_to_keep,
            **kwargs,
        )
        return EGMFCausalLMOutput(
            loss=None if labels is None else answer_loss(output.logits, labels[:, -output.logits.shape[1] :]),
            logits=output.logits,
            **{name: output[name] for name in ("past_key_values", "hidden_states", "attentions") if name in output},
            **(fusion if output_experts and fusion is not None else {}),
        )

    @torch.no_grad()
    def score_answers(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor,
        answer_ids: torch.LongTensor | None = None,
        task_ids: torch.LongTensor | None = None,
        normalization: str = "sequence",
        labels: torch.LongTensor | None = None,
        **inputs: Any,
    ) -> EGMFAnswerOutput:
        """The exact distribution over each sample's closed set of answers.

        Args:
            input_ids, attention_mask: (B, S) prompts without an answer, left padded.
            answer_ids: (B, A, L) token ids of every answer as a continuation of its prompt, padded with -1.
            task_ids: (B,), passed through for `post_process_answers`.
            normalization: `"sequence"`: P(answer | prompt, the answer is one of the set), from the probability of
                its whole token sequence. `"tree"`: renormalized over the children at each node, which is what
                constrained decoding samples from.
            labels: refused: with an answer in the prompt there is nothing left to ask.
            inputs: the rest of what the processor returned.
        """
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"`normalization` is {normalization!r}; use one of {', '.join(NORMALIZATIONS)}.")
        if labels is not None:
            raise ValueError("The inputs hold an answer already. Call the processor without `answer` to score them.")
        if answer_ids is None:
            raise ValueError("`answer_ids` is missing; the processor returns it where no `answer` is given.")
        if self.training and self.language_model.is_gradient_checkpointing:
            raise ValueError(
                "Answers need a cache, which gradient checkpointing forbids in training: use model.eval()."
            )
        masks = inputs.get("utterance_mask"), inputs.get("modality_mask")
        attention_mask = self.hide_switched_off_text(attention_mask, *masks)
        sets, which = answer_sets_of(answer_ids)
        nodes = batch_nodes(sets, which, attention_mask, self.language_model.dtype)
        prompt = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        output = self(**prompt, use_cache=nodes is not None, logits_to_keep=1, output_experts=True)
        log_probs = torch.log_softmax(output.logits.float(), dim=-1)  # (B, 1, V)
        if nodes is not None:
            attention = self.language_model.config._attn_implementation
            if attention not in ("sdpa", "eager"):
                said = f"score_answers needs a 4D attention mask, which {attention} does not take"
                raise ValueError(f"{said}. Load the model with attn_implementation='sdpa'.")
            further = self.language_model(**nodes, past_key_values=output.past_key_values, use_cache=True)
            log_probs = torch.cat([log_probs, torch.log_softmax(further.logits.float(), dim=-1)], dim=1)
        scored = log_probs.new_full(answer_ids.shape[:2], float("-inf"))
        log_probs = log_probs.cpu()
        for row, place in enumerate(which):
            answers = sets[place].log_probs(log_probs[row], normalization)
            scored[row, : len(answers)] = answers.to(scored.device)
        return EGMFAnswerOutput(
            probabilities=scored.exp(),
            log_probs=scored,
            task_ids=task_ids,
            expert_names=tuple(self.config.expert_names),
            **{field.name: output[field.name] for field in fields(EGMFFusionOutput)},
        )

    def prepare_inputs_for_generation(self, input_ids, is_first_iteration: bool = False, **kwargs):
        """Fusion runs once, at prefill: after it the media are dropped."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in (*MEDIA, "utterance_mask"):
                inputs.pop(name, None)
        inputs.pop("labels", None)
        return inputs
