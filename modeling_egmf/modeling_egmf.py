"""EGMF: encoders, fusion and experts in front of a frozen language model with LoRA (arXiv 2601.07565).

    audio, video ─► EGMFAudioVisualEncoder ─► 2 tokens ─┐
    transcript ─► the LLM's token embeddings ───────────┴─► EGMFFusion ─► f_fusion ─► EGMFExperts ─► f_enhanced
                                                                                                         │
    [prefix ; <|egmf|> x P ; suffix ; transcript ; task prompt] ◄── T_pseudo ◄─ EGMFPseudoTokens ────────┘
                             │
                             └─► LLM ─► `forward` loss, `score_answers` distribution, `generate` free text

All departures from the paper. *Chosen*: the paper does not specify it. *Added*: not in the paper. *Option*: a setting.

encoders   chosen  One token per modality: features, waveform, frames or a pretrained encoder's output through a GRU, a
                   transformer or neither, a layer norm, and attention pooling.
           chosen  Features are standardized and clipped; the clip's mean level is subtracted from log-mel frames; each
                   video frame comes with its difference from the first.
           added   A learned embedding per modality, so that the attention can tell audio from video.
           added   A missing or switched-off modality is masked out of every attention, not replaced by zeros.
Eq. 1, 2   chosen  Text embeddings are projected from the LLM's width D to H, so that the two can be added.
           chosen  H_text is the transcript only, without the rest of the prompt.
           added   Layer norms of text and media tokens before Eq. 1, because the size of embeddings differs between
                   LLMs by orders of magnitude. The residual `+ H_text` is the normed text. `fusion_norms=False`
                   leaves them out.
           chosen  Multi-head attention, without a bias on the keys, with dropout on the weights.
           added   A learned query (`no_text_query`) stands in for the text of a sample without any.
           added   Without audio and video, the cross-attention gives zeros and Z_cross = H_text.
           option  `bidirectional_attention`: the media tokens attend to the text before Eq. 1. The paper's text says
                   so; its equations do not.
pooling    chosen  The mean over real text positions: padding would dilute short utterances.
           added   A layer norm of the pooled vector, also left out by `fusion_norms=False`.
Eq. 3      chosen  GateNetwork and MLP have one hidden layer with GELU. w is a softmax, like alpha.
           chosen  beta is a sigmoid of a linear layer over f_fusion. A bottleneck has at least one unit.
           chosen  Xavier initialization: with an LLM's 0.02 the gate would start, and stay, nearly uniform.
           option  `gate`: one stage, or equal weights. `expert_residual=False`: no share of f_fusion. Experts with
                   `learned_width` and the activation "mixture": learned instead of set by hand.
pseudo     added   A layer norm before the projection and a learned scale after it, which a new model sets to match the
tokens             size of the LLM's own embeddings (`calibrate_pseudo_tokens`). `pseudo_token_norm=False`: neither.
           option  `pseudo_token_projection="separate"`: one per token; the processor's `task_slots`: some per task.
prompt     added   The prompt includes the transcript and a dialogue's earlier turns: otherwise the LLM would see the
                   text only through P tokens. The processor's `transcript_in_prompt=False` hides the transcript.
answers    added   `score_answers`: the exact distribution over the task's closed set. The paper uses `generate`.
loss       chosen  A mean over samples of the mean over their tokens: otherwise a score of four tokens would outweigh
                   a label of one.
training   option  Fusion pretraining: encoders, fusion and experts are trained with one linear head per task before
                   the LLM is added (training/trainer/pretraining.py).
           added   Modality dropout, against over-reliance on one modality (training/data/collator.py).
           chosen  Encoders, fusion, experts and LoRA are in float32, whatever the LLM's precision (precision_egmf.py).

Next: configuration_egmf.py for the hyperparameters; encoders_egmf.py, fusion_egmf.py, experts_egmf.py and
prompt_egmf.py in the order of the diagram; answers_egmf.py; checkpoints_egmf.py for saving and loading.

When several processes load this file from the Hub at once, `transformers` waits only for the files that it names,
with a regular expression that finds docstrings as well. So these, which the others import, are named here:

    from .backbones_egmf import EGMFPretrainedStem
    from .fields_egmf import did_you_mean
    from .loading_egmf import load_config
    from .parts_egmf import fingerprint
    from .settings_egmf import settings_checksum
    from .weights_egmf import in_memory
"""

# B batch  S prompt tokens  L transcript columns  K positions with logits  P pseudo tokens  A answers  E experts
# M modalities (text, audio, video)  T frames  F feature width  H fusion width  D LLM width  V vocabulary

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_utils import local_torch_dtype
from transformers.utils import can_return_tuple

from .adapters_egmf import EGMFAdapterMixin, adapter_configs, add_adapter, new_adapter_config
from .answers_egmf import NORMALIZATIONS, AnswerSet, answer_loss, choose_logits_to_keep
from .checkpoints_egmf import EGMFCheckpointMixin
from .configuration_egmf import EGMFConfig
from .decoders_egmf import check_decoder, check_keywords, shared_config
from .encoders_egmf import EGMFAudioVisualEncoder, EGMFPretrainedStem
from .experts_egmf import EGMFExperts
from .fusion_egmf import EGMFFusion
from .generation_egmf import EGMFGenerationMixin
from .outputs_egmf import EGMFAnswerOutput, EGMFCausalLMOutput, EGMFFusionOutput
from .padding_egmf import run_language_model
from .precision_egmf import float32_logits
from .prompt_egmf import (
    PREFILL_INPUTS,
    TEXT_INPUTS,
    EGMFPseudoTokens,
    check_finite,
    check_inputs,
    check_masks,
    check_tensors,
    check_token_ids,
    hide_switched_off_text,
    is_prefill,
    transcript_columns,
)
from .scoring_egmf import AnswerScorer
from .trainer_egmf import check_trainable, keeps_dataset_columns, score_true_answers
from .weights_egmf import in_memory


class EGMFPreTrainedModel(PreTrainedModel):
    """Base class of the EGMF models: weight initialization, and the flags that `transformers` reads."""

    config_class = EGMFConfig
    config: EGMFConfig
    base_model_prefix = "egmf"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["egmf"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # Shallow and narrow layers: with a language model's 0.02 the gate would stay nearly uniform.
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            init.zeros_(module.bias)
        elif isinstance(module, EGMFAudioVisualEncoder):
            init.normal_(module.modality_embeds, std=self.config.initializer_range)
        elif isinstance(module, EGMFFusion):
            init.normal_(module.no_text_query, std=self.config.initializer_range)
        elif isinstance(module, EGMFPseudoTokens):
            init.normal_(module.projection.weight, std=self.config.fusion_hidden_size**-0.5)


class EGMFModel(EGMFPreTrainedModel):
    """Everything in front of the language model: media and transcript embeddings in, pseudo tokens out.

    Args:
        audio_backbone, video_backbone: pretrained encoders, already loaded; None builds them from `config`.
    """

    @local_torch_dtype(torch.float32)
    def __init__(
        self,
        config: EGMFConfig,
        audio_backbone: PreTrainedModel | None = None,
        video_backbone: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.audio_visual_encoder = EGMFAudioVisualEncoder(config, audio_backbone, video_backbone)
        self.fusion = EGMFFusion(config)
        self.experts = EGMFExperts(config)
        self.pseudo_tokens = EGMFPseudoTokens(config)
        self.post_init()

    def forward(
        self,
        text_embeds: Tensor,
        utterance_mask: Tensor,
        audio_values: Tensor | None = None,
        audio_mask: Tensor | None = None,
        video_values: Tensor | None = None,
        video_mask: Tensor | None = None,
        modality_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> EGMFFusionOutput:
        """Encode, fuse, mix the experts, and project.

        Args:
            text_embeds: (B, L, D) embeddings of the prompt, or of the transcript only.
            utterance_mask: (B, L), 1 on the transcript's tokens; a row of zeros means a sample without text.
            audio_values, ..., text_mask: as described in `EGMFForConditionalGeneration`.
        """
        if modality_mask is None:
            modality_mask = utterance_mask.new_ones(len(utterance_mask), 3)
        if text_mask is None:
            text_mask = utterance_mask
        reads_text = modality_mask[:, :1].bool()  # (B, 1)
        transcript_mask = utterance_mask.bool() & reads_text  # (B, L)
        media = (audio_values, audio_mask, video_values, video_mask)
        # (B, 2, H) and (B, 2)
        media_tokens, media_mask = self.audio_visual_encoder(modality_mask[:, 1:].bool(), *media)
        has_text = text_mask.bool().any(dim=1, keepdim=True) & reads_text  # (B, 1)
        present = torch.cat([has_text, media_mask], dim=1)  # (B, M)
        # An exported program cannot raise.
        if not torch.compiler.is_exporting():
            empty = torch.where(~present.any(dim=1))[0].tolist()
            if empty:
                raise ValueError(f"Sample {empty} of the batch has neither text nor audio nor video.")
        text_embeds = text_embeds.to(self.fusion.no_text_query.dtype)
        fused = self.fusion(text_embeds, transcript_mask, media_tokens, media_mask)  # (B, H)
        output = self.experts(fused)
        output.pseudo_tokens = self.pseudo_tokens(output.fused)  # (B, P, D)
        output.modality_mask = present
        return output


class EGMFForConditionalGeneration(EGMFAdapterMixin, EGMFCheckpointMixin, EGMFPreTrainedModel, EGMFGenerationMixin):
    """EGMF with its language model: answers a task's question about a person from any of text, audio and video.

    Args:
        language_model, audio_backbone, video_backbone: parts that are already loaded; None builds them from `config`,
            with random weights.

    The processor's output goes unchanged into `forward`, `score_answers` and `generate`:

        input_ids       (B, S) prompt with P placeholders, left padded; after the prefill, new tokens
        attention_mask  (B, S) 0 on padding
        utterance_mask  (B, S) 1 on the transcript's tokens: the query of the fusion
        text_mask       (B, S) 1 on what is hidden with the text: earlier turns, suffix and transcript
        audio_values    (B, S') samples in [-1, 1], (B, T, F) features, or a pretrained encoder's own input
        audio_mask      (B, S') or (B, T) 1 on real steps, which come first; a row of zeros: a sample without audio
        video_values    (B, T, 3, y, x) normalized frames, or (B, T, F) features
        video_mask      (B, T) like `audio_mask`
        modality_mask   (B, 3) 0 switches text (earlier turns included), audio or video off
        labels          (B, S) -100 everywhere except on the answer's tokens
        answer_ids, task_ids   for `score_answers`; with `labels`, in evaluation mode, for `answer_log_probs`

    Only `input_ids` and `attention_mask`, as the tokenizer makes them: a call of the language model with its adapter.

    `forward` also takes:
        logits_to_keep  how many positions at the end get logits, or which ones; 0 for all. By default, those that
                        `labels` need, or all without labels
        output_experts  also return the fields of `EGMFFusionOutput`
        position_ids, past_key_values, inputs_embeds, use_cache and any other argument of the language model

    Raises:
        ValueError: too few or too many placeholders, a sample without any modality, media that do not fit the model.
    """

    _auto_class = "AutoModel"
    # The loss is a mean over samples: Trainer divides by its accumulation steps.
    accepts_loss_kwargs = False

    def __init__(
        self,
        config: EGMFConfig,
        language_model: PreTrainedModel | None = None,
        audio_backbone: PreTrainedModel | None = None,
        video_backbone: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        # Checksum of a checkpoint's model.safetensors -> its folder, with the adapters' files.
        self.adapter_folders: dict[str, str] = {}
        check_decoder(config.text_config)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        check_decoder(language_model.config, type(language_model))
        config.text_config = shared_config(language_model)
        if config.lora is not None:
            add_adapter(language_model, new_adapter_config(language_model, config.lora), "default")
            # So that post_init keeps peft's values, which have no effect yet.
            for module in language_model.modules():
                module._is_hf_initialized = True
        # First, because "auto" offloads the last modules.
        self.egmf = EGMFModel(config, audio_backbone, video_backbone)
        self.language_model = language_model
        self.generation_config = language_model.generation_config
        self.post_init()
        self.freeze()

    def __setattr__(self, name: str, value: Any) -> None:
        """As of any module; what hides the language model's arguments or the names of weights is no part of it."""
        if name in ("egmf", "language_model") and not isinstance(value, PreTrainedModel):
            raise TypeError(f"`{name}` is a {type(value).__name__}: use {name}.compile(), or model.add_adapter().")
        super().__setattr__(name, value)

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.dtype

    @property
    def device(self) -> torch.device:
        # It is never offloaded.
        return self.egmf.device

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As of any module; offloaded weights, which are on the meta device, can be cast, but not moved."""
        try:
            return super()._apply(fn, recurse)
        except NotImplementedError as error:
            raise ValueError("Offloaded weights cannot be moved: leave out .to().") from error

    def freeze(self) -> None:
        """Unfreeze the fusion, our encoders and the active adapters; freeze the language model and other backbones.

        A new backbone, and one of a standalone checkpoint, comes in float32, and gets its own precision here.
        """
        self.egmf.requires_grad_(True)
        for module in self.egmf.modules():
            if isinstance(module, EGMFPretrainedStem):
                backbone = module.backbone.to(module.backbone_dtype)
                backbone.requires_grad_(module.trainable)
        self.language_model.requires_grad_(False)
        if adapter_configs(self.language_model):
            self.language_model.set_adapter(self.language_model.active_adapters())

    @torch.no_grad()
    def calibrate_pseudo_tokens(self) -> None:
        """Scale a new model's pseudo tokens to the root mean square of the language model's embeddings.

        It is measured on the output of the embedding layer, where the pseudo tokens enter: Gemma's layer scales its
        weights by sqrt(D). Language models that scale later, such as Granite, scale both alike.
        """
        if not self.config.pseudo_token_norm:
            return
        embed_tokens = self.get_input_embeddings()
        with in_memory(embed_tokens):
            token_ids = torch.arange(len(embed_tokens.weight), device=embed_tokens.weight.device)
        root_mean_square = embed_tokens(token_ids).float().square().mean().sqrt()
        self.egmf.pseudo_tokens.scale.fill_(root_mean_square.item())

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refused: the placeholder, which the tokenizer has in addition, needs no embedding."""
        raise ValueError("The language model keeps its vocabulary: leave resize_token_embeddings() out.")

    def get_audio_features(self, audio_values: Tensor, audio_mask: Tensor) -> Tensor:
        """The audio token of each clip, (B, H), zeros for a clip without audio."""
        return self.egmf.audio_visual_encoder.encode_modality("audio", audio_values, audio_mask)[0]

    def get_video_features(self, video_values: Tensor, video_mask: Tensor) -> Tensor:
        """The video token of each clip, (B, H), zeros for a clip without video."""
        return self.egmf.audio_visual_encoder.encode_modality("video", video_values, video_mask)[0]

    def get_placeholder_mask(self, input_ids: Tensor) -> Tensor:
        """input_ids (B, S) -> (B, S) bool, true on the placeholders; each sample must hold exactly P.

        They are counted per sample: with one too few, `masked_scatter` would move tokens into the next sample.
        """
        if self.config.placeholder_token_id is None:
            raise ValueError("`config.placeholder_token_id` is not set; use the processor's.")
        mask = input_ids == self.config.placeholder_token_id
        counts = mask.sum(dim=1)  # (B,)
        num_tokens = self.config.num_pseudo_tokens
        wrong = torch.where(counts != num_tokens)[0]
        if len(wrong):
            raise ValueError(
                f"Sample {wrong.tolist()} of the batch has {counts[wrong].tolist()} placeholders "
                f"(token {self.config.placeholder_token_id}), not {num_tokens}. "
                "Give `input_ids` as the checkpoint's own processor returns them, not cut. "
                f"That of a new model needs num_pseudo_tokens={num_tokens}."
            )
        return mask

    def embed_input_ids(self, input_ids: Tensor, placeholder_mask: Tensor) -> Tensor:
        """input_ids (B, S) -> (B, S, D); placeholders, which have no embedding, get that of token 0."""
        token_ids = input_ids.masked_fill(placeholder_mask, 0)
        check_token_ids("input_ids", token_ids, self.config)
        return self.get_input_embeddings()(token_ids)

    def embed_prompt(
        self,
        input_ids: Tensor,
        utterance_mask: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_mask: Tensor | None = None,
        video_values: Tensor | None = None,
        video_mask: Tensor | None = None,
        modality_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> tuple[Tensor, EGMFFusionOutput]:
        """Embed the prompt, with the pseudo tokens at its placeholders.

        Returns:
            Embeddings (B, S, D), and the output of the fusion.
        """
        media = (audio_values, audio_mask, video_values, video_mask)
        inputs = dict(zip(PREFILL_INPUTS, (*media, utterance_mask, text_mask, modality_mask)))
        check_tensors({"input_ids": input_ids, **inputs}, ("input_ids", "utterance_mask"))
        check_masks(input_ids, **inputs)
        placeholder_mask = self.get_placeholder_mask(input_ids)  # (B, S)
        # (B, S, D)
        embeds = self.embed_input_ids(input_ids, placeholder_mask)
        columns = transcript_columns(utterance_mask)
        # (B, L, D)
        text_embeds = embeds[:, columns]
        transcript_mask = utterance_mask[:, columns].bool()
        fusion = self.egmf(text_embeds, transcript_mask, *media, modality_mask, text_mask)
        pseudo_tokens = fusion.pseudo_tokens.to(embeds.dtype)  # (B, P, D)
        if not pseudo_tokens.isfinite().all():
            check_finite(audio_values=audio_values, video_values=video_values)
        return embeds.masked_scatter(placeholder_mask[..., None], pseudo_tokens), fusion

    @keeps_dataset_columns
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        utterance_mask: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_mask: Tensor | None = None,
        video_values: Tensor | None = None,
        video_mask: Tensor | None = None,
        modality_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        output_experts: bool = False,
        answer_ids: torch.LongTensor | None = None,
        task_ids: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> EGMFCausalLMOutput:
        """Next-token logits and, with `labels`, their loss. The class docstring describes the arguments."""
        if kwargs:
            check_keywords(self.forward, kwargs, self.language_model.forward)
        media = (audio_values, audio_mask, video_values, video_mask)
        prompt = dict(zip(PREFILL_INPUTS, (*media, utterance_mask, text_mask, modality_mask)))
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **prompt}
        check_inputs(inputs, labels, inputs_embeds)
        if labels is not None and answer_ids is not None and not self.training:
            return score_true_answers(self, inputs, labels, answer_ids)
        check_trainable(self, labels, answer_ids)
        fusion = {}
        is_first = inputs_embeds is None and is_prefill(past_key_values)
        if is_first and any(values is not None for values in prompt.values()):
            inputs_embeds, fusion = self.embed_prompt(input_ids, **prompt)
            attention_mask = hide_switched_off_text(attention_mask, *map(prompt.get, TEXT_INPUTS))
        elif inputs_embeds is None:
            if is_first:
                check_token_ids("input_ids", input_ids, self.config)
            inputs_embeds = self.get_input_embeddings()(input_ids)
        logits_to_keep = choose_logits_to_keep(logits_to_keep, labels, inputs_embeds)
        output = run_language_model(
            self.language_model,
            inputs_embeds,
            attention_mask,
            logits_to_keep,
            position_ids,
            past_key_values,
            use_cache=use_cache if labels is None else False,
            **kwargs,
        )
        return EGMFCausalLMOutput(
            loss=None if labels is None else answer_loss(output.logits, labels, logits_to_keep),
            logits=output.logits,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
            **(fusion if output_experts else {}),
        )

    @torch.no_grad()
    def score_answers(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        answer_ids: torch.LongTensor | None = None,
        task_ids: torch.LongTensor | None = None,
        normalization: str = "sequence",
        labels: torch.LongTensor | None = None,
        **inputs: Any,
    ) -> EGMFAnswerOutput:
        """The exact distribution over each sample's closed set of answers.

        Args:
            answer_ids: (B, A, L) token ids of every answer as a continuation of its prompt, padded with -1.
            task_ids: (B,), passed through for `post_process_answers`.
            normalization: `"sequence"`, P(answer | prompt, the answer is one of the set), from the probability of its
                whole token sequence; `"tree"`, renormalized over the children at each node, which is what constrained
                decoding samples from.
            labels: not accepted: with an answer in the prompt there is nothing left to score.
        """
        check_keywords(self.score_answers, inputs, self.embed_prompt)
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"`normalization` is {normalization!r}; use one of {', '.join(NORMALIZATIONS)}.")
        if labels is not None:
            raise ValueError("The inputs already contain an answer. Call the processor without `answer`.")
        required = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "answer_ids": answer_ids,
        }
        check_tensors(required, required)
        check_masks(input_ids, attention_mask=attention_mask)
        if answer_ids.ndim != 3 or len(answer_ids) != len(input_ids):
            raise ValueError(f"`answer_ids` has shape {tuple(answer_ids.shape)}; give (samples, answers, tokens).")
        check_token_ids("answer_ids", answer_ids.clamp(min=0), self.config)
        if self.training and self.language_model.is_gradient_checkpointing:
            raise ValueError("Gradient checkpointing disables the cache: call model.eval().")
        answers = AnswerSet.from_answer_ids(answer_ids, attention_mask.device)
        embeds, fusion = self.embed_prompt(input_ids, **inputs)
        attention_mask = hide_switched_off_text(attention_mask, *map(inputs.get, TEXT_INPUTS))
        scorer = AnswerScorer(self.language_model, answers)
        with float32_logits(self.language_model):
            edge_log_probs = scorer.score(embeds, attention_mask)  # (B, G)
        log_probs = answers.log_probs(edge_log_probs, normalization)
        return EGMFAnswerOutput(
            probabilities=log_probs.exp(),
            log_probs=log_probs,
            task_ids=task_ids,
            answer_ids=answer_ids,
            expert_names=tuple(self.config.expert_names),
            **fusion,
        )
